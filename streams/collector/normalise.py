"""From what a sender said to a record of `events.raw`: time, pseudonyms, masks, coarse addresses. Pure but for its caches.

The consent signals are passed on as they came: the collector never decides.
"""

import hashlib
import ipaddress
import secrets
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import orjson

from schemas.codec import Record
from schemas.registry import Contract
from streams.collector.agents import device_class, is_bot
from streams.collector.event import Sent
from streams.collector.mask import masked
from streams.identity.nodes import NodeKeys, named, normalise

FUTURE_MS = 23 * 3_600_000
MAX_TEXT = 4_096
MAX_PROPERTIES = 200
MAX_ID = 128

KNOWN = frozenset(
    {
        "event_id", "event_name", "source", "site", "heartbeat", "collector_ts", "region", "signals", "identifiers",
        "decision_token", "order_id", "value", "currency", "event_ts", "event_ts_source", "protocol", "tag_version",
        "page_url", "page_title", "page_referrer", "user_agent", "device_class", "bot", "ip_prefix", "click_ids",
        "match_tokens", "properties",
    }
)  # fmt: skip
"""Fields that are worked out here; any other field of the contract is taken from the properties by its name."""


class Request(NamedTuple):
    """What the request, not the event, says."""

    source: str
    site: str
    """Used where the event names no page."""
    now_ms: int
    region: str = ""
    user_agent: str = ""
    ip: str = ""
    gpc: bool = False


Masked = Callable[[str], None]
"""Told the name of each field in which something was masked."""


class Normaliser:
    """Makes records of one contract version."""

    def __init__(self, contract: Contract, keys: NodeKeys) -> None:
        self.contract = contract
        self._keys = keys
        self._added = [field for field in contract.schema["fields"] if field["name"] not in KNOWN]

    def record(self, event: Sent, request: Request, on_masked: Masked) -> tuple[str, Record]:
        """(Kafka key, record)."""
        subject, nodes = named(self._keys, event.identifiers, request.region)
        event_id = self._event_id(event)
        when, clock = event_time(event, request.now_ms)
        agent = (event.user_agent or request.user_agent)[:MAX_TEXT]
        said = dict(event.properties)
        added = {field["name"]: _typed(said.pop(field["name"]), field) for field in self._added if field["name"] in said}

        def clean(name: str, value: str) -> str:
            shown = masked(value[:MAX_TEXT])
            if shown != value[:MAX_TEXT]:
                on_masked(name)
            return shown

        return subject or event_id, {
            "event_id": event_id,
            "event_name": clean("event_name", event.name),
            "source": request.source,
            "site": _host(event.page_url) or request.site,
            "heartbeat": False,
            "collector_ts": request.now_ms,
            "region": request.region,
            "signals": {**event.signals, "gpc": "1"} if request.gpc else dict(event.signals),
            "identifiers": nodes,
            "decision_token": event.decision_token[:MAX_TEXT],
            "order_id": event.order_id[:MAX_ID],
            "value": event.value,
            "currency": event.currency[:8],
            "event_ts": when,
            "event_ts_source": clock,
            "protocol": event.protocol,
            "tag_version": event.tag_version[:MAX_ID],
            "page_url": clean("page_url", event.page_url),
            "page_title": clean("page_title", event.page_title),
            "page_referrer": clean("page_referrer", event.page_referrer),
            "user_agent": agent,
            "device_class": device_class(agent),
            "bot": is_bot(agent),
            "ip_prefix": ip_prefix(event.ip or request.ip),
            "click_ids": dict(event.click_ids),
            "match_tokens": match_tokens(event),
            "properties": {name: clean(name, text) for name, text in flat(said).items()},
            **added,
        }

    def _event_id(self, event: Sent) -> str:
        if event.event_id:
            return event.event_id[:MAX_ID]
        if event.derive_from:
            return hashlib.sha256(event.derive_from).hexdigest()[:32]
        return secrets.token_hex(16)


def event_time(event: Sent, now_ms: int) -> tuple[int, str]:
    """(milliseconds, which clock): the device's, corrected by the skew it shows where it says when it sent."""
    if event.created is None:
        return now_ms, "collector"
    if event.sent is None:
        found, clock = event.created, "device"
    else:
        # A device cannot send before it creates; trackers that cut the sending time to whole seconds seem to.
        found, clock = now_ms - max(0, event.sent - event.created), "corrected"
    return (now_ms, "collector") if found > now_ms + FUTURE_MS else (found, clock)


def match_tokens(event: Sent) -> dict[str, str]:
    """Plain SHA-256 of the normalised e-mail and phone, as advertising partners match them. Consent decides later."""
    found = {}
    for kind, value in event.identifiers:
        if kind in ("email", "phone") and (normal := normalise(kind, value)):
            found[kind] = hashlib.sha256(normal.encode()).hexdigest()
    return found


def ip_prefix(address: str) -> str:
    """The network of an address, /24 or /48; empty where there is none."""
    try:
        found = ipaddress.ip_address(address.strip())
    except ValueError:
        return ""
    bits = 24 if found.version == 4 else 48
    return str(ipaddress.ip_network((found, bits), strict=False).network_address)


def flat(properties: Mapping[str, Any]) -> dict[str, str]:
    """Properties as texts: scalars written out, nested values as JSON, nulls left out. The first 200 count."""
    found: dict[str, str] = {}
    for name, value in properties.items():
        if value is None:
            continue
        if len(found) == MAX_PROPERTIES:
            break
        if isinstance(value, str):
            text = value
        elif isinstance(value, bool):
            text = "true" if value else "false"
        else:
            text = str(value) if isinstance(value, int | float) else orjson.dumps(value).decode()
        found[str(name)[:MAX_ID]] = text
    return found


def _typed(value: Any, field: Mapping[str, Any]) -> Any:
    """A property as the type of the contract field that took it over; its default where it does not fit."""
    kind = field["type"]["type"] if isinstance(field["type"], dict) else field["type"]
    try:
        if kind == "string":
            return value if isinstance(value, str) else flat({"": value}).get("", field.get("default", ""))
        if kind in ("long", "int"):
            return int(value)
        if kind in ("double", "float"):
            return float(value)
        if kind == "boolean" and isinstance(value, bool):
            return value
        if kind == "map" and isinstance(value, Mapping):
            return flat(value)
    except (TypeError, ValueError, OverflowError):
        pass
    return field.get("default")


def _host(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""
