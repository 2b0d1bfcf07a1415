"""The event that every protocol module produces, and how fields of payloads are read. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar


# Not frozen: with its many fields that takes five times as long to build, a tenth of parsing an event.
@dataclass(slots=True)
class ProtocolEvent:
    """One event as sent. Times are milliseconds UTC, None where the sender gives none."""

    name: str
    protocol: str
    event_id: str = ""
    """Empty where it has none: the id is then derived from `derive_from`, or random."""
    derive_from: bytes = b""
    """Bytes that are equal in each retry of this event, and differ from those of every other event but an equal one."""
    identifiers: Sequence[tuple[str, str]] = ()
    """(type of `streams.identity.nodes.TIERS`, clear value)."""
    created_ms: int | None = None
    """When the event happened, by the device's clock."""
    sent_ms: int | None = None
    """When the request was sent, by the device's clock."""
    signals: Mapping[str, str] = field(default_factory=dict)
    page_url: str = ""
    page_title: str = ""
    page_referrer: str = ""
    user_agent: str = ""
    ip: str = ""
    tag_version: str = ""
    click_ids: Mapping[str, str] = field(default_factory=dict)
    order_id: str = ""
    value: float = 0.0
    currency: str = ""
    decision_token: str = ""
    items: Sequence[Mapping[str, Any]] = ()
    """Products, under the names of the contract."""
    session_id: str = ""
    group_id: str = ""
    language: str = ""
    screen: str = ""
    """Resolution, `width x height` without blanks."""
    timezone: str = ""
    user_properties: Mapping[str, Any] = field(default_factory=dict)
    properties: Mapping[str, Any] = field(default_factory=dict)
    """Everything that has no field of its own, and fields that did not fit, as they were sent."""
    problems: Sequence[str] = ()
    """`field: what was expected`, of optional fields that did not fit; no values."""
    region: str = ""
    """The visitor's region as in `infra.parsing.region`; empty = unknown. Counts under keys of servers and imports only."""


@dataclass(frozen=True, slots=True)
class InvalidItem:
    """An item that breaks its contract. `detail` names the field and contains no value of it."""

    detail: str


Item = ProtocolEvent | InvalidItem


class InvalidField(ValueError):
    """A field does not have the type that its protocol requires. The message names the field and the expected type."""


T = TypeVar("T")


def parse_object(item: Any, noun: str, parse: Callable[[Mapping[str, Any]], T]) -> T | InvalidItem:
    """Parse an item that must be an object, as its protocol does. `noun`: what the protocol calls it, with an article."""
    if not isinstance(item, dict):
        return InvalidItem(f"{noun} must be an object")
    try:
        return parse(item)
    except InvalidField as error:
        return InvalidItem(str(error))


def read_text(fields: Mapping[str, Any], *names: str) -> str:
    """Return the first of these fields that is present as text; numbers are formatted. InvalidField for other types."""
    for name in names:
        value = fields.get(name)
        if value is None:
            continue
        if isinstance(value, str):
            return value
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        raise InvalidField(f"{name} must be text")
    return ""


def read_texts(fields: Mapping[str, Any], *names: str) -> list[str]:
    """Return the texts of the first field that is present, a text or a list of texts. InvalidField for other types."""
    for name in names:
        value = fields.get(name)
        if isinstance(value, list):
            return [entry for item in value if (entry := read_text({name: item}, name))]
        if value is not None:
            return [read_text(fields, name)]
    return []


def read_object(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return an object, empty where the field is missing or null. InvalidField for other types."""
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidField(f"{name} must be an object")
    return value
