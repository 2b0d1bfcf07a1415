"""Whichever worker crashes or overtakes, the graph is the oracle's, and the log alone says the same."""

import numpy as np
import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from streams.identity.graph.union_find import SHARED, GraphView
from tests.streams.identity.crashing import (
    InterruptedStore,
    LabelFirstStore,
    Nodes,
    Plan,
    TightStore,
    TransitionStore,
    World,
    groups_of,
)
from tests.support.scale import examples

PEOPLE = 4
OWN = {
    person: [f"0{person:032x}", *(f"{tier}{person * 8 + n:02x}{'e' * 30}" for tier in "123" for n in range(3))]
    for person in range(PEOPLE)
}
NODES = [node for nodes in OWN.values() for node in nodes]


def some(nodes: list[str]) -> st.SearchStrategy[Nodes]:
    """Strategy for an event with one to four of these nodes."""
    return st.lists(st.sampled_from(nodes), min_size=1, max_size=4, unique=True).map(lambda nodes: tuple(sorted(nodes)))


PEACEFUL = st.lists(st.integers(0, PEOPLE - 1).flatmap(lambda person: some(OWN[person])), min_size=1, max_size=24)
"""Events without conflicts."""
CONFLICTED = st.lists(some(NODES), min_size=1, max_size=24)
PLANS = st.builds(
    Plan,
    st.integers(1, 6),
    st.dictionaries(st.integers(1, 60), st.booleans(), max_size=8),
    st.frozensets(st.integers(1, 16), max_size=4),
    st.frozensets(st.integers(1, 16), max_size=4),
)


def spread(events: list[Nodes], workers: int, order: list[int]) -> list[list[tuple[int, Nodes]]]:
    """Spread events, each a second time at the end, over partitions."""
    partitions: list[list[tuple[int, Nodes]]] = [[] for _ in range(workers)]
    for place, n in enumerate([*order, *order[: len(order) // 2]]):
        partitions[place % workers].append((n, events[n]))
    return partitions


@st.composite
def worlds(draw: st.DrawFn, events: st.SearchStrategy[list[Nodes]], store: type[InterruptedStore]) -> tuple[list[Nodes], World]:
    """Draw shuffled events with duplicates, one to four workers and a plan of interruptions, and run to the end."""
    drawn = draw(events)
    order = draw(st.permutations(range(len(drawn))))
    world = World(store(), spread(drawn, draw(st.integers(1, 4)), order), draw(PLANS))
    world.run()
    return drawn, world


def oracle(events: list[Nodes]) -> set[frozenset[str]]:
    """Return the components, by scipy."""
    index = {node: at for at, node in enumerate(NODES)}
    rows, columns = zip(*[(index[nodes[0]], index[node]) for nodes in events for node in nodes], strict=True)
    size = len(NODES)
    _, labels = connected_components(coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(size, size)), directed=False)
    groups: dict[int, set[str]] = {}
    for node, label in zip(NODES, labels.tolist(), strict=True):
        groups.setdefault(label, set()).add(node)
    return {frozenset(group) for group in groups.values()}


@given(worlds(PEACEFUL, InterruptedStore))
@settings(deadline=None, max_examples=examples(300))
def test_the_graph_is_the_oracles_and_so_is_its_log(case: tuple[list[Nodes], World]) -> None:
    """Components and roots are right in the store and by the log; the smallest node is the root."""
    events, world = case
    expected = oracle(events)
    assert groups_of(world.store.slots, NODES) == expected
    assert groups_of(world.logged(), NODES) == expected
    view = GraphView({**dict.fromkeys(NODES), **world.store.slots})
    assert all(view.find(node) == min(group) for group in expected for node in group)
    assert world.live() == world.logged()


@given(worlds(CONFLICTED, InterruptedStore) | worlds(CONFLICTED, TightStore))
@settings(deadline=None, max_examples=examples(500))
def test_no_profile_has_two_users(case: tuple[list[Nodes], World]) -> None:
    """With conflicts too, no profile has two users, the log equals the store, and no event is lost."""
    events, world = case
    assert world.live() == world.logged()
    view = GraphView({**dict.fromkeys(NODES), **world.store.slots})
    users: dict[str, set[str]] = {}
    for n, records in world.outputs.items():
        for record in records:
            if events[n][0][0] == "0" and record["identity_state"] == "resolved":
                users.setdefault(record["profile_id"], set()).add(events[n][0])
    # Once the first of two users in an event is demoted, the second one counts: two users attribute one event.
    alone = {nodes[0] for nodes in events} - {node for nodes in events for node in nodes[1:]}
    assert {profile: profile_users for profile, profile_users in users.items() if len(profile_users & alone) > 1} == {}
    strongest = {node for nodes in events for node in nodes if node[0] == "0" and node == nodes[0]}
    labels = {user: view.label(user) for user in strongest}
    assert None not in labels.values()
    assert len(set(labels.values())) == len(labels)
    assert set(world.outputs) == set(range(len(events))), "each event left"
    alone = {
        record["profile_id"] for records in world.outputs.values() for record in records if record["identity_state"] == SHARED
    }
    assert not alone & set(NODES)


@given(worlds(CONFLICTED, InterruptedStore))
@settings(deadline=None, max_examples=examples(100))
def test_an_event_passes_once(case: tuple[list[Nodes], World]) -> None:
    """Of a duplicate pair exactly one event passes, on any partitions and with any crash."""
    _, world = case
    assert {n: len(records) for n, records in world.outputs.items() if len(records) != 1} == {}


@given(worlds(CONFLICTED, InterruptedStore))
@settings(deadline=None, max_examples=examples(100))
def test_a_rebuilt_graph_goes_on_as_the_old_one(case: tuple[list[Nodes], World]) -> None:
    """A store filled from the log resolves every event as the live one."""
    events, world = case
    again = [(len(events) + n, nodes) for n, nodes in enumerate(events)]
    rebuilt = InterruptedStore()
    rebuilt.slots = world.logged()
    rebuilt.memberships = world.store.memberships
    stamps = []
    for store in (world.store, rebuilt):
        late = World(store, [again], Plan(5))
        late.run()
        stamps.append({n: [record["profile_id"] for record in records] for n, records in late.outputs.items()})
    assert stamps[0] == stamps[1]


def test_who_logs_only_what_it_wrote_loses_links() -> None:
    """Negative control: without logging pending slots again, a crash before the commit loses a link."""
    _, world = find(
        worlds(PEACEFUL, TransitionStore),
        lambda case: case[1].live() != case[1].logged(),
        # Any case will do, so it is not shrunk.
        settings=settings(max_examples=2_000, phases=[Phase.generate], derandomize=True, database=None),
    )
    assert world.logged().keys() < world.live().keys()


def test_who_claims_labels_before_links_merges_users() -> None:
    """Negative control: two workers that claim one cookie as label before the link merge two users."""
    cookie = "2" + "c" * 32
    partitions = [[(0, (OWN[0][0], cookie))], [(1, (OWN[1][0], cookie))]]

    def labels(store: InterruptedStore, meanwhile: int) -> list[str]:
        World(store, partitions, Plan(1, {meanwhile: False})).run()
        return [slot.parent for node, slot in store.slots.items() if node[0] == "0"]

    moments = range(1, 12)
    assert any(len(set(user_labels)) < len(user_labels) for user_labels in (labels(LabelFirstStore(), at) for at in moments))
    assert all(
        len(set(user_labels)) == len(user_labels) == 2 for user_labels in (labels(InterruptedStore(), at) for at in moments)
    )


CONFLICT: list[Nodes] = [
    (NODES[1], NODES[4]), (NODES[0], NODES[4]), (NODES[4], NODES[7]), (NODES[10], NODES[4]),
    (NODES[10], NODES[11], NODES[14]), (NODES[7],), (NODES[14], NODES[17]), (NODES[0], NODES[1]),
]  # fmt: skip
PEACE: list[Nodes] = [nodes for nodes in CONFLICT if nodes != (NODES[10], NODES[4])]


@pytest.mark.parametrize("events", [CONFLICT, PEACE], ids=["conflict", "peace"])
def test_every_single_write_may_be_the_last(events: list[Nodes]) -> None:
    """A crash before each write in turn leaves a log that equals the store."""

    def run(ends: dict[int, bool]) -> World:
        world = World(InterruptedStore(), spread(events, 2, list(range(len(events)))), Plan(2, ends))
        world.run()
        return world

    whole = run({})
    assert any(slot.state == SHARED for slot in whole.live().values()) == (events is CONFLICT)
    for last in range(1, whole.writes + 1):
        world = run({last: True})
        assert world.live() == world.logged(), last
        if events is PEACE:
            assert groups_of(world.live(), NODES) == oracle(events), last
