"""Expands a withdrawal of consent: every id linked to its subject, and requests to the other rooms."""

import hashlib
from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple

from streams.identity.graph.limits import USER
from streams.identity.graph.store import GraphStore
from streams.identity.graph.union_find import ERASED, GraphView, Slot, is_root

REVOCATIONS, SIGNALS, REQUESTS = "consent.revocations", "consent.signals", "privacy.requests"
MOST_NODES = 10_000
"""Of one component; more nodes are no person, and the rest is not expanded."""


class Component(NamedTuple):
    """All nodes linked to a node."""

    nodes: tuple[str, ...]
    """Sorted, so that a replay writes the same."""
    profiles: tuple[str, ...]
    """Profile ids that events of these nodes may carry: any of them was a root once, or a user's label."""
    whole: bool
    """False: there are more than `MOST_NODES`."""
    live: tuple[str, ...]
    """Nodes that are neither shared nor erased: they receive and hand over refusals."""


def find_root(store: GraphStore, node: str, slot: Slot | None) -> tuple[str, Slot | None]:
    """Return the root of a node whose slot was read, and the root's slot. Retryable while the store is unavailable."""
    while slot is not None and not is_root(node, slot):
        node, (slot,) = slot.parent, store.read([slot.parent])
    return node, slot


def find_children(store: GraphStore, level: Sequence[str], excluded: Container[str]) -> dict[str, Slot]:
    """Return nodes whose slot points at one of these, without those in `excluded`. Retryable."""
    below = [(child, parent) for parent, children in zip(level, store.children(level), strict=True) for child in children]
    new = sorted({child for child, _ in below if child not in excluded})
    slots = dict(zip(new, store.read(new), strict=True))
    return {child: slot for child, parent in below if (slot := slots.get(child)) is not None and slot.parent == parent}


def find_component(store: GraphStore, node: str) -> Component:
    """Return the component of one node; see `find_components`. Retryable."""
    return find_components(store, [node])[0]


def find_components(store: GraphStore, nodes: Sequence[str]) -> list[Component]:
    """Return the component of each node: up to the root, then down; a round trip for each level. Retryable.

    A demoted node is alone. What hung under it stays with its root; what hangs under a demoted user is free, each branch by
    itself (see `union_find.plan`).
    """
    view = GraphView()
    while unread := sorted(view.missing(nodes)):
        view.slots.update(zip(unread, store.read(unread), strict=True))
    tops = {node: _top(view, node) for node in nodes if not view.marked(node)}
    trees = {top: _Tree(top, view.slots.get(top)) for top in tops.values()}
    _descend(store, trees)
    alone = {node: Component((node,), (node,), True, ()) for node in nodes if node not in tops}
    return [alone[node] if node in alone else trees[tops[node]].component(view, node) for node in nodes]


def _top(view: GraphView, node: str) -> str:
    """Return the root of the tree of a node that is not demoted."""
    root = view.find(node)
    return view.below_users(node) if root[0] == USER and view.marked(root) else root


class _Tree:
    """The nodes under a root."""

    def __init__(self, top: str, slot: Slot | None) -> None:
        self._erased = slot is not None and slot.state == ERASED
        self._top = top
        shared = slot is not None and slot.state != "" and not self._erased
        self._nodes = set() if shared else {top}
        self._shared = {top} if shared else set()

    def __len__(self) -> int:
        return len(self._nodes) + len(self._shared)

    def add(self, child: str, slot: Slot) -> None:
        (self._shared if slot.state else self._nodes).add(child)

    def component(self, view: GraphView, node: str) -> Component:
        """Return the component for one of its nodes."""
        root = view.find(node)
        label = view.label(root)
        nodes = self._nodes | {node}
        live = nodes - {self._top} if self._erased else nodes
        profiles = nodes | self._shared | {root} | ({label} if label else set())
        return Component(tuple(sorted(nodes)), tuple(sorted(profiles)), len(self) < MOST_NODES, tuple(sorted(live)))


def _descend(store: GraphStore, trees: Mapping[str, _Tree]) -> None:
    """Add the children of all trees, level by level."""
    tops, level = {top: top for top in trees}, sorted(trees)
    while level:
        below, level = find_children(store, level, tops), []
        for child, slot in sorted(below.items()):
            top = tops[slot.parent]
            if len(trees[top]) < MOST_NODES:
                trees[top].add(child, slot)
                tops[child] = top
                level.append(child)


def superseded_by_erasure(revocation: Mapping[str, Any], slot: Slot | None) -> bool:
    """Return whether the subject with this slot was erased after the withdrawal, which then names nobody."""
    return slot is not None and slot.state == ERASED and revocation["received_ts"] <= slot.since


def request_id(revocation: Mapping[str, Any]) -> str:
    """Return 32 hexadecimal characters of a SHA-256, the same for the same withdrawal."""
    parts = [
        revocation["subject"], revocation["site"], revocation["regulation"], *sorted(revocation["purposes"]),
        str(revocation["withdrawn_ts"]),
    ]  # fmt: skip
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:32]


def request_record(revocation: Mapping[str, Any], linked: Component, sla_ms: int) -> dict[str, Any]:
    """Build the record of `privacy.requests`."""
    return {
        "request_id": request_id(revocation), "kind": "withdrawal", "subject": revocation["subject"],
        "nodes": list(linked.nodes), "profiles": list(linked.profiles), "site": revocation["site"],
        "purposes": list(revocation["purposes"]), "withdrawn_ts": revocation["withdrawn_ts"],
        "requested_ts": revocation["received_ts"], "deadline_ts": revocation["received_ts"] + sla_ms,
    }  # fmt: skip


def signal_records(revocation: Mapping[str, Any], linked: Component) -> Sequence[dict[str, Any]]:
    """Build the records of `consent.signals` that repeat the withdrawal for every other node."""
    return [
        {
            "subject": node, "site": revocation["site"], "regulation": revocation["regulation"], "kind": "withdrawal",
            "signals": {}, "purposes": list(revocation["purposes"]), "chosen_ts": revocation["withdrawn_ts"],
            "received_ts": revocation["received_ts"], "via": "linked", "evidence": revocation["evidence"],
        }
        for node in linked.nodes
        if node != revocation["subject"]
    ]  # fmt: skip
