"""Records of events: time, pseudonyms, masks, coarse addresses."""

from typing import Any

import pytest

from infra.secrets import Secret
from infra.settings import PACKAGED_CONTRACTS
from schemas.codec import Record, encode
from schemas.registry import Contract, Registry
from streams.collector.event import ProtocolEvent
from streams.collector.fields.agents import device_class, is_bot
from streams.collector.masking import mask_text
from streams.collector.normalise import Normaliser, RequestContext, choose_event_time, ip_prefix
from streams.collector.protocols.choices import SentChoice, build_records, parse_item
from streams.collector.write_keys import KeyKind
from streams.identity.nodes import NodeKeys, node, versions

SECRET = Secret("for tests only, forty characters long...")
KEYS, BOTH, NEWER = NodeKeys.derive(SECRET), NodeKeys.derive(SECRET, 2, 1), NodeKeys.derive(SECRET, 2)
RAW = Registry(PACKAGED_CONTRACTS).latest("events.raw")
NOW = 1_795_514_401_000
HOUR = 3_600_000
CRAWLER = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"
PHONE_AGENT = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML) Mobile/15E148 Safari/604.1"


def record(event: ProtocolEvent, contract: Contract = RAW, **request: Any) -> tuple[str, Record, list[str]]:
    """Return the key, the record and the fields that were masked."""
    hidden: list[str] = []
    key, fields = Normaliser(contract, KEYS).build_record(
        event, RequestContext("web", "shop.example", NOW, **request), hidden.append
    )
    encode(contract, fields)  # it fits
    return key, fields, hidden


@pytest.mark.parametrize(
    ("created_ms", "sent_ms", "when", "clock"),
    [
        (None, None, NOW, "collector"),
        (NOW - 5_000, None, NOW - 5_000, "device"),
        (NOW - 5_000, NOW - 800, NOW - 5_000, "device"),  # the request's way is no skew
        (1_000_000, 1_007_000, NOW - 7_000, "corrected"),  # a clock that is decades behind
        (1_000_900, 1_000_000, NOW, "corrected"),  # a sending time cut to whole seconds
        (-2_208_988_800_000, NOW, NOW, "collector"),  # the year 1900
        (-2_208_988_800_000, None, NOW, "collector"),
        (NOW + 24 * HOUR, None, NOW, "collector"),
        (NOW - 72 * HOUR, None, NOW - 72 * HOUR, "device"),
    ],
)
def test_the_best_clock_there_is(created_ms: int | None, sent_ms: int | None, when: int, clock: str) -> None:
    """The device's time is corrected by its skew; where it is absurd the collector's counts."""
    problems: list[str] = []
    event = ProtocolEvent("x", "headwater", created_ms=created_ms, sent_ms=sent_ms)
    assert choose_event_time(event, RequestContext("web", "shop.example", NOW), problems) == (when, clock)
    assert problems == (["event time: between 2000 and tomorrow"] if created_ms and clock == "collector" else [])


def test_imports_are_believed_and_marked() -> None:
    """A batch of August that was sent in August is of August."""
    august = NOW - 100 * 24 * HOUR
    event = ProtocolEvent("x", "headwater", created_ms=august, sent_ms=august + 2_000)
    _, fields, _ = record(event, kind=KeyKind.IMPORT)
    assert (fields["event_ts"], fields["event_ts_source"], fields["imported"]) == (august, "device", True)
    assert record(event)[1]["imported"] is False


def test_no_identifier_gets_past_in_clear() -> None:
    """Identifiers become nodes, the strongest is the record's key, and the e-mail address is only a match token."""
    identifiers = [("cookie", "c-17"), ("user", "account-17"), ("email", "Ada@Example.org"), ("cookie", "undefined")]
    key, fields, _ = record(ProtocolEvent("x", "headwater", identifiers=identifiers))
    assert key == node(KEYS, "user", "account-17")
    assert len(fields["identifiers"]) == 3
    assert fields["match_tokens"].keys() == {"email"}
    assert not any(clear in str(fields) for clear in ("c-17", "account-17", "example.org", "Example.org"))


def test_identifiers_have_a_node_of_each_version_in_use() -> None:
    """While keys are rotated an event has the nodes of both versions."""
    ids = [("user", "account-17"), ("cookie", "c")]
    every = sorted(name for kind, value in ids for name in versions(NEWER, kind, value))
    request = RequestContext("web", "shop.example", NOW)
    key, fields = Normaliser(RAW, BOTH).build_record(ProtocolEvent("x", "own", identifiers=ids), request, lambda _name: None)
    assert (key, fields["identifiers"]) == (node(KEYS, "user", "account-17"), every)


def test_a_withdrawal_has_the_nodes_of_every_key_version() -> None:
    """A withdrawal has the nodes of all key versions, a choice those of the versions in use."""
    ids = [("user", "account-17"), ("cookie", "c")]
    every = sorted(name for kind, value in ids for name in versions(NEWER, kind, value))
    newest = sorted(str(node(NEWER, kind, value)) for kind, value in ids)

    def said_of(kind: str, keys: NodeKeys) -> list[str]:
        choice = parse_item({"user_id": "account-17", "client_id": "c", "kind": kind, "consent": {"cmp.analytics": False}})
        assert isinstance(choice, SentChoice)
        return [subject for subject, _ in build_records(choice, keys, "s", NOW)]

    assert [said_of("choice", keys) for keys in (BOTH, NEWER)] == [every, newest]
    assert [said_of("withdrawal", keys) for keys in (BOTH, NEWER)] == [every, every]


def test_without_identifiers_the_event_id_is_the_key() -> None:
    """Without a subject the event id is the Kafka key."""
    key, fields, _ = record(ProtocolEvent("x", "headwater"))
    assert key == fields["event_id"]


def test_ids_are_the_senders_or_derived_or_random() -> None:
    """A retry with the same content has the same id; without one, two events have two."""
    assert record(ProtocolEvent("x", "ga4", "mine"))[1]["event_id"] == "mine"
    derived = [
        record(ProtocolEvent("x", "ga4", derive_from=content))[1]["event_id"] for content in (b"a", b"a", b"b", b"", b"")
    ]
    assert derived[0] == derived[1]
    assert len(set(derived)) == 4


def test_misplaced_addresses_are_masked_and_counted() -> None:
    """They are masked in URLs, titles and properties, and counted by field."""
    event = ProtocolEvent(
        "x",
        "headwater",
        "e1",  # a random id may spell a name
        page_url="https://x.example/?mail=ada%40example.org",
        page_title="Mail to ada@example.org",
        properties={"contact": "+49 30 901820", "nested": {"mail": "ada@example.org"}, "order": "0012345678901234567"},
    )
    _, fields, hidden = record(event)
    assert "ada" not in str(fields)
    assert "901820" not in str(fields)
    assert set(hidden) == {"page_url", "page_title", "contact", "nested"}
    assert fields["properties"]["order"] == "0012345678901234567"


@pytest.mark.parametrize("text", ["order 1795514401000", "v1.2.3", "10+20", "a@b", "https://x.example/@handle", "2026-11-24"])
def test_other_values_stay(text: str) -> None:
    """Timestamps, versions and handles are not masked."""
    assert mask_text(text) == text


@pytest.mark.parametrize(
    ("address", "prefix"),
    [("203.0.113.77", "203.0.113.0"), ("2001:db8:1:2:3::4", "2001:db8:1::"), ("", ""), ("nonsense", "")],
)
def test_addresses_are_cut(address: str, prefix: str) -> None:
    """IPv4 is cut to /24, IPv6 to /48."""
    assert ip_prefix(address) == prefix


def test_signals_pass_untouched_and_gpc_joins_them() -> None:
    """Signals are passed on as sent."""
    signals = {"tc_string": "C" * 50, "cmp.x": "granted"}
    assert record(ProtocolEvent("x", "headwater", signals=signals), gpc="1")[1]["signals"] == {**signals, "gpc": "1"}


def test_an_appended_field_is_taken_from_the_properties() -> None:
    """A contract's new fields are filled by name and converted; what cannot be converted is noted and stays a property."""
    contract_fields = [
        *RAW.schema["fields"],
        {"name": "tier", "type": "string", "default": ""},
        {"name": "points", "type": "long", "default": 0},
    ]
    grown = Contract("events.raw", 2, 99, {**RAW.schema, "fields": contract_fields}, None)
    _, fields, _ = record(ProtocolEvent("x", "headwater", properties={"tier": "gold", "points": "12", "rest": 1}), grown)
    assert (fields["tier"], fields["points"], fields["properties"]) == ("gold", 12, {"rest": "1"})
    _, fields, _ = record(ProtocolEvent("x", "headwater", properties={"points": "many"}), grown)
    assert (fields["points"], fields["properties"]) == (0, {"points": "many"})
    assert fields["problems"] == ["points: a value of the type long"]


def test_crawlers_are_flagged_and_devices_classified() -> None:
    """Crawlers are flagged and not dropped."""
    assert is_bot(CRAWLER)
    assert (device_class(CRAWLER), device_class(PHONE_AGENT), device_class("")) == ("bot", "mobile", "")
    assert not is_bot(PHONE_AGENT)


@pytest.mark.parametrize(
    "junk", ["undefined", "null", "(not set)", "0", "", "000-000", "[object Object]", "{{event_id}}", " - "]
)
def test_an_event_id_that_says_nothing_is_none(junk: str) -> None:
    """It is derived from the content where that has a time, else random: two events never share it."""
    ids = [
        record(ProtocolEvent("x", "own", junk, derive_from=content))[1]["event_id"] for content in (b"a", b"a", b"b", b"", b"")
    ]
    assert ids[0] == ids[1]
    assert len({*ids, junk}) == 5
    problems = record(ProtocolEvent("x", "own", junk))[1]["problems"]
    assert len(problems) == (1 if junk else 0)


def test_long_event_ids_stay_different() -> None:
    """And equal ones equal."""
    first, again, other = (record(ProtocolEvent("x", "own", "k" * 200 + end))[1]["event_id"] for end in "112")
    assert first == again != other
    assert len(first) <= 128


def test_agents_of_libraries_are_no_crawlers_and_no_devices() -> None:
    """Unless a browser's key says that the agent is the visitor's."""
    for agent in (
        "python-requests/2.33.0",
        "Go-http-client/1.1",
        "axios/1.9.0",
        "analytics-node/2.1.3",
        "Apache-HttpClient/4.5 (Java/17)",
    ):
        _, fields, _ = record(ProtocolEvent("x", "own"), user_agent=agent)
        assert (fields["bot"], fields["device_class"], fields["user_agent"]) == (False, "", agent)
    assert record(ProtocolEvent("x", "own"), user_agent="axios/1.9.0", kind=KeyKind.BROWSER)[1]["bot"]
    assert record(ProtocolEvent("x", "own", user_agent=CRAWLER), user_agent="axios/1.9.0")[1]["bot"]
    assert record(ProtocolEvent("x", "own"), user_agent=CRAWLER)[1]["bot"]


def test_limits_leave_a_note() -> None:
    """What is cut or left out is named, and names that begin alike stay apart."""
    properties = {"q" * 140 + str(i): i for i in range(2)} | {"long": "x" * 5_000} | {f"p{i}": i for i in range(210)}
    _, fields, _ = record(ProtocolEvent("x", "own", properties=properties))
    assert len(fields["properties"]) == 200
    assert [text for name, text in fields["properties"].items() if name.startswith("q")] == ["0", "1"]
    assert max(map(len, fields["properties"])) <= 128
    assert any(problem.startswith("long: at most 4096") for problem in fields["problems"])
    assert any("p197, p198" in problem for problem in fields["problems"])


def test_items_and_traits_are_masked_texts() -> None:
    """Addresses do not get past in products, nor a person's name among the traits."""
    event = ProtocolEvent(
        "x",
        "own",
        items=[{"item_id": 1, "note": "to ada@example.org"}],
        user_properties={"name": "Ada L", "plan": "gold", "seats": 2},
    )
    _, fields, hidden = record(event)
    assert fields["items"] == [{"item_id": "1", "note": "to [email]"}]
    assert fields["user_properties"] == {"name": "[removed]", "plan": "gold", "seats": "2"}
    assert hidden == ["items", "traits"]


def test_ids_are_equal_in_each_repetition_of_an_event() -> None:
    """An event id and an order id stay as they are, whatever is masked beside them and however often they come."""
    for _ in range(3):
        identity, order = "".join(["event+", "16637846"]), "".join(["order+", "16637846"])
        _, fields, hidden = record(ProtocolEvent("x", "headwater", identity, order_id=order, page_title="to ada@example.org"))
        assert (fields["event_id"], fields["order_id"], hidden) == (identity, order, ["page_title"])
