"""Every protocol yields the same events; an invalid item is described without its values."""

import base64
from typing import Any

import orjson
import pytest

from streams.collector.event import InvalidField, InvalidItem, ProtocolEvent
from streams.collector.protocols import ga4, own, segment, snowplow

UNSTRUCT = "iglu:com.snowplowanalytics.snowplow/unstruct_event/jsonschema/1-0-0"
CONTEXTS = "iglu:com.snowplowanalytics.snowplow/contexts/jsonschema/1-0-1"


def sent(item: Any) -> ProtocolEvent:
    """Return the event of an item; fails where the item is invalid."""
    assert isinstance(item, ProtocolEvent), item
    return item


def test_own_events_as_a_tag_container_sends_them() -> None:
    """Common keys are at the top, consent in x-ga-*, and unknown keys become properties."""
    event = sent(
        own.parse_item(
            {
                "event_name": "purchase",
                "event_id": "e1",
                "client_id": "c1",
                "user_id": 17,
                "user_data": {"email_address": "a@b.example"},
                "x-ga-gcs": "G111",
                "consent": {"cmp.analytics": True},
                "page_location": "https://x.example/",
                "gclid": "click",
                "value": "19.90",
                "transaction_id": "o1",
                "items": [{"id": 1}],
                "properties": {"plan": "b"},
            }
        )
    )
    assert set(event.identifiers) == {("user", "17"), ("cookie", "c1"), ("email", "a@b.example")}
    assert event.signals == {"cmp.analytics": "granted", "gcs": "G111"}
    assert (event.value, event.order_id, event.click_ids) == (19.9, "o1", {"gclid": "click"})
    assert event.properties == {"plan": "b", "items": [{"id": 1}]}


@pytest.mark.parametrize("body", [{"event_name": "x"}, [{"event_name": "x"}], {"events": [{"event_name": "x"}]}])
def test_own_bodies_may_be_one_event_or_several(body: Any) -> None:
    """Generic HTTP tags wrap the body in an array."""
    assert own.extract_items(body) == [{"event_name": "x"}]


def test_an_event_may_have_a_field_called_events() -> None:
    """An object with `event_name` is an event, even where it has a field `events`."""
    body = {"event_name": "x", "events": [1, 2]}
    assert own.extract_items(body) == [body]
    assert sent(own.parse_item(body)).properties == {"events": [1, 2]}


def test_several_addresses_and_numbers_of_one_person_are_taken() -> None:
    """Google's user_data may contain lists of texts; other values in them are invalid."""
    person = {"email": ["a@b.example", None, "c@d.example"], "phone_number": ["+49301234567"]}
    event = sent(own.parse_item({"event_name": "x", "user_data": person}))
    assert event.identifiers == [("email", "a@b.example"), ("email", "c@d.example"), ("phone", "+49301234567")]
    assert own.parse_item({"event_name": "x", "user_data": {"email": [["a"]]}}) == InvalidItem("email must be text")


def test_signals_that_disagree_both_go_on() -> None:
    """Both signals are passed on, and the consent stage applies the stricter."""
    both = {"event_name": "x", "x-ga-gcs": "G111", "consent": {"gcs": "G100"}}
    assert sent(own.parse_item(both)).signals == {"gcs": "G100", "x-ga-gcs": "G111"}
    assert sent(own.parse_item(both | {"consent": {"gcs": "G111"}})).signals == {"gcs": "G111"}


@pytest.mark.parametrize("value", [1_795_000_000_123, 1_795_000_000.123, "2026-11-18T11:06:40.123+00:00"])
def test_times_may_be_milliseconds_seconds_or_iso(value: Any) -> None:
    """Each form is the same moment."""
    assert sent(own.parse_item({"event_name": "x", "timestamp": value})).created_ms == 1_795_000_000_123


@pytest.mark.parametrize("value", ["1900-01-01T00:00:00Z", "0001-01-01T00:00:00", 5, 1_000_000.5, 1e30])
def test_impossible_times_are_none(value: Any) -> None:
    """An event with an impossible time is accepted with the collector's time, or that of the next field."""
    assert sent(own.parse_item({"event_name": "x", "event_ts": value})).created_ms is None
    assert (
        sent(own.parse_item({"event_name": "x", "event_ts": value, "timestamp": 1_795_000_000})).created_ms == 1_795_000_000_000
    )


@pytest.mark.parametrize("body", ["x", 1, None, {"events": "x"}])
def test_other_bodies_are_wrong(body: Any) -> None:
    """The message names the expected body."""
    with pytest.raises(InvalidField, match="must be"):
        own.extract_items(body)


@pytest.mark.parametrize(
    "item",
    [
        {},
        {"event_name": ""},
        {"event_name": 17},
        {"event_name": "x" * 200},
        {"event_name": "x", "value": "SECRET"},
        {"event_name": "x", "value": True},
        {"event_name": "x", "value": float("inf")},
        {"event_name": "x", "client_id": ["SECRET"]},
        {"event_name": "x", "event_ts": "SECRET"},
        {"event_name": "x", "event_ts": -1},
        "SECRET",
        None,
    ],
)
def test_own_items_that_break_the_rules(item: Any) -> None:
    """Each is invalid, and the detail contains no value of it."""
    event = own.parse_item(item)
    assert isinstance(event, InvalidItem)
    assert event.detail
    assert "SECRET" not in event.detail


def test_a_segment_batch_shares_its_context() -> None:
    """`context` is merged into each item; an item's own value wins."""
    body = {
        "batch": [
            {"type": "track", "event": "A", "messageId": "m1", "anonymousId": None, "userId": "u1"},
            {"type": "page", "messageId": "m2", "context": {"page": {"url": "https://own.example/"}}},
        ],
        "context": {"page": {"url": "https://shared.example/"}, "library": {"name": "lib", "version": "1"}},
        "sentAt": "2026-11-24T10:00:01Z",
    }
    first, second = (sent(segment.parse_item(item)) for item in segment.extract_items(body, "batch"))
    assert (first.name, first.page_url, first.tag_version) == ("A", "https://shared.example/", "lib/1")
    assert first.identifiers == [("user", "u1")]
    assert (second.name, second.page_url) == ("page", "https://own.example/")
    assert first.sent_ms == 1795514401000


def test_segments_consent_categories_are_purposes() -> None:
    """categoryPreferences have one boolean per purpose."""
    context = {"consent": {"categoryPreferences": {"analytics": True, "marketing": False}}}
    event = sent(segment.parse_item({"type": "track", "event": "A", "context": context}))
    assert event.signals == {"cmp.analytics": "granted", "cmp.marketing": "denied"}


@pytest.mark.parametrize("item", [{"type": "sing"}, {"type": "track"}, {"type": "track", "event": "A", "context": []}, 5])
def test_segment_calls_that_break_the_rules(item: Any) -> None:
    """An unknown call, a track without a name and an invalid context are refused."""
    assert isinstance(segment.parse_item(item), InvalidItem)


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("alphabet", [base64.b64encode, base64.urlsafe_b64encode])
def test_snowplow_self_describing_events_in_any_base64(padded: bool, alphabet: Any) -> None:
    """Base64 of either alphabet is decoded; the consent entity becomes signals, others become properties."""

    def encoded(data: Any) -> str:
        text: str = alphabet(orjson.dumps(data)).decode()
        return text if padded else text.rstrip("=")

    inner = {"schema": "iglu:shop.example/plan_chosen/jsonschema/1-0-0", "data": {"plan": "gold?>~", "order_id": "o1"}}
    entities = [
        {"schema": "iglu:com.headwater/consent/jsonschema/1-0-0", "data": {"gcs": "G100"}},
        {"schema": "iglu:shop.example/cart/jsonschema/1-0-0", "data": {"size": 2}},
    ]
    item = {
        "e": "ue",
        "eid": "e1",
        "ue_px": encoded({"schema": UNSTRUCT, "data": inner}),
        "cx": encoded({"schema": CONTEXTS, "data": entities}),
        "duid": "c1",
        "dtm": "1795514401000",
        "stm": "1795514401000",
    }
    event = sent(snowplow.parse_item(item))
    assert (event.name, event.signals, event.order_id) == ("plan_chosen", {"gcs": "G100"}, "o1")
    assert event.properties == {"plan": "gold?>~", "entity.cart": {"size": 2}}


@pytest.mark.parametrize(
    "item",
    [
        {},
        {"e": "xx"},
        {"e": "ue", "ue_px": "%%%"},
        {"e": "ue", "ue_pr": "["},
        {"e": "pv", "dtm": "now"},
        {"e": "pv", "co": "[]"},
    ],
)
def test_snowplow_events_that_break_the_rules(item: Any) -> None:
    """An unknown kind, undecodable data and an invalid time are refused."""
    assert isinstance(snowplow.parse_item(item), InvalidItem)


def test_ga4_events_inherit_the_fields_of_the_body() -> None:
    """client_id and consent are read from the body; a retry gets the same id, another event does not."""
    body = {
        "client_id": "1.2",
        "timestamp_micros": 1795514401000000,
        "consent": {"ad_user_data": "GRANTED", "ad_personalization": "DENIED"},
        "events": [
            {"name": "purchase", "params": {"transaction_id": "o1", "value": 5, "currency": "EUR", "gcs": "G111"}},
            {"name": "purchase", "params": {"transaction_id": "o2"}},
        ],
    }
    first, second = (sent(ga4.parse_item(item)) for item in ga4.extract_items(body))
    again = sent(ga4.parse_item(ga4.extract_items(body)[0]))
    assert first.signals == {"cm.ad_user_data": "GRANTED", "cm.ad_personalization": "DENIED", "gcs": "G111"}
    assert (first.order_id, first.value, first.created_ms) == ("o1", 5, 1795514401000)
    assert first.derive_from == again.derive_from != second.derive_from


@pytest.mark.parametrize("event", [{}, {"name": "x" * 41}, {"name": "x", "params": {f"p{i}": 1 for i in range(26)}}, 3])
def test_ga4_events_that_break_the_rules(event: Any) -> None:
    """Names have up to 40 characters, events up to 25 params."""
    assert isinstance(ga4.parse_item({"shared": {}, "event": event}), InvalidItem)
