"""What one event's consent signals say about one purpose, format by format. Pure; `decide.py` turns it into a reason.

Signals are the contract's `signals` map: `cmp.<name>` (a consent platform's own words), `gcs`, `gcd` and `cm.<signal>`
(Google Consent Mode v2; `x-ga-gcs`, `x-ga-gcd` beside them where a container's event has both and they disagree), `gpc`
(Sec-GPC), `tc_string` (IAB TCF), `gpp` (IAB GPP), `gdpr_applies`.
"""

from collections.abc import Container, Iterable, Mapping
from enum import StrEnum

Signals = Mapping[str, str]


class Word(StrEnum):
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


CMP_WORDS: Mapping[str, Word] = {
    "granted": Word.GRANT,
    "true": Word.GRANT,
    "1": Word.GRANT,
    "denied": Word.DENY,
    "false": Word.DENY,
    "0": Word.DENY,
}

CONSENT_MODE_SIGNALS = ("ad_storage", "analytics_storage", "ad_user_data", "ad_personalization")
"""In the order of gcd's letters."""

MODE_STRINGS = frozenset({"gcs", "gcd", "x-ga-gcs", "x-ga-gcd"})
MODE_NAMES = MODE_STRINGS | {f"cm.{name}" for name in CONSENT_MODE_SIGNALS}
"""Names of signals that Consent Mode is read from."""

CHOICE_NAMES = MODE_STRINGS | {"tc_string", "gpp", "gpc"}
"""Names of signals that can be a choice, but for the families `cm.<signal>` and `cmp.<name>`."""

DETAIL_NAMES = frozenset({"tc_event_status", "gdpr_applies", "chosen_ts", "platform", "platform_version", "platform_event"})
"""Names of signals that say more about a choice."""

_GCS_FLAGS: Mapping[str, Word] = {"1": Word.GRANT, "0": Word.DENY, "-": Word.UNKNOWN}
_YES, _NO = frozenset({"1", "true"}), frozenset({"0", "false"})


def is_read(name: str, cmp_names: Container[str]) -> bool:
    """Whether a signal of this name means anything. `cmp_names`: what the policy lists of consent platforms' names."""
    return name in CHOICE_NAMES | MODE_NAMES | DETAIL_NAMES or (name.startswith("cmp.") and name[4:] in cmp_names)


def strictest(words: Iterable[Word]) -> Word:
    """Of several words on one thing the most restrictive: deny beats grant, invalid counts as deny."""
    found = set(words)
    for word in (Word.INVALID, Word.UNDECODED, Word.DENY, Word.UNCONFIRMED, Word.GRANT):
        if word in found:
            return word
    return Word.UNKNOWN


def cmp_word(signals: Signals, names: Iterable[str]) -> Word:
    """What the consent platform says under the names that the policy maps to the purpose."""
    said = (signals.get(f"cmp.{name}") for name in names)
    return strictest(CMP_WORDS.get(value.strip().lower(), Word.INVALID) for value in said if value is not None)


def consent_mode_word(mode: Mapping[str, Word], names: Iterable[str]) -> Word:
    """Consent Mode on a purpose that needs all of these signals: granted only if each one is."""
    if not mode:
        return Word.UNKNOWN
    words = [mode.get(name, Word.UNKNOWN) for name in names]
    word = strictest(words)
    return Word.UNKNOWN if word in (Word.GRANT, Word.UNCONFIRMED) and Word.UNKNOWN in words else word


def consent_mode(signals: Signals, letters: Mapping[str, Word]) -> dict[str, Word]:
    """Each Consent Mode signal's word, from gcs, gcd and `cm.<signal>`; where they disagree, the strictest. Empty if none."""
    if MODE_NAMES.isdisjoint(signals):
        return {}
    tables = [
        *(_from_gcs(signals.get(name)) for name in ("gcs", "x-ga-gcs")),
        *(_from_gcd(signals.get(name), letters) for name in ("gcd", "x-ga-gcd")),
        _from_words(signals),
    ]
    if not any(tables):
        return {}
    return {name: strictest(table.get(name, Word.UNKNOWN) for table in tables) for name in CONSENT_MODE_SIGNALS}


def _from_gcs(gcs: str | None) -> dict[str, Word]:
    """`G1xy`: x is ad_storage, y analytics_storage."""
    if not gcs:
        return {}
    flags = gcs[2:]
    if not gcs.startswith("G1") or len(flags) != 2 or not set(flags) <= set(_GCS_FLAGS):
        return dict.fromkeys(CONSENT_MODE_SIGNALS, Word.INVALID)
    return {"ad_storage": _GCS_FLAGS[flags[0]], "analytics_storage": _GCS_FLAGS[flags[1]]}


def _from_gcd(gcd: str | None, letters: Mapping[str, Word]) -> dict[str, Word]:
    """A leading character, then a digit and a letter for each signal, then a tail. Unknown letters are invalid."""
    if not gcd:
        return {}
    pairs = gcd[1:9]
    if len(pairs) != 8 or not gcd.isascii() or not pairs[::2].isdigit():
        return dict.fromkeys(CONSENT_MODE_SIGNALS, Word.INVALID)
    return {name: letters.get(letter, Word.INVALID) for name, letter in zip(CONSENT_MODE_SIGNALS, pairs[1::2], strict=True)}


def _from_words(signals: Signals) -> dict[str, Word]:
    said = ((name, signals.get(f"cm.{name}")) for name in CONSENT_MODE_SIGNALS)
    return {name: CMP_WORDS.get(value.strip().lower(), Word.INVALID) for name, value in said if value is not None}


def gpc_word(signals: Signals) -> Word:
    """Sec-GPC: `1` objects; `0` says nothing; anything else is not lawful spelling and counts as an objection."""
    value = signals.get("gpc", "").strip().lower()
    if value in _NO or not value:
        return Word.UNKNOWN
    return Word.DENY if value in _YES else Word.INVALID


def gdpr_applies(signals: Signals) -> bool | None:
    """What the page says of GDPR; None where it says nothing, or nothing that can be read."""
    value = signals.get("gdpr_applies", "").strip().lower()
    return True if value in _YES else False if value in _NO else None


def has_cmp_choice(signals: Signals) -> bool:
    """Whether a consent platform spoke in its own words; Consent Mode beside it can narrow, never widen."""
    return any(name.startswith("cmp.") for name in signals)


def claims_gdpr(signals: Signals) -> bool:
    """Whether the page says that GDPR applies (or says it unreadably), wherever the visitor seems to be."""
    value = signals.get("gdpr_applies", "").strip().lower()
    return bool(value) and value not in _NO
