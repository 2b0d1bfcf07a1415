"""The Segment HTTP API (`/v1/batch`, `/v1/track`, ...), which RudderStack and Hightouch speak too. Pure."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from streams.collector.event import (
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
from streams.collector.fields.place import location, place_of
from streams.collector.fields.repeated import each, overlaid, selected
from streams.collector.protocols.own import time_of
from streams.collector.signals.signals import SignalBuilder, signal_fields

PROTOCOL = "segment"
CALLS = ("track", "identify", "page", "screen", "group", "alias")


def items_of(body: Any, call: str) -> list[Any]:
    """The items of a body, `context` and `integrations` of a batch merged under each. Wrong where there are none."""
    if not isinstance(body, dict):
        raise InvalidField("the body must be an object")
    if call != "batch":
        return [overlaid({"type": call}, body)]
    batch = body.get("batch")
    if not isinstance(batch, list):
        raise InvalidField("batch must be an array")
    shared = mapping(body, "context")
    for earlier in each(body, "context")[:-1]:
        if isinstance(earlier, Mapping):
            shared = overlaid(earlier, shared, frozenset(signal_fields(earlier)))
    fields = overlaid({"sentAt": body.get("sentAt")}, selected(body, signal_fields(body)))
    whole = _BatchContext(shared, frozenset(signal_fields(shared)), fields, frozenset(signal_fields(fields)))
    return [_under(item, whole) for item in batch]


class _BatchContext(NamedTuple):
    """What a batch says for each of its items, and which of the names are consent signals."""

    context: Mapping[str, Any]
    context_signals: frozenset[str]
    fields: Mapping[str, Any]
    field_signals: frozenset[str]


def _under(item: Any, batch: _BatchContext) -> Any:
    """An item beneath what its batch says. A refusal of the batch is not lifted by an item's own consent: both stay."""
    if not isinstance(item, dict):
        return item
    own = item.get("context")
    if isinstance(own, dict):
        context: Any = overlaid(batch.context, own, batch.context_signals)
    else:
        context = batch.context if own is None else own
    if type(item) is dict:
        return overlaid(batch.fields, {**item, "context": context}, batch.field_signals)
    return overlaid(batch.fields, overlaid(item, {"context": context}), batch.field_signals)


def read(item: Any) -> Item:
    """One call."""
    if not isinstance(item, dict):
        return InvalidItem("a call must be an object")
    try:
        return _read(item)
    except InvalidField as error:
        return InvalidItem(str(error))


def _read(message: Mapping[str, Any]) -> ProtocolEvent:
    call = message.get("type")
    if call not in CALLS:
        raise InvalidField(f"type must be one of {', '.join(CALLS)}")
    context, properties = mapping(message, "context"), mapping(message, "properties")
    traits = {**mapping(context, "traits"), **mapping(message, "traits")}
    signals, signal_names = _signals(message)
    page, library, device = mapping(context, "page"), mapping(context, "library"), mapping(context, "device")
    identifiers = [
        ("user", text(message, "userId")),
        ("device", text(device, "id")),
        ("cookie", text(message, "anonymousId")),
        ("email", text(traits, "email")),
        ("phone", text(traits, "phone")),
    ]
    return ProtocolEvent(
        name_of(message, "event") if call == "track" else str(call),
        PROTOCOL,
        text(message, "messageId"),
        identifiers=[(kind, value) for kind, value in identifiers if value],
        created_ms=time_of(message, "originalTimestamp", "timestamp"),
        sent_ms=time_of(message, "sentAt"),
        signals=signals.as_map(),
        page_url=text(page, "url") or text(properties, "url"),
        page_title=text(page, "title") or text(properties, "title"),
        page_referrer=text(page, "referrer") or text(properties, "referrer"),
        user_agent=text(context, "userAgent"),
        ip=text(context, "ip"),
        tag_version=f"{text(library, 'name')}/{text(library, 'version')}" if library else "",
        click_ids=click_ids_of(properties),
        order_id=text(properties, "order_id", "orderId"),
        value=number(properties, "value", "revenue", "total"),
        currency=text(properties, "currency"),
        decision_token=text(properties, "decision_token"),
        properties=without(properties, TAKEN | signal_names),
        region=place_of([location(context["location"])] if isinstance(context.get("location"), Mapping) else []),
    )


def _signals(message: Mapping[str, Any]) -> tuple[SignalBuilder, set[str]]:
    """Signals of a call, from its context, traits and properties and beside them; and which of the properties they are."""
    signals = SignalBuilder()
    signals.add_named(message)
    for context in each(message, "context"):
        if isinstance(context, Mapping):
            signals.add_named(context)
    for traits in (*each(message, "traits"), *each(mapping(message, "context"), "traits")):
        if isinstance(traits, Mapping):
            signals.add_named(traits)
    signal_names = [
        signals.add_named(properties) for properties in each(message, "properties") if isinstance(properties, Mapping)
    ]
    return signals, {name for names in signal_names for name in names}


TAKEN = {"url", "title", "referrer", "order_id", "orderId", "value", "revenue", "total", "currency", "decision_token"}
