"""`POST /v1/consent`: choices and withdrawals that come without an event, from a consent platform's webhook or a form. Pure.

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
from streams.collector.event import InvalidField, InvalidItem, text
from streams.collector.protocols.own import identifiers_of
from streams.collector.signals.signals import MAX_NAME, SignalBuilder
from streams.identity.nodes import NodeKeys, all_nodes, event_nodes

PURPOSES = ("analytics", "marketing", "personalization")
UNDATED = 0
"""`chosen_ts` of a choice whose time cannot be read: the gate takes a refusal as made on arrival, and a grant as undated."""
_REPEATED = re.compile(r"#[0-9]+$")


@dataclass(frozen=True, slots=True)
class SentChoice:
    """One choice as it was sent."""

    identifiers: Sequence[tuple[str, str]]
    kind: str
    signals: Mapping[str, str]
    purposes: Sequence[str]
    chosen: int | None
    """Milliseconds UTC; None = now, `UNDATED` = a time that cannot be read."""
    site: str
    """As events' hosts are written; empty = the key's."""
    evidence: str
    """Hash of the item."""


def items_of(body: Any) -> list[Any]:
    """The items of a body. Wrong where it is neither object nor array."""
    if isinstance(body, list):
        return body
    if not isinstance(body, dict):
        raise InvalidField('the body must be a choice, an array of choices, or {"choices": [...]}')
    if "choices" not in body:
        return [body]
    if not isinstance(body["choices"], list):
        raise InvalidField("choices must be an array")
    return body["choices"]


def read(item: Any) -> SentChoice | InvalidItem:
    """One item."""
    if not isinstance(item, dict):
        return InvalidItem("a choice must be an object")
    try:
        return _read(item)
    except InvalidField as error:
        return InvalidItem(str(error))


def _read(said: Mapping[str, Any]) -> SentChoice:
    kind = text(said, "kind") or "choice"
    if kind not in ("choice", "withdrawal"):
        raise InvalidField("kind must be choice or withdrawal")
    built = SignalBuilder()
    built.add_named(said)
    if kind == "choice" and not built.as_map():
        raise InvalidField("consent must say what was chosen, or kind must be withdrawal")
    purposes = said.get("purposes", [])
    if not isinstance(purposes, list) or not set(map(str, purposes)) <= set(PURPOSES):
        raise InvalidField(f"purposes must be an array of {', '.join(PURPOSES)}")
    if platform := text(said, "platform"):
        built.put("platform", platform)
    evidence = hashlib.sha256(orjson.dumps(said, option=orjson.OPT_SORT_KEYS, default=str)).hexdigest()[:16]
    return SentChoice(
        identifiers_of(said), kind, built.as_map(), purposes, _chosen(said, built.as_map()), _site(said), evidence
    )


def plain_name(name: str) -> str:
    """The name of a signal that may be the second or a later one of that name."""
    return _REPEATED.sub("", name[:MAX_NAME])


def _chosen(said: Mapping[str, Any], signals: Mapping[str, str]) -> int | None:
    """When it was chosen: beside the consent object or in it."""
    values = [value for value in (said.get("chosen_ts"), signals.get("chosen_ts")) if value not in (None, "")]
    if not values:
        return None
    moment = parse_time(values[0])
    return UNDATED if moment is None else moment


def _site(said: Mapping[str, Any]) -> str:
    named = text(said, "site")
    site = site_of(named)
    if named.strip() and not site:
        raise InvalidField("site must be the host of the pages that it is about, such as shop.example")
    return site


def records(choice: SentChoice, keys: NodeKeys, site: str, now: int) -> list[tuple[str, dict[str, Any]]]:
    """(Kafka key, record of `consent.signals`) for each of its subjects; none where nobody is named that can be told apart."""
    # A withdrawal holds under every name that she ever had, whatever versions of the keys are in use.
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
