"""A text as a reader would see it: percent-encoding, HTML entities, JSON escapes and look-alike characters undone. Pure.

Patterns are matched on the decoded view; a view maps each of its spans back to the source, so that what is masked is cut out of
the source and nothing else of it changes.
"""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterator
from enum import Enum
from functools import cache, lru_cache
from html.entities import html5

MAX_ROUNDS = 8
"""Encodings within encodings that are undone. Each round is linear in the text."""

_ESCAPE = re.compile(
    r"(?:%[0-9A-Fa-f]{2})+"  # a run of bytes
    r"|%u[0-9A-Fa-f]{4}"
    r"|&(?:#[0-9]+|#[xX][0-9A-Fa-f]+|[A-Za-z][A-Za-z0-9]{1,31}(?=;));?"
    r"|\\+u[dD][89abAB][0-9A-Fa-f]{2}\\+u[dD][c-fC-F][0-9A-Fa-f]{2}"
    r"|\\+(?:u[0-9A-Fa-f]{4}|u\{[0-9A-Fa-f]{1,8}\}|x[0-9A-Fa-f]{2}|[\"'/bfnrtv])"
)
_BLANKS = "\t\n\v\f\r"
_DROPPED = frozenset({"Cc", "Cf", "Mn", "Mc", "Me"})
"""Unicode categories of controls, formats and marks, which patterns of words do not fit."""
_FILLERS = frozenset("\u115f\u1160\u3164\uffa0\u2800")
"""Letters and symbols that show nothing."""
_DOTS = frozenset("\u3002\uff61")
"""Full stops that IDNA (RFC 3490, section 3.1) takes for the dot of a domain."""
_LETTERS_OF_ESCAPES = frozenset("bfnrtv")

Token = tuple[int, int, str]
"""Start and end in the source, text in the view."""


class Layer:
    """One round of decoding: where its tokens stand in the view and in the source."""

    __slots__ = ("_source_ends", "_source_starts", "_view_ends", "_view_starts", "text")

    def __init__(self, source: str, tokens: Iterator[Token]) -> None:
        self._view_starts: list[int] = []
        self._view_ends: list[int] = []
        self._source_starts: list[int] = []
        self._source_ends: list[int] = []
        pieces: list[str] = []
        copied = length = 0
        for start, end, plain in tokens:
            pieces += (source[copied:start], plain)
            length += start - copied
            self._view_starts.append(length)
            length += len(plain)
            self._view_ends.append(length)
            self._source_starts.append(start)
            self._source_ends.append(end)
            copied = end
        self.text = "".join(pieces) + source[copied:] if pieces else source

    def __bool__(self) -> bool:
        return bool(self._view_starts)

    def source_start(self, at: int) -> int:
        """Where the character at this place of the view begins in the source."""
        token = bisect_right(self._view_starts, at) - 1
        if token < 0:
            return at
        beyond = at - self._view_ends[token]
        return self._source_starts[token] if beyond < 0 else self._source_ends[token] + beyond

    def source_end(self, at: int) -> int:
        """Where the character before this place of the view ends in the source."""
        token = bisect_right(self._view_starts, at - 1) - 1
        if token < 0:
            return at
        beyond = at - self._view_ends[token]
        return self._source_ends[token] + max(0, beyond)


class DecodedView:
    """A decoded text and the way back to its source."""

    __slots__ = ("_layers", "complete", "levels", "text")

    def __init__(self, source: str) -> None:
        self._layers: list[Layer] = []
        self.text = source
        self.levels: list[tuple[str, int]] = []
        """What each round made of the text, and the layers that lead back from there."""
        self.complete = False
        """False where more encodings are left than `MAX_ROUNDS` undoes."""
        for _ in range(MAX_ROUNDS):
            folds = not is_printable_ascii(self.text) and self._apply(_folded_tokens)
            if not (_has_escapes(self.text) and self._apply(_escape_tokens)) and not folds:
                self.complete = True
                break
            self.levels.append((self.text, len(self._layers)))

    def _apply(self, tokens: Callable[[str], Iterator[Token]]) -> bool:
        layer = Layer(self.text, tokens(self.text))
        if layer:
            self._layers.append(layer)
            self.text = layer.text
        return bool(layer)

    def source_span(self, start: int, end: int, layers: int | None = None) -> tuple[int, int]:
        """A span of the view, or of one of its levels, not empty, as the span of the source that spells it."""
        for layer in reversed(self._layers[:layers]):
            start, end = layer.source_start(start), layer.source_end(end)
        return start, end


class Encoding(Enum):
    """How far a text is from its view."""

    NONE = 0
    """It is its view."""
    SPACED = 1
    """Blanks, commas, slashes and bars are all that is percent-encoded: true of most addresses of pages."""
    ANY = 2
    """Anything may be encoded in it."""


_HIDING = re.compile(r"%(?!2[0CcFf]|7[Cc])")
"""A percent sign of anything but a blank, a comma, a slash or a bar."""


def classify_encoding(text: str) -> Encoding:
    """A cheap look at a text; only `Encoding.ANY` is worth a view."""
    return _classify_cached(text) if len(text) <= MAX_CACHED else _classify_encoding(text)


def _classify_encoding(text: str) -> Encoding:
    if not (text.isascii() and text.isprintable()) or "\\" in text or _has_entities(text):
        return Encoding.ANY
    if "%" not in text:
        return Encoding.NONE
    return Encoding.ANY if _HIDING.search(text) else Encoding.SPACED


def is_printable_ascii(text: str) -> bool:
    """Whether a text is printable ASCII."""
    return text.isascii() and text.isprintable()


_classify_cached = lru_cache(maxsize=4_096)(_classify_encoding)


def decode_view(text: str) -> DecodedView:
    """The view of a text."""
    return _cached_view(text) if len(text) <= MAX_CACHED else DecodedView(text)


MAX_CACHED = 512
"""Characters of a text whose view is kept: addresses of pages come again and again, long texts do not."""


@lru_cache(maxsize=2_048)
def _cached_view(text: str) -> DecodedView:
    return DecodedView(text)


def _has_escapes(text: str) -> bool:
    return "%" in text or "\\" in text or _has_entities(text)


def _has_entities(text: str) -> bool:
    return "&" in text and (";" in text or "&#" in text)


def _escape_tokens(text: str) -> Iterator[Token]:
    for match in _ESCAPE.finditer(text):
        token = match[0]
        if token[0] == "%" and token[1] != "u":
            yield from _byte_tokens(token, match.start())
            continue
        plain = _unescape(token)
        if plain is not None:
            yield match.start(), match.end(), plain


def _byte_tokens(run: str, offset: int) -> Iterator[Token]:
    """Percent-encoded bytes as characters: UTF-8 where they are, Latin-1 where they are not."""
    content = bytes.fromhex(run.replace("%", ""))
    at = 0
    while at < len(content):
        first = content[at]
        length = 1 if first < 0xC2 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4
        try:
            plain = content[at : at + length].decode()
        except UnicodeDecodeError:
            plain, length = chr(first), 1
        yield offset + 3 * at, offset + 3 * (at + length), plain
        at += length


def _unescape(token: str) -> str | None:
    """The character of an entity or of an escape; None where it is none."""
    if token[0] == "&":
        if token[1] != "#":
            return html5.get(token[1:])
        body = token[2:].rstrip(";")
        return _character(body[1:], 16) if body[0] in "xX" else _character(body, 10)
    escape = token.lstrip("\\%")
    if escape[0] in "ux" and len(escape) > 1:
        digits = escape[1:].strip("{}")
        if len(digits) > 6 and "\\" in digits:  # a surrogate pair
            high, low = int(digits[:4], 16), int(digits[-4:], 16)
            return chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))
        return _character(digits, 16)
    return " " if escape in _LETTERS_OF_ESCAPES else escape


def _character(digits: str, base: int) -> str | None:
    digits = digits.lstrip("0")
    if not digits or len(digits) > 7:
        return None
    number = int(digits, base)
    return chr(number) if number < 0x110000 else None


def _folded_tokens(text: str) -> Iterator[Token]:
    for match in _foldable().finditer(text):
        plain = _fold(match[0])
        if plain != match[0]:
            yield match.start(), match.end(), plain


def fold_text(text: str) -> str:
    """The text without what shows nothing, in ASCII where it can be: the first layer of its view."""
    return text if is_printable_ascii(text) else _foldable().sub(lambda match: _fold(match[0]), text)


_ALPHABETS = ((0x80, 0x3400), (0xA640, 0xAC00), (0xF900, 0x12000), (0x16A00, 0x16E00), (0x1CC00, 0x20000))
"""Blocks of Unicode with letters or digits that stand for ASCII ones: all but ideographs and syllables."""


@cache
def _foldable() -> re.Pattern[str]:
    """Characters that may stand for an ASCII one or for nothing. Made on first use, because the scan takes some 30 ms.

    Most letters are neither, so that texts in other alphabets are searched at the speed of the pattern.
    """
    letters = ((code, chr(code)) for block in _ALPHABETS for code in range(*block))
    codes = [code for code, char in letters if char.isalnum() and any(map(str.isascii, _fold(char)))]
    # As ranges: letters beyond the basic plane are compared one by one.
    foldable = set(codes)
    starts = [code for code in codes if code - 1 not in foldable]
    ends = [code for code in codes if code + 1 not in foldable]
    ranges = "".join(f"{chr(start)}-{chr(end)}" for start, end in zip(starts, ends, strict=True))
    return re.compile(f"[^\\x20-\\x7e\\w]|[{ranges}]")


@lru_cache(maxsize=8_192)
def _fold(char: str) -> str:
    """What a character stands for: nothing where it shows nothing, an ASCII digit, blank or hyphen, else its NFKC form."""
    if char in _BLANKS:
        return " "
    category = unicodedata.category(char)
    if category in _DROPPED or char in _FILLERS:
        return ""
    if category in ("Zs", "Zl", "Zp"):
        return " "
    if category == "Nd":
        return str(unicodedata.decimal(char))
    if category == "Pd" or char == "\u2212":
        return "-"
    if char in _DOTS:
        return "."
    return unicodedata.normalize("NFKC", char)
