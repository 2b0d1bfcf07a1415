"""The GA4 Measurement Protocol (`/mp/collect`). Pure. Its events have no id: one is derived from their content.

`user_data` holds plain hashes of addresses, which identify and are no pseudonyms of ours: it goes no further.
"""

from collections.abc import Mapping
from typing import Any

import orjson

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
    without,
)
from streams.collector.fields.place import locations, place_of
from streams.collector.fields.repeated import each, selected
from streams.collector.signals.signals import SignalBuilder

PROTOCOL = "ga4"
MAX_EVENTS, MAX_PARAMS, MAX_NAME = 25, 25, 40
TAKEN = {
    "event_id", "page_location", "page_title", "page_referrer", "transaction_id", "order_id", "value", "currency",
    "decision_token", *CLICK_IDS,
}  # fmt: skip


def items_of(body: Any) -> list[Any]:
    """The events of a body, each with what the body says for all of them. Wrong where there are none."""
    if not isinstance(body, dict):
        raise InvalidField("the body must be an object")
    events = body.get("events")
    if not isinstance(events, list) or not 0 < len(events) <= MAX_EVENTS:
        raise InvalidField(f"events must be an array of 1 to {MAX_EVENTS}")
    shared = selected(body, [name for name in body if name != "events"])
    return [{"shared": shared, "event": event} for event in events]


def read(item: Any) -> Item:
    """One event."""
    event = item["event"]
    if not isinstance(event, dict):
        return InvalidItem("an event must be an object")
    try:
        return _read(item["shared"], event)
    except InvalidField as error:
        return InvalidItem(str(error))


def _read(shared: Mapping[str, Any], event: Mapping[str, Any]) -> ProtocolEvent:
    name, params = name_of(event, "name"), mapping(event, "params")
    if len(name) > MAX_NAME or len(params) > MAX_PARAMS:
        raise InvalidField(f"an event has a name of at most {MAX_NAME} characters and at most {MAX_PARAMS} params")
    signals, signal_names = _signals(shared, event)
    micros = event.get("timestamp_micros", shared.get("timestamp_micros"))
    created_ms = None if micros is None else int(number({"timestamp_micros": micros}, "timestamp_micros")) // 1000
    identifiers = [
        ("user", text(shared, "user_id")),
        ("device", text(shared, "app_instance_id")),
        ("cookie", text(shared, "client_id")),
    ]
    client = text(shared, "client_id", "app_instance_id")
    same_in_retries = orjson.dumps([client, micros, name, params], option=orjson.OPT_SORT_KEYS) if micros is not None else b""
    return ProtocolEvent(
        name,
        PROTOCOL,
        text(params, "event_id"),
        same_in_retries,
        [(kind, value) for kind, value in identifiers if value],
        created_ms=created_ms,
        signals=signals.as_map(),
        page_url=text(params, "page_location"),
        page_title=text(params, "page_title"),
        page_referrer=text(params, "page_referrer"),
        user_agent=text(mapping(shared, "device"), "user_agent") or text(shared, "user_agent"),
        ip=text(shared, "ip_override"),
        click_ids=click_ids_of(params),
        order_id=text(params, "transaction_id", "order_id"),
        value=number(params, "value"),
        currency=text(params, "currency"),
        decision_token=text(params, "decision_token"),
        properties=without(params, TAKEN | signal_names),
        region=place_of([*locations(shared), *locations(event)]),
    )


def _signals(shared: Mapping[str, Any], event: Mapping[str, Any]) -> tuple[SignalBuilder, set[str]]:
    """Signals of the body (its `consent` is Consent Mode), of the event and of its params; which of the params they are."""
    signals = SignalBuilder()
    signals.add_named(shared)
    signals.add_named(event)
    named = [signals.add_named(params) for params in each(event, "params") if isinstance(params, Mapping)]
    return signals, {name for names in named for name in names}
