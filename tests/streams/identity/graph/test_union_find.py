"""Union-find on a view: components equal an oracle's, users never merge, parents are always smaller."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from streams.identity.graph.limits import Limit, Pair
from streams.identity.graph.union_find import (
    SHARED,
    TWO_USERS,
    Events,
    GraphView,
    Slot,
    Write,
    home_root,
    live_nodes,
    plan,
    plan_labels,
    undo_writes,
    unlogged_nodes,
)

ANONYMOUS = [f"{tier}{n:032x}" for tier in "123" for n in range(8)]
USERS = [f"0{n:032x}" for n in range(4)]
NODES = ANONYMOUS + USERS


def events(nodes: list[str], most: int) -> st.SearchStrategy[Events]:
    """Strategy for the events of a batch."""
    event = st.lists(st.sampled_from(nodes), min_size=1, max_size=most, unique=True).map(lambda some: tuple(sorted(some)))
    return st.lists(event, max_size=40).map(lambda some: {event: at for at, event in enumerate(dict.fromkeys(some))})


def unlinked_view() -> GraphView:
    """Return a view that has read every node of an empty graph."""
    return GraphView(dict.fromkeys(NODES))


def oracle(events: Events) -> dict[str, int]:
    """Return node -> component, by scipy."""
    index = {node: at for at, node in enumerate(NODES)}
    pairs = [(index[event[0]], index[node]) for event in events for node in event]
    rows, columns = zip(*pairs, strict=True) if pairs else ((), ())
    matrix = coo_matrix((np.ones(len(pairs)), (rows, columns)), shape=(len(NODES), len(NODES)))
    _, labels = connected_components(matrix, directed=False)
    return dict(zip(NODES, labels.tolist(), strict=True))


@given(events(ANONYMOUS, 3))
@settings(deadline=None)
def test_partition_is_the_oracles(events: Events) -> None:
    """Without users, two nodes share a root exactly when a chain of events connects them."""
    view = unlinked_view()
    plan(view, events)
    component = oracle(events)
    roots = {node: view.find(node) for node in NODES}
    for a in NODES:
        assert all((roots[a] == roots[b]) == (component[a] == component[b]) for b in NODES)


@given(events(NODES, 4))
def test_every_parent_is_smaller_and_users_have_none(events: Events) -> None:
    """Links go to strictly smaller nodes and users are never linked, so there is no cycle."""
    view = unlinked_view()
    writes, _ = plan(view, events)
    links = [write for write in writes if not write.rule]
    assert all(write.slot.parent < write.node and write.node[0] != "0" for write in links)
    assert len({write.node for write in links}) == len(links)
    assert plan(view, events)[0] == []


@given(events(NODES, 4))
def test_an_event_with_a_user_is_the_users(events: Events) -> None:
    """An event that names a user belongs to that user, whoever its other nodes belong to."""
    view = unlinked_view()
    plan(view, events)
    assert all(home_root(view, live_nodes(view, event)) == event[0] for event in events if event[0][0] == "0")


@given(events(NODES, 4))
def test_what_is_undone_was_never_there(events: Events) -> None:
    """Undone writes leave the view as it was."""
    view = unlinked_view()
    writes, _ = plan(view, events)
    undo_writes(view, writes)
    assert view.slots == unlinked_view().slots


def test_a_nodes_second_user_demotes_it() -> None:
    """A cookie that comes with another user than its own is demoted, keeps its parent and attributes nothing."""
    view = unlinked_view()
    cookie, other = ANONYMOUS[8], ANONYMOUS[9]
    events = {(USERS[0], cookie): 0, (cookie, other): 1, (USERS[1], cookie): 2, (cookie,): 3}
    writes, _ = plan(view, events)
    link, shared = Slot(USERS[0], logged=False), Slot(USERS[0], logged=False, epoch=1, state=SHARED)
    assert writes[0] == Write(cookie, None, link, 0)
    assert writes[-1] == Write(cookie, link, shared, 2, TWO_USERS, USERS[1])
    assert live_nodes(view, (USERS[1], cookie)) == (USERS[1],)
    assert live_nodes(view, (cookie,)) == ()
    assert view.find(other) == USERS[0], "what hung under the user stays there"
    assert plan(view, {(cookie, ANONYMOUS[10]): 0}) == ([], [])


def test_what_holds_too_much_is_demoted() -> None:
    """A device with too many cookies is demoted; its former cookies remain its children."""
    view = unlinked_view()
    device, first, second = ANONYMOUS[0], ANONYMOUS[8], ANONYMOUS[9]
    _, pairs = plan(view, {(device, first): 0})
    assert [pair for pair in pairs if pair.holder == device] == [
        Pair(device, first, Limit("cookies_per_device", 12, 30)),
        Pair(device, first, Limit("cookies_per_device_and_year", 60, 365, independent=True)),
    ]
    assert [pair for pair in pairs if pair.holder != device] == [Pair(first, device, Limit("devices_per_cookie", 6, 365))]
    again, _ = plan(view, {(device, second): 0}, {device: "cookies_per_device"})
    assert again == [Write(device, None, Slot(device, logged=False, epoch=1, state=SHARED), 0, "cookies_per_device")]
    assert (view.find(first), view.find(second)) == (device, second)
    assert home_root(view, (first, second)) == second, "a demoted root takes nothing more in"
    assert plan(view, {(first, second): 0}) == ([], [])
    assert home_root(view, (first,)) == device


def test_a_root_that_a_split_left_is_linked_again() -> None:
    """A root whose slot points at itself takes children and is linked by replacing its slot."""
    view = unlinked_view()
    device, cookie, other = ANONYMOUS[0], ANONYMOUS[8], ANONYMOUS[9]
    alone = view.slots[cookie] = Slot(cookie, logged=True, epoch=3)
    assert (view.find(cookie), view.below_users(cookie), view.missing([cookie])) == (cookie, cookie, set())
    assert not view.marked(cookie)
    writes, _ = plan(view, {(cookie, other): 0, (device, cookie): 1})
    assert writes == [
        Write(other, None, Slot(cookie, logged=False), 0),
        Write(cookie, alone, Slot(device, logged=False, epoch=4), 1),
    ]
    assert view.find(other) == device
    undo_writes(view, writes)
    assert view.slots[cookie] == alone


@given(events(NODES, 4), st.sets(st.sampled_from(ANONYMOUS)))
def test_roots_with_a_slot_link_as_roots_without(events: Events, split: set[str]) -> None:
    """Whichever roots a split has left, the same events give the same components."""
    plain, view = unlinked_view(), unlinked_view()
    view.slots |= {node: Slot(node, logged=True, epoch=2) for node in split}
    plan(plain, events)
    for write in plan(view, events)[0]:
        if not write.rule and write.node in split:
            assert write.slot.epoch == 3
    assert [view.find(node) for node in NODES] == [plain.find(node) for node in NODES]


def test_a_user_of_everybody_is_nobody() -> None:
    """A user with too many cookies is demoted; its nodes are free when they come next, except for its label."""
    view = unlinked_view()
    first, second, third = ANONYMOUS[8:11]
    events: Events = {(USERS[0], first): 0, (USERS[0], second): 1}
    plan(view, events)
    assert [label.slot.parent for label in plan_labels(view, events)] == [first]
    view.slots[USERS[0]] = Slot(first, logged=True)
    writes, _ = plan(view, {(USERS[0], third): 2}, {USERS[0]: "cookies_per_user"})
    assert [(write.node, write.slot.state, write.rule) for write in writes] == [(USERS[0], SHARED, "cookies_per_user")]
    assert live_nodes(view, (USERS[0], third)) == (), "it is nobody else's event"
    writes, _ = plan(view, {(USERS[1], second): 3, (first,): 4})
    assert [(write.node, write.slot) for write in writes] == [
        (second, Slot(second, logged=False, epoch=1)),
        (second, Slot(USERS[1], logged=False, epoch=2)),
    ]
    assert view.find(first) == USERS[0]
    assert view.label(USERS[0]) == first


def test_a_users_label_is_the_root_that_came_first() -> None:
    """The label is the anonymous root of the first event that leads to the user; the user itself without one."""
    view = unlinked_view()
    device, cookie = ANONYMOUS[0], ANONYMOUS[8]
    events = {(device, cookie): 0, (USERS[0], cookie): 1, (USERS[1],): 2}
    plan(view, events)
    labels = plan_labels(view, events)
    assert [(label.node, label.slot.parent) for label in labels] == [(USERS[0], device), (USERS[1], USERS[1])]
    view.slots[USERS[0]] = Slot(device, logged=False)
    assert view.label(USERS[0]) == view.label(view.find(cookie)) == device
    assert plan_labels(view, events) == labels[1:]


def test_missing_asks_level_by_level() -> None:
    """`missing` returns the next unread node on each path; a demoted root ends the path."""
    a, b, c = ANONYMOUS[:3]
    view = GraphView()
    assert view.missing([c, b]) == {c, b}
    view.slots |= {c: Slot(b, logged=True), b: Slot(a, logged=True)}
    assert view.missing([c, b]) == {a}
    view.slots[a] = Slot(USERS[0], logged=True)
    assert view.missing([c]) == {USERS[0]}
    view.slots[USERS[0]] = Slot(a, logged=True)  # a label is no parent
    assert view.missing([c]) == set()
    view.slots[a] = Slot(a, logged=True, epoch=1, state=SHARED)
    assert view.missing([c]) == set()
    assert view.below_users(c) == a


def test_only_what_is_not_logged_is_logged_again() -> None:
    """Only slots that were read and may be missing from the log are returned."""
    a, b, c = ANONYMOUS[:3]
    view = GraphView({a: None, b: Slot(a, logged=True), c: Slot(a, logged=False)})
    assert unlogged_nodes(view, view.slots) == [c]
