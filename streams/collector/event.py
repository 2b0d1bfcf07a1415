"""The event that every protocol module produces, and how fields of payloads are read. Pure."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, TypeVar


@dataclass(frozen=True, slots=True)
class ProtocolEvent:
    """One event as sent. Times are milliseconds UTC, None where the sender gives none."""

    name: str
    protocol: str
    event_id: str = ""
    """Empty where the protocol has none: the id is then derived from `derive_from`, or random."""
    derive_from: bytes = b""
    """Bytes that are equal in each retry of this event and differ from those of every other event."""
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
    properties: Mapping[str, Any] = field(default_factory=dict)
    region: str = ""
    """The visitor's region as in `infra.parsing.region`; empty = unknown. Counts under keys of servers and imports only."""


@dataclass(frozen=True, slots=True)
class InvalidItem:
    """An item that breaks its contract. `detail` names the field and contains no value of it."""

    detail: str


Item = ProtocolEvent | InvalidItem

CLICK_IDS = ("gclid", "gclsrc", "gbraid", "wbraid", "dclid", "fbclid", "msclkid", "ttclid", "twclid", "li_fat_id")


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


def read_event_name(fields: Mapping[str, Any], *names: str) -> str:
    """Return the event name, 1 to 128 characters. InvalidField where it is missing or anything else."""
    for name in names:
        value = fields.get(name)
        if isinstance(value, str) and 0 < len(value.strip()) <= MAX_NAME:
            return value.strip()
        if value is not None:
            raise InvalidField(f"{name} must be text of 1 to {MAX_NAME} characters")
    raise InvalidField(f"{names[0]} is missing")


MAX_NAME = 128


def read_number(fields: Mapping[str, Any], *names: str) -> float:
    """Return the first of these fields that is present as a finite number; 0 where none is. InvalidField otherwise."""
    for name in names:
        value = fields.get(name)
        if value is None or value == "":
            continue
        try:
            result = float(value) if not isinstance(value, bool) else None
        except (TypeError, ValueError):
            result = None
        if result is None or not isfinite(result):
            raise InvalidField(f"{name} must be a number")
        return result
    return 0.0


def read_object(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return an object, empty where the field is missing or null. InvalidField for other types."""
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidField(f"{name} must be an object")
    return value


def drop_fields(fields: Mapping[str, Any], names: Collection[str]) -> Mapping[str, Any]:
    """Return the fields without those of these names; the same object where `names` is empty."""
    return {name: value for name, value in fields.items() if name not in names} if names else fields


def read_click_ids(fields: Mapping[str, Any]) -> dict[str, str]:
    """Return the advertising click ids that stand in fields of their own."""
    return {name: str(fields[name]) for name in CLICK_IDS if isinstance(fields.get(name), str | int)}
