"""What all protocols are turned into before anything is normalised."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any


@dataclass(frozen=True, slots=True)
class ProtocolEvent:
    """One event as its sender said it. Times are milliseconds UTC, None where the sender said none."""

    name: str
    protocol: str
    event_id: str = ""
    """Empty: the protocol has none; `derive_from` or a random one takes its place."""
    derive_from: bytes = b""
    """Content that is the same in each retry and in no other event."""
    identifiers: Sequence[tuple[str, str]] = ()
    """(type of `streams.identity.nodes.TIERS`, clear value)."""
    created_ms: int | None = None
    """By the device's clock: when it happened."""
    sent_ms: int | None = None
    """By the device's clock: when the request was sent."""
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
    """Where the event says that its visitor is, as `infra.parsing.region` writes it; empty = unknown. Servers' keys only."""


@dataclass(frozen=True, slots=True)
class InvalidItem:
    """One item of a request that breaks its contract; `detail` holds no value of it."""

    detail: str


Item = ProtocolEvent | InvalidItem

CLICK_IDS = ("gclid", "gclsrc", "gbraid", "wbraid", "dclid", "fbclid", "msclkid", "ttclid", "twclid", "li_fat_id")


class InvalidField(ValueError):
    """A field is not what its protocol says; the message names the field and what was expected."""


def read_text(fields: Mapping[str, Any], *names: str) -> str:
    """The first of these fields that is there, as text; numbers are written out. Wrong for anything else."""
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
    """The same for a field that may be a list of texts, as Google's `user_data` may."""
    for name in names:
        value = fields.get(name)
        if isinstance(value, list):
            return [entry for item in value if (entry := read_text({name: item}, name))]
        if value is not None:
            return [read_text(fields, name)]
    return []


def read_event_name(fields: Mapping[str, Any], *names: str) -> str:
    """The event's name: text, 1 to 128 characters. Wrong otherwise."""
    for name in names:
        value = fields.get(name)
        if isinstance(value, str) and 0 < len(value.strip()) <= MAX_NAME:
            return value.strip()
        if value is not None:
            raise InvalidField(f"{name} must be text of 1 to {MAX_NAME} characters")
    raise InvalidField(f"{names[0]} is missing")


MAX_NAME = 128


def read_number(fields: Mapping[str, Any], *names: str) -> float:
    """The first of these fields that is there, as a number; 0 where none is. Wrong for what is none."""
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
    """An object, empty where the field is missing or null. Wrong for anything else."""
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidField(f"{name} must be an object")
    return value


def drop_fields(fields: Mapping[str, Any], names: Collection[str]) -> Mapping[str, Any]:
    """The fields but these; the same object where none of them is there."""
    return {name: value for name, value in fields.items() if name not in names} if names else fields


def read_click_ids(fields: Mapping[str, Any]) -> dict[str, str]:
    """Advertising click ids that were sent as fields of their own."""
    return {name: str(fields[name]) for name in CLICK_IDS if isinstance(fields.get(name), str | int)}
