"""What parsers once lost: each case is one that the property test of every field met, in its smallest form."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from streams.collector.event import Item, ProtocolEvent
from streams.collector.fields.repeated_keys import loads, number_repeats
from streams.collector.protocols import ga4, gtag, merge, own, pixel, segment, snowplow
from streams.consent.redaction.click_ids import ClickIds


def parse(parse_item: Callable[[Any], Item], item: Any) -> ProtocolEvent:
    """Return a parsed event; fails where it is refused."""
    event = parse_item(item)
    assert isinstance(event, ProtocolEvent), event
    return event


def test_earlier_values_of_repeated_names_are_numbered() -> None:
    """They stay at any depth, under `name#2`, ..., and the last one keeps the name."""
    body = loads(b'{"event_name":"x","a":1,"a":2,"a":3,"properties":{"b":[{"c":1,"c":2}]}}')
    assert parse(own.parse_item, body).properties == {"a": 3, "a#2": 1, "a#3": 2, "b": [{"c": 2, "c#2": 1}]}
    item = loads(b'{"e":"ti","ti_sk":{"b":1,"b":2}}')
    assert parse(snowplow.parse_item, item).items == [{"item_id": {"b": 2, "b#2": 1}}]
    plain = {"a": [{"b": 1}]}
    assert number_repeats(plain) is plain


def test_an_earlier_click_id_is_a_click_id() -> None:
    """The consent stage removes `gclid#2` as it removes `gclid`."""
    clean = ClickIds(["gclid"]).clean_map({"gclid#2": "g", "a": '{"gclid#3":"g"}', "b": "c"})
    assert clean == {"a": "{}", "b": "c"}


def test_an_address_that_is_none_is_left_over() -> None:
    """It is noted, and masked where it is kept."""
    event = parse(own.parse_item, {"event_name": "x", "ip_override": "office"})
    assert (event.ip, event.properties, event.problems) == ("", {"ip_override": "office"}, ["ip_override: an IP address"])


def test_a_page_view_keeps_the_field_of_another_kind() -> None:
    """`ue_pr` belongs to unstructured events; elsewhere it is a property."""
    assert parse(snowplow.parse_item, {"e": "pv", "ue_pr": "{}"}).properties == {"ue_pr": "{}"}


def test_the_time_of_a_user_property_stays_beside_it() -> None:
    """`{"value": x, "set_timestamp_micros": y}` is x, and y under a name of its own."""
    shared = {"user_properties": {"tier": {"value": "gold", "set_timestamp_micros": 5}}}
    traits = parse(ga4.parse_item, {"shared": shared, "event": {"name": "x"}}).user_properties
    assert traits == {"tier": "gold", "tier.set_timestamp_micros": 5}


def test_a_browser_tags_parameters_stay() -> None:
    """A measurement id, a second product of one number, a name without a value, and a parameter called `items`."""
    event = {"en": "x", "tid": "G-1", "ep.items": "7", "pr1": "nmA~k0colour"}
    parsed = parse(gtag.parse_item, {"query": {"pr1": "nmB"}, "event": event})
    assert parsed.items == [{"item_name": "A", "k0": "colour"}, {"item_name": "B"}]
    assert (parsed.properties["tid"], parsed.properties["items#2"]) == ("G-1", "7")


def test_a_pixels_fields_stay() -> None:
    """A name that begins another one, and fields beside `data`."""
    (call,) = pixel.extract_items({"event": "x", "a": "1", "a.b": "2"}, "track")
    assert parse(segment.parse_item, call).properties == {"a": {"b": "2"}, "a#2": "1"}
    (call,) = pixel.extract_items({"data": "eyJldmVudCI6IngifQ==", "note": "n"}, "track")
    assert parse(segment.parse_item, call).properties == {"note": "n"}


def test_a_merge_names_as_many_identifiers_as_it_has() -> None:
    """Two addresses of one person are both identifiers, traits stay, and no identifier is kept in clear."""
    properties = [{"type": "email", "value": f"{name}@example.org"} for name in ("ada", "eve")]
    event = parse(merge.parse_item, {"mergeProperties": properties, "traits": {"tier": "gold"}})
    assert event.identifiers == [("email", "ada@example.org"), ("email", "eve@example.org")]
    assert (event.user_properties, event.properties) == ({"tier": "gold"}, {})


def test_half_a_screen_stays() -> None:
    """A width without a height is no resolution."""
    context = {"screen": {"width": 100, "height": [1]}}
    event = parse(segment.parse_item, {"type": "page", "context": context})
    assert (event.screen, event.properties) == ("", {"context.screen.width": 100, "context.screen.height": [1]})


@pytest.mark.parametrize("depth", [40, 900])
def test_json_within_a_field_is_as_deep_as_a_body_may_be(depth: int) -> None:
    """A deeper one is refused with a reason."""
    deep = b"[" * depth + b"]" * depth
    field = b'{"data":{"schema":"iglu:a/b/jsonschema/1-0-0","data":{"a":%s}}}' % deep
    refusal = snowplow.parse_item({"e": "ue", "ue_pr": field.decode()})
    assert "nested" in getattr(refusal, "detail", "")
    assert orjson.loads(field)


def test_a_number_is_no_currency() -> None:
    """One that is too long for a code is left over as it was sent."""
    event = parse(own.parse_item, {"event_name": "x", "currency": 100000000.0})
    assert (event.currency, event.properties) == ("", {"currency": 100000000.0})
