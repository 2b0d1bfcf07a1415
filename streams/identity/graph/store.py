"""The store of the graph: a slot for each linked node, and for a day the record that claimed an event id.

Every write is atomic and idempotent: a slot is replaced only if it still has the value that the writer read, a claim is never
replaced, and a slot that is logged stays logged. A replayed batch changes nothing.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from itertools import chain
from typing import Protocol

from infra.errors import Retryable
from streams.identity.graph.limits import LIMITS, Pair
from streams.identity.graph.union_find import Slot, Write, is_root
from streams.identity.refusals.refusals import NONE, Refusals, confirm_signalled, merge_refusals

LONGEST_CLAIM = 80

ClaimHolders = Callable[[], dict[bytes, bytes]]
"""Waits for the answer; returns event -> position of the record that had claimed it before. StoreUnavailable."""


class StoreUnavailable(Retryable):
    """The graph's store does not answer."""


class GraphStore(Protocol):
    """Every call raises StoreUnavailable while the store does not answer."""

    def read(self, nodes: Sequence[str]) -> list[Slot | None]:
        """Return the slots of nodes, None where there is none."""
        ...

    def claim(self, claims: Mapping[bytes, bytes], now: float, topic_id: str = "") -> ClaimHolders:
        """Claim events (by source and id), each for its position on the topic of this id.

        The returned function waits for those that another position had claimed. A position on another topic, even one of the
        same name, claims nothing.
        """
        ...

    def write(self, writes: Sequence[Write]) -> list[bool]:
        """Write slots in order, each only if it still has the expected value; return for each whether it was written."""
        ...

    def admit(self, pairs: Sequence[Pair], day: int) -> list[bool]:
        """Return for each pair whether the holder has or had room for its member on that day (since 1970).

        An admitted member counts from then on, for the days of its limit.
        """
        ...

    def confirm(self, slots: Iterable[tuple[str, Slot]]) -> None:
        """Mark slots as logged, after the log has committed them."""
        ...

    def unlogged_rewrites(self) -> list[str]:
        """Return nodes whose slot was rewritten and not confirmed."""
        ...

    def children(self, nodes: Sequence[str]) -> list[set[str]]:
        """Return for each node the nodes whose slot may point at it; some may never have been linked."""
        ...

    def refusals(self, nodes: Sequence[str]) -> list[Refusals]:
        """Return for each node the refusals that it remembers."""
        ...

    def add_refusals(self, refusals: Mapping[str, Refusals]) -> None:
        """Add refusals to those that nodes remember; the newest of each scope is kept."""
        ...

    def confirm_refusals(self, refusals: Mapping[str, Refusals]) -> None:
        """Mark refusals as signalled, after their signals were committed; forgotten ones stay forgotten."""
        ...

    def forget(self, nodes: Sequence[str], holders: Sequence[str]) -> int:
        """Delete members, refusals and notes of nodes, and the nodes from what `holders` hold; return the number deleted.

        Slots are kept.
        """
        ...

    def count_memberships(self, nodes: Sequence[str], holders: Sequence[str]) -> int:
        """Return how many sets, members and refusals `forget` would delete."""
        ...


def shorten_claim(claim: bytes) -> bytes:
    """Return a digest that replaces a claim name that is too long."""
    return sha256(claim).hexdigest().encode()


def first_places(claims: Sequence[tuple[bytes, bytes]]) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    """Return the first position of each claimed event, and that position for events claimed more than once."""
    places = dict(claims)
    if len(places) == len(claims):
        return places, {}
    places, again = {}, {}
    for event, place in claims:
        if places.setdefault(event, place) != place:
            again[event] = places[event]
    return places, again


class MemoryGraphStore:
    """For tests and benchmarks without Redis; claims never expire."""

    def __init__(self) -> None:
        self.slots: dict[str, Slot] = {}
        self.claims: dict[str, dict[bytes, bytes]] = {}
        """By topic id."""
        self.child_index: dict[str, set[str]] = {}
        self.memberships: dict[tuple[str, str], dict[str, int]] = {}
        """(Holder, rule) -> member -> day since 1970 on which it was admitted."""
        self.notes: dict[str, str] = {}
        self.refusals_by_node: dict[str, Refusals] = {}

    def read(self, nodes: Sequence[str]) -> list[Slot | None]:
        """See `GraphStore`."""
        return [self.slots.get(node) for node in nodes]

    def claim(self, claims: Mapping[bytes, bytes], now: float, topic_id: str = "") -> ClaimHolders:  # noqa: ARG002 - they stay
        """See `GraphStore`."""
        current = self.claims.setdefault(topic_id, {})
        holders = {event: holder for event, place in claims.items() if (holder := current.setdefault(event, place)) != place}
        return lambda: holders

    def write(self, writes: Sequence[Write]) -> list[bool]:
        """See `GraphStore`."""
        won = []
        for write in writes:
            current = self.slots.get(write.node)
            mine = current is None if write.expected is None else current is not None and _same_content(current, write.expected)
            won.append(mine)
            if not is_root(write.node, write.slot):
                self.child_index.setdefault(write.slot.parent, set()).add(write.node)
            if mine:
                self.slots[write.node] = write.slot
        return won

    def admit(self, pairs: Sequence[Pair], day: int) -> list[bool]:
        """See `GraphStore`."""
        admitted = []
        for holder, member, (rule, most, days, _) in pairs:
            before = self.memberships.get((holder, rule), {})
            members = self.memberships[holder, rule] = {node: since for node, since in before.items() if since > day - days}
            admitted.append(member in members or len(members) < most)
            if admitted[-1]:
                members.setdefault(member, day)
        return admitted

    def confirm(self, slots: Iterable[tuple[str, Slot]]) -> None:
        """See `GraphStore`."""
        for node, slot in slots:
            if self.slots.get(node) == slot._replace(logged=False):
                self.slots[node] = slot._replace(logged=True)

    def unlogged_rewrites(self) -> list[str]:
        """See `GraphStore`."""
        return [node for node, slot in self.slots.items() if slot.epoch and not slot.logged]

    def children(self, nodes: Sequence[str]) -> list[set[str]]:
        """See `GraphStore`."""
        return [set(self.child_index.get(node, ())) for node in nodes]

    def refusals(self, nodes: Sequence[str]) -> list[Refusals]:
        """See `GraphStore`."""
        return [self.refusals_by_node.get(node, NONE) for node in nodes]

    def add_refusals(self, refusals: Mapping[str, Refusals]) -> None:
        """See `GraphStore`."""
        for node, new in refusals.items():
            if new:
                self.refusals_by_node[node] = merge_refusals(self.refusals_by_node.get(node, NONE), new)

    def confirm_refusals(self, refusals: Mapping[str, Refusals]) -> None:
        """See `GraphStore`."""
        for node, signalled in refusals.items():
            if node in self.refusals_by_node:
                self.refusals_by_node[node] = confirm_signalled(self.refusals_by_node[node], signalled)

    def save_note(self, node: str, text: str) -> None:
        """Save a text for a node, replacing an earlier one."""
        self.notes[node] = text

    def load_note(self, node: str) -> str | None:
        """Return the text saved for a node, or None."""
        return self.notes.get(node)

    def forget(self, nodes: Sequence[str], holders: Sequence[str]) -> int:
        """See `GraphStore`."""
        count = self.count_memberships(nodes, holders)
        for node in nodes:
            self.child_index.pop(node, None)
            self.refusals_by_node.pop(node, None)
            for limit in chain.from_iterable(LIMITS.values()):
                self.memberships.pop((node, limit.rule), None)
        for holder, below in self.child_index.items():
            if holder in holders:
                below.difference_update(nodes)
        for (holder, _), members in self.memberships.items():
            if holder in holders:
                for node in nodes:
                    members.pop(node, None)
        return count

    def count_memberships(self, nodes: Sequence[str], holders: Sequence[str]) -> int:
        """See `GraphStore`."""
        others = set(holders) - set(nodes)
        sets = [*self.child_index.items(), *((holder, set(members)) for (holder, _), members in self.memberships.items())]
        refused = sum(node in self.refusals_by_node for node in nodes)
        set_count = sum(holder in nodes for holder, members in sets if members)
        return refused + set_count + sum(len(members & set(nodes)) for holder, members in sets if holder in others)


def _same_content(first: Slot, second: Slot) -> bool:
    return first[0] == second[0] and first[2:] == second[2:]
