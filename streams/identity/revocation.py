"""A withdrawal of consent, expanded: every id that is linked to the one that withdrew, and what other rooms are asked to do."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from streams.identity.rules import ERASED, USER
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


def component(store: GraphStore, node: str) -> Component:
    """Up to the root by slots, then down by children whose slot holds. Retryable while the store is away.

    A node that was demoted is nobody's: it is alone. What hung under it before stays with its root.
    """
    root, (slot,) = node, store.read([node])
    if slot is not None and slot.state:
        return Component((node,), (node,), whole=True)
    while root[0] != USER and slot is not None and slot.parent != root:
        root, (slot,) = slot.parent, store.read([slot.parent])
    # From the root down, the node's own branch included: it may lie in the middle of a tree.
    found, shared, level = {root}, set[str](), [root]
    labels = {slot.parent} if root[0] == USER and slot is not None else set[str]()
    while level and len(found) < MOST_NODES:
        below = [(child, parent) for parent, children in zip(level, store.children(level), strict=True) for child in children]
        new = sorted({child for child, _ in below if child[0] != USER} - found - shared)
        slots = dict(zip(new, store.read(new), strict=True))
        held = {child for child, parent in below if (at := slots.get(child)) is not None and at.parent == parent}
        level = sorted(held)[: MOST_NODES - len(found)]
        shared.update(child for child in level if (at := slots[child]) is not None and at.state)
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
