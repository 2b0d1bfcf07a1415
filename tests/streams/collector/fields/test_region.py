"""The visitor's region in events of servers."""

import json
from typing import Any

import pytest

from streams.collector.event import Item, ProtocolEvent
from streams.collector.fields.repeated_keys import loads
from streams.collector.protocols import ga4, own, segment, snowplow


def region(item: Item) -> str:
    """Return the region of a valid item."""
    assert isinstance(item, ProtocolEvent), item
    return item.region


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ""), ({"event_location": {"country": "US"}}, "US"),
        ({"event_location": {"country": "us", "region": "ca"}}, "US-CA"),
        ({"event_location": {"country": "US", "region": "US-CA"}}, "US-CA"),
        ({"event_location": {"country": "US", "region": "USCA"}}, "US-CA"),
        ({"event_location": {"country": "US", "region": "California"}}, "US"), ({"event_location": "US-TX"}, "US-TX"),
        ({"user_location": {"country_id": "US", "region_id": "US-NY"}}, "US-NY"),
        ({"country": "US", "region": "CA"}, "US-CA"), ({"region": "US-CA"}, "US-CA"), ({"region": "US"}, "US"),
        ({"country": "DE"}, "DE"), ({"country": "United States"}, ""), ({"country": "ＵＳ"}, ""), ({"country": ["US"]}, ""),
        ({"country": 1}, ""), ({"country": None, "region": "US"}, "US"),
        ({"country": "", "event_location": {"country": "US"}}, "US"), ({"event_location": None, "country": "US"}, "US"),
        ({"event_location": {"region": "US"}}, ""), ({"event_location": {"region": "US-CA"}}, "US-CA"),
        ({"event_location": ["US"]}, ""), ({"event_location": {}}, ""),
        ({"event_location": {"city": "Berlin"}, "country": "DE"}, "DE"),
        ({"event_location": {"country": "US"}, "country": "DE"}, ""),
        ({"event_location": {"country": "US"}, "user_location": "US-CA"}, "US-CA"),
        ({"event_location": {"country": "US", "region": "CA"}, "user_location": "US-NY"}, "US"),
        ({"country": "US", "country_code": "DE"}, ""), ({"event_location": {"country": "US"}, "region": "EMEA"}, ""),
        ({"country": "DE", "region": "US-CA"}, ""),
    ],
)  # fmt: skip
def test_own_events(fields: dict[str, Any], expected: str) -> None:
    """It is read at the top and in the properties; an unreadable or contradictory one is unknown."""
    assert region(own.parse_item({"event_name": "x", **fields})) == expected
    assert region(own.parse_item({"event_name": "x", "properties": fields})) == expected


def test_a_repeated_country() -> None:
    """A repeated key with two regions is unknown."""
    assert region(own.parse_item(loads(b'{"event_name":"x","country":"DE","country":"US"}'))) == ""


def test_places_stay_properties() -> None:
    """Location fields stay in the properties."""
    event = own.parse_item({"event_name": "x", "country": "US", "event_location": {"city": "Austin"}})
    assert isinstance(event, ProtocolEvent)
    assert event.properties == {"country": "US", "event_location": {"city": "Austin"}}


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ({"location": {"country": "US", "region": "CA"}}, "US-CA"), ({"location": {"country": "United States"}}, ""),
        ({"location": None}, ""), ({"location": "US"}, ""),
        ({"ip": "192.0.2.7", "locale": "en-US", "timezone": "America/New_York"}, ""),
    ],
)  # fmt: skip
def test_segment_calls(context: dict[str, Any], expected: str) -> None:
    """The context's location counts; addresses, languages and time zones do not."""
    assert region(segment.parse_item({"type": "page", "context": context})) == expected


def test_ga4_events() -> None:
    """`user_location` of the body and of the event is read."""
    body = {"client_id": "1", "user_location": {"country_id": "US", "region_id": "US-CA"}, "events": [{"name": "x"}]}
    assert region(ga4.parse_item(ga4.extract_items(body)[0])) == "US-CA"
    body["events"] = [{"name": "x", "user_location": {"country_id": "DE"}}]
    assert region(ga4.parse_item(ga4.extract_items(body)[0])) == ""


def test_snowplow_events() -> None:
    """The enriched fields or a geo entity are read, other entities are not."""
    assert region(snowplow.parse_item({"e": "pv", "geo_country": "US", "geo_region": "CA"})) == "US-CA"

    def placed(schema: str) -> str:
        entity = {"schema": f"iglu:acme/{schema}/jsonschema/1-0-0", "data": {"country": "US"}}
        return region(
            snowplow.parse_item({"e": "pv", "co": json.dumps({"schema": "iglu:c/contexts/x/1-0-0", "data": [entity]})})
        )

    assert [placed(schema) for schema in ("geo", "geolocation_context", "shipment")] == ["US", "US", ""]
