"""Union-find on what a batch has read of the graph: who is whose root, which links are missing, what is stamped. Pure.

Jayanti & Tarjan, "A randomized concurrent algorithm for disjoint set union" (PODC 2016), with the nodes' own order as
priority: a link always hangs the larger root under the smaller one. So every parent is strictly smaller than its child, and no
cycle can form, under stale reads, lost writes or replay. User nodes (tier 0) never get a parent: two users can never merge.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

USER = "0"
"""Tier digit of user nodes. What stands in their slot is no parent but a label: what their events are stamped with."""

Nodes = Sequence[str]


class Slot(NamedTuple):
    """What the graph holds for a node. A node without one is a root."""

    parent: str
    """The node it hangs under; for a user node its label."""
    logged: bool
    """Whether `identity.merges` is known to have it; whoever meets one that is not logs it again."""
    epoch: int = 0
    """Grows when a split rewrites the slot."""


class Link(NamedTuple):
    """A slot to be written, if nobody has written it meanwhile."""

    node: str
    parent: str
    at: int
    """The event of the batch that gives the evidence."""


@dataclass(slots=True)
class View:
    """The part of the graph that a batch has seen."""

    slots: dict[str, Slot | None] = field(default_factory=dict)
    """None: read, and not there."""

    def missing(self, nodes: Iterable[str]) -> set[str]:
        """Nodes on the ways from `nodes` to their roots that have not been read yet; of each way only the next one."""
        wanted = set()
        for node in nodes:
            at: str = node
            while (slot := self.slots.get(at)) is not None and at[0] != USER:
                at = slot.parent
            if at not in self.slots:
                wanted.add(at)
        return wanted

    def find(self, node: str) -> str:
        """The root of a node, by what was read."""
        return self.way(node)[0]

    def way(self, node: str) -> tuple[str, str]:
        """(root, last node before it; the root itself where there is none)."""
        before = node
        while node[0] != USER:
            slot = self.slots.get(node)
            if slot is None:
                break
            before, node = node, slot.parent
        return node, before

    def label(self, root: str) -> str | None:
        """What events of a root are stamped with; None for a user that nobody has stamped yet."""
        if root[0] != USER:
            return root
        slot = self.slots.get(root)
        return slot.parent if slot is not None else None


def home(view: View, nodes: Nodes) -> str:
    """The root that an event with these nodes (strongest first) belongs to.

    The event's own user if it has one; else the user that one of its nodes belongs to; else the smallest root.
    """
    strongest = view.find(nodes[0])
    if strongest[0] == USER:
        return strongest
    return min(view.find(node) for node in nodes)


def plan_links(view: View, events: Iterable[tuple[int, Nodes]]) -> tuple[list[Link], int]:
    """Links that these events (position, nodes) ask for, entered into `view` as if they held; and how many were refused.

    Refused: a node that belongs to another user already stays where it is.
    """
    links: list[Link] = []
    conflicts = 0
    for at, nodes in events:
        target = home(view, nodes)
        for node in nodes:
            root = view.find(node)
            if root == target:
                continue
            if root[0] == USER:
                conflicts += 1
                continue
            links.append(Link(root, target, at))
            view.slots[root] = Slot(target, logged=False)
    return links, conflicts


def plan_labels(view: View, events: Iterable[tuple[int, Nodes]]) -> list[Link]:
    """Labels that users among these events still need. Only to be called once the links before them are won.

    The anonymous root that came to the user first, because its events are stamped with it already; the user itself if
    there is none. Found by its slot and not by memory, so that a replay after a crash finds it too.
    """
    labels: dict[str, Link] = {}
    for at, nodes in events:
        root = home(view, nodes)
        if root[0] != USER or view.slots.get(root) is not None:
            continue
        ways = (view.way(node) for node in nodes)
        anonymous = min((before for found, before in ways if found == root and before != root), default=root)
        known = labels.get(root)
        if known is None or (known.parent == root and anonymous != root):
            labels[root] = Link(root, anonymous, at)
    return list(labels.values())


def unlogged(view: View, read: Mapping[str, Slot | None]) -> list[str]:
    """Nodes whose slots were met and are not known to be in the log."""
    return [node for node in read if (slot := view.slots.get(node)) is not None and not slot.logged]
