"""Withdrawals reach every linked id, on a memory graph and on a real Redis."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from infra.secrets import Secret
from infra.settings import PACKAGED_CONTRACTS
from infra.telemetry.metrics import Metrics
from schemas.codec import decode
from schemas.registry import Registry
from streams.identity.graph.redis_store import RedisGraphStore
from streams.identity.graph.store import GraphStore, MemoryGraphStore
from streams.identity.graph.union_find import GraphView, Slot, Write, plan, plan_labels
from streams.identity.nodes import alias
from streams.identity.refusals.revocation import REQUESTS, REVOCATIONS, SIGNALS, find_component, request_id
from streams.identity.stage import IdentityDependencies, IdentityStage
from streams.runtime.stage import Batch
from tests.streams.identity.line import revocation

ALIAS = alias(Secret("for tests only, forty characters long..."))
REGISTRY = Registry(PACKAGED_CONTRACTS)
T = 1_764_000_123_456


def made(tier: int, n: int) -> str:
    """Build a node."""
    return f"{tier}{n:032x}"


def link(node: str, parent: str) -> Write:
    """Build a first link."""
    return Write(node, None, Slot(parent, logged=False), 0)


def linked(store: GraphStore, *events: list[str]) -> None:
    """Link the nodes of these events, as the stage does."""
    view = GraphView()
    for n, nodes in enumerate(events):
        event = {tuple(sorted(set(nodes))): n}
        slots = {node: slot for node in (made(t, i) for t in range(4) for i in range(9)) for slot in store.read([node])}
        view.slots.update(slots)
        for writes in (plan(view, event)[0], plan_labels(view, event)):
            store.write(writes)


EVENTS = st.lists(st.lists(st.builds(made, st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=3), max_size=12)


@given(EVENTS, st.builds(made, st.integers(0, 3), st.integers(0, 3)))
def test_the_whole_component_and_nothing_else(events: list[list[str]], node: str) -> None:
    """From any of its nodes, the component is what has the same root and was not demoted."""
    store = MemoryGraphStore()
    linked(store, *events)
    view = GraphView(dict(store.slots))
    for other in (made(t, i) for t in range(4) for i in range(9)):
        view.slots.setdefault(other, None)
    same = {other for other in view.slots if view.find(other) == view.find(node)}
    expected = {node} if view.marked(node) else {other for other in same if not view.marked(other)}
    component = find_component(store, node)
    assert set(component.nodes) == expected
    assert all(find_component(store, other).nodes == component.nodes for other in component.nodes)
    label = view.label(view.find(node))
    assert view.marked(node) or label is None or label in component.profiles


def test_an_id_in_the_middle_of_the_tree_reaches_those_below_it() -> None:
    """A cookie below a user and above another cookie reaches all three."""
    store, user, cookie, other = MemoryGraphStore(), made(0, 0), made(1, 0), made(1, 1)
    linked(store, [cookie, other], [user, cookie])
    for node in (user, cookie, other):
        assert find_component(store, node).nodes == (user, cookie, other)


@pytest.fixture
def graph(redis_url: str) -> Iterator[RedisGraphStore]:
    """An empty graph in Redis."""
    client = redis.Redis.from_url(redis_url)
    client.flushall()
    yield RedisGraphStore(lambda: client)
    client.flushall()
    client.close()


def test_on_redis_a_link_that_was_lost_is_no_link(graph: RedisGraphStore) -> None:
    """A child whose slot points elsewhere is not expanded."""
    assert graph.write([link(made(2, 1), made(0, 1))]) == [True]
    assert graph.write([link(made(2, 1), made(0, 2)), link(made(2, 2), made(0, 2))]) == [False, True]
    assert find_component(graph, made(2, 1)).nodes == (made(0, 1), made(2, 1))
    assert find_component(graph, made(0, 2)).nodes == (made(0, 2), made(2, 2))
    assert find_component(graph, made(3, 7)).nodes == (made(3, 7),)


def test_the_stage_expands_and_asks(graph: RedisGraphStore) -> None:
    """One signal for each other node under its own key and one request with all nodes; a replay gives the same bytes."""
    cookie, other, user = made(2, 1), made(2, 2), made(0, 1)
    linked(graph, [cookie, user], [other, user])
    stage = IdentityStage(REGISTRY, graph, Metrics(), IdentityDependencies(ALIAS, sla_ms=60_000))
    batch = Batch(REVOCATIONS, 0, [cookie.encode()], [revocation(cookie)], [4])
    outcome = stage.handle(batch, 0)
    signalled = {key: decode(REGISTRY, value or b"")[1] for key, value, _ in outcome.out[SIGNALS]}
    assert set(signalled) == {other.encode(), user.encode()}
    for key, record in signalled.items():
        assert record["subject"].encode() == key
        assert (record["kind"], record["via"], record["chosen_ts"]) == ("withdrawal", "linked", T)
        assert record["purposes"] == ["analytics", "marketing"]
    (request,) = [decode(REGISTRY, value or b"")[1] for _, value, _ in outcome.out[REQUESTS]]
    assert request["nodes"] == sorted([cookie, other, user])
    assert (request["requested_ts"], request["deadline_ts"]) == (T + 9, T + 9 + 60_000)
    assert set(request["profiles"]) >= {cookie, user}
    assert stage.handle(batch, 99).out == outcome.out
    assert outcome.passed == 1


def test_a_withdrawal_of_who_was_erased_since_asks_nobody() -> None:
    """A replayed withdrawal of an erased subject is dropped; a later one is expanded."""
    store, node = MemoryGraphStore(), made(2, 1)
    store.write([Write(node, None, Slot(node, logged=False, epoch=1, state="erased", since=T + 9), 0)])
    stage = IdentityStage(REGISTRY, store, Metrics(), IdentityDependencies(ALIAS))
    values = [revocation(node), revocation(node, received_ts=T + 10)]
    outcome = stage.handle(Batch(REVOCATIONS, 0, [b"k"] * 2, values, range(2)), 0)
    assert (outcome.passed, dict(outcome.dropped), len(outcome.out[REQUESTS])) == (1, {"ERASED": 1}, 1)


def test_broken_revocations_are_dead() -> None:
    """Broken bytes, tombstones and subjects that are no node are dead letters; the others are expanded."""
    stage = IdentityStage(REGISTRY, MemoryGraphStore(), Metrics(), IdentityDependencies(ALIAS))
    values = [b"rubbish", None, revocation("nobody"), revocation(made(2, 1))]
    outcome = stage.handle(Batch(REVOCATIONS, 0, [b"k"] * 4, values, range(4)), 0)
    assert ([dead.at for dead in outcome.dead], outcome.passed) == ([0, 1, 2], 1)


def test_request_ids_tell_withdrawals_apart() -> None:
    """Equal withdrawals have one id; another subject, site, time or purpose another."""
    first = {"subject": "a", "site": "s", "regulation": "opt-in", "purposes": ["x", "y"], "withdrawn_ts": 1}
    assert request_id(first) == request_id({**first, "purposes": ["y", "x"]})
    others: list[dict[str, Any]] = [
        {"subject": "b"},
        {"site": "t"},
        {"withdrawn_ts": 2},
        {"purposes": ["x"]},
        {"regulation": "opt-out"},
    ]
    assert len({request_id({**first, **other}) for other in others} | {request_id(first)}) == 6
