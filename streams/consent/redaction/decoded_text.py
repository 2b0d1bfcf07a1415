"""Undoes the escapes of texts, and maps each character to its source. Pure.

Undone, in any order and several times over: percent-encoding (also of percent signs, and `%uXXXX`), backslash escapes of JSON
and JavaScript, HTML entities, letters that look like ASCII (full-width, mathematical), and zero-width characters.
"""

import html
import re
import unicodedata
from collections.abc import Sequence
from html.entities import html5
from typing import NamedTuple

PASSES = 8
"""How often nested escapes are undone; a text with more layers is not decoded."""

_INVISIBLE = "\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff"


def _look_alikes() -> dict[str, str]:
    """Letter -> ASCII that it is compatible with (NFKC), for what can be part of a name, an escape or a separator."""
    table = {"\u0130": "I", "\u0131": "i"}
    for point in range(128, 0x20000):
        if unicodedata.decomposition(letter := chr(point)):
            ascii_text = unicodedata.normalize("NFKC", letter)
            if ascii_text.isascii() and ascii_text.strip(" ."):
                table[letter] = ascii_text
    return table


_LOOK_ALIKES = _look_alikes()
# Letters beyond U+FFFF have a class of their own: with them, the regex engine would try the others one by one.
_NEAR, _FAR = ("".join(letter for letter in _LOOK_ALIKES if (letter > "\uffff") is far) for far in (False, True))
FOREIGN = re.compile(rf"[{_INVISIBLE}{_NEAR}]|(?=[\U00010000-\U0010ffff])[{_FAR}\U000e0000-\U000e0fff]")
"""One non-ASCII character that stands for ASCII or for nothing."""

_P = r"%(?:25)*"
_ASCII_ESCAPE = re.compile(
    # Half a surrogate pair alone is no letter.
    rf"{_P}u[dD][89abAB][0-9a-fA-F]{{2}}{_P}u[dD][c-fC-F][0-9a-fA-F]{{2}}|{_P}u[0-9a-fA-F]{{4}}"
    # One UTF-8 sequence, or a byte that is part of none.
    rf"|{_P}[0-7][0-9a-fA-F]"
    rf"|{_P}[cdCD][0-9a-fA-F]{_P}[89abAB][0-9a-fA-F]"
    rf"|{_P}[eE][0-9a-fA-F](?:{_P}[89abAB][0-9a-fA-F]){{2}}"
    rf"|{_P}[fF][0-7](?:{_P}[89abAB][0-9a-fA-F]){{3}}"
    rf"|{_P}[89a-fA-F][0-9a-fA-F]"
    # Bounded, because a long run of backslashes is read anew from each of them.
    r"|\\\\{0,63}+(?:u[dD][89abAB][0-9a-fA-F]{2}\\{1,63}+u[dD][c-fC-F][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|[\"'/nrtbf])"
    r"|&(?:amp;)*+(?:#[0-9]{1,7};?|#[xX][0-9a-fA-F]{1,6};?|[A-Za-z][A-Za-z0-9]{1,30};)"
    r"|&(?:amp;)++"
)
_ANY_ESCAPE = re.compile(rf"{_ASCII_ESCAPE.pattern}|{FOREIGN.pattern}")
_ENTITY = re.compile(r"&(?:#|[A-Za-z][A-Za-z0-9]+;)")
_PERCENT_SIGNS = re.compile(r"%(?:25)*(?=[0-9a-fA-F]{2}(?:%|$))")
_BLANKS = dict.fromkeys("nrtbf", " ")


class DecodedText(NamedTuple):
    """A text without escapes; for each of its characters, by index, the source and the removed layers."""

    text: str
    begins: Sequence[int]
    ends: Sequence[int]
    depths: Sequence[int]
    """Removed percent-encodings."""
    quoting: Sequence[int]
    """Removed percent-encodings and backslashes."""


def has_escapes(text: str) -> bool:
    """Whether a text may have escapes; true for some texts without."""
    if "%" in text or "\\" in text or ("&" in text and _ENTITY.search(text)):
        return True
    return not text.isascii() and FOREIGN.search(text) is not None


def decode_text(text: str) -> str | None:
    """Undo all escapes of a text; None where they have too many layers."""
    for _ in range(PASSES):
        decoded = _escape(text).sub(_replace, text)
        if decoded == text or not has_escapes(decoded):
            return decoded
        text = decoded
    return None


def unescaped(text: str) -> DecodedText:
    """The `DecodedText` of a text without escapes."""
    n = len(text)
    return DecodedText(text, range(n), range(1, n + 1), bytes(n), bytes(n))


def decode_with_offsets(text: str) -> DecodedText:
    """Undo all escapes of a text that `decode_text` decodes, with the source of each character."""
    decoded = unescaped(text)
    while (following := _undo(decoded)).text != decoded.text:
        decoded = following
    return decoded


def first_escape(text: str) -> int:
    """The index of the first escape; the length of the text if it has none."""
    escape = _escape(text).search(text)
    return len(text) if escape is None else escape.start()


def _escape(text: str) -> re.Pattern[str]:
    return _ASCII_ESCAPE if text.isascii() else _ANY_ESCAPE


def _undo(source: DecodedText) -> DecodedText:
    texts: list[str] = []
    begins, ends, depths, quoting = list[int](), list[int](), list[int](), list[int]()
    at = 0

    def copy(until: int) -> None:
        texts.append(source.text[at:until])
        begins.extend(source.begins[at:until])
        ends.extend(source.ends[at:until])
        depths.extend(source.depths[at:until])
        quoting.extend(source.quoting[at:until])

    for escape in _escape(source.text).finditer(source.text):
        start, stop = escape.span()
        copy(start)
        at = stop
        replaced, n = _replace(escape), 0
        texts.append(replaced)
        n = len(replaced)
        percents, backslashes = _layers(escape.group())
        begins.extend([source.begins[start]] * n)
        ends.extend([source.ends[stop - 1]] * n)
        depths.extend([max(source.depths[start:stop]) + percents] * n)
        quoting.extend([max(source.quoting[start:stop]) + percents + backslashes] * n)
    copy(len(source.text))
    return DecodedText("".join(texts), begins, ends, depths, quoting)


def _layers(escape: str) -> tuple[int, int]:
    """(percent-encodings, backslashes) of one escape."""
    if escape[0] == "\\":
        return 0, len(escape) - len(escape.lstrip("\\"))
    if escape[0] != "%":
        return 0, 0
    signs = re.match(r"%((?:25)*)(?:[0-9a-fA-F]{2}(?=%|$)|u)", escape)
    return 1 + len(signs[1]) // 2 if signs else 1, 0


def _replace(match: re.Match[str]) -> str:
    escape = match.group()
    if escape[0] == "%":
        if "u" in escape:
            return _utf16(escape)
        return bytes.fromhex(_PERCENT_SIGNS.sub("", escape)).decode(errors="replace")
    if escape[0] == "\\":
        code = escape.lstrip("\\")
        if code[0] == "u":
            return _utf16(escape)
        return chr(int(code[1:], 16)) if len(code) > 1 else _BLANKS.get(code, code)
    if escape[0] == "&":
        return _entity(escape)
    return _LOOK_ALIKES.get(escape, "")


def _utf16(escape: str) -> str:
    """Decode one or two `uXXXX`."""
    units = bytes.fromhex("".join(part[:4] for part in escape.split("u")[1:]))
    return units.decode("utf-16-be", "surrogatepass")


def _entity(escape: str) -> str:
    """Decode an HTML entity; each leading `&amp;` is a further layer of escaping."""
    bare = "&" + re.sub(r"^&(?:amp;)*", "", escape)
    if bare == "&":
        return "&"
    if bare[1] == "#":
        return html.unescape(bare if bare[-1] == ";" else f"{bare};")
    # A parameter that is no entity stays: `?a=1&b;c=2`.
    return html5.get(bare[1:], bare)


__all__ = ["FOREIGN", "DecodedText", "decode_text", "decode_with_offsets", "first_escape", "has_escapes", "unescaped"]
