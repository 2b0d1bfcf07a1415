"""What is masked in a text, what is not, and that the time is linear."""

import time
import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streams.collector.masking import mask_text
from streams.collector.masking.decoding import DecodedView, fold_text
from streams.collector.masking.field_names import Category
from streams.collector.masking.text import is_plain

AGENT = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{} Safari/537.36 OPR/106.0.0.0"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("mail ada@example.org now", "mail [email] now"),
        ("https://x.example/?m=ada%2540example.org&a=1", "https://x.example/?m=[email]&a=1"),
        ("<ada@example.org>", "<[email]>"),
        ("mailto:ada@example.org?subject=x", "mailto:[email]?subject=x"),
        ('to "ada l"@example.org', "to [email]"),
        ("ada(work)@example.org", "[email]"),
        ("संपर्क@डाटामेल.भारत", "[email]"),
        ("ada.l at example.org", "[email]"),
        ("ada AT example DOT org", "[email]"),
        ("ada@[203.0.113.9]", "[email]"),
        ("https://ada:secret@shop.example/x", "https://[email]/x"),
        ("call +49 (0) 30 / 90 18 20!", "call [phone]!"),
        ("q=%2B49+30+901820&x=1", "q=[phone]&x=1"),
        ("tel:030-901820", "[phone]"),
        ("from 203.0.113.9:8080", "from [ip]:8080"),
        ("https://203.0.113.9/a", "https://[ip]/a"),
        ("https://[2001:db8::9]:8443/a", "https://[ip]:8443/a"),
        ("ip6:2001:db8::9", "ip6:[ip]"),
        ("fe80::1%eth0", "[ip]%eth0"),
        ("?user_id=a%26b&x=1", "?user_id=[user id]&x=1"),
        ("?user%5Fid=ab&x=1", "?user%5Fid=[user id]&x=1"),
        ("?u=%2F%3Fuid%3Dabc%2520d%26x%3D1", "?u=%2F%3Fuid%3D[user id]%26x%3D1"),
        ("_ga=GA1.2.12.34; theme=dark", "_ga=[user id]; theme=dark"),
        ('{"a":[{"userId":17,"note":"ada@example.org"}]}', '{"a":[{"userId":"[user id]","note":"[email]"}]}'),
        ('see {"userId": "17", "x": 1} there', 'see {"userId": "[user id]", "x": 1} there'),
        ("?v=YWRhLmxAZXhhbXBsZS5vcmc&x=1", "?v=[email]&x=1"),
        ("%25" * 40 + "40", "%25" * 40 + "40"),
    ],
)
def test_a_mask_leaves_the_rest_unchanged(text: str, masked: str) -> None:
    """Only the address is replaced by its label."""
    assert mask_text(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "order 1795514401000", "ord-2026-000123", "DE-0049-123", "0012345678901234567", "00000001", "100200300400",
        "1795514400.123", "2026-11-24T10:00:00+01:00", "2026-11-24T10:00:00.123+10:00", "Tue Nov 24 2026 10:00:00 GMT+0100",
        "19.99 EUR", "1.234.567,89", "EUR 1.234.567.890,00", "+5 %", "1+1=2", "10+20", "+1 (2)", "C++ 2012", "4006381333931",
        "https://shop.example/p?ean=0049000028904", "?q=ean+4006381333931", "7b1f6c1e-2222-4000-8000-000000000107",
        "00123456-7890-4123-8123-001234567890", "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "v1.2.3", "1.2.3.4", "gtm/1.2.3.4", "version 131.2.3.4", "lib-v10.20.130.4", AGENT.format("120.0.0.0"),
        AGENT.format("118.0.5993.70"), "Instagram 309.1.0.41.113", "https://cdn.example/lib/1.20.3.4/x.js", "127.0.0.1:8080",
        "10:20:30", "aa:bb:cc:dd:ee:ff", "std::vector<int>", "a::b", "Chapter 3.4.5.6", "a@b", "@shop.example",
        "https://x.example/@handle", "https://maps.example/@52.5200066,13.404954,15z",
        "logo@2x.png", "npm/vue@3.4.21/dist/vue.js", "5 @ 3.99", "Lunch at cafe.example", "Look at shop.example",
        "50% off at 10 am",        "Boots & Shoes | Größe 42–43",
        "Сапоги: 12 000 ₽", "ブーツ：1,200円", "%E2%82%AC%2019,99", "?session_id=123456789&item_id=00123456789&product_id=12",
        "?utm_medium=email&gclid=Cj0KCQiA-00123abcDEF_x&email=1&phone=true", '{"item_id":"0012","at":"10:00:00","price":1.5}',
        "CQAbcdAAQAbcdABENA0EgAAAAAAAAAAAAAqIAAAAAAAA.YAAAAAAAAAAA", "DBABMA~CPXxRfAPXxRfAAfKABENB-CgAAAAAAAAAAYgAAAAAAAA",
        "13t3t3t3t5l1",
        "GA1.2.1122334455.1690000021", "fb.1.1690000021000.1122334455", "100%25 wool", "a&b;c", "&nbsp;&euro;",
        "C:\\new\\table",
        "\\u00e4hnlich", "email: ask us", "phone case", "the user id is missing",
    ],
)  # fmt: skip
def test_other_texts_stay(text: str) -> None:
    """Orders, times, prices, versions, article numbers, UUIDs, hashes, consent strings and handles are not masked."""
    assert mask_text(text) == text


@pytest.mark.parametrize(
    ("text", "category", "masked"),
    [
        ("203.0.113.9", Category.VERSION, "[ip]"),
        ("120.0.0.0", Category.VERSION, "120.0.0.0"),
        ("sdk/131.2.3.4", Category.VERSION, "sdk/131.2.3.4"),
        ("0049000028904", Category.CODE, "0049000028904"),
        ("0049301234567", Category.CODE, "[phone]"),
        ("0049000028904", Category.OTHER, "[phone]"),
        ("anything", Category.USER_ID, "[user id]"),
        ("030 901820", Category.PHONE, "[phone]"),
        ("true", Category.PHONE, "true"),
        ("[email]", Category.EMAIL, "[email]"),
    ],
)
def test_the_name_of_the_field_decides_ambiguous_values(text: str, category: Category, masked: str) -> None:
    """Versions look like IP addresses and article numbers like phone numbers; personal fields are masked as a whole."""
    assert mask_text(text, category) == masked


def test_more_encodings_than_are_undone_are_removed() -> None:
    """A text with too many levels of encoding is removed."""
    text = "ada@example.org"
    for _ in range(12):
        text = "".join(f"&#{ord(char)};" if char in "@&" else char for char in text)
    assert mask_text(text) == "[removed]"


PIECES = st.sampled_from(
    [
        "ada@example.org", "%40", "%2540", "&#64;", "\\u0040", "+49 30 901820", "0049", "203.0.113.9", "user_id=", '"uid":',
        "&", "=", "%", " at ", "x.org", "\u200b", "＠", "ü", "é", "{", "}", '"', "\\", "[email]", "[user id]", "2001:db8::9",
        "\ud800", "\x00", "ﬁ",
    ]
)  # fmt: skip
TEXTS = st.lists(PIECES | st.text(max_size=6), max_size=12).map("".join)


@settings(deadline=None)
@given(TEXTS)
@example("uid=ada@example.org")
def test_masking_twice_is_masking_once(text: str) -> None:
    """Labels are not masked again."""
    once = mask_text(text)
    assert mask_text(once) == once


def test_every_look_alike_character_is_folded() -> None:
    """The first pattern matches every letter and digit of Unicode whose NFKC form is ASCII."""
    for code in range(0x80, 0x110000):
        char = chr(code)
        plain = unicodedata.normalize("NFKC", char)
        if plain != char and plain.isascii() and not 0xD800 <= code < 0xE000:
            assert fold_text(char) in (plain, plain.replace("\n", " ")), hex(code)


@settings(deadline=None)
@given(TEXTS)
def test_a_view_leads_back_to_its_source(text: str) -> None:
    """Every level maps its characters to non-empty source spans in the same order."""
    view = DecodedView(text)
    for level, layers in [*view.levels, (view.text, None)]:
        places = [view.source_span(at, at + 1, layers) for at in range(len(level))]
        assert all(0 <= start < end <= len(text) for start, end in places)
        assert places == sorted(places)


@settings(deadline=None)
@given(TEXTS)
def test_plain_texts_are_those_in_which_nothing_is_masked(text: str) -> None:
    """`is_plain` is never true of a text that would be masked."""
    if is_plain(fold_text(text)):
        assert mask_text(text) == text


@settings(deadline=None)
@given(st.text(max_size=20), st.text(max_size=20))
def test_an_address_is_masked_between_any_characters(before: str, after: str) -> None:
    """Surrounding characters do not prevent a mask."""
    assert "wombat" not in mask_text(f"{before} quokka.wombat@numbat.example {after}")


HOSTILE: list[Callable[[int], str]] = [
    lambda n: "a" * n,
    lambda n: "@" * n,
    lambda n: "a@" * (n // 2),
    lambda n: "a@b." * (n // 4),
    lambda n: "a.b@c.de" * (n // 8),
    lambda n: "a." * (n // 2) + "@",
    lambda n: "=" * n,
    lambda n: "uid=" * (n // 4),
    lambda n: "user_id_" + "1" * n + "=x",
    lambda n: "is_" * (n // 3) + "=x",
    lambda n: "%" * n,
    lambda n: "%25" * (n // 3),
    lambda n: "%40" * (n // 3),
    lambda n: "&amp;" * (n // 5),
    lambda n: "&#" + "0" * n,
    lambda n: "\\" * n + "u0040",
    lambda n: "+" * n,
    lambda n: "+1 " * (n // 3),
    lambda n: "00" * (n // 2),
    lambda n: "001 " * (n // 4),
    lambda n: "1." * (n // 2),
    lambda n: "a:" * (n // 2),
    lambda n: "::" * (n // 2),
    lambda n: '"' * n,
    lambda n: '"a":' * (n // 4),
    lambda n: '"uid":' * (n // 6),
    lambda n: "[" * n,
    lambda n: '{"a":' * (n // 5),
    lambda n: "//" * (n // 2) + "@a.de",
    lambda n: " at " * (n // 4),
    lambda n: "(at)" * (n // 4),
    lambda n: "\u200b" * n + "@",
    lambda n: "é@" * (n // 2),
    lambda n: "=QUFB" * (n // 5),
]


@pytest.mark.parametrize("hostile", HOSTILE, ids=[repr(hostile(8)) for hostile in HOSTILE])
def test_the_time_grows_with_the_text(hostile: Callable[[int], str]) -> None:
    """100,000 characters take at most some thirty times as long as 10,000; quadratic time would be a hundred times."""

    def seconds(length: int) -> float:
        text = hostile(length)
        times = []
        for _ in range(3):
            started = time.process_time()
            mask_text(text)
            times.append(time.process_time() - started)
        return min(times)

    assert seconds(100_000) < 30 * max(seconds(10_000), 0.002)


def test_an_unmasked_text_is_the_same_object_each_time() -> None:
    """Callers recognise by identity what was not masked, also where the cache has met an equal text before."""
    for number in range(3):
        text = "".join(["order+", "1663784670"])  # an object of its own
        assert mask_text(text) is text, number
