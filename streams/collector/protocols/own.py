"""`POST /v1/events`: our own JSON, and what generic HTTP tags of tag-manager server containers send. Pure.

Body: one event, `{"events": [...]}`, or an array. Common keys of a container's event data stand at the top level.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from infra.parsing.times import parse_time
from streams.collector.event import (
    CLICK_IDS,
    InvalidField,
    InvalidItem,
    Item,
    ProtocolEvent,
    click_ids_of,
    mapping,
    name_of,
    number,
    text,
    texts,
)
from streams.collector.fields.place import place_in
from streams.collector.fields.repeated import each, overlaid, selected
from streams.collector.signals.signals import SignalBuilder, signal_fields

PROTOCOL = "headwater"

IDENTIFIERS = {"user_id": "user", "device_id": "device", "client_id": "cookie", "anonymous_id": "cookie"}
TAKEN = {
    "event_id", "event_name", "event_ts", "timestamp", "sent_ts", "user_data", "page_location", "page_url",
    "page_title", "page_referrer", "user_agent", "ip_override", "tag_version", "order_id", "transaction_id", "value",
    "currency", "decision_token", "properties", *IDENTIFIERS, *CLICK_IDS,
}  # fmt: skip


def items_of(body: Any) -> list[Any]:
    """The items of a body. Wrong where it is neither object nor array."""
    if isinstance(body, list):
        return body
    if not isinstance(body, dict):
        raise InvalidField('the body must be an event, an array of events, or {"events": [...]}')
    if "events" not in body or "event_name" in body:
        return [body]  # an event may have a field of that name
    if not isinstance(body["events"], list):
        raise InvalidField("events must be an array")
    shared = selected(body, signal_fields(body))
    if not shared:
        return body["events"]
    # What is said of consent for all events is said of each, and an event's own words lift nothing of it.
    names = frozenset(shared)
    return [overlaid(shared, item, names) if isinstance(item, dict) else item for item in body["events"]]


def read(item: Any) -> Item:
    """One item."""
    if not isinstance(item, dict):
        return InvalidItem("an event must be an object")
    try:
        return _read(item)
    except InvalidField as error:
        return InvalidItem(str(error))


def _read(event: Mapping[str, Any]) -> ProtocolEvent:
    signals, inner = SignalBuilder(), mapping(event, "properties")
    properties = {**inner, **{name: value for name, value in event.items() if name not in TAKEN}}
    signal_names = signals.add_named(event)
    for source in each(event, "properties"):
        if isinstance(source, Mapping):
            signal_names += signals.add_named(source)
    for name in signal_names:
        properties.pop(name, None)
    return ProtocolEvent(
        name_of(event, "event_name"),
        PROTOCOL,
        text(event, "event_id"),
        identifiers=identifiers_of(event),
        created_ms=time_of(event, "event_ts", "timestamp"),
        sent_ms=time_of(event, "sent_ts"),
        signals=signals.as_map(),
        page_url=text(event, "page_location", "page_url"),
        page_title=text(event, "page_title"),
        page_referrer=text(event, "page_referrer"),
        user_agent=text(event, "user_agent"),
        ip=text(event, "ip_override"),
        tag_version=text(event, "tag_version"),
        click_ids=click_ids_of(event),
        order_id=text(event, "order_id", "transaction_id"),
        value=number(event, "value"),
        currency=text(event, "currency"),
        decision_token=text(event, "decision_token"),
        properties=properties,
        region=place_in(event, inner),
    )


def identifiers_of(fields: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(kind, value) of every identifier that is named."""
    person = mapping(fields, "user_data")
    identifiers = [(kind, text(fields, name)) for name, kind in IDENTIFIERS.items()]
    identifiers += [("email", value) for value in texts(person, "email", "email_address")]
    identifiers += [("phone", value) for value in texts(person, "phone", "phone_number")]
    return [(kind, value) for kind, value in identifiers if value]


def time_of(fields: Mapping[str, Any], *names: str) -> int | None:
    """Milliseconds UTC from the first of these fields in a form of `infra.parsing.times`; Wrong for what is none.

    A time that can be read and cannot be (of 1900, or a number of seconds since a page was opened) counts as none said.
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
