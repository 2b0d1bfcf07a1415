"""Plans to take a node out of its component by the remaining evidence. Pure.

The node is demoted. Other nodes stay with those that the remaining evidence links them with; a slot is rewritten only where it
points out of that part. A demoted node keeps together what hung under it before, an erased node does not.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from streams.identity.graph.limits import USER
from streams.identity.graph.union_find import ERASED, SHARED, GraphView, Nodes, Slot, Write, is_root
from streams.identity.nodes import Alias

SPLIT = "split"
"""Rule of the conflict record."""


class ComponentTree(NamedTuple):
    """A component as the graph holds it."""

    node: str
    """The node to take out."""
    slots: Mapping[str, Slot | None]
    """Every node of the component."""
    label: Slot | None = None
    """Slot of the label, where the root is a user and its label is in another component."""


class ProfileRewrite(NamedTuple):
    """The profile id that past events of some nodes are to carry, where they carry one that belongs to others now."""

    profile: str
    nodes: Nodes
    """A part; or the node that was taken out, for events that name no other node."""


class SplitPlan(NamedTuple):
    """What a split writes."""

    former_root: str
    """Root of the node before the split."""
    writes: tuple[Write, ...]
    """The node first, then a label, then the others."""
    former_profiles: Nodes
    """Profile ids that events of these nodes may carry."""
    rewrites: tuple[ProfileRewrite, ...]
    """The node's own, then each part's, the largest part first."""


def connected_parts(members: Iterable[str], evidence: Iterable[Nodes], names: Iterable[tuple[str, str]] = ()) -> list[Nodes]:
    """Return the parts that the evidence links among these nodes, each sorted, the largest first.

    Of two users in one event the stronger one counts, except for `names`: pairs of nodes of the same user.
    """
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
    """Plan to take a node out of its component; no writes where that is done already."""
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
    """Return the root of a part: its present one, else the smallest node that links and attributes."""
    if top in part:
        return top
    return min((node for node in part if not _marked(slots[node])), default=min(part))


def _pointers(slots: Mapping[str, Slot | None], head: str, part: Nodes) -> Iterable[Write]:
    """Yield writes for slots that point out of a part, or past its root."""
    for node in part:
        current = slots[node]
        if current is None:
            continue  # it stays a root
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
    """Return a write that replaces a user's label that belongs to another part: two users never share one."""
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
    """Return the profile id of a part's future events."""
    if head[0] != USER:
        return head
    slot = slots[head] if label is None else label.slot
    return slot.parent if slot is not None and is_root(head, slot) else head


def _marked(slot: Slot | None) -> bool:
    return slot is not None and slot.state != ""
