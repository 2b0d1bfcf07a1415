"""Click ids in addresses and properties: found however they are written, and nothing else touched."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.consent.clickids import ClickIds
from streams.consent.policy import PACKAGED, load_policy

CLEANER = ClickIds(load_policy(PACKAGED).click_ids)
SAFE = st.text("abcdefghijkmnopqrstuvwxyz0123456789-_.", min_size=6, max_size=20)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("https://x/?gclid=A", "https://x/"),
        ("https://x/?gclid=A&b=1", "https://x/?b=1"),
        ("https://x/?b=1&GCLID=A#top", "https://x/?b=1#top"),
        ("https://x/?a=1;fbclid=A;b=2", "https://x/?a=1;b=2"),
        ("https://x/#gclid=A&b=2", "https://x/#b=2"),
        ("https://x/?u=https%3A%2F%2Fy%2F%3Fgclid%3DA%26b%3D1", "https://x/?u=https%3A%2F%2Fy%2F%3Fb%3D1"),
        ("https://x/?mygclid=A", "https://x/?mygclid=A"),
        ("https://x/?gclidx=A", "https://x/?gclidx=A"),
        ("plain text about gclid", "plain text about gclid"),
        ("100 % sure", "100 % sure"),
        ("https://x/?q=50%25", "https://x/?q=50%25"),
        ("https://x/?%67clid=A", "https://x/"),
        ("https://x/?a=1&amp;gclid=A", "https://x/?a=1&amp"),
    ],
)
def test_texts(text: str, left: str) -> None:
    """Each spelling loses its click id and keeps the rest."""
    assert CLEANER.clean_text(text) == left


@given(st.sampled_from(sorted(CLEANER.names)), SAFE, st.integers(0, 6), st.booleans())
def test_no_encoding_hides_a_value(name: str, value: str, layers: int, first: bool) -> None:
    """However often the address was encoded, the value is gone."""
    value = f"VALUE{value}"
    text = f"https://x/?{name}={value}&a=1" if first else f"https://x/?a=1&{name}={value}"
    for _ in range(layers):
        text = "https://y/?u=" + quote(text, safe="")
    assert value not in CLEANER.clean_text(text)


@given(st.text(max_size=200))
def test_any_text_is_survived(text: str) -> None:
    """No text makes it fail, and cleaning twice is cleaning once."""
    once = CLEANER.clean_text(text)
    assert CLEANER.clean_text(once) == once
    CLEANER.clean_map({"p": text, "q": "[" + text})


@pytest.mark.parametrize(
    ("value", "left"),
    [
        ('{"gclid":"A","b":1}', '{"b":1}'),
        ('[{"name":"gclid","value":"A"},2]', "[{},2]"),
        ('{"u":"https:\\/\\/x\\/?gclid=A"}', '{"u":"https://x/"}'),
        ('{"a": 1}', '{"a": 1}'),
        ('{"gclid":"A","gclid":"A"}', "{}"),
        ('{"x":"?gclid=A","x":"b"}', '{"x":"b"}'),
        ('{"x":"\\ud800","gclid":"A"}', '{"x":"\\ud800"}'),
        ("[" * 2000, "[" * 2000),
    ],
)
def test_json_in_properties(value: str, left: str) -> None:
    """JSON is cleaned inside, also where keys stand twice or half a surrogate pair lies about."""
    assert CLEANER.clean_map({"p": value, "GCLID": "A"}) == {"p": left}
