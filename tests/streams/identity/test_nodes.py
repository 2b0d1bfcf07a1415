"""Identifiers become nodes; junk becomes none."""

import pytest

from infra.secrets import Secret
from streams.identity.nodes import NodeKeys, named, node, versions

KEYS = NodeKeys.derive(Secret("for tests only, forty characters long..."))


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        ("email", " Ada@Example.ORG ", "ada@example.org"),
        ("phone", "+49 (30) 901820", "004930901820"),
        ("user", " u-17 ", "u-17"),
    ],
)
def test_spellings_of_one_identifier_give_one_node(kind: str, one: str, other: str) -> None:
    """Case, spaces and dialling prefixes do not make two people."""
    assert node(KEYS, kind, one) == node(KEYS, kind, other) is not None


@pytest.mark.parametrize(
    "value",
    ["", " ", "null", "NULL", "undefined", "guest", "(not set)", "0", "00000000-0000-0000-0000-000000000000", "x" * 600],
)
@pytest.mark.parametrize("kind", ["user", "device", "cookie"])
def test_blocked_literals_are_no_identifiers(kind: str, value: str) -> None:
    """What tags send when they know nothing identifies nobody."""
    assert node(KEYS, kind, value) is None


@pytest.mark.parametrize(
    ("kind", "value"), [("email", "ada"), ("email", "a b@c.d"), ("phone", "030 901820"), ("phone", "+0123")]
)
def test_what_is_no_address_or_number_is_no_identifier(kind: str, value: str) -> None:
    """A phone number without a country, or half an address, is not guessed at."""
    assert node(KEYS, kind, value) is None


def test_a_node_is_a_tier_and_an_hmac_that_hangs_on_the_secret() -> None:
    """33 characters, other under another secret and for another type."""
    one = node(KEYS, "user", "u-17")
    assert one is not None
    assert len(one) == 33
    assert one[0] == "0"
    others = NodeKeys.derive(Secret("another secret of at least forty characters"))
    rotated = NodeKeys.derive(Secret("for tests only, forty characters long..."), 2)
    assert node(rotated, "user", "u-17") != one
    assert node(others, "user", "u-17") != one
    assert (node(KEYS, "device", "u-17") or "")[1:] != one[1:]


def test_each_version_makes_a_node_of_the_one_before() -> None:
    """Nodes of a version are the same whichever is the newest; the keys attest which are one identifier's, and no others."""
    secret = Secret("for tests only, forty characters long...")
    first, second, third = versions(NodeKeys.derive(secret, 3), "email", "jo@shop.example")
    assert versions(NodeKeys.derive(secret, 2), "email", "jo@shop.example") == [first, second]
    assert node(KEYS, "email", "jo@shop.example") == first
    keys = NodeKeys.derive(secret, 3, 1)
    assert named(keys, [("email", "jo@shop.example")]).nodes == sorted([first, second, third])
    assert named(NodeKeys.derive(secret, 3), [("email", "jo@shop.example")]).nodes == [third]
    stranger = versions(keys, "email", "ann@shop.example")[1]
    together = tuple(sorted([first, second, third, stranger]))
    assert keys.renamed([together]) == {first: second, second: third}
    assert keys.renamed([(first,), (second,), tuple(sorted([first, stranger, third]))]) == {}, "not in one event"
    assert NodeKeys.derive(secret, 3).renamed([together]) == {first: second, second: third}, (
        "what was sent before may come later"
    )
    assert NodeKeys.derive(secret).renamed([together]) == {}
    assert {second, third} < NodeKeys.derive(secret, 3).later_nodes([first])
    assert NodeKeys.derive(secret).later_nodes([first]) == set()


def test_the_subject_is_the_strongest_node() -> None:
    """A user outranks a device, a device a cookie, a cookie an address."""
    assert named(KEYS, [("email", "a@b.de"), ("cookie", "c1"), ("user", "u1")]).subject == node(KEYS, "user", "u1")
    assert named(KEYS, [("user", "null")]) == (None, [])


@pytest.mark.parametrize("name", [f"u{n}" for n in range(5)])
def test_the_subject_stays_while_keys_are_rotated(name: str) -> None:
    """Of the versions in use the oldest counts: consent is remembered of a subject."""
    secret = Secret("for tests only, forty characters long...")
    ids = [("user", name), ("cookie", name)]
    assert named(NodeKeys.derive(secret, 2, 1), ids).subject == named(KEYS, ids).subject
    newer = named(NodeKeys.derive(secret, 2), ids).subject
    assert newer != named(KEYS, ids).subject
    assert NodeKeys.derive(secret, 2).newer(named(KEYS, ids).subject or "") == newer
