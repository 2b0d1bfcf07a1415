"""`POST /v1/events`: Headwater's own JSON, which generic HTTP tags of tag-manager server containers can send. Pure.

Body: one event, `{"events": [...]}`, or an array. Common keys of a container's event data are read at the top level.
"""

from collections.abc import Mapping
from typing import Any

from streams.collector.event import InvalidField, Item, ProtocolEvent, parse_object
from streams.collector.fields.amount import read_amount
from streams.collector.fields.click_ids import read_click_ids
from streams.collector.fields.event_ids import content_to_derive
from streams.collector.fields.items import read_items
from streams.collector.fields.reader import FieldReader, merge_fields
from streams.collector.fields.region import read_region
from streams.collector.fields.repeated_keys import all_values, overlay, select_fields
from streams.collector.signals.field_roles import find_signal_fields
from streams.collector.signals.signals import SignalBuilder

PROTOCOL = "headwater"

IDENTIFIERS = {"user_id": "user", "device_id": "device", "client_id": "cookie", "anonymous_id": "cookie"}


def extract_items(body: Any) -> list[Any]:
    """Return the items of a body. InvalidField where it is neither an object nor an array."""
    if isinstance(body, list):
        return body
    if not isinstance(body, dict):
        raise InvalidField('the body must be an event, an array of events, or {"events": [...]}')
    if "events" not in body or "event_name" in body:
        return [body]  # an event may have a field of that name
    if not isinstance(body["events"], list):
        raise InvalidField("events must be an array")
    shared = select_fields(body, find_signal_fields(body))
    if not shared:
        return body["events"]
    # Consent signals beside `events` apply to each event, and an event's own signals do not replace them.
    names = frozenset(shared)
    return [overlay(shared, item, names) if isinstance(item, dict) else item for item in body["events"]]


def parse_item(item: Any) -> Item:
    """Parse one event."""
    return parse_object(item, "an event", _parse)


def _parse(event: Mapping[str, Any]) -> ProtocolEvent:
    problems: list[str] = []
    fields = FieldReader(event, problems)
    inner, person, traits = fields.object("properties"), fields.object("user_data"), fields.object("user_properties")
    signals = _read_signals(event, fields, inner)
    name = fields.event_name("event_name")
    page_url, page_referrer = fields.text("page_location", "page_url"), fields.text("page_referrer")
    order_id, items = fields.text("order_id", "transaction_id"), read_items(fields, "items", "products")
    value, currency = read_amount(name, fields, is_commerce=bool(order_id or items))
    created_ms, sent_ms = fields.time("event_ts", "timestamp"), fields.time("sent_ts")
    event_id = fields.text("event_id")
    return ProtocolEvent(
        name,
        PROTOCOL,
        event_id,
        content_to_derive(event, created_ms is not None or sent_ms is not None),
        identifiers=_read_identifiers(fields, person),
        created_ms=created_ms,
        sent_ms=sent_ms,
        signals=signals,
        page_url=page_url,
        page_title=fields.text("page_title"),
        page_referrer=page_referrer,
        user_agent=fields.text("user_agent"),
        ip=fields.address("ip_override"),
        tag_version=fields.text("tag_version"),
        click_ids=read_click_ids(fields, page_url, page_referrer),
        order_id=order_id,
        value=value,
        currency=currency,
        decision_token=fields.text("decision_token"),
        items=items or read_items(inner, "items"),
        session_id=fields.text("session_id", "ga_session_id") or inner.text("session_id"),
        group_id=fields.text("group_id") or inner.text("group_id"),
        language=fields.text("language") or inner.text("language"),
        screen=fields.text("screen_resolution", "screen") or inner.text("screen_resolution"),
        timezone=fields.text("timezone") or inner.text("timezone"),
        user_properties=dict(traits.rest()),
        properties=merge_fields(fields.rest(), inner.rest(), person.rest("user_data.")),
        problems=problems,
        region=read_region(event, inner.fields),
    )


def _read_signals(event: Mapping[str, Any], fields: FieldReader, inner: FieldReader) -> Mapping[str, str]:
    signals = SignalBuilder()
    fields.skip(signals.add_signal_fields(event))
    for properties in all_values(event, "properties"):
        if isinstance(properties, Mapping):
            inner.skip(signals.add_signal_fields(properties))
    return signals.as_map()


def _read_identifiers(fields: FieldReader, person: FieldReader) -> list[tuple[str, str]]:
    identifiers = [(kind, fields.identifier(name)) for name, kind in IDENTIFIERS.items() if name in fields.fields]
    if person.fields:
        identifiers += [("email", value) for value in person.identifiers("email", "email_address")]
        identifiers += [("phone", value) for value in person.identifiers("phone", "phone_number")]
    return [(kind, value) for kind, value in identifiers if value]
