"""The Segment HTTP API (`/v1/batch`, `/v1/track`, ...), which RudderStack and Hightouch speak too. Pure."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from streams.collector.event import InvalidField, Item, ProtocolEvent, parse_object, read_object
from streams.collector.fields.amount import read_amount
from streams.collector.fields.click_ids import read_click_ids
from streams.collector.fields.event_ids import content_to_derive
from streams.collector.fields.items import read_items
from streams.collector.fields.reader import FieldReader, flatten_objects, merge_fields
from streams.collector.fields.region import merge_regions, normalise_location
from streams.collector.fields.repeated_keys import all_values, overlay, select_fields
from streams.collector.signals.field_roles import find_signal_fields
from streams.collector.signals.signals import SignalBuilder

PROTOCOL = "segment"
DIRECT = "$direct"
"""What RudderStack's SDK sends as the referrer of a visit that has none."""
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


class _CallFields(NamedTuple):
    """Readers of the objects of a call."""

    call: FieldReader
    context: FieldReader
    properties: FieldReader
    traits: FieldReader
    context_traits: FieldReader
    page: FieldReader
    library: FieldReader
    device: FieldReader
    screen: FieldReader


def _parse(message: Mapping[str, Any]) -> ProtocolEvent:
    problems: list[str] = []
    fields = _open(FieldReader(message, problems))
    call, context, properties = fields[:3]
    kind, signals = _read_kind(call), _read_signals(message, fields)
    name = call.event_name("event") if kind == "track" else kind
    page_url, page_referrer = _read_page(fields, "url"), _read_referrer(fields)
    order_id, items = properties.text("order_id", "orderId"), read_items(properties, "products", "items")
    value, currency = read_amount(name, properties, is_commerce=bool(order_id or items))
    created_ms, sent_ms = call.time("originalTimestamp", "timestamp"), call.time("sentAt")
    identifiers = _read_identifiers(fields, kind)
    return ProtocolEvent(
        name,
        PROTOCOL,
        call.text("messageId"),
        content_to_derive(message, created_ms is not None or sent_ms is not None),
        identifiers=identifiers,
        created_ms=created_ms,
        sent_ms=sent_ms,
        signals=signals,
        page_url=page_url,
        page_title=_read_page(fields, "title"),
        page_referrer=page_referrer,
        user_agent=context.text("userAgent"),
        ip=context.address("ip"),
        tag_version="/".join(filter(None, (fields.library.text("name"), fields.library.text("version")))),
        click_ids=read_click_ids(properties, page_url, page_referrer),
        order_id=order_id,
        value=value,
        currency=currency,
        decision_token=properties.text("decision_token"),
        items=items,
        session_id=context.text("sessionId") or properties.text("session_id"),
        group_id=call.text("groupId") or context.text("groupId"),
        language=context.text("locale"),
        screen=_read_screen(fields.screen),
        timezone=context.text("timezone"),
        user_properties=_user_properties(fields, kind),
        properties=_leftovers(fields, kind),
        problems=problems,
        region=_read_region(context),
    )


def _open(call: FieldReader) -> _CallFields:
    context, properties, traits = map(call.object, ("context", "properties", "traits"))
    return _CallFields(
        call, context, properties, traits, *map(context.object, ("traits", "page", "library", "device", "screen"))
    )


def _read_kind(call: FieldReader) -> str:
    """Return the kind of a call, in lower case. InvalidField for an unknown one."""
    kind = call.text("type").strip().lower() or ("track" if call.fields.get("event") else "")
    if kind not in CALLS:
        raise InvalidField(f"type must be one of {', '.join(CALLS)}")
    return kind


def _read_identifiers(fields: _CallFields, kind: str) -> list[tuple[str, str]]:
    call = fields.call
    identifiers = [
        ("user", call.identifier("userId")),
        ("device", fields.device.identifier("id")),
        *(("cookie", value) for value in _read_cookies(call, kind)),
    ]
    for address in ("email", "phone"):
        identifiers += [(address, value) for value in _read_trait(fields, kind, address)]
    return [(identifier, value) for identifier, value in identifiers if value]


def _read_cookies(call: FieldReader, kind: str) -> list[str]:
    """Return the cookies of a call. Where an alias names another cookie beside `previousId`, that one is left over.

    Then `previousId` is a user, and the graph merges no two users: beside both of them the visitor's cookie would be nobody's.
    """
    previous = call.identifier("previousId") if kind == "alias" else ""
    if previous and call.fields.get("anonymousId") not in (None, "", previous):
        call.note("previousId", "an anonymous id, because two users are never merged")
        return [previous]
    return [call.identifier("anonymousId"), previous]


def _read_trait(fields: _CallFields, kind: str, name: str) -> list[str]:
    """Return identifiers of the person, from the call's traits or else the context's. A group's traits name no person."""
    if kind != "group" and (texts := fields.traits.identifiers(name)):
        fields.context_traits.skip_equal(name, fields.traits.fields[name])
        return texts
    return fields.context_traits.identifiers(name)


def _read_page(fields: _CallFields, name: str) -> str:
    """Return a field of the page, from the context or else from the properties. Another value in the properties stays there."""
    if text := fields.page.text(name):
        fields.properties.skip_equal(name, text)
        return text
    return fields.properties.text(name)


def _read_referrer(fields: _CallFields) -> str:
    referrer = _read_page(fields, "referrer")
    return "" if referrer == DIRECT else referrer


def _read_screen(screen: FieldReader) -> str:
    """Return width and height; they stay where they are unless both are texts or numbers."""
    if all(isinstance(screen.fields.get(name), str | int | float) and screen.fields[name] for name in ("width", "height")):
        width, height = screen.text("width"), screen.text("height")
        return f"{width}x{height}" if width and height else ""
    return ""


def _read_region(context: FieldReader) -> str:
    location = context.fields.get("location")
    return merge_regions([normalise_location(location)]) if isinstance(location, Mapping) else ""


def _user_properties(fields: _CallFields, kind: str) -> dict[str, Any]:
    traits = fields.context_traits.rest()
    return merge_fields(traits) if kind == "group" else merge_fields(fields.traits.rest(), traits)


def _leftovers(fields: _CallFields, kind: str) -> dict[str, Any]:
    """Return what no field of the contract has: properties, a group's traits, the rest of the context and of the call."""
    fields.call.skip(UNKEPT)
    fields.context.skip(UNKEPT)
    sources = [fields.properties.rest(), fields.call.rest()]
    if kind == "group":
        sources.append(fields.traits.rest("group."))
    parts = {"page": fields.page, "library": fields.library, "device": fields.device, "screen": fields.screen}
    inner = (field for name, reader in parts.items() for field in reader.rest(f"context.{name}."))
    sources += [flatten_objects(fields.context.rest("context.")), flatten_objects(inner, 2)]
    return merge_fields(*sources)


UNKEPT = frozenset({"writeKey"})
"""Fields that are never kept."""


def _read_signals(message: Mapping[str, Any], fields: _CallFields) -> Mapping[str, str]:
    """Return the signals of a call, its context, traits and properties, all of which count as read."""
    signals = SignalBuilder()
    fields.call.skip(signals.add_signal_fields(message))
    for context in all_values(message, "context"):
        if isinstance(context, Mapping):
            fields.context.skip(signals.add_signal_fields(context))
        elif context:
            signals.add_consent(context)  # whatever it says about consent cannot be read
    for traits in (*all_values(message, "traits"), *all_values(fields.context.fields, "traits")):
        if isinstance(traits, Mapping):
            names = signals.add_signal_fields(traits)
            fields.traits.skip(names)
            fields.context_traits.skip(names)
    for properties in all_values(message, "properties"):
        if isinstance(properties, Mapping):
            fields.properties.skip(signals.add_signal_fields(properties))
    return signals.as_map()
