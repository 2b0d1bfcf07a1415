"""Click ids in addresses and properties are removed in every spelling, and nothing else is changed."""

import html
import json
import time
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.consent.policy import PACKAGED, load_policy
from streams.consent.redaction.click_ids import ClickIds
from tests.support.scale import examples

CLEANER = ClickIds(load_policy(PACKAGED).click_ids)
SAFE = st.text("abcdefghijkmnopqrstuvwxyz0123456789-_.", min_size=6, max_size=20)
NAMES = st.sampled_from(sorted(name.replace("*", "x1") for name in CLEANER.names))
OTHER = st.sampled_from(
    ["q", "utm_source", "eagle", "single", "burgl", "_global", "id", "page[2]", "client", "awcs", "fbcount"]
)
HIDING_PLACES = [
    "https://x/?{}=VALUE&b=1",
    "https://x/p?b=1&{}=VALUE#top",
    "https://x/#/{}=VALUE/b",
    "https://x/?last_{}=VALUE",
    "https://x/?x-{}[]=VALUE",
    "https://x/?user.{}=VALUE",
    "https://x/?utm[{}]=VALUE&b=1",
    "https://x/?p[{}][]=VALUE",
    "https://x/?{} = VALUE&b=1",
    "https://x/?b&{}+=+VALUE",
    "https://x/{}/VALUE",
    "https://x/p/{}/VALUE/b?c=1",
    "https://x/{}=VALUE/b",
    "https://x/p;{}=VALUE;b=1",
    "https://x/p;{}=VALUE/b",
    'https://x/?d={{"{}":"VALUE","b":1}}',
    'https://x/?b=1#{{"b":[1,{{"{}": "VALUE"}}]}}',
    "title {}=VALUE - shop",
    '{{"b": 1, "{}": "VALUE", "c": ',
    '{{"b": {{"{}": {{"v": ["}}", "VALUE"], "w": "x',
    '[{{"key": "{}", "value": "VALUE"}}, {{"key',
    '[["{}", "VALUE"], ["b"',
    "{{'{}': 'VALUE', 'b': 1}}",
    "a=1; {}=VALUE; b=2",
    '{{"b":"{{\\"{}\\":\\"VALUE\\"}}","c":"cut',
    "https://x/?b=1\\u0026{}\\u003dVALUE\\u0026c=1",
    "https://x/?b=1&amp;{}=VALUE&amp;c=1",
    "https://x/?b=1&#38;{}&#x3d;VALUE",
    '<input name="{}" value="VALUE">',
]
FULL_WIDTH = {code: code + 0xFEE0 for code in range(97, 123) if chr(code) not in "dux"}


def around(escape: Callable[[str], str]) -> Callable[[str], str]:
    """Escape all but the value."""
    return lambda text: "VALUE".join(map(escape, text.split("VALUE")))


ESCAPES: dict[str, Callable[[str], str]] = {
    "none": str,
    "upper case": lambda text: text.upper().replace("\\U", "\\u"),
    "percent": lambda text: quote(text, safe=""),
    "percent, all": around(lambda text: "".join(f"%{byte:02X}" for byte in text.encode())),
    "percent, twice": lambda text: quote(quote(text, safe=""), safe=""),
    "escape()": lambda text: "".join(f"%u{ord(letter):04x}" if letter in "&=?" else letter for letter in text),
    "JSON": lambda text: json.dumps(text)[1:-1].replace("=", "\\u003d"),
    "HTML": lambda text: html.escape(html.escape(text)),
    "full-width": around(lambda text: text.translate(FULL_WIDTH)),
    "zero-width": lambda text: text.replace("id", "i\u200bd").replace("_", "_\u2060"),
}


@pytest.mark.parametrize(
    ("text", "cleaned"),
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
        ("https://x/?a=1&amp;gclid=A", "https://x/?a=1"),
    ],
)
def test_texts(text: str, cleaned: str) -> None:
    """Each spelling loses its click id and keeps the rest."""
    assert CLEANER.clean_text(text) == cleaned


@given(NAMES, SAFE, st.integers(0, 6), st.booleans())
def test_no_encoding_hides_a_value(name: str, value: str, layers: int, first: bool) -> None:
    """However often the address was encoded, the value is gone."""
    value = f"VALUE{value}"
    text = f"https://x/?{name}={value}&a=1" if first else f"https://x/?a=1&{name}={value}"
    for _ in range(layers):
        text = "https://y/?u=" + quote(text, safe="")
    assert value not in CLEANER.clean_text(text)


@pytest.mark.parametrize("escape", ESCAPES)
@pytest.mark.parametrize("place", HIDING_PLACES)
def test_every_place_in_every_spelling(place: str, escape: str) -> None:
    """Each listed name is removed with its value wherever it stands, in a text, a property or JSON."""
    for name in ("gclid", "fbc", "_gl", "gcl_aw", "li_fat_id", "mkt_tok", "_hsenc", "msclkid"):
        text = ESCAPES[escape](place.format(name))
        assert "VALUE" in text
        assert "VALUE" not in CLEANER.clean_text(text), text
        cleaned = CLEANER.clean_map({"a": text, "b": json.dumps({"c": [text, "d"]})})
        assert "VALUE" not in str(cleaned), text
        assert CLEANER.may_hold([text])


CHAINS = st.lists(st.sampled_from(["percent", "percent, all", "escape()", "JSON", "HTML"]), max_size=4)


@settings(max_examples=examples(300))
@given(st.sampled_from(HIDING_PLACES), NAMES, CHAINS, st.integers(4, 500))
def test_escapes_after_one_another_and_a_cut(place: str, name: str, chain: list[str], size: int) -> None:
    """An id is removed through four escapes of different kinds, also from a text that ends somewhere behind it."""
    text = place.format(name)
    for escape in chain:
        text = ESCAPES[escape](text)
    text = text[: text.index("VALUE") + size]
    assert "VALU" not in CLEANER.clean_text(text), text
    assert "VALU" not in str(CLEANER.clean_map({"a": text})), text


@pytest.mark.parametrize(
    "text",
    [
        "https://x/?eagle=1&single=2&burgl=1&_global=1&gclidish=1&mygclid=2&awcs=1&fbcount=2&epikx=1&bur_gl=1&client_ga=1",
        "https://eagle.example/single/mega/gadget?gad=1&gacha=2&doubleclick=1&click=2",
        "https://epik.example/x?a=1",
        "https://awc:80/x?a=1",
        "awc: what the letters mean",
        "Which gclid?",
        "https://x/?sig=aGVsbG8Fbc=&b=1",
        "https://x/?q=50%25&r=%E4%B8%AD%26x&a=b&&c=1;;",
        "C:\\new\\table",
        "Gr\u00fc\u00dfe & mehr; 100 % \uff21",
        '{"brand": "Epik", "price": 1.10, "tags": ["awc", "x", "y"]}',
        '{"a":1,"a":2,"note":"about gclid"}',
        '{"deep": ' + "[" * 40 + "]" * 40 + "}",
        "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5) [FBAN/FBIOS;FBAV/466.0;FBCR/x;FBLC/de_DE]",
    ],
)
def test_what_holds_no_id_keeps_its_bytes(text: str) -> None:
    """Short names within words do not count, and such texts are unchanged."""
    assert CLEANER.clean_text(text) == text
    assert CLEANER.clean_map({"a": text}) == {"a": text}


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("https://x/?utm[gclid]=A&b=1", "https://x/?b=1"),
        ("https://x/p/gclid/A/q?b=1", "https://x/p/q?b=1"),
        ("https://x/gclid=A/q", "https://x/q"),
        ("https://x/p;gclid=A/q?b=1", "https://x/p/q?b=1"),
        ("https://x/?a=gclid=A&b=1", "https://x/?a=&b=1"),
        ("https://x/?gclid=A%26b%3D1&c=1", "https://x/?c=1"),
        ("https://x/?gclid=A&fbclid=B&c=1", "https://x/?c=1"),
        ("https://x/?gclid=A&fbclid=B", "https://x/"),
        ("https://x/?a=1&amp;gclid=A&amp;b=1", "https://x/?a=1&amp;b=1"),
        ("https://x/?u=https%3A%2F%2Fy%2F%3Fgclid%3DA&b=1", "https://x/?u=https%3A%2F%2Fy%2F&b=1"),
        ('https://x/?d={"a":1,"gclid":"A"}&b=1', 'https://x/?d={"a":1}&b=1'),
        ("https://x/?d=%7B%22gclid%22%3A%22A%22%2C%22a%22%3A1%7D", "https://x/?d=%7B%22a%22%3A1%7D"),
        ('{"a": 1, "gclid": {"v": "}"}, "b": 2, "c', '{"a": 1, "b": 2, "c'),
        ('{"a":1,"u":{"gclid":"A', '{"a":1,"u":{'),
        ("\\u0026gclid\\u003dA\\u0026b\\u003d1", "\\u0026b\\u003d1"),
    ],
)
def test_the_rest_stays_in_order(text: str, cleaned: str) -> None:
    """One separator of the same level of encoding is removed with the id, and nothing else."""
    assert CLEANER.clean_text(text) == cleaned


@given(
    st.lists(st.tuples(OTHER, SAFE), max_size=5), NAMES, SAFE, st.integers(0, 5), st.sampled_from(["&", ";", "&amp;", "%26"])
)
def test_other_parameters_keep_order_and_values(
    others: list[tuple[str, str]], name: str, value: str, at: int, separator: str
) -> None:
    """The text around an id is the same as without it."""
    sign = quote("=", safe="") if separator == "%26" else "="
    parts = [f"{key}{sign}{text}" for key, text in others]
    with_id = [*parts[:at], f"{name}{sign}VALUE{value}", *parts[at:]]
    start = "https://x/?" if parts else "https://x/"
    assert CLEANER.clean_text("https://x/?" + separator.join(with_id)) == start + separator.join(parts)


@given(NAMES, st.integers(0, 400), st.sampled_from([str, lambda text: quote(text, safe="")]), st.booleans())
def test_json_cut_anywhere_hides_nothing(name: str, size: int, encode: Callable[[str], str], nested: bool) -> None:
    """JSON that is cut anywhere is searched as text."""
    content = {
        "a": "x" * 20,
        "u": {"list": [1, {"name": name, "value": "VALUE1"}], name: "VALUE2"},
        "b": "?" + name + "=VALUE3",
    }
    whole = json.dumps({"c": json.dumps(content), "d": 1} if nested else content)
    cut = encode(whole[:size])
    assert "VALU" not in str(CLEANER.clean_map({"p": cut, "q": "x"}))
    assert "VALU" not in CLEANER.clean_text(f"https://x/?d={cut}")


@given(
    NAMES,
    st.sampled_from(["{}", "last_{}", "user.{}", "ecommerce.x.{}", "{}[0]", "p[{}][]", "x-{}", "{}.value", " {} ", "a {}"]),
)
def test_names_of_properties(name: str, place: str) -> None:
    """A property with such a name is removed at any depth, in any case and in camel case."""
    key = place.format(name)
    camel = "first" + name.strip("_")[0].upper() + name.strip("_")[1:]
    for spelling in (key, key.upper(), quote(key, safe="")):
        nested = json.dumps({"a": [{spelling: "VALUE", "b": 1}]})
        assert CLEANER.clean_map({spelling: "VALUE", "c": nested}) == {"c": '{"a":[{"b":1}]}'}
    assert name.startswith("_") or CLEANER.clean_map({camel: "VALUE", "c": "d"}) == {"c": "d"}


def test_pairs_of_name_and_value() -> None:
    """A name as a value is removed with the value beside it."""
    assert CLEANER.clean_map({"key": "gclid", "value": "A", "b": "c"}) == {"key": "gclid", "b": "c"}
    assert CLEANER.clean_map({"p": '[["fbp","A"],["a",1]]'}) == {"p": '[[],["a",1]]'}
    assert CLEANER.clean_map({"p": '{"k":"x-gclid","v":{"a":1}}'}) == {"p": "{}"}


PIECES = st.lists(
    st.sampled_from(
        ["gclid", "fbc", "_gl", "Epik", "last_", "u0067", "&amp;", "%3D", "%25", "\uff47", "\u200b", "\u212a", "key", "clid"]
    )
    | st.sampled_from('=:/&?%26\\"{}[];a1 ,\n\ud835'),
    max_size=14,
).map("".join)


@given(st.text(max_size=200) | PIECES)
def test_any_text_is_survived(text: str) -> None:
    """No text makes it fail, and cleaning twice is cleaning once."""
    once = CLEANER.clean_text(text)
    assert CLEANER.clean_text(once) == once
    CLEANER.clean_map({"p": text, "q": "[" + text})


@settings(max_examples=examples(500))
@given(PIECES | st.text(max_size=60))
def test_the_quick_check_misses_nothing(text: str) -> None:
    """A text that passes the quick check is unchanged as a text, as a key and as JSON."""
    for spelling in (text, json.dumps({"a": text, text: 1})):
        if not CLEANER.may_hold([spelling, "b"]):
            assert CLEANER.clean_text(spelling) == spelling
            assert CLEANER.clean_map({spelling: "a", "b": spelling}) == {spelling: "a", "b": spelling}
        data = spelling.encode(errors="replace")
        if not CLEANER.may_hold_bytes(b"\x86\x01" + data + b"0"):
            assert not CLEANER.may_hold([data.decode()])


@pytest.mark.parametrize("piece", ["\\", "%25", "&amp;", '["gclid" ', "gclid[", '{"gclid":', "gclid=&", "]gclid", "%2%35"])
def test_hostile_texts_take_no_time(piece: str) -> None:
    """A text of the largest size is cleaned within two seconds, whatever is repeated in it."""
    text = (piece * 4096)[:4096]
    started = time.process_time()
    CLEANER.clean_map({"p": text, "q": text + "gclid=A"})
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("value", "cleaned"),
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
def test_json_in_properties(value: str, cleaned: str) -> None:
    """JSON is cleaned inside, also with repeated keys or half a surrogate pair."""
    assert CLEANER.clean_map({"p": value, "GCLID": "A"}) == {"p": cleaned}
