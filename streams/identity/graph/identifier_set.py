"""Nodes that come together in events, and what such events are stamped with as long as nothing that it hangs on has changed."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from streams.identity.graph.union_find import USER, Nodes, Slot

ANONYMOUS, RESOLVED_IDS, SHARED_IDS, UNRESOLVED = "anonymous", "resolved", "shared", "unresolved"
"""Values of `identity_state`."""
NEVER, ALWAYS = -1, 1 << 62


class ResolvedColumns(NamedTuple):
    """What events of a combination leave with."""

    key: bytes
    """Of their records; empty: their own ids."""
    columns: bytes
    """What stands before their bytes."""
    state: str
    live: Nodes
    """Those of the nodes that link and attribute."""


class IdentifierSet:
    """Compared by identity: there is one for each spelling that is remembered."""

    __slots__ = ("_encode", "evidence_since", "generation", "nodes", "resolved", "root")

    def __init__(self, nodes: Nodes, columns: Callable[..., bytes]) -> None:
        self.nodes = nodes
        """Strongest first; empty where nothing may be linked."""
        self._encode = columns
        self.resolved: ResolvedColumns | None = None if nodes else self.build_columns("", ANONYMOUS, ())
        """None: to be looked at closer."""
        self.root = ""
        """The stamp holds as long as this node has no slot; empty where its root has one."""
        self.generation = 0
        """The stamp holds as long as no slot is rewritten: `Graph.age`."""
        self.evidence_since = NEVER if len(nodes) > 1 else ALWAYS
        """Since when (see `Evidence`) the log says that its nodes belong together. A single one needs no evidence."""

    def build_columns(self, profile: str, state: str, live: Nodes) -> ResolvedColumns:
        """With this profile."""
        columns = self._encode(profile, self.nodes[0] if self.nodes else "", state)
        return ResolvedColumns(profile.encode(), columns, state, live)

    def cache_columns(self, slots: Mapping[str, Slot | None], generation: int) -> bool:
        """Remember the stamp if all that it hangs on is in the log: one root, and every slot on the ways to it, none marked.

        Then nothing is to be linked, and only two things can change that: a first slot of a root that has none, or a slot
        that is rewritten.
        """
        home = label = ""
        for node in self.nodes:
            at: str = node
            while (slot := slots.get(at)) is not None:
                parent, logged, _, state, _ = slot
                if not logged or state:
                    return False
                if parent == at or (at[0] == USER and parent[0] != USER):
                    label = parent
                    break
                at = parent
            if at != home and home:
                return False
            home = at
        if home[0] == USER and not label:
            return False
        self.resolved, self.root, self.generation = (
            self.build_columns(label or home, RESOLVED_IDS, self.nodes),
            "" if label else home,
            generation,
        )
        return True
