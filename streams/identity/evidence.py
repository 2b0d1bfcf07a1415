"""What goes out beside the events: slots for the log, the evidence of links, and nodes that were demoted."""

import hashlib
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Protocol

from schemas.codec import Record, encode
from schemas.registry import Registry
from streams.identity.rules import Nodes, Slot, View, Write, live
from streams.runtime.stage import Outcome, Output

LINKS = "identity.links"
SAME_EVENT = "same_event"
KEPT_LINKS = 200_000
"""Combinations of nodes that a worker remembers to have given evidence of."""


class Seen(Protocol):
    """An event with two nodes or more."""

    @property
    def head(self) -> Record:
        """Its first fields."""
        ...

    @property
    def nodes(self) -> Nodes:
        """Strongest first."""
        ...


def slot_record(node: str, slot: Slot, event_id: str, evidence_ts: int) -> Record:
    """The record of `identity.merges`."""
    return {
        "node": node, "parent": slot.parent, "epoch": slot.epoch, "event_id": event_id,
        "evidence_ts": slot.since or evidence_ts, "state": slot.state,
    }  # fmt: skip


def slot_of(record: Mapping[str, Any]) -> Slot:
    """The slot that a record of `identity.merges` holds."""
    state = record["state"]
    return Slot(record["parent"], True, record["epoch"], state, record["evidence_ts"] if state == "erased" else 0)


def log_key(node: str, slot: Slot) -> bytes:
    """Each rewrite has a key of its own: an older slot that is logged again later does not replace the newer one."""
    return f"{node}|{slot.epoch}".encode() if slot.epoch else node.encode()


def link_id(nodes: Nodes) -> str:
    """32 hexadecimal characters, the same for the same nodes."""
    return hashlib.sha256("|".join(nodes).encode()).hexdigest()[:32]


def link_record(nodes: Nodes, head: Mapping[str, Any]) -> Record:
    """The record of `identity.links`."""
    return {
        "link_id": link_id(nodes), "nodes": list(nodes), "rule": SAME_EVENT, "event_id": head["event_id"],
        "evidence_ts": head["collector_ts"], "consent_purposes": head["consent_purposes"],
    }  # fmt: skip


def conflict(view: View, write: Write, head: Mapping[str, Any]) -> Record:
    """The record of `identity.conflicts`."""
    return {
        "node": write.node, "rule": write.rule, "kept": view.find(write.node), "refused": write.refused,
        "epoch": write.slot.epoch, "event_id": head["event_id"], "evidence_ts": head["collector_ts"],
    }  # fmt: skip


class Evidence:
    """Says each combination of nodes once, and again after a start; compaction keeps one of them."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._said: dict[Nodes, None] = {}

    def add(self, outcome: Outcome, view: View, events: Iterable[Seen]) -> None:
        """Put what is new among `events` out, and remember it once that is committed."""
        new: dict[Nodes, Record] = {}
        for event in events:
            if event.nodes not in self._said and event.nodes not in new:
                new[event.nodes] = event.head
        if not new:
            return
        contract = self._registry.latest(LINKS)
        out = outcome.out.setdefault(LINKS, [])
        for nodes, head in new.items():
            linked = live(view, nodes)
            if len(linked) > 1:
                record = link_record(linked, head)
                out.append(Output(record["link_id"].encode(), encode(contract, record)))
        outcome.after_commit.append(partial(self._remember, list(new)))

    def _remember(self, said: Iterable[Nodes]) -> None:
        self._said.update(dict.fromkeys(said))
        while len(self._said) > KEPT_LINKS:
            del self._said[next(iter(self._said))]
