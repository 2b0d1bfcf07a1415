"""Nested escapes are undone, and each character is mapped to its source."""

import html
import json
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.consent.redaction.decoded_text import decode_text, decode_with_offsets, first_escape, has_escapes

ESCAPES: dict[str, Callable[[str], str]] = {
    "percent": lambda text: quote(text, safe=""),
    "JSON": lambda text: json.dumps(text)[1:-1],
    "HTML": html.escape,
    "utf-16": lambda text: "".join(f"\\u{ord(letter):04x}" for letter in text),
}
PLAIN = st.text("abz059=&?_:/ \u00e9\u4e2d", max_size=20)


@given(PLAIN, st.lists(st.sampled_from(sorted(ESCAPES)), max_size=4))
def test_escapes_of_any_kind_are_undone(text: str, kinds: list[str]) -> None:
    """What was escaped up to four times, in any mixture, is the text again."""
    escaped = text
    for kind in kinds:
        escaped = ESCAPES[kind](escaped)
    assert decode_text(escaped) == decode_text(text) == text
    assert has_escapes(escaped) or escaped == text


@pytest.mark.parametrize(
    ("escaped", "plain"),
    [
        ("%2525253D", "="),
        ("%EF%BD%87", "g"),
        ("\uff47\u212a\u0131\u017f\U0001d454", "gKisg"),
        ("g\u200bc\u00adl", "gcl"),
        ("%u0026", "&"),
        ("\\ud835\\udc54", "g"),
        ("\\\\\\u0026\\/\\n", "&/ "),
        ("&amp;amp;equals;&#38&#x3d;", "=&="),
        ("?a=1&b;c=2&copy=3", "?a=1&b;c=2&copy=3"),
        ("100 % of C:\\temp\\data", "100 % of C: emp\\data"),
        ("%E9", "\ufffd"),
    ],
)
def test_spellings(escaped: str, plain: str) -> None:
    """Each kind of escape, and what is none."""
    assert decode_text(escaped) == plain


def test_too_many_layers_are_not_read() -> None:
    """A text with too many layers is not decoded."""
    text = "a%" + "%3" * 20 + "67"
    assert decode_text(text) is None
    assert first_escape(text) < len(text)
    assert first_escape("plain") == 5


@given(st.text("ab%235D&amp;\\u0\uff47\u200b", max_size=30))
def test_offsets_cover_the_source(text: str) -> None:
    """Characters stand for parts of the source in order, and those without escapes for themselves."""
    if decode_text(text) is None:
        return
    decoded = decode_with_offsets(text)
    assert decoded.text == decode_text(text)
    assert all(0 <= begin < end <= len(text) for begin, end in zip(decoded.begins, decoded.ends, strict=True))
    assert list(decoded.begins) == sorted(decoded.begins)
    for letter, begin, end, layers in zip(decoded.text, decoded.begins, decoded.ends, decoded.quoting, strict=True):
        assert layers or end - begin > 1 or text[begin] in (letter, "\uff47")


def test_layers_are_counted() -> None:
    """Percent-encodings and backslashes of each character."""
    decoded = decode_with_offsets('a%3D%253D\\\\"%5C%22')
    assert decoded.text == 'a=="' + '"'
    assert list(decoded.depths) == [0, 1, 2, 0, 1]
    assert list(decoded.quoting) == [0, 1, 2, 2, 2]
