"""Identifiers become nodes; junk becomes none."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.secrets import Secret
from infra.settings import PACKAGED_CONTRACTS
from schemas.registry import Registry
from streams.collector.event import ProtocolEvent
from streams.collector.normalise import Normaliser, RequestContext
from streams.identity.nodes import NodeKeys, all_nodes, event_nodes, identifier_text, node, normalise, versions

KEYS = NodeKeys.derive(Secret("for tests only, forty characters long..."))


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        ("email", " Ada@Example.ORG ", "ada@example.org"),
        ("phone", "+49 (30) 901820", "004930901820"),
        ("user", " u-17 ", "u-17"),
        ("user", "770031.0", "770031"),
        ("user", "Rene\u0301e-77", "Ren\u00e9e-77"),
        ("user", "u-\u200b17\ufeff", "u-17"),
        ("user", '"u-17"', "u-17"),
        ("cookie", "%22anon-4%22", "anon-4"),
        ("cookie", "GA1.1.4455667788.1700000077", "4455667788.1700000077"),
        ("cookie", "GA1.2.4455667788.1700000077", "GA1.3-2.4455667788.1700000077"),
        ("device", "7B1F6C1E-2222-4000-8000-000000000107", "7b1f6c1e-2222-4000-8000-000000000107"),
        ("device", "{7b1f6c1e-2222-4000-8000-000000000107}", "urn:uuid:7B1F6C1E-2222-4000-8000-000000000107"),
        ("device", "9F86D081884C7D659A2FEAA0C55AD015", "9f86d081884c7d659a2feaa0c55ad015"),
        ("email", "<jo@post.example>", "jo@post.example"),
        ("email", '"Jo Doe" <Jo@post.example>', "jo@post.example"),
        ("email", "jo@post.example,", "jo@post.example"),
        ("email", "'jo@post.example.'", "jo@post.example"),
        ("email", "mailto:jo@post.example?subject=hello", "jo@post.example"),
        ("email", "<MAILTO:jo@post.example>", "jo@post.example"),
        ("email", "jo%40post.example", "jo@post.example"),
        ("email", "jo\u200b@post.exam\u00adple", "jo@post.example"),
        ("email", "\uff4a\uff4f\uff20post.example", "jo@post.example"),
        ("email", "jo@M\u00fcnchen.example", "jo@xn--mnchen-3ya.example"),
        ("email", "jo@mu\u0308nchen\u3002example", "jo@xn--mnchen-3ya.example"),
        ("phone", "+49 (0) 30 23125 177", "+49 30 23125177"),
        ("phone", "+49 (030) 23125-177", "tel:+49-30-23125177"),
        ("phone", "\uff0b49\u00a030\u00a023125177", "(+49) 30/23125177"),
        ("phone", "+45 (0) 32 12 34 56", "+4532123456"),
        ("phone", "+39 (0)6 12345678", "+39 06 12345678"),
        ("phone", "0049 (0)30/23125177", "+49\uff080\uff0930 23125177"),
        ("email", " mailto:Jo@post.example\u200b", "jo@post.example"),
    ],
)
def test_spellings_of_one_identifier_give_one_node(kind: str, first: str, second: str) -> None:
    """Case, spaces and dialling prefixes do not change the node."""
    assert node(KEYS, kind, first) == node(KEYS, kind, second) is not None


GOLDEN = (
    ("user", "u-17", "0c04bd4bbea386317e1069464dc4e23a6"),
    ("user", "Ada.Lovelace", "0cbf87af7acc713b4ee5a4c0d56290325"),
    ("user", "770031", "031befdc50d5d37fa6fbc128c632c710e"),
    ("user", "Ren\u00e9e-77", "005c589a12038948a334f205935ff87c4"),
    ("user", "auth0|5f7c8ec7c33c6c004bbafe82", "03f2f5e84bb24ed615c37c4fcff596e7c"),
    ("cookie", "1234567890.1234567890", "2cbd341f4818a065f52c805063b990824"),
    ("cookie", "vis-101", "20a195dc4c3d94c22c9dac49f1452f605"),
    ("cookie", "amp-3Xk_9Q", "242c3b3f957937890305156affcaca1d7"),
    ("cookie", "s%3Aabc.def", "283b3dd1eb2347c00475ee2eee2218f21"),
    ("device", "7b1f6c1e-2222-4000-8000-000000000107", "1b12fdfe36ac7bb3e7fd92bd327d4bfaf"),
    ("device", "9f86d081884c7d659a2feaa0c55ad015", "17cccc91e38fac18c883e5e78462841c8"),
    ("email", "ada@shop.example", "3a1ffc94a34caa1da45705711202c8bdd"),
    ("email", "a.b+c@gmail.com", "39c02db7c238c21e6ab9030a0e61dd232"),
    ("email", "o'brien@post.example", "3bf44fa42eca4c949391507914c77d50d"),
    ("phone", "+4930901820", "3ef03b129e64d3ba8538413e37e705329"),
    ("phone", "+12125550123", "304b1f74e34dc993c66e54c4d1af36eb5"),
    ("phone", "+390612345678", "335ecd84e16f3288880018c94828d6e11"),
)


@pytest.mark.parametrize(("kind", "value", "expected"), GOLDEN)
def test_ordinary_identifiers_keep_their_nodes(kind: str, value: str, expected: str) -> None:
    """Nodes of ordinary identifiers never change, because consent and links are stored under them."""
    assert node(KEYS, kind, value) == expected


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        ("email", "j.o@gmail.com", "jo@gmail.com"),
        ("email", "jo+shop@gmail.com", "jo@gmail.com"),
        ("user", "U-17", "u-17"),
        ("user", "1.23e2", "123"),
        ("user", "17.5", "17"),
        ("cookie", "GA1.1.4455667788.1700000077", "4455667788.1700000078"),
        ("phone", "+39 06 12345678", "+39 6 12345678"),
    ],
)
def test_different_identifiers_stay_different(kind: str, first: str, second: str) -> None:
    """Tags and dots of an address, the case of a user id, a decimal fraction are significant."""
    assert node(KEYS, kind, first) != node(KEYS, kind, second)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("u-17", "u-17"), ("770031", "770031"), (770031, "770031"), (770031.0, "770031"), (-5.0, "-5"), (0, "0"),
        (2**53 - 1.0, "9007199254740991"), (2**53 + 1, "9007199254740993"), (2.0**53, ""), (3e20, ""), (1122334455.169, ""),
        (0.5, ""), (float("inf"), ""), (float("nan"), ""), (True, ""),
    ],
)  # fmt: skip
def test_a_number_that_may_have_lost_digits_is_nobody(value: str | float, text: str) -> None:
    """Texts and exact integers are ids; a fraction or a rounded integer could be the id of another visitor."""
    assert identifier_text(value) == text


@pytest.mark.parametrize("kind", ["user", "cookie", "device"])
@pytest.mark.parametrize("value", ["3e+20", "4.91512E+12", "4,91512E+12"])
def test_a_number_that_a_program_has_rounded_is_nobody(kind: str, value: str) -> None:
    """How spreadsheets and scripts write long numbers."""
    assert node(KEYS, kind, value) is None


def test_a_national_number_counts_in_its_region() -> None:
    """A national number is accepted where it is valid in the visitor's country; without a country it is none."""
    everywhere = node(KEYS, "phone", "+49 30 23125177")
    for region in ("DE", "de", "DE-BE"):
        assert node(KEYS, "phone", "(030) 23125-177", region) == everywhere
    for region in ("", "US", "ZZ", "EEA", "DEU"):
        assert node(KEYS, "phone", "(030) 23125-177", region) is None
    assert node(KEYS, "phone", "020 7183 8750", "UK") == node(KEYS, "phone", "+44 (0)20 7183 8750") is not None
    assert node(KEYS, "phone", "0049 30 23125177", "US") == everywhere
    assert node(KEYS, "phone", "011 49 30 23125177", "US") == everywhere
    given_ids = [("phone", "030 23125177"), ("cookie", "c-17")]
    assert (
        event_nodes(KEYS, given_ids, "DE").nodes
        == all_nodes(KEYS, given_ids, "DE")
        == [node(KEYS, "cookie", "c-17"), everywhere]
    )
    assert len(event_nodes(KEYS, given_ids).nodes) == 1


def test_the_collector_reads_phones_by_the_events_region() -> None:
    """The collector passes the request's country on."""
    normaliser = Normaliser(Registry(PACKAGED_CONTRACTS).latest("events.raw"), KEYS)
    protocol_event = ProtocolEvent("x", "headwater", identifiers=[("phone", "030 23125177"), ("cookie", "c-17")])

    def nodes(region: str) -> object:
        return normaliser.build_record(
            protocol_event, RequestContext("web", "shop.example", 1_795_514_401_000, region), lambda _: None
        )[1]["identifiers"]

    assert nodes("DE") == [node(KEYS, "cookie", "c-17"), node(KEYS, "phone", "+49 30 23125177")]
    assert nodes("US") == nodes("") == [node(KEYS, "cookie", "c-17")]


@given(
    st.text(max_size=40) | st.text(alphabet="0123456789()+- ./*{}<>@\"'", max_size=40),
    st.sampled_from(["user", "email", "phone"]),
)
def test_a_normalised_identifier_stays_as_it_is(value: str, kind: str) -> None:
    """Normalisation is idempotent and never raises."""
    normal = normalise(kind, value, "DE")
    assert normal is None or normalise(kind, normal, "DE") == normal


@given(
    st.text(alphabet="aB1.+'<\u200b\u00e9\u212a\uff21", min_size=1, max_size=6),
    st.text(alphabet="aZ0-.\u00fc\u00df\u3002\uff0e\u2764\u200d\u05d0\u0130", min_size=1, max_size=8),
    st.sampled_from(["{}@{}", "mailto:{}@{}", "Jo <{}@{}>", '"{}@{}",', "{}%40{}", "{}@{}.example"]),
)
def test_a_normalised_address_stays_as_it_is(local: str, domain: str, form: str) -> None:
    """Normalisation of addresses is idempotent; the domain is ASCII in lower case."""
    normal = normalise("email", form.format(local, domain))
    if normal is not None:
        assert normalise("email", normal) == normal
        assert normal.partition("@")[2].isascii()
        assert normal == normal.lower()


@given(st.uuids())
def test_a_uuid_is_one_identifier_in_each_form(value: uuid.UUID) -> None:
    """Case, braces and the URN prefix (RFC 9562) are insignificant."""
    forms = {str(value), str(value).upper(), f"{{{value}}}", value.urn, f'"{value}"'}
    assert len({node(KEYS, "device", form) for form in forms}) == 1


@pytest.mark.parametrize(
    "value",
    ["", " ", "null", "NULL", "undefined", "guest", "(not set)", "0", "00000000-0000-0000-0000-000000000000", "x" * 600],
)
@pytest.mark.parametrize("kind", ["user", "device", "cookie"])
def test_blocked_literals_are_no_identifiers(kind: str, value: str) -> None:
    """Placeholders have no node."""
    assert node(KEYS, kind, value) is None


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("email", "ada"),
        ("email", "a b@c.d"),
        ("phone", "030 901820"),
        ("phone", "+0123"),
        ("phone", "+49 30 901820 ext 4"),
        ("phone", "1-800-FLOWERS"),
        ("phone", "+1 111 111 1111"),
        ("phone", "+49 123456789"),
        ("email", "jo@"),
        ("email", "@shop.example"),
        ("email", "jo@shop"),
        ("email", "jo@ann@shop.example"),
    ],
)
def test_what_is_no_address_or_number_is_no_identifier(kind: str, value: str) -> None:
    """Phone numbers without a country and incomplete addresses have no node."""
    assert node(KEYS, kind, value) is None


def test_a_node_is_a_tier_and_an_hmac_that_hangs_on_the_secret() -> None:
    """33 characters that depend on the secret and on the type."""
    user = node(KEYS, "user", "u-17")
    assert user is not None
    assert len(user) == 33
    assert user[0] == "0"
    others = NodeKeys.derive(Secret("another secret of at least forty characters"))
    rotated = NodeKeys.derive(Secret("for tests only, forty characters long..."), 2)
    assert node(rotated, "user", "u-17") != user
    assert node(others, "user", "u-17") != user
    assert (node(KEYS, "device", "u-17") or "")[1:] != user[1:]


def test_each_version_makes_a_node_of_the_one_before() -> None:
    """Nodes of a version do not depend on the newest one; only the keys prove which belong together."""
    secret = Secret("for tests only, forty characters long...")
    first, second, third = versions(NodeKeys.derive(secret, 3), "email", "jo@shop.example")
    assert versions(NodeKeys.derive(secret, 2), "email", "jo@shop.example") == [first, second]
    assert node(KEYS, "email", "jo@shop.example") == first
    keys = NodeKeys.derive(secret, 3, 1)
    assert event_nodes(keys, [("email", "jo@shop.example")]).nodes == sorted([first, second, third])
    assert event_nodes(NodeKeys.derive(secret, 3), [("email", "jo@shop.example")]).nodes == [third]
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
    assert event_nodes(KEYS, [("email", "a@b.de"), ("cookie", "c1"), ("user", "u1")]).subject == node(KEYS, "user", "u1")
    assert event_nodes(KEYS, [("user", "null")]) == (None, [])


@pytest.mark.parametrize("name", [f"u{n}" for n in range(5)])
def test_the_subject_stays_while_keys_are_rotated(name: str) -> None:
    """The subject is a node of the oldest version in use, under which consent is stored."""
    secret = Secret("for tests only, forty characters long...")
    ids = [("user", name), ("cookie", name)]
    assert event_nodes(NodeKeys.derive(secret, 2, 1), ids).subject == event_nodes(KEYS, ids).subject
    newer = event_nodes(NodeKeys.derive(secret, 2), ids).subject
    assert newer != event_nodes(KEYS, ids).subject
    assert NodeKeys.derive(secret, 2).newer(event_nodes(KEYS, ids).subject or "") == newer
