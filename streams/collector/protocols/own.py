"""`POST /v1/events`: Headwater's own JSON, which generic HTTP tags of tag-manager server containers can send. Pure.

Body: one event, `{"events": [...]}`, or an array. Common keys of a container's event data are read at the top level.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from infra.parsing.times import parse_time
from streams.collector.event import (
    CLICK_IDS,
    InvalidField,
    Item,
    ProtocolEvent,
    parse_object,
    read_click_ids,
    read_event_name,
    read_number,
    read_object,
    read_text,
    read_texts,
)
from streams.collector.fields.region import read_region
from streams.collector.fields.repeated_keys import all_values, overlay, select_fields
from streams.collector.signals.field_roles import find_signal_fields
from streams.collector.signals.signals import SignalBuilder

PROTOCOL = "headwater"

IDENTIFIERS = {"user_id": "user", "device_id": "device", "client_id": "cookie", "anonymous_id": "cookie"}
MAPPED_FIELDS = {
    "event_id", "event_name", "event_ts", "timestamp", "sent_ts", "user_data", "page_location", "page_url",
    "page_title", "page_referrer", "user_agent", "ip_override", "tag_version", "order_id", "transaction_id", "value",
    "currency", "decision_token", "properties", *IDENTIFIERS, *CLICK_IDS,
}  # fmt: skip


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
    signals, inner = SignalBuilder(), read_object(event, "properties")
    properties = {**inner, **{name: value for name, value in event.items() if name not in MAPPED_FIELDS}}
    signal_names = signals.add_signal_fields(event)
    for source in all_values(event, "properties"):
        if isinstance(source, Mapping):
            signal_names += signals.add_signal_fields(source)
    for name in signal_names:
        properties.pop(name, None)
    return ProtocolEvent(
        read_event_name(event, "event_name"),
        PROTOCOL,
        read_text(event, "event_id"),
        identifiers=read_identifiers(event),
        created_ms=read_time(event, "event_ts", "timestamp"),
        sent_ms=read_time(event, "sent_ts"),
        signals=signals.as_map(),
        page_url=read_text(event, "page_location", "page_url"),
        page_title=read_text(event, "page_title"),
        page_referrer=read_text(event, "page_referrer"),
        user_agent=read_text(event, "user_agent"),
        ip=read_text(event, "ip_override"),
        tag_version=read_text(event, "tag_version"),
        click_ids=read_click_ids(event),
        order_id=read_text(event, "order_id", "transaction_id"),
        value=read_number(event, "value"),
        currency=read_text(event, "currency"),
        decision_token=read_text(event, "decision_token"),
        properties=properties,
        region=read_region(event, inner),
    )


def read_identifiers(fields: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (kind, value) of every identifier."""
    person = read_object(fields, "user_data")
    identifiers = [(kind, read_text(fields, name)) for name, kind in IDENTIFIERS.items()]
    identifiers += [("email", value) for value in read_texts(person, "email", "email_address")]
    identifiers += [("phone", value) for value in read_texts(person, "phone", "phone_number")]
    return [(kind, value) for kind, value in identifiers if value]


def read_time(fields: Mapping[str, Any], *names: str) -> int | None:
    """Return milliseconds UTC from the first of these fields in a form of `infra.parsing.times`. InvalidField for other values.

    A readable but impossible time (of 1900, or seconds since a page was opened) counts as missing.
    """
    for name in names:
        value = fields.get(name)
        if value is None or value == "":
            continue
        if (moment := parse_time(value)) is not None:
            return moment
        if not _is_impossible(value):
            raise InvalidField(f"{name} must be milliseconds or seconds since 1970, or an ISO 8601 time")
    return None


def _is_impossible(value: Any) -> bool:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return 0 < value < float("inf")
    try:
        return isinstance(value, str) and bool(datetime.fromisoformat(value.strip().upper()))
    except ValueError:
        return False
