"""Turns an event into a record of `events.raw`: time, pseudonyms, masks, coarse addresses. Pure but for its caches.

Consent signals are passed on as sent: the collector never decides about consent.
"""

import hashlib
import ipaddress
import re
import secrets
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple

from infra.parsing.address import parse_address
from infra.parsing.site import page_site
from infra.parsing.times import YEAR_2000_MS
from schemas.codec import Record
from schemas.registry import Contract
from streams.collector.event import ProtocolEvent
from streams.collector.fields.agents import device_class, is_bot, is_visitors
from streams.collector.fields.event_ids import MAX_ID, readable_event_id
from streams.collector.fields.property_texts import PropertyTexts, value_text
from streams.collector.masking.event_mask import LONGEST_SIGNAL_NAME, MAX_SIGNAL, EventMask, OnMasked
from streams.collector.masking.field_names import Category
from streams.collector.signals.signals import add_gpc
from streams.collector.write_keys import KeyKind
from streams.identity.nodes import NodeKeys, event_nodes, normalise

FUTURE_MS = 23 * 3_600_000
TRANSIT_MS = 60_000
"""Difference between the clocks of device and collector up to which it is not skew but the request's way."""
MAX_TEXT = 4_096
SHORT_TEXTS = ("session_id", "group_id", "language", "screen", "timezone")
"""Fields that are texts and nothing else."""
LIMITS = {
    "order_id": MAX_ID, "tag_version": MAX_ID, "page_url": MAX_TEXT, "page_title": MAX_TEXT, "page_referrer": MAX_TEXT,
    "user_agent": MAX_TEXT, "decision_token": MAX_TEXT, "session_id": MAX_ID, "group_id": MAX_ID, "language": 64, "screen": 64,
    "timezone": 64,
}  # fmt: skip
"""Characters of fields of the contract. What is cut is named in `problems`."""
MAX_VISITORS = 8_192
"""Sets of identifiers whose nodes are remembered."""
MAX_PROBLEMS, MAX_PROBLEM = 20, 256
"""Problems of an event, and characters of each."""

KNOWN = frozenset(
    {
        "event_id", "event_name", "source", "site", "heartbeat", "collector_ts", "region", "signals", "identifiers",
        "decision_token", "order_id", "value", "currency", "event_ts", "event_ts_source", "protocol", "tag_version",
        "page_url", "page_title", "page_referrer", "user_agent", "device_class", "bot", "ip_prefix", "click_ids",
        "match_tokens", "properties", "items", "session_id", "group_id", "language", "screen", "timezone", "user_properties",
        "problems", "imported",
    }
)  # fmt: skip
"""Fields that this module computes; every other field of the contract is filled from the property of its name."""


class RequestContext(NamedTuple):
    """Facts of a request that its events inherit."""

    source: str
    site: str
    """Site of events that name no page."""
    now_ms: int
    region: str | None = ""
    """Region from the trusted header; None where the event's own region counts instead."""
    user_agent: str = ""
    ip: str = ""
    gpc: str = ""
    """The header `Sec-GPC` as sent; empty where it is absent or no objection."""
    kind: KeyKind = KeyKind.SERVER
    problems: tuple[str, ...] = ()
    """What was wrong with the body as a whole, and mended."""


class Normaliser:
    """Builds records of one contract version."""

    def __init__(self, contract: Contract, keys: NodeKeys) -> None:
        self.contract = contract
        self._keys = keys
        # A visitor's events repeat the identifiers: their normalisation and HMACs are a tenth of an event's cost.
        self._event_nodes = lru_cache(MAX_VISITORS)(partial(event_nodes, keys))
        self._added = [field for field in contract.schema["fields"] if field["name"] not in KNOWN]

    def build_record(self, event: ProtocolEvent, request: RequestContext, on_masked: OnMasked) -> tuple[str, Record]:
        """Return (Kafka key, record). `on_masked` is called with the name of each field in which something was masked."""
        region = choose_region(event, request)
        subject, nodes = self._event_nodes(tuple(event.identifiers), region)
        agent = _agent(event, request)
        mask = EventMask(event, request.ip, on_masked, agent)
        problems = [*request.problems, *event.problems, *_long_fields(event)]
        event_id = self._build_event_id(event, mask, problems)
        event_ts, clock = choose_event_time(event, request, problems)
        page_url, site = _mask_page(event, request, mask)
        properties, added = self._split_properties(mask, problems)
        texts = PropertyTexts(problems)
        return subject or event_id, {
            "event_id": event_id,
            "event_name": mask.mask_short("event_name", event.name, MAX_ID),
            "site": site,
            "region": region,
            "signals": _mask_signals(event, request, mask),
            "identifiers": nodes,
            "decision_token": mask.mask_short("decision_token", event.decision_token, MAX_TEXT),
            "order_id": mask.mask_order_id(event.order_id, LIMITS["order_id"], self._keys.first["user"]),
            "value": event.value,
            "currency": mask.mask_short("currency", event.currency, 8),
            "event_ts": event_ts,
            "event_ts_source": clock,
            "protocol": event.protocol,
            "tag_version": mask.mask_short("tag_version", event.tag_version, LIMITS["tag_version"], Category.VERSION),
            "page_url": page_url,
            "page_title": mask.mask_short("page_title", event.page_title, MAX_TEXT),
            "page_referrer": mask.mask_field("page_referrer", event.page_referrer, MAX_TEXT),
            "user_agent": mask.mask_field("user_agent", agent, MAX_TEXT),
            **_describe_device(event, request, agent[:MAX_TEXT]),
            "ip_prefix": ip_prefix(event.ip or request.ip),
            "click_ids": mask.mask_click_ids(event.click_ids, MAX_TEXT),
            "match_tokens": match_tokens(event, region),
            "properties": texts.flatten(properties),
            "items": [texts.flatten(item, "items.") for item in mask.mask_items()] if event.items else [],
            **{name: mask.mask_short(name, getattr(event, name), LIMITS[name]) for name in SHORT_TEXTS},
            "user_properties": texts.flatten(mask.mask_traits(), "user_properties.") if event.user_properties else {},
            "problems": limit_problems(problems),
            **_describe_request(request),
            **added,
        }

    def _split_properties(self, mask: EventMask, problems: list[str]) -> tuple[dict[str, Any], Record]:
        """Return the masked properties without those for which the contract has a field, and these fields.

        A property that does not have its field's type is noted, and stays a property.
        """
        properties, added = dict(mask.mask_properties()), {}
        for field in self._added:
            name = field["name"]
            if (value := properties.get(name)) is None:
                continue
            try:
                added[name] = _convert(value, field)
                del properties[name]
            except (TypeError, ValueError, OverflowError):
                added[name] = field.get("default")
                problems.append(f"{name}: a value of the type {_kind(field)}")
        return properties, added

    def _build_event_id(self, event: ProtocolEvent, mask: EventMask, problems: list[str]) -> str:
        if event.event_id:
            event_id = readable_event_id(event.event_id)
            if event_id != event.event_id.strip():
                problems.append(f"event_id: an id of 1 to {MAX_ID} characters that differs from event to event")
            if event_id:
                return mask.mask_event_id(event_id, self._keys.first["user"])
        if event.derive_from:
            return hashlib.sha256(event.derive_from).hexdigest()[:32]
        return secrets.token_hex(16)


def choose_region(event: ProtocolEvent, request: RequestContext) -> str:
    """Return the visitor's region: the trusted header's, or the event's own where headers tell the server's."""
    return event.region if request.region is None else request.region


def signals_of(event: ProtocolEvent, request: RequestContext) -> Mapping[str, str]:
    """Return the signals of an event as its record has them."""
    return _mask_signals(event, request, EventMask(event, request.ip, lambda _field: None, _agent(event, request)))


def _mask_signals(event: ProtocolEvent, request: RequestContext, mask: EventMask) -> Mapping[str, str]:
    return mask.mask_signals(add_gpc(event.signals, request.gpc) if request.gpc else event.signals)


def _agent(event: ProtocolEvent, request: RequestContext) -> str:
    return event.user_agent or request.user_agent


def _describe_request(request: RequestContext) -> Record:
    """Return the fields that are the request's."""
    return {
        "source": request.source,
        "heartbeat": False,
        "collector_ts": request.now_ms,
        "imported": request.kind is KeyKind.IMPORT,
    }


def _describe_device(event: ProtocolEvent, request: RequestContext, agent: str) -> Record:
    """Return the fields that tell devices and crawlers apart, by the visitor's agent."""
    visitor_agent = agent if event.user_agent or is_visitors(agent, request.kind) else ""
    return {"device_class": device_class(visitor_agent), "bot": is_bot(visitor_agent)}


def _mask_page(event: ProtocolEvent, request: RequestContext, mask: EventMask) -> tuple[str, str]:
    """Return the masked page URL and the event's site, which is the key's where the page's host shows a person's address."""
    page_url = mask.mask_field("page_url", event.page_url, MAX_TEXT)
    site = page_site(event.page_url) or request.site
    if page_url is not event.page_url and mask.mask(site) is not site:
        site = request.site
    return page_url, site


def choose_event_time(event: ProtocolEvent, request: RequestContext, problems: list[str]) -> tuple[int, str]:
    """Return (milliseconds, clock): the device's time, corrected by its skew where its sending time shows one.

    Times of imports are believed as they are. An impossible time is noted in `problems`, and the collector's counts instead.
    """
    now_ms, created_ms = request.now_ms, event.created_ms
    if created_ms is None:
        return now_ms, "collector"
    moment, clock = created_ms, "device"
    if event.sent_ms is not None and request.kind is not KeyKind.IMPORT and abs(now_ms - event.sent_ms) > TRANSIT_MS:
        # Trackers that truncate the sending time to whole seconds seem to send before the event is created.
        moment, clock = now_ms - max(0, event.sent_ms - created_ms), "corrected"
    if not YEAR_2000_MS <= moment <= now_ms + FUTURE_MS:
        problems.append("event time: between 2000 and tomorrow")
        return now_ms, "collector"
    return moment, clock


def _long_fields(event: ProtocolEvent) -> list[str]:
    """Return the problems of fields that are cut. What the event's id and name lack is noted where they are read."""
    texts = ((name, getattr(event, name)) for name in LIMITS)
    problems = [f"{name}: at most {LIMITS[name]} characters" for name, text in texts if len(text) > LIMITS[name]]
    problems += [f"{name}: at most {MAX_TEXT} characters" for name, text in event.click_ids.items() if len(text) > MAX_TEXT]
    if any(len(name) > LONGEST_SIGNAL_NAME or len(text) > MAX_SIGNAL for name, text in event.signals.items()):
        problems.append(f"signals: names of at most {LONGEST_SIGNAL_NAME} characters, values of at most {MAX_SIGNAL}")
    return problems


def limit_problems(problems: list[str]) -> list[str]:
    """Return the first different problems, each cut to a length."""
    if not problems:
        return problems
    different = [problem[:MAX_PROBLEM] for problem in dict.fromkeys(problems)]
    further = len(different) - MAX_PROBLEMS
    return [*different[:MAX_PROBLEMS], f"and {further} more"] if further > 0 else different


def match_tokens(event: ProtocolEvent, region: str = "") -> dict[str, str]:
    """Return SHA-256 of the normalised e-mail and phone, by which advertising partners match. Consent is applied later."""
    tokens = {}
    for kind, value in event.identifiers:
        if kind in ("email", "phone") and (normal := normalise(kind, value, region)):
            tokens[kind] = hashlib.sha256(normal.encode()).hexdigest()
    return tokens


_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = re.compile(rf"(?:{_OCTET}\.){{3}}{_OCTET}")


def ip_prefix(address: str) -> str:
    """Return the network address of an IP address, /24 or /48; empty where it is no IP address."""
    if _IPV4.fullmatch(address):
        return address[: address.rindex(".")] + ".0"
    parsed = parse_address(address)
    if parsed is None:
        return ""
    bits = 24 if parsed.version == 4 else 48
    return str(ipaddress.ip_network((parsed, bits), strict=False).network_address)


def _convert(value: Any, field: Mapping[str, Any]) -> Any:
    """Convert a property to the type of a contract field. TypeError, ValueError or OverflowError where that fails."""
    kind = _kind(field)
    if kind == "string":
        return value if isinstance(value, str) else value_text(value)
    if kind in ("long", "int"):
        return int(value)
    if kind in ("double", "float"):
        return float(value)
    if kind == "boolean" and isinstance(value, bool):
        return value
    if kind == "map" and isinstance(value, Mapping):
        return PropertyTexts([]).flatten(value)
    raise TypeError


def _kind(field: Mapping[str, Any]) -> Any:
    return field["type"]["type"] if isinstance(field["type"], dict) else field["type"]
