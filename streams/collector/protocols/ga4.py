"""The GA4 Measurement Protocol (`/mp/collect`). Pure. Its events have no id, so one is derived from their content.

`user_data` contains plain hashes of addresses, which identify people: it is dropped.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import orjson

from streams.collector.event import (
    CLICK_IDS,
    InvalidField,
    Item,
    ProtocolEvent,
    drop_fields,
    parse_object,
    read_click_ids,
    read_event_name,
    read_number,
    read_object,
    read_text,
)
from streams.collector.fields.region import merge_regions, read_locations
from streams.collector.fields.repeated_keys import all_values, select_fields
from streams.collector.signals.signals import SignalBuilder

PROTOCOL = "ga4"
MAX_EVENTS, MAX_PARAMS, MAX_NAME = 25, 25, 40
MAPPED_FIELDS = {
    "event_id", "page_location", "page_title", "page_referrer", "transaction_id", "order_id", "value", "currency",
    "decision_token", *CLICK_IDS,
}  # fmt: skip


def extract_items(body: Any) -> list[Any]:
    """Return the events of a body, each with the fields that the body has for all. InvalidField where there are none."""
    if not isinstance(body, dict):
        raise InvalidField("the body must be an object")
    events = body.get("events")
    if not isinstance(events, list) or not 0 < len(events) <= MAX_EVENTS:
        raise InvalidField(f"events must be an array of 1 to {MAX_EVENTS}")
    shared = select_fields(body, [name for name in body if name != "events"])
    return [{"shared": shared, "event": event} for event in events]


def parse_item(item: Any) -> Item:
    """Parse one event."""
    return parse_object(item["event"], "an event", partial(_parse, item["shared"]))


def _parse(shared: Mapping[str, Any], event: Mapping[str, Any]) -> ProtocolEvent:
    name, params = read_event_name(event, "name"), read_object(event, "params")
    if len(name) > MAX_NAME or len(params) > MAX_PARAMS:
        raise InvalidField(f"an event has a name of at most {MAX_NAME} characters and at most {MAX_PARAMS} params")
    signals, signal_names = _signals(shared, event)
    micros = event.get("timestamp_micros", shared.get("timestamp_micros"))
    created_ms = None if micros is None else int(read_number({"timestamp_micros": micros}, "timestamp_micros")) // 1000
    identifiers = [
        ("user", read_text(shared, "user_id")),
        ("device", read_text(shared, "app_instance_id")),
        ("cookie", read_text(shared, "client_id")),
    ]
    client = read_text(shared, "client_id", "app_instance_id")
    same_in_retries = orjson.dumps([client, micros, name, params], option=orjson.OPT_SORT_KEYS) if micros is not None else b""
    return ProtocolEvent(
        name,
        PROTOCOL,
        read_text(params, "event_id"),
        same_in_retries,
        [(kind, value) for kind, value in identifiers if value],
        created_ms=created_ms,
        signals=signals.as_map(),
        page_url=read_text(params, "page_location"),
        page_title=read_text(params, "page_title"),
        page_referrer=read_text(params, "page_referrer"),
        user_agent=read_text(read_object(shared, "device"), "user_agent") or read_text(shared, "user_agent"),
        ip=read_text(shared, "ip_override"),
        click_ids=read_click_ids(params),
        order_id=read_text(params, "transaction_id", "order_id"),
        value=read_number(params, "value"),
        currency=read_text(params, "currency"),
        decision_token=read_text(params, "decision_token"),
        properties=drop_fields(params, MAPPED_FIELDS | signal_names),
        region=merge_regions([*read_locations(shared), *read_locations(event)]),
    )


def _signals(shared: Mapping[str, Any], event: Mapping[str, Any]) -> tuple[SignalBuilder, set[str]]:
    """Return the signals of body, event and params (`consent` is Consent Mode), and which params are signals."""
    signals = SignalBuilder()
    signals.add_signal_fields(shared)
    signals.add_signal_fields(event)
    name_lists = [signals.add_signal_fields(params) for params in all_values(event, "params") if isinstance(params, Mapping)]
    return signals, {name for names in name_lists for name in names}
