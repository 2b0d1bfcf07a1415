"""The Segment HTTP API (`/v1/batch`, `/v1/track`, ...), which RudderStack and Hightouch speak too. Pure."""

from collections.abc import Mapping
from typing import Any

from streams.collector.event import Item, Sent, Unusable, Wrong, click_ids_of, mapping, name_of, number, signals_of, text
from streams.collector.own import time_of

PROTOCOL = "segment"
CALLS = ("track", "identify", "page", "screen", "group", "alias")
PURPOSES = "categoryPreferences"


def items_of(body: Any, call: str) -> list[Any]:
    """The items of a body, `context` and `integrations` of a batch merged under each. Wrong where there are none."""
    if not isinstance(body, dict):
        raise Wrong("the body must be an object")
    if call != "batch":
        return [{"type": call, **body}]
    batch = body.get("batch")
    if not isinstance(batch, list):
        raise Wrong("batch must be an array")
    shared, sent = mapping(body, "context"), body.get("sentAt")
    return [_under(item, shared, sent) for item in batch]


def _under(item: Any, context: Mapping[str, Any], sent: Any) -> Any:
    if not isinstance(item, dict):
        return item
    own = item.get("context")
    merged = {**context, **own} if isinstance(own, dict) else own if own is not None else context
    return {"sentAt": sent, **item, "context": merged}


def read(item: Any) -> Item:
    """One call."""
    if not isinstance(item, dict):
        return Unusable("a call must be an object")
    try:
        return _read(item)
    except Wrong as error:
        return Unusable(str(error))


def _read(said: Mapping[str, Any]) -> Sent:
    call = said.get("type")
    if call not in CALLS:
        raise Wrong(f"type must be one of {', '.join(CALLS)}")
    context, properties = mapping(said, "context"), mapping(said, "properties")
    traits = {**mapping(context, "traits"), **mapping(said, "traits")}
    page, library, device = mapping(context, "page"), mapping(context, "library"), mapping(context, "device")
    identifiers = [
        ("user", text(said, "userId")),
        ("device", text(device, "id")),
        ("cookie", text(said, "anonymousId")),
        ("email", text(traits, "email")),
        ("phone", text(traits, "phone")),
    ]
    return Sent(
        name_of(said, "event") if call == "track" else str(call),
        PROTOCOL,
        text(said, "messageId"),
        identifiers=[(kind, value) for kind, value in identifiers if value],
        created=time_of(said, "originalTimestamp", "timestamp"),
        sent=time_of(said, "sentAt"),
        signals=_signals(mapping(context, "consent")),
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
        properties={k: v for k, v in properties.items() if k not in TAKEN},
    )


def _signals(consent: Mapping[str, Any]) -> dict[str, str]:
    """Segment's consent object: one boolean a category. Anything else in it is a signal under its own name."""
    found = signals_of({name: value for name, value in consent.items() if name != PURPOSES})
    categories = signals_of(mapping(consent, PURPOSES))
    return found | {f"cmp.{name}": value for name, value in categories.items()}


TAKEN = {"url", "title", "referrer", "order_id", "orderId", "value", "revenue", "total", "currency", "decision_token"}
