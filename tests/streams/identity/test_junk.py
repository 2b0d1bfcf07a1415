"""Placeholders identify nobody, in every spelling that senders use."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.secrets import Secret
from streams.identity.junk import ADDRESSES, HASHES, LITERALS, MAILBOXES, RESERVED, RESERVED_MAILBOXES, SAMPLES, WORDS
from streams.identity.nodes import NodeKeys, node, normalise

KEYS = NodeKeys.derive(Secret("for tests only, forty characters long..."))
OPAQUE = ("user", "device", "cookie")
ENTRIES = sorted(WORDS | SAMPLES | LITERALS)
SPELT = (
    "{}",
    " {} ",
    '"{}"',
    "'{}'",
    "({})",
    "<{}>",
    "[{}]",
    "{}.",
    "\u200b{}\ufeff",
    "%22{}%22",
    '\\"{}\\"',
    "&quot;{}&quot;",
    '""{}""',
)


@pytest.mark.parametrize("kind", OPAQUE)
def test_each_entry_is_nobody(kind: str) -> None:
    """Every word, sample, address and digest of the list is junk, in either case."""
    assert [value for entry in ENTRIES for value in (entry, entry.upper()) if normalise(kind, value) is not None] == []


@given(st.sampled_from(sorted(WORDS | SAMPLES)), st.sampled_from(SPELT), st.sampled_from([str.lower, str.upper, str.title]))
def test_each_entry_is_nobody_however_it_is_spelt(entry: str, form: str, case: "type[str]") -> None:
    """Quotes, brackets, zero-width characters and capitals change nothing."""
    assert normalise("user", form.format(case(entry))) is None


@pytest.mark.parametrize("name", HASHES)
@pytest.mark.parametrize(
    "word", ["", " ", "null", "NULL", "undefined", "None", "0", "test@example.com", "a@a.com", "(not set)"]
)
def test_digests_of_nothing_are_nobody(word: str, name: str) -> None:
    """Digests of the empty string are junk."""
    digest = hashlib.new(name, word.encode(), usedforsecurity=False).hexdigest()
    assert node(KEYS, "user", digest) is node(KEYS, "user", digest.upper()) is None
    assert node(KEYS, "user", hashlib.new(name, b"jo@shop.example", usedforsecurity=False).hexdigest()) is not None


@pytest.mark.parametrize(
    "value",
    [
        "{{customer.id}}",
        "{{ customer }}",
        "u-{{id}}",
        "${userId}",
        "user-${id}",
        "%%USER_ID%%",
        "[[user]]",
        "<%= user.id %>",
        "{user_id}",
        "<user_id>",
        "[USER_ID]",
        "__USER_ID__",
        "%USER_ID%",
        "*|UNIQID|*",
        "#{user.id}",
        "{% user %}",
        "@@uid@@",
        "%7B%7Bid%7D%7D",
        "$user_id",
        "[object Object]",
        "[object Window]",
        "[object HTMLInputElement]",
        "function () { return id }",
        "() => id",
        '{"id": 7}',
        "undefined.undefined",
        "null null",
        "None, None",
        "GA1.1.undefined.undefined",
        "GA1.2.0.0",
        "NaN",
        "-1",
        "1.0",
        "0.0",
        "+0",
        "00000000-0000-0000-0000-000000000000",
        "00000000000000000000000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        "F" * 32,
        "{FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF}",
        "11111111-1111-1111-1111-111111111111",
        "xxx",
        "XXXXXXXXXX.YYYYYYYYYY",
        "---",
        "***",
        "???",
        "\uff4e\uff55\uff4c\uff4c",
        "nu\u00adll",
        "d41d8cd9-8f00-b204-e980-0998ecf8427e",
        "n/a",
        "N.A.",
        "#REF!",
        "\u2014",
        "%{user}",
        "%(user_id)s",
        "%s",
        "%d",
        "\\{user\\}",
        "&lt;user_id&gt;",
        "%7Buser.id%7D",
        "u-%5Bid%5D",
    ],
)
@pytest.mark.parametrize("kind", OPAQUE)
def test_what_nobody_has_filled_in_is_nobody(kind: str, value: str) -> None:
    """Templates, serialised objects, empty values and padding are junk."""
    assert node(KEYS, kind, value) is None


@pytest.mark.parametrize(
    "value",
    [
        "u-17",
        "12345",
        "7",
        "10",
        "jo",
        "test-17",
        "user-1",
        "nullah",
        "guesthouse-4",
        "Noah",
        "Anonymou5",
        "vis_101",
        "__a1b2__",
        "a{b",
        "s:abc.def",
        "100000000",
        "11112222",
        "Zo\u00eb",
        "\u5f20\u4f1f",
        "00000000-0000-0000-0000-00000000000a",
        "auth0|5f7c8ec7c33c6c004bbafe82",
        "ffffffff-ffff-ffff-ffff-fffffffffff0",
        "AQIDBAUGBwgJCgsMDQ4PEA==",
        "a1.b2.c3",
        "jo@shop.example",
        "x1",
        "e3b0c44298fc1c14",
        "1e5",
        "12e+3x",
        "100%s",
        "%7B7b1f6c1e%7D",
    ],
)
def test_ordinary_ids_are_somebody(value: str) -> None:
    """Ids that only resemble junk are ids."""
    assert normalise("user", value) == value


@pytest.mark.parametrize(
    "value",
    [
        *sorted(ADDRESSES),
        *(f"{box}@shop.example" for box in sorted(MAILBOXES)),
        "no-reply@shop.example",
        "Do.Not.Reply@shop.example",
        "test1@shop.example",
        "test+4@shop.example",
        "TESTER@gmail.com",
        "na@na.com",
        "qwe@qwe.de",
        "xx@xx.de",
        "none@none.example",
        "{{email}}@shop.example",
        "${user}@shop.example",
        "0@shop.example",
        "<noreply@shop.example>",
        "nan@nan.example",
        "n/a@n/a.example",
        "name@name.example",
        "niemand@niemand.example",
        "{email}@shop.example",
        "[user]@shop.example",
        "%email%@shop.example",
        "Post-Master@shop.example",
    ],
)
def test_addresses_that_many_type_are_nobody(value: str) -> None:
    """Test addresses, unread mailboxes and templates are junk."""
    assert node(KEYS, "email", value) is None


def test_reserved_domains_lend_no_placeholder_an_owner() -> None:
    """At reserved domains placeholders are junk; other addresses are not."""
    for domain in RESERVED:
        tld = domain if "." in domain else f"shop.{domain}"
        assert [box for box in RESERVED_MAILBOXES if normalise("email", f"{box}@{tld}") is not None] == []
        assert normalise("email", f"ada.lovelace@{tld}") == f"ada.lovelace@{tld}"
    assert normalise("email", "info@shop.example") == "info@shop.example"


@pytest.mark.parametrize(
    "value",
    [
        "jo@shop.example",
        "testa@shop.example",
        "contest@shop.example",
        "nina@na.com",
        "bmw@bmw.example",
        "name@shop.example",
        "rootes@shop.example",
    ],
)
def test_ordinary_addresses_are_somebody(value: str) -> None:
    """Addresses that only resemble test addresses are addresses."""
    assert normalise("email", value) == value
