"""A person taken out of the graph: all that is linked to her, marked as erased, so that no replay brings her back.

Every step may be done again: a crash anywhere is completed by the next run.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from infra.errors import Retryable
from streams.identity.evidence import link_id
from streams.identity.graph.slots import log_key, slot_record
from streams.identity.graph.store import GraphStore
from streams.identity.graph.union_find import ERASED, SHARED, Slot, Write
from streams.identity.nodes import Alias
from streams.identity.refusals.revocation import Component, component

ROUNDS = 20
"""How often a slot is written anew because a worker was faster."""
CHUNK = 1_000

Record = Mapping[str, Any]


class Members(NamedTuple):
    """Who is erased."""

    nodes: tuple[str, ...]
    """Hers, sorted."""
    profiles: tuple[str, ...]
    """What her events can have been stamped with."""
    shared: tuple[str, ...]
    """Of those, nodes that several persons use: they are nobody's, and stay."""


Later = Callable[[Iterable[str]], set[str]]
"""Nodes -> what they are called under later versions of the keys."""


class NotErasable(ValueError):
    """This cannot be erased; the message says why, and holds no id."""


def members(store: GraphStore, node: str, alias: Alias) -> Members:
    """All that is linked to a node. Refused for a node that several persons use, and for more nodes than a person has."""
    found = component(store, node)
    if not found.whole:
        raise NotErasable(f"more than {len(found.nodes):,} ids are linked to it, which is no person: split them first")
    (slot,) = store.read([node])
    if slot is not None and slot.state == SHARED:
        raise NotErasable("several persons use this id, so it is nobody's and nothing is linked to it")
    return _members(store, found, alias)


def members_of(store: GraphStore, names: Sequence[str], alias: Alias, later: Later) -> Members:
    """All that is linked to any of the nodes that one identifier has under several versions of the keys, and what those nodes
    are called under later versions, where that is linked to nobody else. Refused where one of them is refused."""
    found: list[Members] = []
    for name in names:
        if not any(name in one.nodes for one in found):
            found.append(members(store, name, alias))
    nodes, profiles, shared = (set[str]().union(*some) for some in zip(*found, strict=True))
    others = sorted(later(nodes) - nodes)
    linked = zip(others, _read(store, others), store.children(others), strict=True)
    unknown = {node for node, slot, children in linked if slot is None and not children}
    return Members(tuple(sorted(nodes | unknown)), tuple(sorted(profiles | unknown)), tuple(sorted(shared)))


def more(store: GraphStore, known: Members, alias: Alias) -> Members:
    """The same and whatever a worker has linked to them before it knew that they are erased. Retryable."""
    nodes, profiles, shared = (set(some) for some in known)
    children = set[str]().union(*store.children([*known.nodes, *known.shared]))
    for child, slot in zip(new := sorted(children - nodes - shared), _read(store, new), strict=True):
        if slot is not None and slot.parent in nodes and not slot.state:
            late = members(store, child, alias)
            nodes.update(late.nodes)
            profiles.update(late.profiles)
            shared.update(late.shared)
        elif slot is not None and slot.parent in nodes and slot.state == SHARED:
            profiles.add(child)
            shared.add(child)
    return Members(*(tuple(sorted(some)) for some in (nodes, profiles, shared)))


def _members(store: GraphStore, found: Component, alias: Alias) -> Members:
    others = sorted(set(found.profiles) - set(found.nodes))
    shared = [at for at, slot in zip(others, _read(store, others), strict=True) if slot is not None and slot.state == SHARED]
    profiles = set(found.profiles)
    for node, slot in zip(found.nodes, _read(store, found.nodes), strict=True):
        # What she left since an earlier erasure is stamped with an alias of the epoch.
        profiles.update(alias(node, epoch) for epoch in range(1, 1 + (0 if slot is None else slot.epoch)))
    return Members(found.nodes, tuple(sorted(profiles)), tuple(shared))


def suppress(store: GraphStore, who: Members, since: int) -> list[tuple[str, Slot]]:
    """Mark every node as erased, take shared ones from under them; the slots that the log must have. Retryable."""
    for _ in range(ROUNDS):
        wanted = [*who.nodes, *who.shared]
        slots = dict(zip(wanted, _read(store, wanted), strict=True))
        writes = [Write(node, slots[node], _erased(node, slots[node], since), 0) for node in who.nodes]
        for node in who.shared:
            held = slots[node]
            if held is not None and held.state == SHARED and held.parent in who.nodes:
                writes.append(Write(node, held, Slot(node, logged=False, epoch=held.epoch + 1, state=SHARED), 0))
        writes = [write for write in writes if write.slot != write.held]
        if not writes:
            return [(node, slot) for node, slot in slots.items() if slot is not None and (node in who.nodes or not slot.logged)]
        store.write(writes)
    raise Retryable("workers change these slots all the time")


def _erased(node: str, held: Slot | None, since: int) -> Slot:
    if held is not None and held.state == ERASED and held.since >= since:
        return held
    return Slot(node, logged=False, epoch=1 if held is None else held.epoch + 1, state=ERASED, since=since)


def unsuppressed(store: GraphStore, who: Members) -> int:
    """Nodes that are not marked, and shared ones that hang under one of hers still."""
    slots = zip([*who.nodes, *who.shared], _read(store, [*who.nodes, *who.shared]), strict=True)
    return sum(
        slot is None or slot.state != ERASED if node in who.nodes else slot is not None and slot.parent in who.nodes
        for node, slot in slots
    )


def log_records(slots: Iterable[tuple[str, Slot]], now_ms: int) -> list[tuple[bytes, dict[str, Any]]]:
    """Keys and records of `identity.merges` that say so."""
    return [(log_key(node, slot), slot_record(node, slot, "", now_ms)) for node, slot in slots]


def older(record: Record, epochs: Mapping[str, int]) -> bool:
    """Whether a record of `identity.merges` is older than its node's slot; `epochs` of slots by node."""
    return bool(record["epoch"] < epochs.get(record["node"], 0))


def tells(record: Record, nodes: frozenset[str], epochs: Mapping[str, int]) -> bool:
    """Whether a record of `identity.merges` that names her says more than that she is erased."""
    return record["state"] != ERASED or record["node"] not in nodes or older(record, epochs)


def epochs(store: GraphStore, nodes: Sequence[str]) -> dict[str, int]:
    """Epochs of the slots that there are."""
    slots = zip(nodes, _read(store, nodes), strict=True)
    return {node: slot.epoch for node, slot in slots if slot is not None}


def without(record: Record, nodes: frozenset[str]) -> dict[str, Any] | None:
    """A record of `identity.links` without her nodes; None where it links nothing then."""
    left = tuple(node for node in record["nodes"] if node not in nodes)
    return {**record, "link_id": link_id(left), "nodes": list(left)} if len(left) > 1 else None


def holders(store: GraphStore, who: Members, met: Iterable[str]) -> tuple[str, ...]:
    """Who else may hold her nodes: what they were met with in events, and what hangs above that."""
    found, level = set(who.shared), sorted({*met, *who.shared} - set(who.nodes))
    while level:
        found.update(level)
        above = {slot.parent for slot in _read(store, level) if slot is not None}
        level = sorted(above - found - set(who.nodes))
    return tuple(sorted(found))


def _read(store: GraphStore, nodes: Sequence[str]) -> list[Slot | None]:
    return [slot for start in range(0, len(nodes), CHUNK) for slot in store.read(nodes[start : start + CHUNK])]


__all__ = [
    "Members", "NotErasable", "epochs", "holders", "log_records", "members", "members_of", "more", "older", "suppress", "tells",
    "unsuppressed", "without",
]  # fmt: skip
