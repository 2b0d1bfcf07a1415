"""A worker with warm caches writes the same bytes as one that has just started."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.identity import reading
from streams.identity.graph import graph
from streams.identity.graph import limits as limit_table
from streams.identity.graph.limits import Limit
from streams.identity.graph.slots import MERGES, SlotLog
from streams.identity.graph.store import MemoryGraphStore
from streams.identity.graph.union_find import ERASED, Nodes, Slot
from streams.identity.reading import RESOLVED
from streams.identity.repair.splitting import split_node
from streams.identity.stage import IdentityStage
from streams.runtime.stage import Batch, Outcome
from tests.streams.identity.line import REGISTRY, T, event
from tests.streams.identity.test_stage import ALIAS, C1, C2, C3, D1, U1, U2, batch, commit, resolved, stage
from tests.support.scale import examples

NODES = [f"{tier}{n:032x}" for tier, most in (("0", 2), ("1", 2), ("2", 3), ("3", 1)) for n in range(most)]
EVENTS = st.lists(
    st.tuples(
        st.integers(0, 400),
        st.lists(st.sampled_from(NODES), min_size=1, max_size=3, unique=True).map(sorted),
        st.integers(T, T + 9),
    ),
    min_size=1,
    max_size=8,
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["first", "first", "second"]), EVENTS),
        st.tuples(st.just("split"), st.sampled_from(NODES[2:])),
        st.tuples(st.just("erase"), st.sampled_from(NODES)),
        st.tuples(st.just("same"), st.just(None)),
    ),
    min_size=4,
    max_size=25,
)
LIMITS = {("1", "2"): [Limit("cookies_per_device", 2, 30)], ("3", "2"): [Limit("cookies_per_email", 3, 30)]}


class World:
    """A graph, and what was logged for it."""

    def __init__(self) -> None:
        self.store = MemoryGraphStore()
        self.links: list[Nodes] = []
        self.workers = {name: stage(self.store) for name in ("first", "second")}

    def run(self, worker: IdentityStage, part: Batch, *, confirmed: bool) -> Outcome:
        """Run a batch, commit it and broadcast its records; the hooks may be lost."""
        outcome = worker.handle(part, 0)
        if confirmed:
            commit(outcome)
        self.tell([(key, value) for key, value, _ in outcome.out.get(MERGES, ())])
        return outcome

    def tell(self, records: Sequence[tuple[bytes | None, bytes | None]]) -> None:
        """Broadcast to every worker."""
        for worker in self.workers.values():
            worker.on_broadcast(MERGES, records)

    def rewrite(self, action: str, node: str) -> None:
        """Rewrite a slot as the split or the erasure does."""
        slot = self.store.slots.get(node)
        if action == "split" and (slot is None or slot.state != ERASED):
            split_node(self.store, node, lambda _: self.links, ALIAS, lambda _, slots: self.log(slots))
        elif action == "erase":
            parent, epoch = (slot.parent, slot.epoch) if slot else (node, 0)
            self.store.slots[node] = Slot(parent, True, epoch + 1, ERASED, T + 5)
            self.log([(node, self.store.slots[node])])

    def log(self, slots: Sequence[tuple[str, Slot]]) -> None:
        """Log slots as the commands do."""
        outputs = [SlotLog(REGISTRY).encode_slot(node, slot, "", T) for node, slot in slots]
        self.tell([(key, value) for key, value, _ in outputs])

    def graph(self) -> dict[str, Any]:
        """Return slots regardless of whether they are logged."""
        return {node: slot._replace(logged=True) for node, slot in self.store.slots.items()}


@given(STEPS, st.booleans(), st.sampled_from([2, 200_000]), st.sampled_from([3, 100_000]))
@settings(deadline=None, max_examples=examples(250))
def test_what_is_remembered_changes_nothing(
    steps: Sequence[tuple[str, Any]], confirmed: bool, slots: int, combinations: int
) -> None:
    """Conflicts, duplicates, demotions, splits and erasures, by any worker: the same bytes leave at each step.

    Whatever the caches evict, and whether the hooks after a commit have run.
    """
    old, new = World(), World()
    last: list[bytes | None] = []
    end = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limit_table, "LIMITS", LIMITS)
        patch.setattr(graph, "MAX_CACHED_SLOTS", slots)
        patch.setattr(reading, "MAX_CACHED_SETS", combinations)
        for action, of in steps:
            if action in ("split", "erase"):
                for world in (old, new):
                    world.rewrite(action, of)
                continue
            if action != "same":
                last = [event(n, nodes, collector_ts=ts) for n, nodes, ts in of]
                links = [tuple(nodes) for _, nodes, _ in of if len(nodes) > 1]
                old.links += links
                new.links += links
                end += len(last)
            part = batch(last, end - len(last))
            old_outcome = old.run(old.workers["second" if action == "second" else "first"], part, confirmed=confirmed)
            new_outcome = new.run(stage(new.store), part, confirmed=confirmed)
            assert old_outcome.out[RESOLVED] == new_outcome.out[RESOLVED]
            assert (old_outcome.dropped, old_outcome.counts, old_outcome.passed) == (
                new_outcome.dropped,
                new_outcome.counts,
                new_outcome.passed,
            )
            assert old.graph() == new.graph()


def profiles(world: World, worker: str, at: int, *combinations: Nodes) -> list[str]:
    """Return the profiles of events with these nodes, in one batch."""
    values: list[bytes | None] = [event(at + n, nodes) for n, nodes in enumerate(combinations)]
    return [record["profile_id"] for record in resolved(world.run(world.workers[worker], batch(values, at), confirmed=True))]


def test_a_demotion_reaches_what_is_remembered_in_its_batch() -> None:
    """A cached cookie of one user is nobody's from the event on that shows another user."""
    world = World()
    for at in (0, 10):
        assert profiles(world, "first", at, (U1, C1), (C1,), (C2,)) == [C1, C1, C2]
    assert profiles(world, "first", 20, (C1,), (U2, C1), (C2,)) == [ALIAS(C1, 1), U2, C2]
    assert profiles(world, "first", 30, (C1,), (U1, C1)) == [ALIAS(C1, 1), C1]


def test_a_rewrite_of_a_forgotten_slot_reaches_what_is_remembered() -> None:
    """Another worker's split invalidates cached columns, whether its slot is cached or not."""
    world = World()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "MAX_CACHED_SLOTS", 1)
        for at in (0, 10):
            assert profiles(world, "first", at, (D1, C1), (C1,), (D1, C2), (C2,)) == [D1] * 4
        assert profiles(world, "first", 18, (NODES[3], C3)) == [NODES[3]]  # the only cached slot from here on
        world.links.append((D1, C2))
        world.rewrite("split", C1)
        assert profiles(world, "first", 20, (C1,), (C2,), (D1,)) == [ALIAS(C1, 1), D1, D1]


def test_a_link_reaches_what_is_remembered_in_its_batch() -> None:
    """A login moves all cached ids under the root to the user, also for earlier events of the batch."""
    world = World()
    for at in (0, 10):
        assert profiles(world, "first", at, (D1, C1), (C1,), (C2,)) == [D1, D1, C2]
    assert profiles(world, "first", 20, (C1,), (C2,), (U1, C1), (D1, C2)) == [D1] * 4
    assert profiles(world, "second", 30, (C2,), (U1,)) == [D1, D1]
