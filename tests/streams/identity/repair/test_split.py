"""A node taken out of its component: the rest is what the other evidence links, whatever crashes in between."""

from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from infra.errors import ConfigError
from infra.secrets import Secret
from streams.identity.graph.store import MemoryGraphStore
from streams.identity.graph.union_find import SHARED, Events, GraphView, Nodes, Slot, Write, plan, plan_labels
from streams.identity.nodes import alias
from streams.identity.repair.split import ComponentTree, ProfileRewrite, connected_parts, plan_split
from streams.identity.repair.splitting import SlotLogger, SplitJournal, plan_next_split, read_tree, split_node
from tests.support.scale import examples

ALIAS = alias(Secret("for tests only, forty characters long..."))
U1, U2 = "0" + "1" * 32, "0" + "2" * 32
D1, D2, C1, C2, C3 = "1" + "a" * 32, "1" + "b" * 32, "2" + "c" * 32, "2" + "d" * 32, "2" + "e" * 32
NODES = [f"{tier}{n:032x}" for tier in "0123" for n in range(5)]
EVENT = st.lists(st.sampled_from(NODES), min_size=1, max_size=3, unique=True).map(lambda some: tuple(sorted(some)))
WORLD = st.lists(EVENT, min_size=1, max_size=25)


def links(view: GraphView, events: Events) -> list[Write]:
    """Return the links and demotions that events require."""
    return plan(view, events)[0]


def linked(*events: Nodes) -> MemoryGraphStore:
    """Return a graph in which these events were linked one after the other, as by the stage."""
    store, view = MemoryGraphStore(), GraphView(dict.fromkeys(NODES))
    for n, nodes in enumerate(events):
        view.slots.update(dict.fromkeys(set(nodes) - view.slots.keys()))
        for make in (links, plan_labels):
            writes = make(view, {nodes: n})
            assert all(store.write(writes))
            view.slots.update({write.node: write.slot for write in writes})
    store.confirm(list(store.slots.items()))
    return store


def memory_reader(events: Iterable[Nodes]) -> Callable[[Collection[str]], list[Nodes]]:
    """Return a reader of these events' evidence."""
    return lambda nodes: [event for event in events if len(set(event) & set(nodes)) > 1]


def log_into(log: dict[str, Slot]) -> SlotLogger:
    """Return a logger into memory."""
    return lambda _kept, slots: log.update(slots)


def view_of(store: MemoryGraphStore) -> GraphView:
    """Return a view of the whole store."""
    return GraphView({**dict.fromkeys(NODES), **store.slots})


def oracle(members: Sequence[str], evidence: Iterable[Nodes]) -> dict[str, int]:
    """Return node -> component among these nodes alone, by scipy."""
    index = {node: at for at, node in enumerate(members)}
    here = [[index[node] for node in event if node in index] for event in evidence]
    pairs = [(event[0], other) for event in here if event for other in event]
    rows, columns = zip(*pairs, strict=True) if pairs else ((), ())
    matrix = coo_matrix((np.ones(len(pairs)), (rows, columns)), shape=(len(members), len(members)))
    return dict(zip(members, connected_components(matrix, directed=False)[1].tolist(), strict=True))


@given(WORLD, st.sets(st.sampled_from(NODES[5:])))
def test_parts_are_the_oracles(world: list[Nodes], members: set[str]) -> None:
    """Two anonymous nodes are in one part exactly when a chain of events between these nodes connects them."""
    component = oracle(sorted(members), world)
    components = connected_parts(members, world)
    assert sorted(node for part in components for node in part) == sorted(members)
    assert {frozenset(part) for part in components} == {
        frozenset(node for node in members if component[node] == number) for number in component.values()
    }


@given(WORLD)
def test_users_are_in_parts_of_their_own(world: list[Nodes]) -> None:
    """No part has two users."""
    assert all(sum(node[0] == "0" for node in part) < 2 for part in connected_parts(NODES, world))


@given(WORLD, st.sampled_from(NODES))
@settings(deadline=None, max_examples=examples(300))
def test_the_rest_is_what_other_evidence_links(world: list[Nodes], node: str) -> None:
    """The node is demoted, the others are linked as the oracle says; a second run does nothing."""
    store, log = linked(*world), dict[str, Slot]()
    before, tree = view_of(store), read_tree(store, node)
    members = sorted(tree.slots.keys() - {node})
    split_node(store, node, memory_reader(world), ALIAS, log_into(log))
    after = view_of(store)
    assert (store.slots[node].state, store.slots[node].parent) == (SHARED, node)
    component = oracle(members, world)
    live = [member for member in members if not after.marked(member)]
    assert all((after.find(a) == after.find(b)) == (component[a] == component[b]) for a in live for b in live)
    assert all(after.slots[member] == before.slots[member] for member in NODES if member not in tree.slots)
    assert all(slot.parent <= member for member, slot in store.slots.items() if member[0] != "0")
    assert all(
        slot.state == (was.state if (was := before.slots[member]) else "") for member, slot in log.items() if member != node
    )
    changed = {member: slot for member, slot in store.slots.items() if slot != before.slots[member]}
    assert {member: slot._replace(logged=True) for member, slot in log.items()} == changed, "what was rewritten is in the log"
    again = dict[str, Slot]()
    split_node(store, node, memory_reader(world), ALIAS, log_into(again))
    assert again == {}


@given(WORLD, st.sampled_from(NODES), st.sampled_from(NODES))
@settings(deadline=None, max_examples=examples(200))
def test_two_users_never_share_a_label(world: list[Nodes], first: str, second: str) -> None:
    """After two splits and a replay of all events each label belongs to one user."""
    store = linked(*world)
    for node in (first, second):
        split_node(store, node, memory_reader(world), ALIAS, log_into({}))
    view = view_of(store)
    for n, nodes in enumerate(world):
        for make in (links, plan_labels):
            for write in make(view, {nodes: n}):
                view.slots[write.node] = write.slot
    labels = [slot.parent for node, slot in view.slots.items() if node[0] == "0" and slot is not None]
    assert len(labels) == len(set(labels))


def test_a_label_goes_with_its_node() -> None:
    """A user whose label belongs to another part becomes its own label; other labels stay."""
    store = linked((D1, C1), (U1, C1), (U1, C2))
    assert store.slots[U1] == Slot(D1, logged=True)
    split_plan = plan_next_split(store, C1, memory_reader([(D1, C1), (U1, C1), (U1, C2)]), ALIAS)
    assert [(write.node, write.slot.parent, write.slot.epoch) for write in split_plan.writes] == [
        (C1, C1, 1),
        (U1, U1, 1),
        (D1, D1, 1),
    ]
    assert split_plan.rewrites == (ProfileRewrite(ALIAS(C1, 1), (C1,)), ProfileRewrite(U1, (U1, C2)), ProfileRewrite(D1, (D1,)))
    assert split_plan.former_profiles == (U1, D1, C1, C2)
    unmoved = plan_next_split(store, D1, memory_reader([(D1, C1), (U1, C1), (U1, C2)]), ALIAS)
    assert [write.node for write in unmoved.writes] == [D1, C1], "C1 hung under D1"
    assert unmoved.rewrites == (ProfileRewrite(ALIAS(D1, 1), (D1,)), ProfileRewrite(D1, (U1, C1, C2)))
    hers = plan_next_split(store, C2, memory_reader([(D1, C1), (U1, C1), (U1, C2)]), ALIAS)
    assert [write.node for write in hers.writes] == [C2]


def test_a_user_can_be_a_tester() -> None:
    """Splitting a user id frees its devices, and its label's node."""
    world = [(D1, C1), (U1, C1), (U1, C2)]
    store = linked(*world)
    split_node(store, U1, memory_reader(world), ALIAS, log_into({}))
    assert store.slots[U1] == Slot(U1, logged=True, epoch=1, state=SHARED)
    view = view_of(store)
    assert [view.find(node) for node in (D1, C1, C2)] == [D1, D1, C2]


def test_what_hung_under_a_demoted_node_stays() -> None:
    """Splitting a third node keeps together what hangs under a demoted one."""
    store = linked((D1, C1), (D1, C2), (D1, C3))
    slot = store.slots.get(D1)
    store.write([Write(D1, slot, Slot(D1, logged=False, epoch=1, state=SHARED), 0)])
    split_plan = plan_next_split(store, C3, memory_reader([(D1, C1), (D1, C2), (D1, C3)]), ALIAS)
    assert [write.node for write in split_plan.writes] == [C3]


def test_an_id_that_was_never_linked_is_demoted() -> None:
    """A node without links is demoted; an erased one cannot be split."""
    store, log = MemoryGraphStore(), dict[str, Slot]()
    split_node(store, C1, memory_reader([]), ALIAS, log_into(log))
    assert log == {C1: Slot(C1, logged=False, epoch=1, state=SHARED)}
    store.slots[C2] = Slot(C2, logged=True, epoch=1, state="erased", since=1)
    with pytest.raises(ConfigError, match="erased"):
        split_node(store, C2, memory_reader([]), ALIAS, log_into(log))


class Crash(Exception):
    """The command was killed."""


class Dying(MemoryGraphStore):
    """A store that writes one slot at a time and is killed before one of them."""

    def __init__(self, store: MemoryGraphStore, steps: int) -> None:
        super().__init__()
        self.slots, self.child_index, self.notes = store.slots, store.child_index, store.notes
        self.steps = steps

    def step(self) -> None:
        """Count one step, or crash."""
        if self.steps == 0:
            raise Crash
        self.steps -= 1

    def write(self, writes: Sequence[Write]) -> list[bool]:
        """Write one by one."""
        won = []
        for write in writes:
            self.step()
            won += super().write([write])
        return won

    def save_note(self, node: str, text: str) -> None:
        """Save at once or not at all."""
        self.step()
        super().save_note(node, text)

    def confirm(self, slots: Iterable[tuple[str, Slot]]) -> None:
        """Confirm one by one."""
        for slot in slots:
            self.step()
            super().confirm([slot])


@given(WORLD, st.sampled_from(NODES))
@settings(deadline=None, max_examples=examples(60))
def test_a_split_that_was_killed_is_completed(world: list[Nodes], node: str) -> None:
    """Killed before each write in turn, the second run ends as an undisturbed one and logs the same."""
    straight, expected = linked(*world), dict[str, Slot]()
    journal = split_node(straight, node, memory_reader(world), ALIAS, log_into(expected))
    for steps in range(3 * len(expected) + 2):
        store, log = linked(*world), dict[str, Slot]()
        dying = Dying(store, steps)

        def killed_in_the_log(
            former_root: str, slots: Sequence[tuple[str, Slot]], dying: Dying = dying, log: dict[str, Slot] = log
        ) -> None:
            for slot in slots:
                dying.step()
                log.update([slot])

        try:
            split_node(dying, node, memory_reader(world), ALIAS, killed_in_the_log)
        except Crash:
            completed = split_node(store, node, memory_reader(world), ALIAS, log_into(log))
            assert (completed.former_profiles, completed.rewrites) == (journal.former_profiles, journal.rewrites)
        assert store.slots == straight.slots
        assert log == expected


def test_what_workers_link_meanwhile_is_taken_out_too() -> None:
    """A node that is linked under the split one meanwhile is freed by the next round."""
    world = [(D1, C1), (D1, C2)]
    store = linked(*world)

    def meanwhile(_kept: str, _slots: Sequence[tuple[str, Slot]]) -> None:
        if C3 not in store.slots:
            store.write([Write(C3, None, Slot(D1, logged=True), 0)])

    journal = split_node(store, D1, memory_reader(world), ALIAS, meanwhile)
    assert store.slots[C3] == Slot(C3, logged=True, epoch=1)
    assert ProfileRewrite(C3, (C3,)) in journal.rewrites


@given(WORLD, st.sampled_from(NODES))
def test_a_journal_is_read_as_it_was_noted(world: list[Nodes], node: str) -> None:
    """A journal survives the round trip."""
    split_plan = plan_split(read_tree(linked(*world), node), world, ALIAS)
    assume(split_plan.writes)
    journal = SplitJournal().add(split_plan)
    assert SplitJournal.from_text(journal.to_text()) == journal
    assert SplitJournal.from_text(None) == SplitJournal()


def test_a_tree_is_the_whole_component() -> None:
    """From each of its nodes, the tree is everything under the root."""
    store = linked((D1, C1), (U1, C1), (U1, C2), (U2, D2))
    for node in (U1, D1, C1, C2):
        assert read_tree(store, node) == ComponentTree(node, {n: store.slots[n] for n in (U1, D1, C1, C2)}, store.slots[D1])
