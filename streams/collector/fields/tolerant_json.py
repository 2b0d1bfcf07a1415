"""Bodies of JSON with the defects that senders produce. Pure.

The fast parser reads sound bodies. What it refuses, and numbers whose digits it would lose, are read by a tolerant one.
"""

import json
import re
from functools import partial
from typing import Any, NamedTuple

import orjson

from infra.http.compression import BOM
from streams.collector.fields.repeated_keys import build_object, count_keys_and_depth, loads_with_depth

UTF8_REPLACED = "body: invalid UTF-8 was replaced"
SURROGATES_REPLACED = "body: unpaired surrogates were replaced"
NON_FINITE = "body: NaN and Infinity were read as null"
LARGE_INTEGERS = "body: integers beyond 64 bits were read as text"
CONTROL_CHARACTERS = "body: control characters in texts were accepted"
NOT_JSON_LINES = "body: lines that are no JSON were refused"

_DIGITS = bytes(0x30 if 0x30 <= byte <= 0x39 else 0 for byte in range(256))
_TWENTY_DIGITS = b"0" * 20
"""The shortest integers beyond 64 bits have 20 digits."""
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<unpaired>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


class ParsedBody(NamedTuple):
    """A parsed body, its number of levels, and what was read differently from how it was sent."""

    payload: Any
    depth: int
    problems: tuple[str, ...] = ()


def load_body(raw: bytes) -> ParsedBody:
    """Parse a body; objects with repeated keys become `RepeatedKeys`. Raises json.JSONDecodeError, of which orjson's is one.

    Several lines of JSON are an array of them.
    """
    raw = raw.removeprefix(BOM)
    if _TWENTY_DIGITS in raw.translate(_DIGITS):
        return _load_tolerantly(raw)
    try:
        return ParsedBody(*loads_with_depth(raw))
    except orjson.JSONDecodeError as error:
        try:
            return _load_tolerantly(raw)
        except json.JSONDecodeError:
            raise error from None


def names_wide_encoding(raw: bytes) -> bool:
    """Return whether a body is UTF-16 or UTF-32: a mark, or zero bytes beside the first characters."""
    return raw[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in raw[:4]


def _load_tolerantly(raw: bytes) -> ParsedBody:
    problems: dict[str, None] = {}
    text = raw.decode("utf-8", "replace")
    if text.encode() != raw:
        problems[UTF8_REPLACED] = None
    text = _ESCAPE.sub(partial(_replace_unpaired, problems), text) if "\\u" in text else text
    decoder = json.JSONDecoder(
        object_pairs_hook=build_object,
        parse_constant=lambda _name: _note(problems, NON_FINITE, None),
        parse_int=partial(_read_integer, problems),
        parse_float=partial(_read_float, problems),
        strict=False,
    )
    try:
        payload = decoder.decode(text.strip())
        if not problems and not _is_sound(raw):
            problems[CONTROL_CHARACTERS] = None
    except RecursionError:
        raise json.JSONDecodeError("nested too deep", "", 0) from None
    except json.JSONDecodeError:
        payload = _load_lines(text, decoder, problems)
    return ParsedBody(payload, count_keys_and_depth(payload)[1], tuple(problems))


def _load_lines(text: str, decoder: json.JSONDecoder, problems: dict[str, None]) -> list[Any]:
    """Return the items of a body of one JSON object a line; a line that is none stays text, which no protocol accepts."""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if len(lines) < 2 or not isinstance(decoder.decode(lines[0]), dict):
        raise json.JSONDecodeError("neither JSON nor lines of JSON", text, 0)
    items: list[Any] = []
    for line in lines:
        try:
            items.append(decoder.decode(line))
        except (json.JSONDecodeError, RecursionError):
            items.append(_note(problems, NOT_JSON_LINES, line))
    return items


def _note(problems: dict[str, None], problem: str, value: Any) -> Any:
    problems[problem] = None
    return value


def _replace_unpaired(problems: dict[str, None], match: re.Match[str]) -> str:
    return str(_note(problems, SURROGATES_REPLACED, "\\ufffd")) if match["unpaired"] else match[0]


def _read_integer(problems: dict[str, None], digits: str) -> int | str:
    if len(digits) <= 20 and -(2**63) <= (value := int(digits)) < 2**64:
        return value
    return str(_note(problems, LARGE_INTEGERS, digits))


def _read_float(problems: dict[str, None], text: str) -> float | None:
    value = float(text)
    return _note(problems, NON_FINITE, None) if value in (float("inf"), float("-inf")) else value


def _is_sound(raw: bytes) -> bool:
    try:
        orjson.loads(raw)
    except orjson.JSONDecodeError:
        return False
    return True


__all__ = ["ParsedBody", "load_body", "names_wide_encoding"]
