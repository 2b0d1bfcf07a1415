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


def _read(said: Mapping[str, Any]) -> ProtocolEvent:
    signals, inner = SignalBuilder(), mapping(said, "properties")
    properties = {**inner, **{name: value for name, value in said.items() if name not in TAKEN}}
    taken = signals.add_named(said)
    for one in each(said, "properties"):
        if isinstance(one, Mapping):
            taken += signals.add_named(one)
    for name in taken:
        properties.pop(name, None)
    return ProtocolEvent(
        name_of(said, "event_name"),
        PROTOCOL,
        text(said, "event_id"),
        identifiers=identifiers_of(said),
        created=time_of(said, "event_ts", "timestamp"),
        sent=time_of(said, "sent_ts"),
        signals=signals.as_map(),
        page_url=text(said, "page_location", "page_url"),
        page_title=text(said, "page_title"),
        page_referrer=text(said, "page_referrer"),
        user_agent=text(said, "user_agent"),
        ip=text(said, "ip_override"),
        tag_version=text(said, "tag_version"),
        click_ids=click_ids_of(said),
        order_id=text(said, "order_id", "transaction_id"),
        value=number(said, "value"),
        currency=text(said, "currency"),
        decision_token=text(said, "decision_token"),
        properties=properties,
        region=place_in(said, inner),
    )


def identifiers_of(said: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(kind, value) of every identifier that is named."""
    person = mapping(said, "user_data")
    found = [(kind, text(said, name)) for name, kind in IDENTIFIERS.items()]
    found += [("email", value) for value in texts(person, "email", "email_address")]
    found += [("phone", value) for value in texts(person, "phone", "phone_number")]
    return [(kind, value) for kind, value in found if value]


def time_of(said: Mapping[str, Any], *names: str) -> int | None:
    """Milliseconds UTC from the first of these fields in a form of `infra.parsing.times`; Wrong for what is none.

    A time that can be read and cannot be (of 1900, or a number of seconds since a page was opened) counts as none said.
    """
    for name in names:
        value = said.get(name)
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
