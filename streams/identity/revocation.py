"""A withdrawal of consent, expanded: every id that is linked to the one that withdrew, and what other rooms are asked to do."""

import hashlib
from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple

from streams.identity.rules import ERASED, USER, Slot, is_root
from streams.identity.store import GraphStore

MOST_NODES = 10_000
"""Of one component; more is no person, and what lies beyond is not expanded."""


class Component(NamedTuple):
    """All that is linked to a node."""

    nodes: tuple[str, ...]
    """Sorted, so that a replay writes the same."""
    profiles: tuple[str, ...]
    """What events of these nodes can have been stamped with: any of them was a root once, or a user's label."""
    whole: bool
    """False: there are more than `MOST_NODES`."""


def climb(store: GraphStore, node: str, slot: Slot | None) -> tuple[str, Slot | None]:
    """The root above a node, whose slot was read, and the root's slot. Retryable while the store is away."""
    while slot is not None and not is_root(node, slot):
        node, (slot,) = slot.parent, store.read([slot.parent])
    return node, slot


def hanging(store: GraphStore, level: Sequence[str], seen: Container[str]) -> dict[str, Slot]:
    """Nodes whose slot holds them under one of these, those of `seen` left out. Retryable while the store is away."""
    below = [(child, parent) for parent, children in zip(level, store.children(level), strict=True) for child in children]
    new = sorted({child for child, _ in below if child not in seen})
    slots = dict(zip(new, store.read(new), strict=True))
    return {child: slot for child, parent in below if (slot := slots.get(child)) is not None and slot.parent == parent}


def component(store: GraphStore, node: str) -> Component:
    """Up to the root by slots, then down by children whose slot holds. Retryable while the store is away.

    A node that was demoted is nobody's: it is alone. What hung under it before stays with its root.
    """
    (slot,) = store.read([node])
    if slot is not None and slot.state:
        return Component((node,), (node,), whole=True)
    root, slot = climb(store, node, slot)
    # From the root down, the node's own branch included: it may lie in the middle of a tree.
    found, shared, level = {root}, set[str](), [root]
    labels = {slot.parent} if root[0] == USER and slot is not None else set[str]()
    while level and len(found) < MOST_NODES:
        below = hanging(store, level, found | shared)
        level = sorted(below)[: MOST_NODES - len(found)]
        shared.update(child for child in level if below[child].state)
        found.update(child for child in level if child not in shared)
    whole = len(found) < MOST_NODES
    found.add(node)
    return Component(tuple(sorted(found)), tuple(sorted(found | shared | labels)), whole)


def outlived(store: GraphStore, revocation: Mapping[str, Any]) -> bool:
    """Whether who withdrew was erased since: read again, her withdrawal names nobody any more. Retryable."""
    (slot,) = store.read([revocation["subject"]])
    return slot is not None and slot.state == ERASED and revocation["received_ts"] <= slot.since


def request_id(revocation: Mapping[str, Any]) -> str:
    """The same for the same withdrawal: 32 hexadecimal characters of a SHA-256."""
    parts = [
        revocation["subject"], revocation["site"], revocation["regulation"], *sorted(revocation["purposes"]),
        str(revocation["withdrawn_ts"]),
    ]  # fmt: skip
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:32]


def request(revocation: Mapping[str, Any], linked: Component, sla_ms: int) -> dict[str, Any]:
    """The record of `privacy.requests`."""
    return {
        "request_id": request_id(revocation), "kind": "withdrawal", "subject": revocation["subject"],
        "nodes": list(linked.nodes), "profiles": list(linked.profiles), "site": revocation["site"],
        "purposes": list(revocation["purposes"]), "withdrawn_ts": revocation["withdrawn_ts"],
        "requested_ts": revocation["received_ts"], "deadline_ts": revocation["received_ts"] + sla_ms,
    }  # fmt: skip


def signals(revocation: Mapping[str, Any], linked: Component) -> Sequence[dict[str, Any]]:
    """The records of `consent.signals`: the same withdrawal, said of every other node."""
    return [
        {
            "subject": node, "site": revocation["site"], "regulation": revocation["regulation"], "kind": "withdrawal",
            "signals": {}, "purposes": list(revocation["purposes"]), "chosen_ts": revocation["withdrawn_ts"],
            "received_ts": revocation["received_ts"], "via": "linked", "evidence": revocation["evidence"],
        }
        for node in linked.nodes
        if node != revocation["subject"]
    ]  # fmt: skip
