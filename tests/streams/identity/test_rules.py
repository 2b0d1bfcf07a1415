"""Union-find on a view: partitions equal an oracle's, users never merge, parents are always smaller."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from streams.identity.rules import Link, Slot, View, home, plan_labels, plan_links, unlogged

ANONYMOUS = [f"{tier}{n:032x}" for tier in "123" for n in range(8)]
USERS = [f"0{n:032x}" for n in range(4)]
NODES = ANONYMOUS + USERS
EVENTS = st.lists(st.lists(st.sampled_from(ANONYMOUS), min_size=1, max_size=3, unique=True).map(sorted), max_size=40)
CONFLICTED = st.lists(st.lists(st.sampled_from(NODES), min_size=1, max_size=4, unique=True).map(sorted), max_size=40)


def seen_all() -> View:
    """A view that has read every node of an empty graph."""
    return View(dict.fromkeys(NODES))


def oracle(events: list[list[str]]) -> dict[str, int]:
    """Node -> component, by scipy."""
    index = {node: at for at, node in enumerate(NODES)}
    pairs = [(index[event[0]], index[node]) for event in events for node in event]
    rows, columns = zip(*pairs, strict=True) if pairs else ((), ())
    matrix = coo_matrix((np.ones(len(pairs)), (rows, columns)), shape=(len(NODES), len(NODES)))
    _, labels = connected_components(matrix, directed=False)
    return dict(zip(NODES, labels.tolist(), strict=True))


@given(EVENTS)
@settings(deadline=None)
def test_partition_is_the_oracles(events: list[list[str]]) -> None:
    """Without users, two nodes share a root exactly when a chain of events connects them."""
    view = seen_all()
    plan_links(view, enumerate(events))
    component = oracle(events)
    roots = {node: view.find(node) for node in NODES}
    for a in NODES:
        assert all((roots[a] == roots[b]) == (component[a] == component[b]) for b in NODES)


@given(CONFLICTED)
def test_every_parent_is_smaller_and_users_have_none(events: list[list[str]]) -> None:
    """Whatever is asked for, links go to strictly smaller nodes, users are never linked, so there is no cycle."""
    view = seen_all()
    links, _ = plan_links(view, enumerate(events))
    assert all(link.parent < link.node and link.node[0] != "0" for link in links)
    assert len({link.node for link in links}) == len(links)
    assert plan_links(view, enumerate(events))[0] == []


@given(CONFLICTED)
def test_an_event_with_a_user_is_the_users(events: list[list[str]]) -> None:
    """An event that names a user belongs to that user, whoever its other nodes belong to."""
    view = seen_all()
    plan_links(view, enumerate(events))
    assert all(home(view, event) == event[0] for event in events if event[0][0] == "0")


def test_a_nodes_second_user_is_a_conflict() -> None:
    """A cookie that belongs to one user stays there when another one uses it; it is counted."""
    view = seen_all()
    cookie = ANONYMOUS[0]
    links, conflicts = plan_links(view, [(0, [USERS[0], cookie]), (1, [USERS[1], cookie])])
    assert (links, conflicts) == ([Link(cookie, USERS[0], 0)], 1)
    assert home(view, [cookie]) == USERS[0]


def test_a_users_label_is_the_root_that_came_first() -> None:
    """The anonymous root already stamped, by the first event that leads to the user; the user itself where there is none."""
    view = seen_all()
    device, cookie = ANONYMOUS[0], ANONYMOUS[8]
    events = [(0, [device, cookie]), (1, [USERS[0], cookie]), (2, [USERS[1]])]
    plan_links(view, events)
    labels = plan_labels(view, events)
    assert labels == [Link(USERS[0], device, 0), Link(USERS[1], USERS[1], 2)]
    view.slots[USERS[0]] = Slot(device, logged=False)
    assert view.label(USERS[0]) == view.label(view.find(cookie)) == device
    assert plan_labels(view, events) == labels[1:]


def test_missing_asks_level_by_level() -> None:
    """Of each way up, the next node that was not read is asked for."""
    a, b, c = ANONYMOUS[:3]
    view = View()
    assert view.missing([c, b]) == {c, b}
    view.slots |= {c: Slot(b, logged=True), b: Slot(a, logged=True)}
    assert view.missing([c, b]) == {a}
    view.slots[a] = Slot(USERS[0], logged=True)
    assert view.missing([c]) == {USERS[0]}
    view.slots[USERS[0]] = Slot(a, logged=True)  # a label is no parent
    assert view.missing([c]) == set()


def test_only_what_is_not_logged_is_logged_again() -> None:
    """Slots that were met and may be missing from the log are named; others are not."""
    a, b, c = ANONYMOUS[:3]
    view = View({a: None, b: Slot(a, logged=True), c: Slot(a, logged=False)})
    assert unlogged(view, view.slots) == [c]
