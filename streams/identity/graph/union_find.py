"""Union-find on the part of the graph that a batch has read: roots, planned writes, labels. Pure.

Jayanti & Tarjan, "A randomized concurrent algorithm for disjoint set union" (PODC 2016), with the nodes' own order as priority:
a link always hangs the larger root under the smaller one. So every parent is strictly smaller than its child, and no cycle can
form under stale reads, lost writes or replay. User nodes (tier 0) never get a parent: two users never merge.

One exception: while keys are rotated, an event carries both nodes of its user id, as the keys prove. The node without a slot is
then hung under the other one for good, so that neither loses its label; where both have a slot, the larger one is hung under
the smaller. No cycle can form there either: the child has no slot, or the parent is smaller.

A node that cannot belong to one person is demoted: its slot is marked as shared, and it no longer links or attributes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from streams.identity.graph.limits import NOTHING, USER, Pair, limited_pairs

SHARED, ERASED = "shared", "erased"
"""States of a slot; linked slots have none."""


TWO_USERS, RENAMED = "two_users", "renamed"

Nodes = tuple[str, ...]
"""Nodes of one event, strongest first."""
Events = Mapping[Nodes, int]
"""Each different node tuple of a batch, and the position of its first event."""


class Slot(NamedTuple):
    """What the graph holds for a node. A node without a slot is a root."""

    parent: str
    """The node above; for a user node its label or the other node of the same user; the node itself where it is a root."""
    logged: bool
    """Whether `identity.merges` is known to hold it; a worker that reads a slot that is not logged logs it again."""
    epoch: int = 0
    """Incremented by each rewrite."""
    state: str = ""
    since: int = 0
    """Erased nodes: milliseconds UTC; events collected until then are erased too."""


class Write(NamedTuple):
    """A compare-and-set of a slot."""

    node: str
    expected: Slot | None
    """The slot when this was planned; the write applies only if it is unchanged."""
    slot: Slot
    position: int
    """Position in the batch of the event that gives the evidence."""
    rule: str = ""
    """Why a node is demoted; empty for links and labels."""
    refused: str = ""
    """The root that a demoted node appeared with."""


def is_root(node: str, slot: Slot) -> bool:
    """Return whether a node with this slot is a root: the slot marks a root, or is the label of a user."""
    return slot.parent == node or (node[0] == USER and slot.parent[0] != USER)


@dataclass(slots=True)
class GraphView:
    """The part of the graph that a batch has read."""

    slots: dict[str, Slot | None] = field(default_factory=dict)
    """None: read, and there is no slot."""

    def missing(self, nodes: Iterable[str]) -> set[str]:
        """Return the next node to read on each path from `nodes` to their roots."""
        unread = set()
        for node in nodes:
            ancestor: str = node
            while (slot := self.slots.get(ancestor)) is not None and not is_root(ancestor, slot):
                ancestor = slot.parent
            if ancestor not in self.slots:
                unread.add(ancestor)
        return unread

    def find(self, node: str) -> str:
        """Return the root of a node by what was read."""
        slots = self.slots
        while (slot := slots.get(node)) is not None:
            parent = slot.parent
            # Inlines `is_root`: the call costs more than the loop.
            if parent == node or (node[0] == USER and parent[0] != USER):
                break
            node = parent
        return node

    def below_users(self, node: str) -> str:
        """Return the last node on the path to the root that is no user; a user itself."""
        while (slot := self.slots.get(node)) is not None and slot.parent[0] != USER and not is_root(node, slot):
            node = slot.parent
        return node

    def marked(self, node: str) -> bool:
        """Return whether a node is shared or erased."""
        slot = self.slots.get(node)
        return slot is not None and slot.state != ""

    def epoch(self, node: str) -> int:
        """Return the epoch of a node's slot; 0 where it has none."""
        slot = self.slots.get(node)
        return 0 if slot is None else slot.epoch

    def label(self, root: str) -> str | None:
        """Return the profile id of a root's events; None for a user without a label."""
        if root[0] != USER:
            return root
        slot = self.slots.get(root)
        return slot.parent if slot is not None else None


def live_nodes(view: GraphView, nodes: Nodes) -> Nodes:
    """Return the nodes that link and attribute; none where the event's own user does not."""
    slots = view.slots
    for node in nodes:
        slot = slots.get(node)
        if slot is not None and slot.state:
            if view.marked(nodes[0]) and nodes[0][0] == USER:
                return ()
            return tuple(node for node in nodes if not view.marked(node))
    return nodes


def home_root(view: GraphView, nodes: Nodes) -> str:
    """Return the root that an event with these nodes (live, strongest first, at least one) belongs to.

    The event's own user if it has one; else the user that one of its nodes belongs to; else the smallest root. A demoted
    root is chosen only where there is no other.
    """
    strongest = view.find(nodes[0])
    if strongest[0] == USER or len(nodes) == 1:
        return strongest
    roots = [strongest, *[view.find(node) for node in nodes[1:]]]
    smallest = min(roots)
    return min((root for root in roots if not view.marked(root)), default=smallest) if view.marked(smallest) else smallest


def plan(
    view: GraphView, events: Events, full: Mapping[str, str] = NOTHING, renamed: Mapping[str, str] = NOTHING
) -> tuple[list[Write], list[Pair]]:
    """Plan the links and demotions that these events require; return the writes and the pairs that count towards limits.

    The writes are applied to `view`. A node that comes with another user than its own cannot belong to one person and is
    demoted, as are the nodes of `full` (node -> rule). Nodes under a demoted user are released when they are read next.
    `renamed`: former nodes and the newer nodes of the same identifiers.
    """
    writes: list[Write] = []
    pairs: list[Pair] = []
    for nodes, position in events.items():
        names = [(node, renamed[node]) for node in nodes if renamed.get(node) in nodes] if renamed else []
        _demote(view, writes, nodes, full, position)
        _mark_other_names(view, writes, nodes, names, position)
        alive = live_nodes(view, nodes)
        if not alive:
            continue
        for node in alive:
            _release(view, writes, node, position)
        _link_names(view, writes, alive, names, position)
        roots = {node: view.find(node) for node in alive}
        target = home_root(view, alive)
        before = len(writes)
        for node in alive:
            root = view.find(node)
            if root == target or view.marked(root) or view.marked(target):
                continue
            if node[0] == USER:
                continue  # a second user in one event is ignored, never demoted
            if root[0] == USER:
                _plan_write(view, writes, Write(node, view.slots[node], _demoted_slot(view, node), position, TWO_USERS, target))
            else:
                # A root that a split has left has a slot that points at itself; any other root has none.
                current = view.slots.get(root)
                _plan_write(view, writes, Write(root, current, _linked_slot(current, target), position))
        if len(writes) > before:
            _mark_other_names(view, writes, nodes, names, position)
            pairs += limited_pairs(alive, dict(names), roots)
    return writes, pairs


def _demote(view: GraphView, writes: list[Write], nodes: Nodes, full: Mapping[str, str], position: int) -> None:
    """Demote nodes without room for new members; of a user that hangs under another node of the same user, both."""
    if full:
        for node in live_nodes(view, tuple(node for node in nodes if node in full)):
            root = view.find(node)
            for demoted in (node, root) if root != node and node[0] == USER and not view.marked(root) else (node,):
                _plan_write(
                    view, writes, Write(demoted, view.slots.get(demoted), _demoted_slot(view, demoted), position, full[node])
                )


def _link_names(view: GraphView, writes: list[Write], alive: Nodes, names: Iterable[tuple[str, str]], position: int) -> None:
    """Hang one of the two nodes of an event's user under the other."""
    for former, newer in names:
        if former[0] != USER or former not in alive or newer not in alive:
            continue
        smaller, larger = sorted((view.find(former), view.find(newer)))
        if smaller == larger or view.marked(smaller) or view.marked(larger):
            continue
        current = view.slots.get(larger)
        if current is None or view.slots.get(smaller) is not None:
            parent, child = smaller, larger
        else:
            parent, child, current = larger, smaller, None
        _plan_write(view, writes, Write(child, current, _linked_slot(current, parent), position))


def _mark_other_names(
    view: GraphView, writes: list[Write], nodes: Nodes, names: Iterable[tuple[str, str]], position: int
) -> None:
    """Mark the other name of a marked node: one identifier's nodes are shared or erased together."""
    pairs = [pair for former, newer in names for pair in ((former, newer), (newer, former))]
    while pair := next(
        ((node, other_node) for node, other_node in pairs if view.marked(node) and not view.marked(other_node)), None
    ):
        _mark(view, writes, *pair, position)
    for own_node in nodes:
        if own_node[0] != USER:
            break
        root = view.find(own_node)
        if root != own_node and view.marked(root) and not view.marked(own_node):
            _mark(view, writes, root, own_node, position)


def _mark(view: GraphView, writes: list[Write], marked_node: str, other_node: str, position: int) -> None:
    slot, current = view.slots[marked_node], view.slots.get(other_node)
    assert slot is not None  # noqa: S101 - it is marked
    if slot.state == ERASED and current is None:  # a linked node may have belonged to somebody else before
        _plan_write(view, writes, Write(other_node, None, Slot(other_node, False, 1, ERASED, slot.since), position))
    else:
        _plan_write(
            view, writes, Write(other_node, current, _demoted_slot(view, other_node), position, RENAMED, view.find(marked_node))
        )


def _release(view: GraphView, writes: list[Write], node: str, position: int) -> None:
    """Make a root of what hangs under a demoted user, except the user's label: two users must never share one."""
    root, top = view.find(node), view.below_users(node)
    slot = view.slots.get(root)
    if root[0] == USER and slot is not None and slot.state == SHARED and top[0] != USER and top != slot.parent:
        current = view.slots[top]
        assert current is not None  # noqa: S101 - it is no root
        _plan_write(
            view, writes, Write(top, current, Slot(top, logged=False, epoch=current.epoch + 1, state=current.state), position)
        )


def _demoted_slot(view: GraphView, node: str) -> Slot:
    current = view.slots.get(node)
    if current is None:
        return Slot(node, logged=False, epoch=1, state=SHARED)
    return Slot(current.parent, logged=False, epoch=current.epoch + 1, state=SHARED)


def _linked_slot(current: Slot | None, parent: str) -> Slot:
    return Slot(parent, logged=False, epoch=current.epoch + 1 if current else 0)


def _plan_write(view: GraphView, writes: list[Write], write: Write) -> None:
    writes.append(write)
    view.slots[write.node] = write.slot


def undo_writes(view: GraphView, writes: Sequence[Write]) -> None:
    """Revert planned writes in the view."""
    for write in reversed(writes):
        view.slots[write.node] = write.expected


def plan_labels(view: GraphView, events: Events) -> list[Write]:
    """Plan the labels that users among these events still need; call it after the links were applied.

    The label is the anonymous root that came to the user first, because its events carry that profile id already; the user
    itself if there is none. It is read from the slot and not from memory, so that a replay after a crash finds it too.
    """
    labels: dict[str, Write] = {}
    for nodes, position in events.items():
        alive = live_nodes(view, nodes)
        if not alive:
            continue
        root = home_root(view, alive)
        if root[0] != USER or view.slots.get(root) is not None:
            continue
        below = (view.below_users(node) for node in alive if view.find(node) == root)
        anonymous = min((node for node in below if node[0] != USER), default=root)
        planned = labels.get(root)
        if planned is None or (planned.slot.parent == root and anonymous != root):
            labels[root] = Write(root, None, Slot(anonymous, logged=False), position)
    return list(labels.values())


def unlogged_nodes(view: GraphView, reads: Mapping[str, Slot | None]) -> list[str]:
    """Return the nodes that were read and whose slots are not known to be logged."""
    return [node for node in reads if (slot := view.slots.get(node)) is not None and not slot.logged]
