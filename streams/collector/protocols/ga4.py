"""The GA4 Measurement Protocol (`/mp/collect`). Pure. Its events have no id, so one is derived from their content.

`user_data` contains plain hashes of addresses, which identify people: they are masked.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from infra.parsing.times import YEAR_2000_MS, YEAR_2090_MS
from streams.collector.event import InvalidField, Item, ProtocolEvent, parse_object
from streams.collector.fields.amount import read_amount
from streams.collector.fields.click_ids import read_click_ids
from streams.collector.fields.items import read_items
from streams.collector.fields.reader import FieldReader, flatten_objects, merge_fields
from streams.collector.fields.region import merge_regions, read_locations
from streams.collector.fields.repeated_keys import all_values, dumps, select_fields
from streams.collector.signals.signals import SignalBuilder

PROTOCOL = "ga4"
MAX_EVENTS, MAX_PARAMS, MAX_NAME = 25, 25, 40
"""Limits of the protocol. Events beyond them are kept, with a problem."""


def extract_items(body: Any) -> list[Any]:
    """Return the events of a body, each with the fields that the body has for all. InvalidField where there are none."""
    if not isinstance(body, dict):
        raise InvalidField("the body must be an object")
    events = body.get("events")
    if not isinstance(events, list) or not events:
        raise InvalidField(f"events must be an array of 1 to {MAX_EVENTS}")
    shared = select_fields(body, [name for name in body if name != "events"])
    return [{"shared": shared, "event": event} for event in events]


def parse_item(item: Any) -> Item:
    """Parse one event."""
    return parse_object(item["event"], "an event", partial(_parse, item["shared"]))


def _parse(shared: Mapping[str, Any], event: Mapping[str, Any]) -> ProtocolEvent:
    problems: list[str] = []
    body, fields = FieldReader(shared, problems), FieldReader(event, problems)
    params, device = fields.object("params"), body.object("device")
    signals = _read_signals(body, fields, params)
    name = fields.event_name("name")
    _note_limits(fields, name, params)
    created_ms = _read_micros(fields, body)
    page_url, page_referrer = params.text("page_location"), params.text("page_referrer")
    order_id, items = params.text("transaction_id", "order_id"), read_items(params, "items")
    value, currency = read_amount(name, params, is_commerce=bool(order_id or items))
    client = shared.get("client_id") or shared.get("app_instance_id")
    micros = event.get("timestamp_micros", shared.get("timestamp_micros"))
    same_in_retries = dumps([client, micros, name, event.get("params")]) if created_ms is not None else b""
    return ProtocolEvent(
        name,
        PROTOCOL,
        params.text("event_id"),
        same_in_retries,
        _read_identifiers(body),
        created_ms=created_ms,
        signals=signals,
        page_url=page_url,
        page_title=params.text("page_title"),
        page_referrer=page_referrer,
        user_agent=device.text("user_agent") or body.text("user_agent"),
        ip=body.address("ip_override"),
        click_ids=read_click_ids(params, page_url, page_referrer),
        order_id=order_id,
        value=value,
        currency=currency,
        decision_token=params.text("decision_token"),
        items=items,
        session_id=params.text("session_id", "ga_session_id"),
        group_id=params.text("group_id"),
        language=params.text("language") or device.text("language"),
        screen=params.text("screen_resolution") or device.text("screen_resolution"),
        timezone=params.text("timezone"),
        user_properties=_read_user_properties(body, fields),
        properties=_leftovers(body, fields, params, device),
        problems=problems,
        region=merge_regions([*read_locations(shared), *read_locations(event)]),
    )


def _note_limits(fields: FieldReader, name: str, params: FieldReader) -> None:
    """Tell the owner what Google would have left out."""
    if len(name) > MAX_NAME:
        fields.note("name", f"at most {MAX_NAME} characters")
    if len(params.fields) > MAX_PARAMS:
        fields.note("params", f"at most {MAX_PARAMS} parameters")


def _read_micros(fields: FieldReader, body: FieldReader) -> int | None:
    """Return milliseconds UTC; None where there is no time, or it is not in microseconds."""
    reader = fields if fields.fields.get("timestamp_micros") is not None else body
    value = reader.fields.get("timestamp_micros")
    if value is None:
        return None
    try:
        micros = int(float(value)) if isinstance(value, float | str) else int(value)
    except (TypeError, ValueError, OverflowError):
        micros = 0
    if not YEAR_2000_MS <= micros // 1000 < YEAR_2090_MS or isinstance(value, bool):
        reader.note("timestamp_micros", "microseconds since 1970")
        return None
    reader.take("timestamp_micros")
    return micros // 1000


def _read_identifiers(body: FieldReader) -> list[tuple[str, str]]:
    identifiers = [
        ("user", body.identifier("user_id")),
        ("device", body.identifier("app_instance_id")),
        ("cookie", body.identifier("client_id")),
    ]
    return [(kind, value) for kind, value in identifiers if value]


def _read_user_properties(*readers: FieldReader) -> dict[str, Any]:
    """Return the properties of body and event; `{"value": x}` is x, and the time beside it has a name of its own."""
    sources = [reader.object("user_properties").rest() for reader in readers]
    return merge_fields(member for source in sources for field in source for member in _unwrap(*field))


def _unwrap(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and "value" in value and value.keys() <= {"value", _SET_AT}:
        yield name, value["value"]
        if _SET_AT in value:
            yield f"{name}.{_SET_AT}", value[_SET_AT]
    else:
        yield name, value


_SET_AT = "set_timestamp_micros"


def _leftovers(body: FieldReader, fields: FieldReader, params: FieldReader, device: FieldReader) -> dict[str, Any]:
    """Return what no field of the contract has. `user_data`, plain hashes that identify people, is masked there."""
    return merge_fields(params.rest(), fields.rest(), body.rest(), flatten_objects(device.rest("device.")))


def _read_signals(body: FieldReader, fields: FieldReader, params: FieldReader) -> Mapping[str, str]:
    """Return the signals of body, event and params (`consent` is Consent Mode), all of which count as read."""
    signals = SignalBuilder()
    for reader in (body, fields):
        reader.skip(signals.add_signal_fields(reader.fields))
    for values in all_values(fields.fields, "params"):
        if isinstance(values, Mapping):
            params.skip(signals.add_signal_fields(values))
    return signals.as_map()
