"""Nodes that occur together in events, and the resolved columns of such events, cached until a slot they depend on changes."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from streams.identity.graph.limits import USER
from streams.identity.graph.union_find import Nodes, Slot

ANONYMOUS, RESOLVED_IDS, SHARED_IDS, UNRESOLVED = "anonymous", "resolved", "shared", "unresolved"
"""Values of `identity_state`."""
NEVER, ALWAYS = -1, 1 << 62


class ResolvedColumns(NamedTuple):
    """What resolved events of an identifier set are written with."""

    key: bytes
    """Key of their records; empty: each event's own id."""
    columns: bytes
    """Encoded columns that precede the bytes of the event."""
    state: str
    live: Nodes
    """Nodes of the set that link and attribute."""


class IdentifierSet:
    """Compared by identity: one instance for each encoded form that is cached."""

    __slots__ = ("_encode", "evidence_since", "generation", "nodes", "resolved", "root")

    def __init__(self, nodes: Nodes, columns: Callable[..., bytes]) -> None:
        self.nodes = nodes
        """Strongest first; empty where nothing may be linked."""
        self._encode = columns
        self.resolved: ResolvedColumns | None = None if nodes else self.build_columns("", ANONYMOUS, ())
        """None: must be read from the graph."""
        self.root = ""
        """`resolved` is valid as long as this node has no slot; empty where the root has a slot."""
        self.generation = 0
        """`resolved` is valid only in this generation of the `Graph`."""
        self.evidence_since = NEVER if len(nodes) > 1 else ALWAYS
        """Generation of `LinkEvidence` in which these nodes were last logged as linked. One node needs no evidence."""

    def build_columns(self, profile: str, state: str, live: Nodes) -> ResolvedColumns:
        """Encode the columns for this profile."""
        columns = self._encode(profile, self.nodes[0] if self.nodes else "", state)
        return ResolvedColumns(profile.encode(), columns, state, live)

    def cache_columns(self, slots: Mapping[str, Slot | None], generation: int) -> bool:
        """Cache the columns and return True if every slot they depend on is logged and unmarked and leads to one root.

        Then there is nothing to link, and only two events invalidate the cache: the root, which has no slot, gets one; or a
        slot is rewritten.
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
