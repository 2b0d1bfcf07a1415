"""The Segment HTTP API (`/v1/batch`, `/v1/track`, ...), which RudderStack and Hightouch speak too. Pure."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from streams.collector.event import (
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
from streams.collector.fields.region import merge_regions, normalise_location
from streams.collector.fields.repeated_keys import all_values, overlay, select_fields
from streams.collector.protocols.own import read_time
from streams.collector.signals.field_roles import find_signal_fields
from streams.collector.signals.signals import SignalBuilder

PROTOCOL = "segment"
CALLS = ("track", "identify", "page", "screen", "group", "alias")


def extract_items(body: Any, call: str) -> list[Any]:
    """Return the items of a body; a batch's `context` and signals are merged into each. InvalidField where it has none."""
    if not isinstance(body, dict):
        raise InvalidField("the body must be an object")
    if call != "batch":
        return [overlay({"type": call}, body)]
    batch = body.get("batch")
    if not isinstance(batch, list):
        raise InvalidField("batch must be an array")
    context = read_object(body, "context")
    for earlier in all_values(body, "context")[:-1]:
        if isinstance(earlier, Mapping):
            context = overlay(earlier, context, frozenset(find_signal_fields(earlier)))
    fields = overlay({"sentAt": body.get("sentAt")}, select_fields(body, find_signal_fields(body)))
    batch_context = _BatchContext(
        context, frozenset(find_signal_fields(context)), fields, frozenset(find_signal_fields(fields))
    )
    return [_merge_batch(item, batch_context) for item in batch]


def find_write_key(body: Any) -> object:
    """Return `writeKey` of a body; empty where the body is no object."""
    return body.get("writeKey") if isinstance(body, dict) else ""


class _BatchContext(NamedTuple):
    """Fields of a batch that apply to each of its items, and which of their names are consent signals."""

    context: Mapping[str, Any]
    context_signals: frozenset[str]
    fields: Mapping[str, Any]
    field_signals: frozenset[str]


def _merge_batch(item: Any, batch: _BatchContext) -> Any:
    """Merge a batch's fields into an item. Where both have a signal both stay, so that no item lifts a batch's refusal."""
    if not isinstance(item, dict):
        return item
    item_context = item.get("context")
    if isinstance(item_context, dict):
        context: Any = overlay(batch.context, item_context, batch.context_signals)
    else:
        context = batch.context if item_context is None else item_context
    if type(item) is dict:
        return overlay(batch.fields, {**item, "context": context}, batch.field_signals)
    return overlay(batch.fields, overlay(item, {"context": context}), batch.field_signals)


def parse_item(item: Any) -> Item:
    """Parse one call."""
    return parse_object(item, "a call", _parse)


def _parse(message: Mapping[str, Any]) -> ProtocolEvent:
    call = message.get("type")
    if call not in CALLS:
        raise InvalidField(f"type must be one of {', '.join(CALLS)}")
    context, properties = read_object(message, "context"), read_object(message, "properties")
    traits = {**read_object(context, "traits"), **read_object(message, "traits")}
    signals, signal_names = _signals(message)
    page, library, device = read_object(context, "page"), read_object(context, "library"), read_object(context, "device")
    identifiers = [
        ("user", read_text(message, "userId")),
        ("device", read_text(device, "id")),
        ("cookie", read_text(message, "anonymousId")),
        ("email", read_text(traits, "email")),
        ("phone", read_text(traits, "phone")),
    ]
    return ProtocolEvent(
        read_event_name(message, "event") if call == "track" else str(call),
        PROTOCOL,
        read_text(message, "messageId"),
        identifiers=[(kind, value) for kind, value in identifiers if value],
        created_ms=read_time(message, "originalTimestamp", "timestamp"),
        sent_ms=read_time(message, "sentAt"),
        signals=signals.as_map(),
        page_url=read_text(page, "url") or read_text(properties, "url"),
        page_title=read_text(page, "title") or read_text(properties, "title"),
        page_referrer=read_text(page, "referrer") or read_text(properties, "referrer"),
        user_agent=read_text(context, "userAgent"),
        ip=read_text(context, "ip"),
        tag_version=f"{read_text(library, 'name')}/{read_text(library, 'version')}" if library else "",
        click_ids=read_click_ids(properties),
        order_id=read_text(properties, "order_id", "orderId"),
        value=read_number(properties, "value", "revenue", "total"),
        currency=read_text(properties, "currency"),
        decision_token=read_text(properties, "decision_token"),
        properties=drop_fields(properties, MAPPED_FIELDS | signal_names),
        region=merge_regions([normalise_location(context["location"])] if isinstance(context.get("location"), Mapping) else []),
    )


def _signals(message: Mapping[str, Any]) -> tuple[SignalBuilder, set[str]]:
    """Return the signals of a call, its context, traits and properties, and which properties are signals."""
    signals = SignalBuilder()
    signals.add_signal_fields(message)
    for context in all_values(message, "context"):
        if isinstance(context, Mapping):
            signals.add_signal_fields(context)
    for traits in (*all_values(message, "traits"), *all_values(read_object(message, "context"), "traits")):
        if isinstance(traits, Mapping):
            signals.add_signal_fields(traits)
    signal_names = [
        signals.add_signal_fields(properties)
        for properties in all_values(message, "properties")
        if isinstance(properties, Mapping)
    ]
    return signals, {name for names in signal_names for name in names}


MAPPED_FIELDS = {"url", "title", "referrer", "order_id", "orderId", "value", "revenue", "total", "currency", "decision_token"}
