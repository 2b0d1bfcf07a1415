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
    assert (event.properties, event.items, event.problems) == ({"plan": "b"}, [{"item_id": 1}], [])


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
    """Google's user_data may contain lists of texts; other values in them identify nobody, and stay to be masked."""
    person = {"email": ["a@b.example", None, "c@d.example"], "phone_number": ["+49301234567"]}
    event = sent(own.parse_item({"event_name": "x", "user_data": person}))
    assert event.identifiers == [("email", "a@b.example"), ("email", "c@d.example"), ("phone", "+49301234567")]
    odd = sent(own.parse_item({"event_name": "x", "user_data": {"email": ["a@b.example", ["c"]]}}))
    assert (odd.identifiers, odd.problems) == ([("email", "a@b.example")], ["user_data.email: text"])
    assert odd.properties == {"user_data.email": ["a@b.example", ["c"]]}


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
        {"event_name": ["SECRET"]},
        {"event_name": None, "value": 1},
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


@pytest.mark.parametrize("item", [{"type": "sing"}, {"type": "track"}, {"type": "track", "event": {}}, 5])
def test_segment_calls_that_break_the_rules(item: Any) -> None:
    """An unknown call and a track without a name are refused."""
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
        {"e": "pv", "co": "[]"},
    ],
)
def test_snowplow_events_that_break_the_rules(item: Any) -> None:
    """An unknown kind and undecodable data are refused: what cannot be decoded may be a refusal."""
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


@pytest.mark.parametrize("event", [{}, {"name": None}, {"name": ["x"]}, 3])
def test_ga4_events_that_break_the_rules(event: Any) -> None:
    """An event needs a name."""
    assert isinstance(ga4.parse_item({"shared": {}, "event": event}), InvalidItem)


@pytest.mark.parametrize("event", [{"name": "x" * 41}, {"name": "x", "params": {f"p{i}": i for i in range(26)}}])
def test_ga4_events_beyond_googles_limits_are_kept(event: dict[str, Any]) -> None:
    """The owner is told, and nothing is left out."""
    parsed = sent(ga4.parse_item({"shared": {}, "event": event}))
    assert (parsed.name, parsed.properties) == (event["name"], event.get("params", {}))
    assert len(parsed.problems) == 1


def test_ga4_user_properties_are_unwrapped() -> None:
    """`{"value": x}` is x; properties of the event and of the body are both kept."""
    event = {"name": "x", "user_properties": {"tier": {"value": "gold"}}}
    parsed = sent(ga4.parse_item({"shared": {"user_properties": {"seats": {"value": 3}, "odd": {"a": 1}}}, "event": event}))
    assert parsed.user_properties == {"seats": 3, "odd": {"a": 1}, "tier": "gold"}


OPTIONAL: list[tuple[dict[str, Any], str]] = [
    ({"event_name": "purchase", "value": "SECRET"}, "value: an amount such as 19.90"),
    ({"event_name": "purchase", "value": True}, "value: an amount such as 19.90"),
    ({"event_name": "purchase", "value": float("inf")}, "value: an amount such as 19.90"),
    ({"event_name": "purchase", "value": ["1"]}, "value: an amount such as 19.90"),
    ({"event_name": "x", "currency": "a currency of SECRET"}, "currency: a currency's code such as EUR"),
    ({"event_name": "x", "client_id": ["SECRET"]}, "client_id: text"),
    ({"event_name": "x", "user_id": 1.5}, "user_id: text, because a number of this size or with decimals loses digits"),
    ({"event_name": "x", "page_title": {"de": "SECRET"}}, "page_title: text"),
    ({"event_name": "x", "user_data": ["SECRET"]}, "user_data: an object"),
    ({"event_name": "x", "items": "SECRET"}, "items: an array of objects"),
    ({"event_name": "x", "items": [{"id": 1}, "SECRET"]}, "items: an array of objects"),
    ({"event_name": "x", "event_ts": "SECRET"}, "event_ts: a time after 1973: milliseconds or seconds since 1970, or ISO 8601"),
    ({"event_name": "x", "event_ts": -1}, "event_ts: a time after 1973: milliseconds or seconds since 1970, or ISO 8601"),
]


@pytest.mark.parametrize(("fields", "problem"), OPTIONAL, ids=[str(fields)[:60] for fields, _ in OPTIONAL])
def test_an_optional_field_that_does_not_fit_costs_only_itself(fields: dict[str, Any], problem: str) -> None:
    """The event stays, the field stays among the properties, and a problem names what was expected without the value."""
    event = sent(own.parse_item(fields))
    (odd,) = fields.keys() - {"event_name"}
    assert event.properties == {odd: fields[odd]}
    assert event.problems == [problem]
    assert "SECRET" not in problem


@pytest.mark.parametrize("context", ["SECRET", ["marketing denied"], 5])
def test_a_context_that_cannot_be_read_denies(context: Any) -> None:
    """It may hold a refusal, so it becomes an unreadable consent signal."""
    event = sent(segment.parse_item({"type": "track", "event": "A", "context": context}))
    assert event.signals.keys() == {"consent"}
    assert event.problems == ["context: an object"]


@pytest.mark.parametrize("empty", [[], {}, None, ""])
def test_an_empty_object_may_be_written_as_a_list(empty: Any) -> None:
    """PHP writes an empty map so."""
    message = {"type": "track", "event": "A", "context": empty, "properties": empty, "traits": empty}
    event = sent(segment.parse_item(message))
    assert (event.problems, event.properties, event.signals) == ([], {}, {})


def test_whatever_a_call_says_is_kept() -> None:
    """Traits, names, categories, campaigns, devices, screens, groups, products: each in its column or among the properties."""
    context = {
        "campaign": {"source": "letter"}, "locale": "fr", "timezone": "Europe/Paris", "sessionId": 17, "groupId": "g-1",
        "screen": {"width": 1280, "height": 800, "density": 2}, "device": {"id": "d-1", "model": "Nine"},
        "library": {"name": "lib", "version": "1", "flavour": "x"}, "page": {"url": "https://a.example/", "path": "/"},
        "traits": {"plan": "gold"},
    }  # fmt: skip
    properties = {"products": [{"product_id": "p", "name": "Shoe", "price": 5}], "url": "https://a.example/", "title": "Own"}
    message = {"type": "screen", "name": "Basket", "category": "shop", "context": context, "properties": properties}
    event = sent(segment.parse_item(message | {"writeKey": "hw_secret"}))
    assert (event.language, event.timezone, event.session_id, event.group_id) == ("fr", "Europe/Paris", "17", "g-1")
    assert (event.screen, event.user_properties) == ("1280x800", {"plan": "gold"})
    assert event.items == [{"item_id": "p", "item_name": "Shoe", "price": 5}]
    assert event.properties == {
        "name": "Basket", "category": "shop", "context.campaign.source": "letter", "context.page.path": "/",
        "context.screen.density": 2, "context.device.model": "Nine", "context.library.flavour": "x",
    }  # fmt: skip
    assert event.page_title == "Own"


def test_a_groups_traits_are_no_persons() -> None:
    """They are the group's properties; those of the context are the person's."""
    message = {"type": "group", "groupId": "g-1", "traits": {"name": "Shop Ltd"}, "context": {"traits": {"plan": "gold"}}}
    event = sent(segment.parse_item(message))
    assert (event.group_id, event.properties, event.user_properties) == ("g-1", {"group.name": "Shop Ltd"}, {"plan": "gold"})


@pytest.mark.parametrize(
    ("event_name", "properties", "value", "remaining"),
    [
        ("Order Completed", {"value": 0, "revenue": 49.5}, 49.5, {"value": 0}),
        ("Order Completed", {"value": "", "revenue": 12, "total": 15}, 12, {"total": 15}),
        ("Order Completed", {"revenue": "€ 24,50"}, 24.5, {}),
        ("Order Completed", {"revenue": "1,234"}, 0, {"revenue": "1,234"}),
        ("Field Changed", {"value": "50667"}, 0, {"value": "50667"}),
        ("Searched", {"total": 120}, 0, {"total": 120}),
        ("Donated", {"value": "5"}, 5, {}),
        ("Field Changed", {"value": "5", "currency": "EUR"}, 5, {}),
    ],
)
def test_only_money_becomes_a_value(
    event_name: str, properties: dict[str, Any], value: float, remaining: dict[str, Any]
) -> None:
    """`value` is money where the event is about money; what is not taken stays a property."""
    event = sent(segment.parse_item({"type": "track", "event": event_name, "properties": properties}))
    assert event.value == value
    assert event.properties == remaining


def test_snowplow_entities_of_one_schema_are_all_kept() -> None:
    """Products become items, and others a list."""
    product = "iglu:com.snowplowanalytics.snowplow.ecommerce/product/jsonschema/1-0-0"
    entities = [{"schema": product, "data": {"id": f"p{i}", "name": "Shoe"}} for i in range(60)]
    entities += [{"schema": "iglu:a.example/seat/jsonschema/1-0-0", "data": {"row": row}} for row in (1, 2)]
    entities.append(
        {"schema": "iglu:com.snowplowanalytics.snowplow/client_session/jsonschema/1-0-2", "data": {"sessionId": "s"}}
    )
    outer = {"schema": CONTEXTS, "data": entities}
    payload = {
        "e": "pv",
        "aid": "hw_secret",
        "co": orjson.dumps(outer).decode(),
        "lang": "de",
        "res": "8x9",
        "tz": "UTC",
        "vp": "5x5",
    }
    event = sent(snowplow.parse_item(payload))
    assert [item["item_id"] for item in event.items] == [f"p{i}" for i in range(60)]
    assert (event.session_id, event.language, event.screen, event.timezone) == ("s", "de", "8x9", "UTC")
    assert event.properties == {
        "vp": "5x5",
        "entity.seat": [{"row": 1}, {"row": 2}],
        "entity.client_session": {"sessionId": "s"},
    }


def test_click_ids_stand_in_addresses_too() -> None:
    """Fields of their own come before the page's address, and that before the referrer's."""
    event = {
        "event_name": "x", "gclid": "own", "page_location": "https://a.example/?gclid=page&fbclid=f%201#x",
        "page_referrer": "https://b.example/?fbclid=other&msclkid=m",
    }  # fmt: skip
    assert sent(own.parse_item(event)).click_ids == {"gclid": "own", "fbclid": "f 1", "msclkid": "m"}


def test_both_of_two_fields_with_one_name_are_kept() -> None:
    """At the top, and among the properties."""
    event = {"event_name": "x", "plan": "a", "tier": 1, "properties": {"plan": "b", "tier": 1}}
    assert sent(own.parse_item(event)).properties == {"plan": "a", "plan#2": "b", "tier": 1}


@pytest.mark.parametrize(
    ("entity", "data", "order"),
    [
        ("transaction", {"transaction_id": "o1", "revenue": 39.8, "currency": "EUR", "tax": 2}, ("o1", 39.8, "EUR")),
        ("refund", {"transaction_id": "o1", "refund_amount": 5, "currency": "EUR"}, ("o1", 5.0, "EUR")),
        ("cart", {"cart_id": "c1", "total_value": 5, "currency": "EUR"}, ("", 0.0, "")),
    ],
)
def test_orders_of_snowplows_e_commerce(entity: str, data: dict[str, Any], order: tuple[str, float, str]) -> None:
    """The plugin has an order in an entity of its action; a cart is no order."""
    vendor = "iglu:com.snowplowanalytics.snowplow.ecommerce"
    action = {"schema": f"{vendor}/snowplow_ecommerce_action/jsonschema/1-0-2", "data": {"type": entity}}
    entities = [{"schema": f"{vendor}/{entity}/jsonschema/1-0-0", "data": data}]
    event = sent(
        snowplow.parse_item(
            {
                "e": "ue",
                "ue_pr": orjson.dumps({"schema": UNSTRUCT, "data": action}).decode(),
                "co": orjson.dumps({"schema": CONTEXTS, "data": entities}).decode(),
            }
        )
    )
    assert (event.order_id, event.value, event.currency) == order
    assert event.properties[f"entity.{entity}"] == data


def test_rudderstacks_word_for_no_referrer_is_none() -> None:
    """Its SDK calls the referrer of a direct visit `$direct`."""
    page = {"url": "https://x.example/", "referrer": "$direct"}
    event = sent(segment.parse_item({"type": "page", "context": {"page": page}}))
    assert (event.page_referrer, event.properties) == ("", {})


@pytest.mark.parametrize(("address", "remaining"), [("a@b.example", {}), ("c@d.example", {"email": "c@d.example"})])
def test_an_address_in_both_traits_of_a_call_is_read_once(address: str, remaining: dict[str, str]) -> None:
    """RudderStack's server SDK repeats the traits of an identify in its context; another address stays there."""
    traits = {"email": "a@b.example"}
    event = sent(segment.parse_item({"type": "identify", "traits": traits, "context": {"traits": {"email": address}}}))
    assert event.identifiers == [("email", "a@b.example")]
    assert event.user_properties == remaining


def test_an_alias_links_the_previous_id() -> None:
    """As a cookie. Another anonymous id beside it would link two users through the visitor's cookie, so it is left over."""
    call = {"type": "alias", "userId": "u-1", "previousId": "v-1"}
    assert sent(segment.parse_item(call)).identifiers == [("user", "u-1"), ("cookie", "v-1")]
    same = sent(segment.parse_item(call | {"anonymousId": "v-1"}))
    assert set(same.identifiers) == {("user", "u-1"), ("cookie", "v-1")}
    other = sent(segment.parse_item(call | {"anonymousId": "v-2"}))
    assert set(other.identifiers) == {("user", "u-1"), ("cookie", "v-1")}
    assert (other.properties, len(other.problems)) == ({"anonymousId": "v-2"}, 1)


@pytest.mark.parametrize(
    ("number", "text"), [(770031, "770031"), (770031.0, "770031"), (1 << 60, str(1 << 60)), (17.5, ""), (3e20, "")]
)
def test_numbers_that_keep_their_digits_identify(number: float, text: str) -> None:
    """Integers are exact; a fraction may have been rounded."""
    event = sent(own.parse_item({"event_name": "x", "user_id": number}))
    assert event.identifiers == ([("user", text)] if text else [])
