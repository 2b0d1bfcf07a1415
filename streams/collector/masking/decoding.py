"""Decoded views of texts: percent-encoding, HTML entities, JSON escapes and look-alike characters undone. Pure.

Patterns are matched on the decoded view. A view maps its spans back to the source, so that only the masked spans of the source
change.
"""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterator
from enum import Enum
from functools import cache, lru_cache
from html.entities import html5

MAX_ROUNDS = 8
"""Levels of nested encoding that are undone. Each round is linear in the length of the text."""

_ESCAPE = re.compile(
    r"(?:%[0-9A-Fa-f]{2})+"  # a run of bytes
    r"|%u[0-9A-Fa-f]{4}"
    r"|&(?:#[0-9]+|#[xX][0-9A-Fa-f]+|[A-Za-z][A-Za-z0-9]{1,31}(?=;));?"
    r"|\\+u[dD][89abAB][0-9A-Fa-f]{2}\\+u[dD][c-fC-F][0-9A-Fa-f]{2}"
    r"|\\+(?:u[0-9A-Fa-f]{4}|u\{[0-9A-Fa-f]{1,8}\}|x[0-9A-Fa-f]{2}|[\"'/bfnrtv])"
)
_BLANKS = "\t\n\v\f\r"
_DROPPED = frozenset({"Cc", "Cf", "Mn", "Mc", "Me"})
"""Unicode categories of control characters, formats and marks, which word patterns do not match."""
_FILLERS = frozenset("\u115f\u1160\u3164\uffa0\u2800")
"""Invisible letters and symbols."""
_DOTS = frozenset("\u3002\uff61")
"""Full stops that IDNA (RFC 3490, section 3.1) treats as the dot of a domain."""
_LETTERS_OF_ESCAPES = frozenset("bfnrtv")

Token = tuple[int, int, str]
"""(start in the source, end in the source, text in the view)."""


class Layer:
    """One round of decoding: the positions of its tokens in the view and in the source."""

    __slots__ = ("_source_ends", "_source_starts", "_view_ends", "_view_starts", "text")

    def __init__(self, source: str, tokens: Iterator[Token]) -> None:
        self._view_starts: list[int] = []
        self._view_ends: list[int] = []
        self._source_starts: list[int] = []
        self._source_ends: list[int] = []
        pieces: list[str] = []
        copied_end = length = 0
        for start, end, plain in tokens:
            pieces += (source[copied_end:start], plain)
            length += start - copied_end
            self._view_starts.append(length)
            length += len(plain)
            self._view_ends.append(length)
            self._source_starts.append(start)
            self._source_ends.append(end)
            copied_end = end
        self.text = "".join(pieces) + source[copied_end:] if pieces else source

    def __bool__(self) -> bool:
        return bool(self._view_starts)

    def source_start(self, at: int) -> int:
        """Return where the character at this index of the view begins in the source."""
        token = bisect_right(self._view_starts, at) - 1
        if token < 0:
            return at
        offset = at - self._view_ends[token]
        return self._source_starts[token] if offset < 0 else self._source_ends[token] + offset

    def source_end(self, at: int) -> int:
        """Return where the character before this index of the view ends in the source."""
        token = bisect_right(self._view_starts, at - 1) - 1
        if token < 0:
            return at
        offset = at - self._view_ends[token]
        return self._source_ends[token] + max(0, offset)


class DecodedView:
    """A decoded text and the mapping of its spans to the source."""

    __slots__ = ("_layers", "complete", "levels", "text")

    def __init__(self, source: str) -> None:
        self._layers: list[Layer] = []
        self.text = source
        self.levels: list[tuple[str, int]] = []
        """(text after each round, number of layers up to that round)."""
        self.complete = False
        """False where the text has more levels of encoding than `MAX_ROUNDS`."""
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
        """Return the source span of a non-empty span of the view, or of the level with this number of layers."""
        for layer in reversed(self._layers[:layers]):
            start, end = layer.source_start(start), layer.source_end(end)
        return start, end


class Encoding(Enum):
    """How a text is encoded."""

    NONE = 0
    """Not at all: the text equals its view."""
    SPACED = 1
    """Only blanks, commas, slashes and bars are percent-encoded, as in most page URLs."""
    ANY = 2
    """Any character may be encoded."""


_HIDING = re.compile(r"%(?!2[0CcFf]|7[Cc])")
"""A percent-encoded character other than a blank, a comma, a slash or a bar."""


def classify_encoding(text: str) -> Encoding:
    """Classify a text cheaply. Only `Encoding.ANY` needs a view."""
    return _classify_cached(text) if len(text) <= MAX_CACHED else _classify_encoding(text)


def _classify_encoding(text: str) -> Encoding:
    if not (text.isascii() and text.isprintable()) or "\\" in text or _has_entities(text):
        return Encoding.ANY
    if "%" not in text:
        return Encoding.NONE
    return Encoding.ANY if _HIDING.search(text) else Encoding.SPACED


def is_printable_ascii(text: str) -> bool:
    """Return whether a text is printable ASCII."""
    return text.isascii() and text.isprintable()


_classify_cached = lru_cache(maxsize=4_096)(_classify_encoding)


def decode_view(text: str) -> DecodedView:
    """Return the view of a text; views of short texts are cached."""
    return _cached_view(text) if len(text) <= MAX_CACHED else DecodedView(text)


MAX_CACHED = 512
"""Characters of the longest text whose view is cached: page URLs repeat, long texts do not."""


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
    """Decode percent-encoded bytes as UTF-8, and as Latin-1 where they are not UTF-8."""
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
    """Return the character of an entity or an escape; None where it is neither."""
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
    """Remove invisible characters and fold look-alikes to ASCII: the first layer of a view."""
    return text if is_printable_ascii(text) else _foldable().sub(lambda match: _fold(match[0]), text)


_ALPHABETS = ((0x80, 0x3400), (0xA640, 0xAC00), (0xF900, 0x12000), (0x16A00, 0x16E00), (0x1CC00, 0x20000))
"""Unicode blocks with letters or digits that may fold to ASCII: all but ideographs and syllables."""


@cache
def _foldable() -> re.Pattern[str]:
    """Match characters that may fold to ASCII or to nothing. Built on first use, because the scan takes some 30 ms.

    Most letters do neither, so texts in other alphabets are searched at the speed of the pattern.
    """
    letters = ((code, chr(code)) for block in _ALPHABETS for code in range(*block))
    codes = [code for code, char in letters if char.isalnum() and any(map(str.isascii, _fold(char)))]
    # As ranges, because `re` compares letters beyond the basic plane one by one.
    foldable = set(codes)
    starts = [code for code in codes if code - 1 not in foldable]
    ends = [code for code in codes if code + 1 not in foldable]
    ranges = "".join(f"{chr(start)}-{chr(end)}" for start, end in zip(starts, ends, strict=True))
    return re.compile(f"[^\\x20-\\x7e\\w]|[{ranges}]")


@lru_cache(maxsize=8_192)
def _fold(char: str) -> str:
    """Fold a character: to nothing where it is invisible, to an ASCII digit, blank or hyphen, else to its NFKC form."""
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
