"""Removes advertising click ids from texts and maps: parameters, path segments, keys, JSON, in every escaping. Pure.

Not detected: ids that are encrypted or in base64, and values under a name that is not listed.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from streams.consent.redaction.decoded_text import (
    DecodedText,
    decode_text,
    decode_with_offsets,
    first_escape,
    has_escapes,
    unescaped,
)

DEPTH = 32
"""Levels of JSON that are followed; deeper ones are removed."""
ROUNDS = 8
"""How often a text is searched again, because the rest may form a name; a text that needs more is removed."""
KEY_SIZE = 128
"""Characters before a name that can belong to its key."""
CONTAINER_SIZE = 1_024
"""Characters before a name in which its bracket can open; where it does not, all of them are removed."""
AMBIGUOUS = 4
"""Letters of the longest name that is a word too: as a value, and before a colon, it counts in JSON only."""

NAMING = ("key", "name", "k", "n", "param", "parameter", "parameter_name", "field", "id")
VALUED = ("value", "val", "v", "values", "data", "content", "string_value", "stringvalue", "parameter_value")
"""Keys of parameters that are written as pairs, `{"key": "gclid", "value": ...}`."""

_QUOTES = "\"'`"
_RUNS = re.compile(rb"\x01+")
_CLOSERS = {"{": "}", "[": "]", "<": ">"}
_BRACKETS = {opener: re.compile(rf'["\{opener}\{closer}]') for opener, closer in _CLOSERS.items()}
_PART = r"(?:\[[^\[\]=&]*\]|\]|\.[A-Za-z0-9_]+|#[0-9]+){0,32}+"
"""What may follow a name within its key: an index, a member, or the number of a repeated name."""
_AFTER = re.compile(rf"{_PART}(?P<quote>[\"'`]?)(?:\s|\+)*(?P<sign>=+>?|:+(?!//)=?)(?:(?:\s|\+)*(?=[\"'`{{\[])|\s*)")
_SLASH = re.compile(rf"{_PART}/")
_KEY = re.compile(r"\s*[^\s/=&?]+\s*")
_KEY_END = re.compile(rf"{_PART}[\s\"'`\]]*$")
_NAMED_BEFORE = re.compile(rf"\b(?:{'|'.join(NAMING)})[\"'`]?[\s+]*[:=][\s+]*$", re.IGNORECASE)
_PAIR = re.compile(r"[\"'`][\s+]*,[^,\]]*(?:\]|$)")
_PARAMETER_END = re.compile(r"[&;#\s\"'`<>\\]")
_SEGMENT_END = re.compile(r"[/?&;#\s\"'`<>\\]")
_MEMBER_END = re.compile(r"[,}\]&;\s\"'`<>)]")


class TextSpan(NamedTuple):
    """A part of a decoded text that is removed."""

    begin: int
    end: int
    separators: str
    """One of these beside it is removed too."""


class ClickIds:
    """Removes click ids, known by their names, from texts and property maps.

    A name may end with `*`. It also counts as the end of a longer one: `last_gclid`, `firstGclid`, `user.gclid`.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(name.lower() for name in names)
        by_letter: dict[str, list[str]] = {}
        for spelling in sorted(map(_spelling, self.names), key=len, reverse=True):
            by_letter.setdefault(spelling[0], []).append(spelling[1:])
        # By first letter, and for text in lower case: several times faster than one after the other, and in any case.
        listed = "|".join(f"{letter}(?:{'|'.join(rests)})" for letter, rests in by_letter.items()) or "(?!)"
        self._listed = re.compile(rf"(?:{listed})(?![a-z0-9_\-])")
        self._anywhere = re.compile(listed)

    def may_hold_bytes(self, data: bytes) -> bool:
        """A quick check of encoded fields; false only if `may_hold` is false for their texts.

        Length bytes beside the texts can be any character, so a name counts whatever is next to it.
        """
        text = data.decode(errors="replace")
        return has_escapes(text) or self._anywhere.search(text.lower()) is not None

    def may_hold(self, texts: Iterable[str]) -> bool:
        """A quick check of texts: false only if `clean_text` and `clean_map` change none of these."""
        return self._suspect("\n".join(texts)) is not None

    def clean_text(self, text: str) -> str:
        """A text without click ids; where too many escapes may hide one, it is cut before them."""
        for _ in range(ROUNDS):
            cleaned = self._clean_once(text)
            if cleaned == text:
                return text
            text = cleaned
        return ""

    def clean_map(self, properties: dict[str, str]) -> dict[str, str]:
        """A map without click ids in its keys, its texts and its JSON."""
        cleaned = {name: self._clean_value(text) for name, text in properties.items() if not self._in_key(name)}
        if any(name.lower() in NAMING and self._is_name(text) for name, text in cleaned.items()):
            cleaned = {name: text for name, text in cleaned.items() if name.lower() not in VALUED}
        return cleaned

    def clean_list(self, values: Sequence[Any]) -> list[Any]:
        """An array of texts or of maps without click ids; a name followed by its value is removed with it."""
        if self._is_pair(values):
            return []
        return [self.clean_map(value) if isinstance(value, dict) else self._clean_value(value) for value in values]

    def _in_key(self, key: str) -> bool:
        """Whether a key is a click id's name, ends with one, or is a text that holds a click id."""
        decoded = self._suspect(key)
        return decoded is not None and (self._ends_with_name(decoded) or self.clean_text(key) != key)

    def _is_name(self, value: str) -> bool:
        """Whether a value is a click id's name, rather than a text that ends with one."""
        decoded = self._suspect(value)
        return decoded is not None and _KEY.fullmatch(decoded) is not None and self._ends_with_name(decoded)

    def _ends_with_name(self, decoded: str) -> bool:
        return any(_KEY_END.match(decoded, end) for _, end in self._names_in(decoded))

    def _suspect(self, text: str) -> str | None:
        """The text without escapes if it has a name; the text itself if it has too many escapes; else None."""
        decoded = decode_text(text) if has_escapes(text) else text
        if decoded is None:
            return text
        return decoded if any(self._names_in(decoded)) else None

    def _names_in(self, decoded: str) -> Iterator[tuple[int, int]]:
        """(begin, end) of each name."""
        lower = decoded.lower()
        at = 0
        while match := self._listed.search(lower, at):
            begin, end = match.span()
            if not begin or _begins_word(decoded, begin):
                yield begin, end
            at = begin + 1

    def _clean_value(self, value: str) -> str:
        if self._suspect(value) is None:
            return value
        if value.lstrip()[:1] in ("{", "["):
            doubled: list[Any] = []
            try:
                content = json.loads(value, object_pairs_hook=lambda pairs: _keep_last(pairs, doubled))
                cleaned = self._walk(content, DEPTH)
                if cleaned == content and not (doubled and self._suspect(json.dumps(doubled))):
                    return value
                # ASCII, because an escape may be half of a surrogate pair, which has no UTF-8.
                return json.dumps(cleaned, separators=(",", ":"), allow_nan=False)
            except (ValueError, RecursionError):
                pass  # cut, broken or no JSON: it is searched as text
        return self.clean_text(value)

    def _walk(self, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            return self._clean_value(value) if len(value) > 2 else value
        if not isinstance(value, list | dict):
            return value
        if depth == 0:
            return None
        if isinstance(value, list):
            return [] if self._is_pair(value) else [self._walk(item, depth - 1) for item in value]
        if self._names_parameter(value):
            return {}
        return {key: self._walk(item, depth - 1) for key, item in value.items() if not self._in_key(key)}

    def _names_parameter(self, item: dict[str, Any]) -> bool:
        """`{"key": "gclid", "value": ...}`, as Google's tags write parameters; an ambiguous name needs such a key."""
        return any(
            isinstance(text, str) and self._is_name(text) and (key.lower() in NAMING or not _ambiguous(text))
            for key, text in item.items()
        )

    def _is_pair(self, items: Sequence[Any]) -> bool:
        """`["gclid", ...]`: a name and a value after one another."""
        for name, value in pairwise(items):
            if isinstance(name, str) and self._is_name(name) and not (isinstance(value, str) and self._is_name(value)):
                return len(items) == 2 or not _ambiguous(name)
        return False

    def _clean_once(self, text: str) -> str:
        if has_escapes(text):
            if (plain := decode_text(text)) is None:
                return re.split(r"[?#]", text[: first_escape(text)], maxsplit=1)[0]
            if not any(self._names_in(plain)):
                return text
            decoded = decode_with_offsets(text)
        else:
            decoded = unescaped(text)
        removed: bytearray | None = None
        end_of_last = 0
        for begin, end in self._names_in(decoded.text):
            if begin >= end_of_last and (span := _span(decoded, begin, end)) is not None:
                removed = removed or bytearray(len(decoded.text))
                first, end_of_last = _with_separator(decoded, span, removed)
                removed[first:end_of_last] = b"\1" * (end_of_last - first)
        return text if removed is None else _without(text, decoded, removed)


def _without(text: str, decoded: DecodedText, removed: bytearray) -> str:
    """The text without the parts whose decoded characters are marked as removed."""
    pieces: list[str] = []
    copied = 0
    for run in _RUNS.finditer(removed):
        pieces.append(text[copied : decoded.begins[run.start()]])
        copied = max(copied, decoded.ends[run.end() - 1])
    return "".join((*pieces, text[copied:]))


def _begins_word(text: str, at: int) -> bool:
    """Whether a name can begin here: after no letter or digit, or as a new word in camel case."""
    before = text[at - 1]
    if not (before.isascii() and before.isalnum()):
        return True
    if not text[at].isupper():
        return False
    return not before.isupper() or text[at + 1 : at + 2].islower()


def _span(decoded: DecodedText, name: int, end: int) -> TextSpan | None:
    """The key and the value of a name; None where it is no key."""
    text, begin = decoded.text, name
    first = max(0, begin - KEY_SIZE)
    while begin > first and (text[begin - 1].isalnum() or text[begin - 1] in "_.-$@[]"):
        begin -= 1
    before = text[begin - 1] if begin else ""
    is_host = before == "/" and text.endswith("://", 0, begin)
    after = _AFTER.match(text, end)
    if after and not (is_host and after["sign"][0] == ":"):
        return _pair(decoded, slice(name, end), after, begin)
    if before and before in "/?#" and not is_host and (slash := _SLASH.match(text, end)):
        return _segments(decoded, begin, slash.end() - 1)
    is_value = before and before in _QUOTES and text.startswith(before, end)
    if is_value and (not _ambiguous(text[name:end]) or _is_named(text, begin - 1, end)):
        return _container(decoded, begin - 1)
    return None


def _is_named(text: str, begin: int, end: int) -> bool:
    """Whether a word in quotes is the name of a parameter by its context: `"key": "fbc"`, `["fbc", ...]`."""
    if _NAMED_BEFORE.search(text, max(0, begin - KEY_SIZE), begin):
        return True
    return text[:begin].rstrip(" +\n\t").endswith("[") and _PAIR.match(text, end) is not None


def _pair(decoded: DecodedText, name: slice, after: re.Match[str], begin: int) -> TextSpan | None:
    """The span of `name=value` or `"name": value`."""
    text, sign = decoded.text, after["sign"]
    before = text[begin - 1] if begin else ""
    quoted = bool(after["quote"]) and before == after["quote"]
    if before == "=" and name.start > begin and text[name.start - 1].isalnum():
        return None  # the end of a base64 value, rather than a word in camel case
    if sign[0] == ":" and not quoted and before not in ("{", ",", "[", "&", "?", ";", "/") and _ambiguous(text[name]):
        return None  # a word and a colon
    in_path = before == "/" or (before in ("&", ";") and _is_path(text, begin))
    ending = _MEMBER_END if sign[0] == ":" else _SEGMENT_END if in_path else _PARAMETER_END
    end = _value_end(decoded, after.end(), decoded.depths[after.start("sign")], ending)
    if before == "/" and text.startswith("/", end):
        return TextSpan(begin, end + 1, "")
    return TextSpan(begin - quoted, end, ",&;" if sign[0] == ":" else "&;")


def _value_end(decoded: DecodedText, begin: int, depth: int, ending: re.Pattern[str]) -> int:
    """The end of a value; separators that are encoded more often than the sign before it are part of it."""
    text = decoded.text
    opening = text[begin : begin + 1]
    if opening and opening in _QUOTES:
        at = begin
        while (at := text.find(opening, at + 1)) > 0:
            if decoded.quoting[at] <= decoded.quoting[begin]:
                return at + 1
        return len(text)
    if opening in ("{", "["):
        begin = _closing(decoded, begin)
    for match in ending.finditer(text, begin):
        if decoded.depths[match.start()] <= depth:
            return match.start()
    return len(text)


def _is_path(text: str, begin: int) -> bool:
    """Whether a parameter is in the path of an address, before any `?` or `#`."""
    address = text[max(text.rfind(sign, 0, begin) for sign in " \"'`<>\n") + 1 : begin]
    return "/" in address and "?" not in address and "#" not in address


def _segments(decoded: DecodedText, begin: int, slash: int) -> TextSpan | None:
    """The span of `/name/value`."""
    end = _value_end(decoded, slash + 1, decoded.depths[slash], _SEGMENT_END)
    if end == slash + 1:
        return None
    return TextSpan(begin, end + decoded.text.startswith("/", end), "")


def _container(decoded: DecodedText, at: int) -> TextSpan | None:
    """The content of the innermost brackets around a name; to the end of the text where they are never closed."""
    text, depth = decoded.text, 0
    if not re.search(r"[{\[<]", text[:at]):
        return None
    first = max(0, at - CONTAINER_SIZE)
    for place in range(at - 1, first - 1, -1):
        character = text[place]
        if character in "}]>":
            depth += 1
        elif character in "{[<":
            if depth == 0:
                end = _closing(decoded, place)
                return TextSpan(place + 1, end - text.startswith(_CLOSERS[character], end - 1), "")
            depth -= 1
    return TextSpan(first, len(text), "") if first else None


def _closing(decoded: DecodedText, begin: int) -> int:
    """The index behind the bracket that closes the one at `begin`; brackets in quotes do not count."""
    text, opener = decoded.text, decoded.text[begin]
    depth, quote = 0, -1
    for match in _BRACKETS[opener].finditer(text, begin):
        place, character = match.start(), match.group()
        if character == '"':
            if quote < 0:
                quote = place
            elif decoded.quoting[place] <= decoded.quoting[quote]:
                quote = -1
        elif quote < 0:
            depth += 1 if character == opener else -1
            if depth == 0:
                return place + 1
    return len(text)


def _with_separator(decoded: DecodedText, span: TextSpan, removed: bytearray) -> tuple[int, int]:
    """A span with the separator that becomes superfluous: the one before, else the one behind, else the `?`."""
    text, depths = decoded.text, decoded.depths
    begin, end, separators = span
    if not separators:
        return begin, end
    blanks = " +\t\r\n" if "," in separators else ""
    before, after = removed.rfind(b"\0", 0, begin), end
    while before >= 0 and text[before] in blanks:
        before = removed.rfind(b"\0", 0, before)
    while after < len(text) and text[after] in blanks:
        after += 1
    if before >= 0 and text[before] in separators:
        return before, end
    is_first = before < 0 or text[before] != "="
    if is_first and after < len(text) and text[after] in separators and (before < 0 or depths[after] >= depths[before]):
        return begin, after + 1 + (after + 1 < len(text) and text[after + 1] in blanks)
    return (before, end) if before >= 0 and text[before] == "?" else (begin, end)


def _spelling(name: str) -> str:
    """A name as a pattern: `_` inside may be `-`, or be left out as in camel case."""
    first, *words = _words(name.removesuffix("*"))
    if name[-1] != "*":
        return re.escape(first) + "".join(f"[_-]?{re.escape(word)}" for word in words)
    return re.escape(first) + "".join(f"[_-]{re.escape(word)}" for word in words) + "[a-z0-9_-]*"


def _words(name: str) -> list[str]:
    """The words of a name; the underscores that it begins with are part of the first."""
    bare = name.lstrip("_")
    first, *words = bare.split("_")
    return [name[: len(name) - len(bare)] + first, *words]


def _ambiguous(name: str) -> bool:
    return len(name) <= AMBIGUOUS and name.isalpha()


def _keep_last(pairs: list[tuple[str, Any]], doubled: list[Any]) -> dict[str, Any]:
    """An object with the last value of each key; `doubled` collects earlier ones, which the text still has."""
    content = dict(pairs)
    if len(content) != len(pairs):
        doubled += [(key, value) for key, value in pairs if content[key] is not value]
    return content
