"""`POST /v1/events`: our own JSON, and what generic HTTP tags of tag-manager server containers send. Pure.

Body: one event, `{"events": [...]}`, or an array. Common keys of a container's event data stand at the top level.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from streams.collector.event import (
    CLICK_IDS,
    Item,
    Sent,
    Unusable,
    Wrong,
    click_ids_of,
    mapping,
    name_of,
    number,
    signals_of,
    text,
    texts,
)

PROTOCOL = "headwater"

IDENTIFIERS = {"user_id": "user", "device_id": "device", "client_id": "cookie", "anonymous_id": "cookie"}
GA_SIGNALS = {"x-ga-gcs": "gcs", "x-ga-gcd": "gcd"}
TAKEN = {
    "event_id", "event_name", "event_ts", "timestamp", "sent_ts", "consent", "user_data", "page_location", "page_url",
    "page_title", "page_referrer", "user_agent", "ip_override", "tag_version", "order_id", "transaction_id", "value",
    "currency", "decision_token", "properties", *IDENTIFIERS, *GA_SIGNALS, *CLICK_IDS,
}  # fmt: skip


def items_of(body: Any) -> list[Any]:
    """The items of a body. Wrong where it is neither object nor array."""
    if isinstance(body, list):
        return body
    if not isinstance(body, dict):
        raise Wrong('the body must be an event, an array of events, or {"events": [...]}')
    if "events" not in body or "event_name" in body:
        return [body]  # an event may have a field of that name
    if not isinstance(body["events"], list):
        raise Wrong("events must be an array")
    return body["events"]


def read(item: Any) -> Item:
    """One item."""
    if not isinstance(item, dict):
        return Unusable("an event must be an object")
    try:
        return _read(item)
    except Wrong as error:
        return Unusable(str(error))


def _read(said: Mapping[str, Any]) -> Sent:
    signals = signals_of(mapping(said, "consent"))
    for theirs, ours in GA_SIGNALS.items():
        if value := text(said, theirs):
            # Where both are there and disagree, both go on: the gate takes the stricter one.
            signals[theirs if signals.get(ours, value) != value else ours] = value
    return Sent(
        name_of(said, "event_name"),
        PROTOCOL,
        text(said, "event_id"),
        identifiers=identifiers_of(said),
        created=time_of(said, "event_ts", "timestamp"),
        sent=time_of(said, "sent_ts"),
        signals=signals,
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
        properties={**mapping(said, "properties"), **{name: value for name, value in said.items() if name not in TAKEN}},
    )


def identifiers_of(said: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(kind, value) of every identifier that is named."""
    person = mapping(said, "user_data")
    found = [(kind, text(said, name)) for name, kind in IDENTIFIERS.items()]
    found += [("email", value) for value in texts(person, "email", "email_address")]
    found += [("phone", value) for value in texts(person, "phone", "phone_number")]
    return [(kind, value) for kind, value in found if value]


def time_of(said: Mapping[str, Any], *names: str) -> int | None:
    """Milliseconds from a number of milliseconds or of seconds, or an ISO 8601 text. Wrong for anything else.

    A number that as milliseconds would lie before March 1973 is one of seconds.
    """
    for name in names:
        value = said.get(name)
        if value is None or value == "":
            continue
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < MAX_MS:
            return int(value if value >= MIN_MS else value * 1000)
        if isinstance(value, str):
            try:
                return int(datetime.fromisoformat(value).timestamp() * 1000)
            except (ValueError, OverflowError):
                pass
        raise Wrong(f"{name} must be milliseconds or seconds since 1970, or an ISO 8601 time")
    return None


MIN_MS, MAX_MS = 100_000_000_000, 4_102_444_800_000  # 1973 and 2100
