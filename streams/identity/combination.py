"""Nodes that come together in events, and what such events are stamped with as long as nothing that it hangs on has changed."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from streams.identity.rules import ERASED, USER, Nodes, View


class Stamp(NamedTuple):
    """What events of a combination leave with."""

    key: bytes
    """Of their records; empty: their own ids."""
    columns: bytes
    """What stands before their bytes."""
    state: str
    live: Nodes
    """Those of the nodes that link and attribute."""


class Combination:
    """Compared by identity: there is one for each spelling that is remembered."""

    __slots__ = ("age", "columns", "nodes", "root", "stamp")

    def __init__(self, nodes: Nodes, columns: Callable[..., bytes]) -> None:
        self.nodes = nodes
        """Strongest first; empty where nothing may be linked."""
        self.columns = columns
        """Encodes profile, node and state for its records."""
        self.stamp: Stamp | None = None
        """None: to be looked at closer."""
        self.root = ""
        """The stamp holds as long as this node has no slot; empty where it hangs on slots alone."""
        self.age = 0
        """The stamp holds as long as no slot is rewritten: `Graph.age`."""


def watched(view: View, nodes: Iterable[str]) -> str | None:
    """The one root without a slot that ways of `nodes` end at, empty where every root has one. None: look again next time.

    Every other slot on their ways is in the log. So nothing but a first slot of that root, or a slot that is rewritten, can
    change what these nodes are stamped with, or make them ask for a link.
    """
    slots = view.slots
    roots = set()
    for node in nodes:
        at: str = node
        while (slot := slots.get(at)) is not None:
            if not slot.logged or slot.state == ERASED:
                return None
            if at[0] == USER or slot.parent == at:
                break
            at = slot.parent
        else:
            roots.add(at)
    if len(roots) > 1:
        return None
    return roots.pop() if roots else ""
