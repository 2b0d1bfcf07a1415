"""Takes a person out of the graph: all linked nodes are marked as erased, so that no replay restores them.

Every step is idempotent: the next run completes one that was interrupted.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from infra.errors import Retryable
from streams.identity.evidence import link_id
from streams.identity.graph.slots import log_key, slot_record
from streams.identity.graph.store import GraphStore
from streams.identity.graph.union_find import ERASED, SHARED, Slot, Write
from streams.identity.nodes import Alias
from streams.identity.refusals.revocation import Component, find_component

ROUNDS = 20
"""Attempts to write a slot while workers change it."""
CHUNK = 1_000

Record = Mapping[str, Any]


class Members(NamedTuple):
    """The nodes of an erased person."""

    nodes: tuple[str, ...]
    """The person's own nodes, sorted."""
    profiles: tuple[str, ...]
    """Profile ids that the person's events may carry."""
    shared: tuple[str, ...]
    """Nodes among the profiles that several persons use; they are kept."""


Later = Callable[[Iterable[str]], set[str]]
"""Nodes -> the nodes that they become under later versions of the keys."""


class NotErasable(ValueError):
    """This cannot be erased; the message gives the reason and contains no id."""


def find_members(store: GraphStore, node: str, alias: Alias) -> Members:
    """Return all that is linked to a node. NotErasable for a shared node, and for more nodes than one person has."""
    linked = find_component(store, node)
    if not linked.whole:
        raise NotErasable(f"more than {len(linked.nodes):,} ids are linked to it, which is no person: split them first")
    (slot,) = store.read([node])
    if slot is not None and slot.state == SHARED:
        raise NotErasable("several persons use this id, so it is nobody's and nothing is linked to it")
    return _members(store, linked, alias)


def find_all_members(store: GraphStore, names: Sequence[str], alias: Alias, later: Later) -> Members:
    """Return all that is linked to any of the nodes of one identifier under several versions of the keys.

    Includes their nodes under later versions where those are linked to nobody else. NotErasable if one of them is not erasable.
    """
    components: list[Members] = []
    for name in names:
        if not any(name in component.nodes for component in components):
            components.append(find_members(store, name, alias))
    nodes, profiles, shared = (set[str]().union(*sets) for sets in zip(*components, strict=True))
    others = sorted(later(nodes) - nodes)
    linked = zip(others, _read(store, others), store.children(others), strict=True)
    unknown = {node for node, slot, children in linked if slot is None and not children}
    return Members(tuple(sorted(nodes | unknown)), tuple(sorted(profiles | unknown)), tuple(sorted(shared)))


def extend_members(store: GraphStore, members: Members, alias: Alias) -> Members:
    """Add what workers have linked to these nodes before they knew of the erasure. Retryable."""
    nodes, profiles, shared = (set(group) for group in members)
    children = set[str]().union(*store.children([*members.nodes, *members.shared]))
    for child, slot in zip(new := sorted(children - nodes - shared), _read(store, new), strict=True):
        if slot is not None and slot.parent in nodes and not slot.state:
            late = find_members(store, child, alias)
            nodes.update(late.nodes)
            profiles.update(late.profiles)
            shared.update(late.shared)
        elif slot is not None and slot.parent in nodes and slot.state == SHARED:
            profiles.add(child)
            shared.add(child)
    return Members(*(tuple(sorted(group)) for group in (nodes, profiles, shared)))


def _members(store: GraphStore, linked: Component, alias: Alias) -> Members:
    others = sorted(set(linked.profiles) - set(linked.nodes))
    shared = [
        node for node, slot in zip(others, _read(store, others), strict=True) if slot is not None and slot.state == SHARED
    ]
    profiles = set(linked.profiles)
    for node, slot in zip(linked.nodes, _read(store, linked.nodes), strict=True):
        # Events after an earlier erasure carry an alias of that epoch.
        profiles.update(alias(node, epoch) for epoch in range(1, 1 + (0 if slot is None else slot.epoch)))
    return Members(linked.nodes, tuple(sorted(profiles)), tuple(shared))


def suppress(store: GraphStore, members: Members, since: int) -> list[tuple[str, Slot]]:
    """Mark every node as erased and detach shared ones; return the slots that must be logged. Retryable."""
    for _ in range(ROUNDS):
        nodes = [*members.nodes, *members.shared]
        slots = dict(zip(nodes, _read(store, nodes), strict=True))
        writes = [Write(node, slots[node], _erased(node, slots[node], since), 0) for node in members.nodes]
        for node in members.shared:
            current = slots[node]
            if current is not None and current.state == SHARED and current.parent in members.nodes:
                writes.append(Write(node, current, Slot(node, logged=False, epoch=current.epoch + 1, state=SHARED), 0))
        writes = [write for write in writes if write.slot != write.expected]
        if not writes:
            return [
                (node, slot) for node, slot in slots.items() if slot is not None and (node in members.nodes or not slot.logged)
            ]
        store.write(writes)
    raise Retryable("workers change these slots all the time")


def _erased(node: str, current: Slot | None, since: int) -> Slot:
    if current is not None and current.state == ERASED and current.since >= since:
        return current
    return Slot(node, logged=False, epoch=1 if current is None else current.epoch + 1, state=ERASED, since=since)


def count_unsuppressed(store: GraphStore, members: Members) -> int:
    """Return how many nodes are not marked, or shared and still attached to one of the person's nodes."""
    slots = zip([*members.nodes, *members.shared], _read(store, [*members.nodes, *members.shared]), strict=True)
    return sum(
        slot is None or slot.state != ERASED if node in members.nodes else slot is not None and slot.parent in members.nodes
        for node, slot in slots
    )


def log_records(slots: Iterable[tuple[str, Slot]], now_ms: int) -> list[tuple[bytes, dict[str, Any]]]:
    """Return keys and records of `identity.merges` for these slots."""
    return [(log_key(node, slot), slot_record(node, slot, "", now_ms)) for node, slot in slots]


def is_outdated(record: Record, epochs: Mapping[str, int]) -> bool:
    """Return whether a record of `identity.merges` is older than its node's slot; `epochs`: node -> epoch."""
    return bool(record["epoch"] < epochs.get(record["node"], 0))


def reveals_links(record: Record, nodes: frozenset[str], epochs: Mapping[str, int]) -> bool:
    """Return whether a record of `identity.merges` that names the person says more than that a node is erased."""
    return record["state"] != ERASED or record["node"] not in nodes or is_outdated(record, epochs)


def slot_epochs(store: GraphStore, nodes: Sequence[str]) -> dict[str, int]:
    """Return node -> epoch of the slots that exist."""
    slots = zip(nodes, _read(store, nodes), strict=True)
    return {node: slot.epoch for node, slot in slots if slot is not None}


def strip_nodes(record: Record, nodes: frozenset[str]) -> dict[str, Any] | None:
    """Return a record of `identity.links` without these nodes; None where it links nothing then."""
    rest = tuple(node for node in record["nodes"] if node not in nodes)
    return {**record, "link_id": link_id(rest), "nodes": list(rest)} if len(rest) > 1 else None


def find_holders(store: GraphStore, members: Members, nodes: Iterable[str]) -> tuple[str, ...]:
    """Return other nodes that may hold the person's nodes: those of the same events (`nodes`) and everything above them."""
    result, level = set(members.shared), sorted({*nodes, *members.shared} - set(members.nodes))
    while level:
        result.update(level)
        above = {slot.parent for slot in _read(store, level) if slot is not None}
        level = sorted(above - result - set(members.nodes))
    return tuple(sorted(result))


def _read(store: GraphStore, nodes: Sequence[str]) -> list[Slot | None]:
    return [slot for start in range(0, len(nodes), CHUNK) for slot in store.read(nodes[start : start + CHUNK])]


__all__ = [
    "Members", "NotErasable", "count_unsuppressed", "extend_members", "find_all_members", "find_holders", "find_members",
    "is_outdated", "log_records", "reveals_links", "slot_epochs", "strip_nodes", "suppress",
]  # fmt: skip
