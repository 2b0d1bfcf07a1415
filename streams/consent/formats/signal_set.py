"""The consent signals of one event, sorted into standard signals and choices of consent platforms. Pure.

Where a signal came several times, all of its values count, and the strictest decides.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import orjson

from streams.consent.formats.consent_value import ConsentValue, parse_value, strictest
from streams.consent.formats.signal_names import CMP, SPELLINGS, WHOLE, Signals, fold, standard_name, standard_parent
from streams.consent.formats.vocabulary import ACTIVE_GROUPS, PACKED, Meaning, Vocabulary, is_objection

MAX_NAME = 128
"""Characters."""
NOTES = frozenset({"ver", "version", "utc", "stamp", "method", "region", "action", "consent", "lastreneweddate", "completed"})
"""Folded names within packed texts that are no choices, though their values may look like one."""
MAX_DEPTH = 4
"""Of JSON that is followed."""
_ONETRUST_GROUP = re.compile(r"c\d{4}$")
_PAIR = re.compile(r"""^[{\s'"]*([^:,]{1,64}?)['"\s]*:\s*['"]?([^:,'"}]{0,64})['"}\s]*$""")


class PlatformChoice(NamedTuple):
    """One choice under a consent platform's own name."""

    meaning: Meaning
    value: ConsentValue


class SignalSet:
    """The signals of one event by kind: standard signals, platform choices, and names that nothing maps."""

    __slots__ = (
        "_platform", "_vocabulary", "choices", "from_platform", "services", "unmapped", "unmapped_refusal", "unreadable",
        "values",
    )  # fmt: skip

    def __init__(self, signals: Signals, vocabulary: Vocabulary, empty_denies: bool = True) -> None:
        """`empty_denies`: an empty text counts as unreadable; otherwise it is ignored."""
        self.values: dict[str, list[str]] = {}
        """Standard name -> its values."""
        self.choices: list[PlatformChoice] = []
        self.services: list[str] = []
        """Folded names under the prefix of platform choices."""
        self.from_platform = False
        """A consent platform sent choices under its own names; Consent Mode beside it can narrow them, never widen."""
        self.unmapped: list[str] = []
        """Names, as sent, that the policy does not map."""
        self.unmapped_refusal = False
        """One of the unmapped names holds a refusal."""
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
        """The first value of a standard signal; empty where there is none."""
        values = self.values.get(name)
        return values[0] if values else ""

    def choice(self, purpose: str) -> ConsentValue:
        """The strictest platform choice about a purpose."""
        words = (
            choice.value
            for choice in self.choices
            if purpose in (choice.meaning.grants if choice.value is ConsentValue.GRANT else choice.meaning.denies)
        )
        return strictest(words)

    def _add(self, name: str, value: str) -> None:
        """Add a signal that is no standard one; texts that hold several choices are split."""
        folded = fold(name)
        short = folded.removeprefix(CMP).rpartition(".")[2]
        if short in ACTIVE_GROUPS:
            active = {fold(part) for part in re.split(r"[,;|\s]+", value) if part}
            for group in sorted({*filter(_ONETRUST_GROUP.match, self._vocabulary.groups("onetrust")), *active}):
                self._choose(name, f"{CMP}{group}", "granted" if group in active else "denied")
        elif short in PACKED:
            pairs = [(inner, text) for inner, text in _parse_pairs(value) if self._is_choice(inner, text)]
            for inner, text in pairs:
                standard = standard_name(inner)
                if standard is None:
                    self._choose(f"{name}.{inner}"[:MAX_NAME], f"{CMP}{fold(inner)}", text)
                else:
                    self.values.setdefault(standard, []).append(text)
            if not pairs and folded == WHOLE:
                self.unreadable = True
            elif not pairs:
                self._choose(name, f"{CMP}{short}", value)
        elif folded == "gdpr" and value in ("0", "1"):
            self.values.setdefault("gdpr_applies", []).append(value)  # IAB's macro; a word under that name is a choice
        else:
            self._choose(name, folded, value)

    def _is_choice(self, name: str, text: str) -> bool:
        """Whether a pair within a packed text is a choice, rather than its time, method or version."""
        folded = fold(name)
        if folded in SPELLINGS or self._vocabulary.resolve(folded, self._platform)[0] is not None:
            return True
        return folded not in NOTES and (parse_value(text) is not ConsentValue.INVALID or is_structure(text))

    def _choose(self, name: str, folded: str, value: str) -> None:
        """Add a choice of a consent platform, or an unmapped name."""
        is_choice = folded.startswith(CMP)
        if is_choice:
            self.from_platform = True
            self.services.append(folded)
        meaning, is_part = self._vocabulary.resolve(folded, self._platform)
        word = parse_value(value)
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
            self.values.setdefault(standard_parent(folded), []).append("{}")
        else:
            self.unmapped.append(name)
            # Under the platform prefix an unreadable value may be a refusal; elsewhere it may be a detail of the choice.
            self.unmapped_refusal |= word is ConsentValue.DENY or (
                word is ConsentValue.INVALID and (is_choice or is_structure(value))
            )


def is_structure(text: str) -> bool:
    """Whether a value is JSON null, a list or an object where a word is expected."""
    return text == "null" or text[:1] in ("{", "[")


def _parse_pairs(text: str) -> list[tuple[str, str]]:
    """(name, value) pairs of a text that holds several choices; empty where it does not."""
    text = text.strip()
    if text[:1] == "{":
        try:
            parsed = orjson.loads(text)
        except orjson.JSONDecodeError:
            pass
        else:
            return list(_flatten(parsed, "", MAX_DEPTH)) if isinstance(parsed, dict) and parsed else []
    elif "=" in text:
        query = dict(parse_qsl(text, keep_blank_values=True, max_num_fields=64)) if text.count("&") < 64 else {}
        return _parse_pairs(query.get("groups", "")) + [("gpc", query["isGpcEnabled"])] * ("isGpcEnabled" in query)
    parts = [_PAIR.match(part) for part in text.split(",")]
    if not text or len(parts) > 64 or not all(parts):
        return []
    return [(part[1].strip(), part[2].strip()) for part in parts if part]


def _flatten(value: Any, name: str, depth: int) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value and depth:
        for inner, some in value.items():
            yield from _flatten(some, f"{name}.{inner}" if name else inner, depth - 1)
    elif isinstance(value, bool):
        yield name, "granted" if value else "denied"
    else:
        yield name, value if isinstance(value, str) else orjson.dumps(value).decode()


__all__ = ["PlatformChoice", "SignalSet", "is_structure"]
