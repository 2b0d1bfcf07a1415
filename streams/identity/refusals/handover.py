"""Hands refusals over to every linked id, including ids that are linked later.

Two writers may race: one that expands a refusal, and one that makes a link. Each writes first and then looks for the other's
write: the expanding one stores the refusal at nodes and then enumerates the component, again until it stops growing; the
linking one writes the slot and then reads the refusals at both ends. So a link that is missing in the last enumeration was
written after it, and its writer reads the refusal.

Refusals are stored before their signals are committed. Until then they are pending, as is the slot of the link: a replay reads
both and signals again what may be lost.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

from infra.errors import Retryable
from infra.telemetry.metrics import Metrics
from schemas.codec import encode
from schemas.registry import Registry
from streams.identity.graph.store import GraphStore
from streams.identity.graph.union_find import Slot, is_root
from streams.identity.refusals.refusals import (
    NONE,
    Refusal,
    Refusals,
    RememberedRefusal,
    Scope,
    merge_refusals,
    missing_refusals,
    newest_refusals,
    refusal_signals,
    refusals_of,
)
from streams.identity.refusals.revocation import SIGNALS, Component, find_components
from streams.runtime.stage import BY_KEY, Outcome

ROUNDS = 50
"""Enumerations of a component that keeps growing; then the batch is retried later."""

Pending = dict[str, dict[Scope, RememberedRefusal]]
"""Node -> remembered refusals that may not be signalled."""
RefusalChoice = Callable[[Component, Sequence[Refusals]], Mapping[Scope, Refusal]]
"""(Component, refusals of its live nodes) -> refusals that every live node must remember."""


class Expansion(NamedTuple):
    """The expanded refusals of a batch."""

    components: list[Component]
    """The component that each refusal reaches."""
    pending: Pending
    """To be confirmed once all signals are committed."""


def expand(store: GraphStore, revocations: Sequence[Mapping[str, Any]]) -> Expansion:
    """Store these records of `consent.revocations` at every linked node. Retryable."""
    subjects = [revocation["subject"] for revocation in revocations]
    marked = {node for node, slot in zip(subjects, store.read(subjects), strict=True) if slot is not None and slot.state}
    own: dict[str, Refusals] = {}
    for subject, revocation in zip(subjects, revocations, strict=True):
        if subject not in marked:
            own[subject] = merge_refusals(own.get(subject, NONE), refusals_of(revocation))
    store.add_refusals(own)

    def own_refusals(linked: Component, _memories: Sequence[Refusals]) -> Mapping[Scope, Refusal]:
        return newest_refusals(own.get(node, NONE) for node in linked.live)

    return Expansion(*_spread(store, subjects, own_refusals))


def hand_over(store: GraphStore, links: Iterable[tuple[str, str]]) -> Pending:
    """Return refusals that nodes joined by these links (child, parent) lack. Retryable.

    One round trip where neither end has refused anything.
    """
    pairs = list(links)
    ends = list(dict.fromkeys(chain.from_iterable(pairs)))
    refusing = {end for end, memory in zip(ends, store.refusals(ends), strict=True) if memory}
    if not refusing:
        return {}
    joined = sorted({end for pair in pairs if not refusing.isdisjoint(pair) for end in pair})
    return _spread(store, joined, lambda _linked, memories: newest_refusals(memories))[1]


def _spread(store: GraphStore, nodes: Sequence[str], wanted_refusals: RefusalChoice) -> tuple[list[Component], Pending]:
    """Store the wanted refusals at all that is linked to each node, until every node of the component has them."""
    added: Pending = {}
    for _ in range(ROUNDS):
        linked = find_components(store, nodes)
        by_members = {component.live: component for component in linked}
        everybody = [node for members in by_members for node in members]
        memories = dict(zip(everybody, store.refusals(everybody), strict=True))
        new, pending = Pending(), Pending()
        for members, component in by_members.items():
            refusals = wanted_refusals(component, [memories[node] for node in members])
            for node in members if refusals else ():
                # A full memory drops the oldest refusals; those are signalled nevertheless.
                remembered = {**added.get(node, NONE), **memories[node]}
                if missing := missing_refusals(remembered, refusals):
                    new[node] = missing
                if unsignalled := {at: memory for at, memory in remembered.items() if memory == (refusals.get(at), False)}:
                    pending[node] = unsignalled
        if not new:
            return linked, pending
        store.add_refusals(new)
        for node, missing in new.items():
            added.setdefault(node, {}).update(missing)
    raise Retryable("other workers link the same nodes all the time")


class Handover:
    """Signals handed-over refusals, and marks them after the commit."""

    def __init__(self, registry: Registry, store: GraphStore, metrics: Metrics) -> None:
        self._registry = registry
        self._store = store
        self._metrics = metrics

    def add_signals(self, outcome: Outcome, slots: Iterable[tuple[str, Slot]]) -> None:
        """Add signals for what these unlogged slots have linked to an outcome. Retryable.

        A demoted node hands nothing over, but what hangs under it may have been joined by its link before.
        """
        links = [(node, slot.parent) for node, slot in slots if not is_root(node, slot)]
        pending = hand_over(self._store, links) if links else {}
        if not pending:
            return
        out = outcome.out.setdefault(SIGNALS, [])
        latest = self._registry.latest(SIGNALS)
        for node, memories in sorted(pending.items()):
            records = refusal_signals(node, {scope: refusal for scope, (refusal, _) in memories.items()})
            out += [(node.encode(), encode(latest, record), BY_KEY) for record in records]
        self._metrics.count("headwater_refusals_handed_over_total", len(pending))
        outcome.after_commit.append(partial(self._store.confirm_refusals, pending))
