"""`POST /v1/consent`: choices and withdrawals without an event, from a consent platform's webhook or a form. Pure.

Body: one choice, an array, or `{"choices": [...]}`. A choice names whom it is about (the identifiers of `/v1/events`, each of
them), and either `consent` (signals, as with an event) or `"kind": "withdrawal"` with the `purposes` withdrawn (none = all).
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from infra.parsing.site import site_of
from infra.parsing.times import parse_time
from streams.collector.event import InvalidField, InvalidItem, parse_object, read_object, read_text, read_texts
from streams.collector.protocols.own import IDENTIFIERS
from streams.collector.signals.field_roles import MAX_NAME
from streams.collector.signals.signals import SignalBuilder
from streams.identity.nodes import NodeKeys, all_nodes, event_nodes

PURPOSES = ("analytics", "marketing", "personalization")
UNDATED = 0
"""`chosen_ts` of a choice with an unreadable time: consent dates a refusal by its arrival and leaves a grant undated."""
_REPEATED = re.compile(r"#[0-9]+$")


@dataclass(frozen=True, slots=True)
class SentChoice:
    """One choice as it was sent."""

    identifiers: Sequence[tuple[str, str]]
    kind: str
    signals: Mapping[str, str]
    purposes: Sequence[str]
    chosen: int | None
    """Milliseconds UTC; None = now, `UNDATED` = an unreadable time."""
    site: str
    """Normalised as events' hosts are; empty = the key's site."""
    evidence: str
    """The first 16 hex digits of the item's SHA-256."""


def extract_items(body: Any) -> list[Any]:
    """Return the items of a body. InvalidField where it is neither an object nor an array."""
    if isinstance(body, list):
        return body
    if not isinstance(body, dict):
        raise InvalidField('the body must be a choice, an array of choices, or {"choices": [...]}')
    if "choices" not in body:
        return [body]
    if not isinstance(body["choices"], list):
        raise InvalidField("choices must be an array")
    return body["choices"]


def parse_item(item: Any) -> SentChoice | InvalidItem:
    """Parse one choice."""
    return parse_object(item, "a choice", _parse)


def _parse(item: Mapping[str, Any]) -> SentChoice:
    kind = read_text(item, "kind") or "choice"
    if kind not in ("choice", "withdrawal"):
        raise InvalidField("kind must be choice or withdrawal")
    signals = SignalBuilder()
    signals.add_signal_fields(item)
    if kind == "choice" and not signals.as_map():
        raise InvalidField("consent must say what was chosen, or kind must be withdrawal")
    purposes = item.get("purposes", [])
    if not isinstance(purposes, list) or not set(map(str, purposes)) <= set(PURPOSES):
        raise InvalidField(f"purposes must be an array of {', '.join(PURPOSES)}")
    if platform := read_text(item, "platform"):
        signals.put("platform", platform)
    evidence = hashlib.sha256(orjson.dumps(item, option=orjson.OPT_SORT_KEYS, default=str)).hexdigest()[:16]
    return SentChoice(
        _read_identifiers(item),
        kind,
        signals.as_map(),
        purposes,
        _read_chosen_time(item, signals.as_map()),
        _read_site(item),
        evidence,
    )


def _read_identifiers(item: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (kind, value) of every identifier. InvalidField where one is of another type: a refusal must reach its person."""
    person = read_object(item, "user_data")
    identifiers = [(kind, read_text(item, name)) for name, kind in IDENTIFIERS.items()]
    identifiers += [("email", value) for value in read_texts(person, "email", "email_address")]
    identifiers += [("phone", value) for value in read_texts(person, "phone", "phone_number")]
    return [(kind, value) for kind, value in identifiers if value]


def strip_repeat_suffix(name: str) -> str:
    """Return a signal's name without the `#2`, `#3`, ... of a repeated one."""
    return _REPEATED.sub("", name[:MAX_NAME])


def _read_chosen_time(item: Mapping[str, Any], signals: Mapping[str, str]) -> int | None:
    """Return the time of the choice, from beside the consent object or from within it."""
    values = [value for value in (item.get("chosen_ts"), signals.get("chosen_ts")) if value not in (None, "")]
    if not values:
        return None
    moment = parse_time(values[0])
    return UNDATED if moment is None else moment


def _read_site(item: Mapping[str, Any]) -> str:
    host = read_text(item, "site")
    site = site_of(host)
    if host.strip() and not site:
        raise InvalidField("site must be the host of the pages that it is about, such as shop.example")
    return site


def build_records(choice: SentChoice, keys: NodeKeys, site: str, now: int) -> list[tuple[str, dict[str, Any]]]:
    """Return (Kafka key, record of `consent.signals`) for each subject of a choice; none where it identifies nobody."""
    # A withdrawal applies to the nodes of every key version, including versions that are no longer in use.
    chosen = now if choice.chosen is None or (choice.chosen == UNDATED and choice.kind == "withdrawal") else choice.chosen
    nodes = all_nodes(keys, choice.identifiers) if choice.kind == "withdrawal" else event_nodes(keys, choice.identifiers).nodes
    return [
        (
            subject,
            {
                "subject": subject, "site": choice.site or site, "regulation": "", "kind": choice.kind,
                "signals": dict(choice.signals), "purposes": list(choice.purposes), "chosen_ts": chosen,
                "received_ts": now, "via": "webhook", "evidence": choice.evidence,
            },
        )
        for subject in nodes
    ]  # fmt: skip
