"""What one event's consent signals hold: names in every usual spelling, values as words, choices of consent platforms. Pure.

Signals are the contract's `signals` map, as senders wrote them. A name that came twice with different values stands there again
as `name#2`, `name#3`; all of its values count, and the strictest decides. Names are compared without regard to case, blanks,
`_` and `-`. `decide.py` turns what formats say into a reason.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import orjson

Signals = Mapping[str, str]


class ConsentValue(StrEnum):
    """What one format says about one purpose."""

    __hash__ = str.__hash__  # an enum's own is Python code

    GRANT = "grant"
    DENY = "deny"
    UNKNOWN = "unknown"
    UNCONFIRMED = "unconfirmed"
    """Granted by a default that the visitor has never confirmed."""
    INVALID = "invalid"
    UNDECODED = "undecoded"
    """There, and in a format that this version does not read: never a grant."""


GRANTS = (
    "granted", "grant", "true", "1", "yes", "y", "on", "allow", "allowed", "accept", "accepted", "enabled", "enable", "active",
    "optin", "optedin", "consented", "agreed",
)  # fmt: skip
DENIALS = (
    "denied", "deny", "false", "0", "no", "n", "off", "disallow", "disallowed", "reject", "rejected", "refuse", "refused",
    "disabled", "disable", "inactive", "decline", "declined", "optout", "optedout", "withdrawn", "withdraw", "revoked",
    "blocked", "objected", "dismissed", "notgranted", "notallowed", "notaccepted", "notconsented",
)  # fmt: skip
WORDS: Mapping[str, ConsentValue] = MappingProxyType(
    dict.fromkeys(GRANTS, ConsentValue.GRANT) | dict.fromkeys(DENIALS, ConsentValue.DENY)
)
"""Words of consent platforms, folded like names; every other word cannot be read."""

CONSENT_MODE_SIGNALS = ("ad_storage", "analytics_storage", "ad_user_data", "ad_personalization")
"""In the order of gcd's letters."""
MODE = tuple(f"cm.{name}" for name in CONSENT_MODE_SIGNALS)
CMP = "cmp."
"""What the names of a consent platform's own choices begin with."""
WHOLE = "consent"
"""Name of a consent object that is none: what it says cannot be read, about any purpose."""

CHOICES = frozenset({"gcs", "gcd", "tc_string", "gpp", "us_privacy", "gpc", "npa", *MODE})
"""Signals of standard formats that can be a choice, by their one spelling."""
DETAILS = frozenset({"gdpr_applies", "tc_event_status", "chosen_ts", "platform", "platform_version", "platform_event", "dma"})
"""Signals that say more about a choice."""

SPELLINGS: Mapping[str, str] = MappingProxyType(
    {
        "xgagcs": "gcs", "xgagcd": "gcd", "gcsparam": "gcs", "gcdparam": "gcd", "nonpersonalizedads": "npa",
        "tcf": "tc_string", "tcfstring": "tc_string", "tcdata": "tc_string", "tcstring": "tc_string", "iabtcf": "tc_string",
        "iabtcfstring": "tc_string", "iabtcftcstring": "tc_string", "euconsent": "tc_string", "euconsentv2": "tc_string",
        "gdprconsent": "tc_string", "gdprconsentstring": "tc_string", "consentstring": "tc_string",
        "eventstatus": "tc_event_status", "tcfeventstatus": "tc_event_status", "tceventstatus": "tc_event_status",
        "gdprapplies": "gdpr_applies", "tcfgdprapplies": "gdpr_applies",
        "iabtcfgdprapplies": "gdpr_applies", "subjecttogdpr": "gdpr_applies",
        "gppstring": "gpp", "iabgpp": "gpp", "iabgpphdrgppstring": "gpp", "gppconsent": "gpp",
        "usprivacy": "us_privacy", "usprivacystring": "us_privacy", "iabusprivacystring": "us_privacy", "ccpa": "us_privacy",
        "uspstring": "us_privacy", "usp": "us_privacy",
        "secgpc": "gpc", "globalprivacycontrol": "gpc", "isgpcenabled": "gpc", "gpcenabled": "gpc", "gpcsignal": "gpc",
        "chosenat": "chosen_ts", "chosents": "chosen_ts", "cmpname": "platform", "cmpplatform": "platform",
        "dmacps": "dma",
        **{name.replace("_", ""): name for name in (*CHOICES, *DETAILS) if not name.startswith("cm.")},
        **{name.replace("_", ""): f"cm.{name}" for name in CONSENT_MODE_SIGNALS},
        **{f"cm.{name.replace('_', '')}": f"cm.{name}" for name in CONSENT_MODE_SIGNALS},
    }
)  # fmt: skip
"""Folded name -> its one spelling."""

LONGEST_WORD, LONGEST_NAME = 32, 128
"""Characters."""
RESOLVED_KEPT = 8_192
ACTIVE_GROUPS = frozenset({"onetrustactivegroups", "optanonactivegroups", "activegroups"})
"""Folded names of lists of what is granted: `,C0001,C0003,`. Groups that are missing there are denied."""
PACKED = frozenset(
    {
        "optanonconsent", "groups", "cookieyesconsent", "cookieconsent", "cookiebot", "klaro", "borlabscookie",
        "axeptiocookies", "cookieyes", "onetrust", "didomi", "usercentrics", "complianz", "iubenda", WHOLE,
    }
)  # fmt: skip
"""Folded names of texts that hold several choices: JSON, a query string, or `name:word,name:word`."""
NOTES = frozenset({"ver", "version", "utc", "stamp", "method", "region", "action", "consent", "lastreneweddate", "completed"})
"""Folded names within such texts that are no choices, though their values can look like some."""
DEPTH = 4
_SECOND = re.compile(r"#\d+$")
_FOLDED_AWAY = re.compile(r"[\s_\-]+")
_GROUP = re.compile(r"c\d{4}$")
_PAIR = re.compile(r"""^[{\s'"]*([^:,]{1,64}?)['"\s]*:\s*['"]?([^:,'"}]{0,64})['"}\s]*$""")


@lru_cache(8_192)
def fold(name: str) -> str:
    """A name as names are compared: NFKC, without case, blanks, `_`, `-`, and the number of a repeated one."""
    return _FOLDED_AWAY.sub("", unicodedata.normalize("NFKC", _SECOND.sub("", name)).casefold())


def word_of(text: str) -> ConsentValue:
    """A consent platform's word. INVALID for what is none."""
    if len(text) > LONGEST_WORD:
        return ConsentValue.INVALID
    folded = fold(text.strip())
    return ConsentValue.INVALID if folded in ("0", "1") and folded != text.strip() else WORDS.get(folded, ConsentValue.INVALID)


class Meaning(NamedTuple):
    """What a platform's name is about: purposes that a yes under it grants, and those that anything else denies."""

    grants: frozenset[str]
    denies: frozenset[str]


OBJECTION = re.compile(
    r"(donot|optout|optedout|limit|restrict|reject|deny|denied|refuse|decline|disable|block|withdraw|revoke|objected|objection).*"
    r"|.*(optout|optedout|rejected|denied|refused|declined|disabled|blocked|withdrawn|revoked|objected)|rdp|ldu|dnt"
)
"""Folded names under which a yes refuses."""
SALE = re.compile(r".*(sell|sale|shar|target|profil|adv|ads|personali|limit|restrict|rdp|ldu)")
"""Of those, names that are about sale, sharing and advertising; others are about everything."""


@lru_cache(8_192)
def is_objection(folded: str) -> bool:
    """Whether a yes under this folded name refuses."""
    return OBJECTION.fullmatch(folded.removeprefix(CMP).rpartition(".")[2]) is not None


class Vocabulary:
    """Names of consent platforms' choices under one policy.

    `general`: names that hold for every platform; `platforms`: those of one platform each. Where an event does not say which
    platform it has, a yes counts only for purposes for which all platforms with that name take it, a no for those of any.
    """

    def __init__(
        self, general: Mapping[str, Meaning], platforms: Mapping[str, Mapping[str, Meaning]], objectionable: frozenset[str]
    ) -> None:
        """`objectionable`: purposes that an objection to sale and sharing denies."""
        self._objections = Meaning(frozenset(), objectionable)
        self._general = {fold(name): meaning for name, meaning in general.items()}
        self._platforms = {
            fold(platform): {fold(name): meaning for name, meaning in names.items()} for platform, names in platforms.items()
        }
        self._any: dict[str, Meaning] = {}
        for names in self._platforms.values():
            for name, meaning in names.items():
                if name.isdigit():
                    continue  # numbers mean nothing unless it is known whose they are
                other = self._any.get(name, meaning)
                self._any[name] = Meaning(meaning.grants & other.grants, meaning.denies | other.denies)
        self._resolved: dict[tuple[str, str], tuple[Meaning | None, bool]] = {}

    def meaning(self, name: str, platform: str = "") -> Meaning | None:
        """Of a folded name, of which the platform's prefix was taken off; None where nothing maps it."""
        general = self._general.get(name)
        other = self._platforms.get(platform, self._any).get(name)
        if general is None or other is None:
            return general or other
        return Meaning(general.grants | other.grants, general.denies | other.denies)

    def objection(self, folded: str) -> Meaning:
        """What a yes under the name of an objection is about."""
        return self._objections if SALE.match(folded) else self._general["all"]

    def groups(self, platform: str) -> Iterable[str]:
        """Names of one platform, folded."""
        return self._platforms.get(platform, {})

    def knows(self, name: str, platform: str = "") -> bool:
        """Whether a signal of this name, as sent, means something."""
        folded = fold(name)
        short = folded.removeprefix(CMP).rpartition(".")[2]
        if standard_name(name) is not None or short in ACTIVE_GROUPS or short in PACKED or is_objection(folded):
            return True
        return self._meaning_of(folded, fold(platform)) is not None

    def _meaning_of(self, folded: str, platform: str) -> Meaning | None:
        """By the whole name, then by what stands behind its last dot."""
        short = folded.removeprefix(CMP)
        return self.meaning(short, platform) or self.meaning(short.rpartition(".")[2], platform)

    def resolve(self, folded: str, platform: str) -> tuple[Meaning | None, bool]:
        """What a folded name means, and whether it is a part of something that must not have parts."""
        resolved = self._resolved.get((folded, platform))
        if resolved is None:
            if len(self._resolved) >= RESOLVED_KEPT:
                self._resolved.clear()
            resolved = self._resolved[folded, platform] = self._resolve(folded, platform)
        return resolved

    def _resolve(self, folded: str, platform: str) -> tuple[Meaning | None, bool]:
        meaning = self._meaning_of(folded, platform)
        if meaning is not None:
            return meaning, False
        parent = folded.rpartition(".")[0]
        while parent and parent not in ("cmp", "cm"):
            if parent in SPELLINGS:
                return None, True
            meaning = self.meaning(parent.removeprefix(CMP), platform)
            if meaning is not None:
                return meaning, True
            parent = parent.rpartition(".")[0]
        return None, False


class PlatformChoice(NamedTuple):
    """What one name of a consent platform says."""

    meaning: Meaning
    word: ConsentValue


class SignalSet:
    """The signals of one event, by what they are."""

    __slots__ = (
        "_platform", "_vocabulary", "choices", "from_platform", "services", "unmapped", "unmapped_refusal", "unreadable",
        "values",
    )  # fmt: skip

    def __init__(self, signals: Signals, vocabulary: Vocabulary, empty_denies: bool = True) -> None:
        """`empty_denies`: an empty text counts as one that cannot be read."""
        self.values: dict[str, list[str]] = {}
        """One spelling of a standard signal -> its values."""
        self.choices: list[PlatformChoice] = []
        self.services: list[str] = []
        """Folded names of the platform's own choices."""
        self.from_platform = False
        """A consent platform spoke in its own words; Consent Mode beside it can narrow, never widen."""
        self.unmapped: list[str] = []
        """Names, as sent, that nothing maps."""
        self.unmapped_refusal = False
        """One of those holds a refusal."""
        self.unreadable = False
        """The consent object itself cannot be read."""
        self._vocabulary = vocabulary
        self._platform = ""
        others = []
        for name, value in signals.items():
            if value or empty_denies:
                standard = standard_name(name)
                if standard is None:
                    others.append((name, value))
                else:
                    self.values.setdefault(standard, []).append(value)
        if others:
            self._platform = fold(self.first("platform"))
            for name, value in others:
                self._add(name, value)

    def first(self, name: str) -> str:
        """A value of a standard signal; empty where there is none."""
        values = self.values.get(name)
        return values[0] if values else ""

    def choice(self, purpose: str) -> ConsentValue:
        """What the platform says about a purpose: the strictest of its words."""
        words = (
            choice.word
            for choice in self.choices
            if purpose in (choice.meaning.grants if choice.word is ConsentValue.GRANT else choice.meaning.denies)
        )
        return strictest(words)

    def _add(self, name: str, value: str) -> None:
        """A signal that is no standard one; texts that hold several choices are taken apart."""
        folded = fold(name)
        short = folded.removeprefix(CMP).rpartition(".")[2]
        if short in ACTIVE_GROUPS:
            active = {fold(part) for part in re.split(r"[,;|\s]+", value) if part}
            for group in sorted({*filter(_GROUP.match, self._vocabulary.groups("onetrust")), *active}):
                self._choose(name, f"{CMP}{group}", "granted" if group in active else "denied")
        elif short in PACKED:
            pairs = [(inner, text) for inner, text in _pairs(value) if self._is_choice(inner, text)]
            for inner, text in pairs:
                standard = standard_name(inner)
                if standard is None:
                    self._choose(f"{name}.{inner}"[:LONGEST_NAME], f"{CMP}{fold(inner)}", text)
                else:
                    self.values.setdefault(standard, []).append(text)
            if not pairs and folded == WHOLE:
                self.unreadable = True
            elif not pairs:
                self._choose(name, f"{CMP}{short}", value)
        elif folded == "gdpr" and value in ("0", "1"):
            self.values.setdefault("gdpr_applies", []).append(value)  # IAB's macros; words under that name are choices
        else:
            self._choose(name, folded, value)

    def _is_choice(self, name: str, text: str) -> bool:
        """Of a pair within a text; others say when, by which method or in which version it was chosen."""
        folded = fold(name)
        if folded in SPELLINGS or self._vocabulary.resolve(folded, self._platform)[0] is not None:
            return True
        return folded not in NOTES and (word_of(text) is not ConsentValue.INVALID or is_structure(text))

    def _choose(self, name: str, folded: str, value: str) -> None:
        """A choice of a consent platform, or what may be one."""
        is_choice = folded.startswith(CMP)
        if is_choice:
            self.from_platform = True
            self.services.append(folded)
        meaning, is_part = self._vocabulary.resolve(folded, self._platform)
        word = word_of(value)
        if meaning is not None:
            self.from_platform = True
            self.choices.append(PlatformChoice(meaning, ConsentValue.INVALID if is_part else word))
        elif is_objection(folded):
            if word is not ConsentValue.DENY:
                self.choices.append(
                    PlatformChoice(
                        self._vocabulary.objection(folded), ConsentValue.DENY if word is ConsentValue.GRANT else word
                    )
                )
        elif is_part:
            self.values.setdefault(_standard_above(folded), []).append("{}")
        else:
            self.unmapped.append(name)
            # Under a platform's prefix whatever is no yes may be a no; elsewhere it may be a note about the choice.
            self.unmapped_refusal |= word is ConsentValue.DENY or (
                word is ConsentValue.INVALID and (is_choice or is_structure(value))
            )


@lru_cache(8_192)
def standard_name(name: str) -> str | None:
    """The standard signal of this name, or of what stands behind its last dot: `tcf.gdprApplies`. None for others."""
    folded = fold(name)
    standard = SPELLINGS.get(folded)
    if standard is None and "." in folded:
        standard = SPELLINGS.get(folded.rpartition(".")[2])
        if folded.startswith(CMP) and standard not in CHOICES:
            return None  # a platform's own word, whatever it is called
    return standard


def _standard_above(folded: str) -> str:
    while folded not in SPELLINGS:
        folded = folded.rpartition(".")[0]
    return SPELLINGS[folded]


def is_structure(text: str) -> bool:
    """Whether a value was null, a list or an object where a word was expected."""
    return text == "null" or text[:1] in ("{", "[")


def _pairs(text: str) -> list[tuple[str, str]]:
    """Names and words of a text that holds several choices; none where it is no such text."""
    text = text.strip()
    if text[:1] == "{":
        try:
            parsed = orjson.loads(text)
        except orjson.JSONDecodeError:
            pass
        else:
            return list(_flat(parsed, "", DEPTH)) if isinstance(parsed, dict) and parsed else []
    elif "=" in text:
        query = dict(parse_qsl(text, keep_blank_values=True, max_num_fields=64)) if text.count("&") < 64 else {}
        return _pairs(query.get("groups", "")) + [("gpc", query["isGpcEnabled"])] * ("isGpcEnabled" in query)
    parts = [_PAIR.match(part) for part in text.split(",")]
    if not text or len(parts) > 64 or not all(parts):
        return []
    return [(part[1].strip(), part[2].strip()) for part in parts if part]


def _flat(value: Any, name: str, depth: int) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value and depth:
        for inner, some in value.items():
            yield from _flat(some, f"{name}.{inner}" if name else inner, depth - 1)
    elif isinstance(value, bool):
        yield name, "granted" if value else "denied"
    else:
        yield name, value if isinstance(value, str) else orjson.dumps(value).decode()


def strictest(words: Iterable[ConsentValue]) -> ConsentValue:
    """Of several words on one thing the most restrictive: deny beats grant, invalid counts as deny.

    A denial comes before what cannot be read, because it is remembered.
    """
    distinct = set(words)
    for word in (ConsentValue.DENY, ConsentValue.INVALID, ConsentValue.UNDECODED, ConsentValue.UNCONFIRMED, ConsentValue.GRANT):
        if word in distinct:
            return word
    return ConsentValue.UNKNOWN


__all__ = [
    "CHOICES",
    "CMP",
    "CONSENT_MODE_SIGNALS",
    "DETAILS",
    "SPELLINGS",
    "WHOLE",
    "ConsentValue",
    "Meaning",
    "PlatformChoice",
    "SignalSet",
    "Signals",
    "Vocabulary",
    "fold",
    "standard_name",
    "strictest",
    "word_of",
]
