"""From what a sender said to a record of `events.raw`: time, pseudonyms, masks, coarse addresses. Pure but for its caches.

The consent signals are passed on as they came: the collector never decides.
"""

import hashlib
import ipaddress
import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import orjson

from infra.parsing.site import page_site
from schemas.codec import Record
from schemas.registry import Contract
from streams.collector.event import ProtocolEvent
from streams.collector.fields.agents import device_class, is_bot
from streams.collector.fields.json_cut import cut_text
from streams.collector.masking import EventMask
from streams.collector.masking.field_names import Category
from streams.collector.signals.signals import with_objection
from streams.identity.nodes import NodeKeys, event_nodes, normalise

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


class RequestContext(NamedTuple):
    """What the request, not the event, says."""

    source: str
    site: str
    """Used where the event names no page."""
    now_ms: int
    region: str | None = ""
    """Of the trusted header; None where the event's own place counts instead."""
    user_agent: str = ""
    ip: str = ""
    gpc: str = ""
    """The header `Sec-GPC`, as sent; empty where it objects to nothing."""


Masked = Callable[[str], None]
"""Told the name of each field in which something was masked."""


class Normaliser:
    """Makes records of one contract version."""

    def __init__(self, contract: Contract, keys: NodeKeys) -> None:
        self.contract = contract
        self._keys = keys
        self._added = [field for field in contract.schema["fields"] if field["name"] not in KNOWN]

    def record(self, event: ProtocolEvent, request: RequestContext, on_masked: Masked) -> tuple[str, Record]:
        """(Kafka key, record)."""
        region = event.region if request.region is None else request.region
        subject, nodes = event_nodes(self._keys, event.identifiers, region)
        agent = (event.user_agent or request.user_agent)[:MAX_TEXT]
        mask = EventMask(event, request.ip, on_masked, agent)
        event_id = self._event_id(event, mask)
        when, clock = event_time(event, request.now_ms)
        page_url = mask.field("page_url", event.page_url, MAX_TEXT)
        site = page_site(event.page_url) or request.site
        if page_url is not event.page_url and mask.mask(site) is not site:
            site = request.site  # a host that shows a person's address is no site
        said = dict(mask.properties())
        added = {field["name"]: _typed(said.pop(field["name"]), field) for field in self._added if field["name"] in said}
        return subject or event_id, {
            "event_id": event_id,
            "event_name": mask.short("event_name", event.name, MAX_ID),
            "source": request.source,
            "site": site,
            "heartbeat": False,
            "collector_ts": request.now_ms,
            "region": region,
            "signals": mask.signals(with_objection(event.signals, request.gpc) if request.gpc else event.signals),
            "identifiers": nodes,
            "decision_token": mask.short("decision_token", event.decision_token, MAX_TEXT),
            "order_id": mask.order_id(event.order_id, MAX_ID, self._keys.first["user"]),
            "value": event.value,
            "currency": mask.short("currency", event.currency, 8),
            "event_ts": when,
            "event_ts_source": clock,
            "protocol": event.protocol,
            "tag_version": mask.short("tag_version", event.tag_version, MAX_ID, Category.VERSION),
            "page_url": page_url,
            "page_title": mask.short("page_title", event.page_title, MAX_TEXT),
            "page_referrer": mask.field("page_referrer", event.page_referrer, MAX_TEXT),
            "user_agent": mask.field("user_agent", agent, MAX_TEXT),
            "device_class": device_class(agent),
            "bot": is_bot(agent),
            "ip_prefix": ip_prefix(event.ip or request.ip),
            "click_ids": mask.click_ids(event.click_ids, MAX_TEXT),
            "match_tokens": match_tokens(event, region),
            "properties": {name: cut_text(text, MAX_TEXT) for name, text in flat(said).items()},
            **added,
        }

    def _event_id(self, event: ProtocolEvent, mask: EventMask) -> str:
        if event.event_id:
            return mask.event_id(event.event_id, self._keys.first["user"])[:MAX_ID]
        if event.derive_from:
            return hashlib.sha256(event.derive_from).hexdigest()[:32]
        return secrets.token_hex(16)


def event_time(event: ProtocolEvent, now_ms: int) -> tuple[int, str]:
    """(milliseconds, which clock): the device's, corrected by the skew it shows where it says when it sent."""
    if event.created is None:
        return now_ms, "collector"
    if event.sent is None:
        found, clock = event.created, "device"
    else:
        # A device cannot send before it creates; trackers that cut the sending time to whole seconds seem to.
        found, clock = now_ms - max(0, event.sent - event.created), "corrected"
    return (now_ms, "collector") if found > now_ms + FUTURE_MS else (found, clock)


def match_tokens(event: ProtocolEvent, region: str = "") -> dict[str, str]:
    """Plain SHA-256 of the normalised e-mail and phone, as advertising partners match them. Consent decides later."""
    found = {}
    for kind, value in event.identifiers:
        if kind in ("email", "phone") and (normal := normalise(kind, value, region)):
            found[kind] = hashlib.sha256(normal.encode()).hexdigest()
    return found


_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = re.compile(rf"(?:{_OCTET}\.){{3}}{_OCTET}")


def ip_prefix(address: str) -> str:
    """The network of an address, /24 or /48; empty where there is none."""
    if _IPV4.fullmatch(address):
        return address[: address.rindex(".")] + ".0"
    try:
        found = ipaddress.ip_address(address.strip())
    except ValueError:
        return ""
    bits = 24 if found.version == 4 else 48
    return str(ipaddress.ip_network((found, bits), strict=False).network_address)


def flat(properties: Mapping[str, Any]) -> dict[str, str]:
    """Properties as texts: scalars written out, nested values as JSON, nulls left out. The first 200 count."""
    texts: dict[str, str] = {}
    for name, value in properties.items():
        if value is None:
            continue
        if len(texts) == MAX_PROPERTIES:
            break
        kind = type(value)
        if kind is str:
            text = value
        elif kind is bool:
            text = "true" if value else "false"
        else:
            text = str(value) if kind is int or kind is float else orjson.dumps(value).decode()
        texts[str(name)[:MAX_ID]] = text
    return texts


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
