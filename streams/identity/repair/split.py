"""A node taken out of its component: what the rest of the evidence still links, and what is to be rewritten. Pure.

The node is demoted. Every other node stays with those that the remaining evidence links it with; a slot is rewritten only
where it leads out of that part. A demoted node holds together what hung under it before, and an erased one nothing.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from streams.identity.graph.union_find import ERASED, SHARED, USER, GraphView, Nodes, Slot, Write, is_root
from streams.identity.nodes import Alias

SPLIT = "split"
"""The rule that a conflict names."""


class ComponentTree(NamedTuple):
    """A component as the graph holds it."""

    node: str
    """The one to be taken out."""
    slots: Mapping[str, Slot | None]
    """Every node of it."""
    label: Slot | None = None
    """The slot of the label, where the root is a user and its label lies elsewhere."""


class ProfileRewrite(NamedTuple):
    """What past events of some nodes are to be stamped with, where they are stamped with what is others' now."""

    profile: str
    nodes: Nodes
    """A part; or the node that was taken out, for those of its events that name nobody else."""


class SplitPlan(NamedTuple):
    """What a split writes."""

    former_root: str
    """Root that the node hung under."""
    writes: tuple[Write, ...]
    """The node first, then a label, then the others."""
    former_profiles: Nodes
    """What events of all these nodes can have been stamped with."""
    rewrites: tuple[ProfileRewrite, ...]
    """The node's own, then each part's, the largest first."""


def connected_parts(members: Iterable[str], evidence: Iterable[Nodes], names: Iterable[tuple[str, str]] = ()) -> list[Nodes]:
    """What the evidence links of these nodes, each part sorted; of two users in one event the stronger one takes it, but for
    those that are `names` of the same user."""
    parent = {node: node for node in members}

    def find(node: str) -> str:
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    for former, other in names:
        if former in parent and other in parent:
            first, second = sorted((find(former), find(other)))
            parent[second] = first
    for nodes in evidence:
        first, *others = sorted({find(node) for node in nodes if node in parent}) or [""]
        for root in others:
            if root[0] != USER:
                parent[root] = first
    members_by_root: dict[str, list[str]] = {}
    for node in sorted(parent):
        members_by_root.setdefault(find(node), []).append(node)
    return sorted(map(tuple, members_by_root.values()), key=lambda part: (-len(part), part))


def plan_split(tree: ComponentTree, evidence: Iterable[Nodes], alias: Alias) -> SplitPlan:
    """What takes a node out of its component; no writes where that was done."""
    node, slots = tree.node, tree.slots
    top = GraphView(dict(slots)).find(node)
    current = slots[node]
    alone = Slot(node, logged=False, epoch=current.epoch + 1 if current else 1, state=SHARED)
    is_split = current is not None and current.state == SHARED and current.parent == node
    writes = [] if is_split else [Write(node, current, alone, 0, SPLIT)]
    members = {name for name, slot in slots.items() if name != node and (slot is None or slot.state != ERASED)}
    users = ((name, slot) for name, slot in slots.items() if name[0] == USER and slot is not None)
    components = connected_parts(members, evidence, [(name, slot.parent) for name, slot in users if not is_root(name, slot)])
    label = next((write for part in components if top in part if (write := _label(tree, top, part)) is not None), None)
    writes += [] if label is None else [label]
    heads = [_head(slots, top, part) for part in components]
    for head, part in zip(heads, components, strict=True):
        writes += _pointers(slots, head, part)
    labels = {slot.parent} if top[0] == USER and (slot := slots[top]) is not None else set()
    rewrites = [ProfileRewrite(alias(node, current.epoch if is_split and current else alone.epoch), (node,))]
    rewrites += [ProfileRewrite(_profile(slots, head, label), part) for head, part in zip(heads, components, strict=True)]
    return SplitPlan(top, tuple(writes), tuple(sorted({node, *members} | labels)), tuple(rewrites))


def _head(slots: Mapping[str, Slot | None], top: str, part: Collection[str]) -> str:
    """The root of a part: the one it has, else the smallest node that links and attributes."""
    if top in part:
        return top
    return min((node for node in part if not _marked(slots[node])), default=min(part))


def _pointers(slots: Mapping[str, Slot | None], head: str, part: Nodes) -> Iterable[Write]:
    """Slots that lead out of a part, or past its root. What hangs under one of its nodes leads to the root already."""
    for node in part:
        current = slots[node]
        if current is None:
            continue  # the root that it was
        if node[0] == USER:
            if not is_root(node, current) and current.parent not in part:
                yield Write(node, current, Slot(node, logged=False, epoch=current.epoch + 1, state=current.state), 0)
            continue
        if node <= head:
            parent = node
        elif current.parent in part and head <= current.parent < node:
            continue
        else:
            parent = head
        if current.parent != parent:
            yield Write(node, current, Slot(parent, logged=False, epoch=current.epoch + 1, state=current.state), 0)


def _label(tree: ComponentTree, top: str, part: Nodes) -> Write | None:
    """A user's label where it can no longer be: two users never share one."""
    if top[0] != USER:
        return None
    current = tree.slots[top]
    if current is None:
        return Write(top, None, Slot(top, logged=False), 0)
    label = current.parent
    if label in (top, tree.node) or label in part or _marked(tree.slots.get(label, tree.label)):
        return None
    return Write(top, current, Slot(top, logged=False, epoch=current.epoch + 1, state=current.state), 0)


def _profile(slots: Mapping[str, Slot | None], head: str, label: Write | None) -> str:
    """What events of a part are stamped with from now on."""
    if head[0] != USER:
        return head
    slot = slots[head] if label is None else label.slot
    return slot.parent if slot is not None and is_root(head, slot) else head


def _marked(slot: Slot | None) -> bool:
    return slot is not None and slot.state != ""
