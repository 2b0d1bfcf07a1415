"""A Redis that goes away, comes back empty, or comes back with old data, while events flow."""

import random
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import redis

from infra.ops.embedded.servers.redis import EmbeddedRedis
from infra.ops.topics import apply
from infra.settings import Settings
from schemas.codec import Record, decode
from streams.identity.app import open_fenced, open_rebuilt, open_store
from streams.identity.graph.deferred import DEFERRED
from streams.identity.graph.fence import StaleStore
from streams.identity.graph.redis_store import RedisGraphStore
from streams.identity.graph.store import StoreUnavailable
from streams.identity.graph.union_find import ERASED, GraphView, Slot, Write
from streams.identity.refusals.revocation import REQUESTS
from streams.identity.repair.log import compare_with_log, read_log, rebuild_if_stale, restore_refusals
from streams.runtime.follow import read_partition
from tests.house.standing import wait_until
from tests.streams.identity.line import REGISTRY, Line, T


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """The test's own Redis."""
    with EmbeddedRedis(tmp_path / "redis") as started:
        yield started


@pytest.fixture
def line(kafka: str, server: EmbeddedRedis, tmp_path: Path) -> Line:
    """Two workers on a broker whose log has records of other tests."""
    settings = Settings(kafka=kafka, redis=server.url, state_dir=tmp_path, secret="for tests only, forty characters long...")
    apply(settings)
    return Line(settings, 2)


def combinations(seed: int, n: int, of: str) -> list[list[str]]:
    """Build events with one to three nodes that no other test has."""
    chance = random.Random(seed)
    nodes = [f"{tier}{n:02x}{of * 30}" for tier in "12" for n in range(40)]
    return [sorted(chance.sample(nodes, chance.randint(1, 3))) for _ in range(n)]


def canonicals(store: RedisGraphStore, nodes: set[str]) -> dict[str, str]:
    """Return node -> profile by the graph."""
    view, unread = GraphView(), set(nodes)
    while unread := view.missing(unread | nodes):
        some = sorted(unread)
        view.slots.update(zip(some, store.read(some), strict=True))
    return {node: view.label(view.find(node)) or "" for node in nodes}


def connected_groups(events: list[list[str]]) -> set[frozenset[str]]:
    """Return the groups of nodes that these events connect."""
    parent: dict[str, str] = {}

    def find(node: str) -> str:
        while parent.setdefault(node, node) != node:
            node = parent[node]
        return node

    for nodes in events:
        for node in nodes[1:]:
            parent[find(node)] = find(nodes[0])
    groups: dict[str, set[str]] = {}
    for node in {node for nodes in events for node in nodes}:
        groups.setdefault(find(node), set()).add(node)
    return {frozenset(group) for group in groups.values()}


def groups_of(canonical_of: dict[str, str]) -> set[frozenset[str]]:
    """Group nodes by canonical."""
    groups: dict[str, set[str]] = {}
    for node, canonical in canonical_of.items():
        groups.setdefault(canonical, set()).add(node)
    return {frozenset(group) for group in groups.values()}


def degraded(line: Line) -> list[float | None]:
    """Return the metric of each worker."""
    return [metrics.registry.get_sample_value("headwater_identity_degraded") for metrics in line.metrics]


def deferred_count(line: Line) -> int:
    """Return the number of deferred events by the log."""
    newest: dict[bytes | None, Record] = {}
    for records in (some for worker in (0, 1) for some in read_partition(line.settings, DEFERRED, worker)):
        newest |= {key: decode(REGISTRY, value or b"")[1] for key, value in records}
    return sum(record["end"] - record["first"] for record in newest.values())


def caught_up(line: Line, *workers: int) -> bool:
    """Tick once and return whether nothing is deferred any more."""
    line.tick(*workers)
    return deferred_count(line) == 0


@pytest.mark.parametrize("comes_back", ["as it was", "empty", "as it was long ago"])
def test_a_redis_that_is_killed(line: Line, server: EmbeddedRedis, tmp_path: Path, comes_back: str) -> None:
    """Events pass unresolved meanwhile; then the graph and its log are as if nothing had happened."""
    of = {"as it was": "a", "empty": "b", "as it was long ago": "c"}[comes_back]
    events = combinations(7, 240, of)
    data, copy = tmp_path / "redis", tmp_path / "long ago"
    line.send(events[:40])
    server.stop()
    shutil.copytree(data, copy)
    server.start()
    wait_until(lambda: line.send([events[0]], 1)[0]["identity_state"] == "resolved", 20, "the graph after a restart")
    for start in range(40, 120, 20):
        line.send(events[start : start + 20], start // 20 % 2)

    server.kill()
    ids = [f"twice{n}" for n in range(10)]
    assert len(line.send(events[:10], 0, ids)) == 10
    assert line.send(events[:10], 0, ids) == [], "retries die while it is away"
    away = [record for start in (120, 140) for record in line.send(events[start : start + 20], start // 20 % 2)]
    assert {record["identity_state"] for record in away} == {"unresolved"}
    assert [record["profile_id"] for record in away] == [nodes[0] for nodes in events[120:160]]
    assert degraded(line) == [1, 1]
    assert deferred_count(line) >= 40
    if comes_back != "as it was":
        shutil.rmtree(data)
    if comes_back == "as it was long ago":
        shutil.copytree(copy, data)
    server.start()
    for start in range(160, 240, 10):  # without waiting: some pass unresolved, some do not
        line.send(events[start : start + 10], start // 10 % 2)
    wait_until(lambda: degraded(line) == [0, 0], 20, "the graph to be mended")
    wait_until(partial(caught_up, line, 0, 1), 20, "the links that are due")

    store = open_store(line.settings)
    canonical_of = canonicals(store, {node for nodes in events for node in nodes})
    assert groups_of(canonical_of) == connected_groups(events)
    assert compare_with_log(read_log(line.settings), store, lambda _n: None).same
    wait_until(lambda: line.send(events[:60], 1)[0]["identity_state"] == "resolved", 10, "the other worker")
    again = line.send(events[:60])
    assert [record["profile_id"] for record in again] == [canonical_of[nodes[0]] for nodes in events[:60]]


def test_a_redis_that_was_emptied_is_noticed(line: Line, server: EmbeddedRedis) -> None:
    """Without a restart too, the next batch passes unresolved and the log is read back."""
    events = combinations(8, 60, "d")
    before = line.send(events)
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
    assert {record["identity_state"] for record in line.send(events)} == {"unresolved"}
    wait_until(lambda: degraded(line)[0] == 0, 20, "the graph to be mended")
    after = line.send(events)
    assert {record["identity_state"] for record in after} == {"resolved"}
    assert [record["profile_id"] for record in after] == [record["profile_id"] for record in before]
    wait_until(partial(caught_up, line, 0), 20, "the links that are due")


def test_what_is_due_survives_the_worker(line: Line, server: EmbeddedRedis) -> None:
    """The next owner of the partition makes the links that its predecessor deferred."""
    events = combinations(9, 20, "e")
    line.send(combinations(9, 1, "e"), 1)
    server.kill()
    line.send(events, 1)
    server.start()
    heir = line.fresh()
    for records in read_partition(line.settings, DEFERRED, 1):
        heir.on_restore(DEFERRED, 1, records)
    line.workers[1] = heir
    wait_until(partial(caught_up, line, 1), 20, "the heir")
    canonical_of = canonicals(open_store(line.settings), {node for nodes in events for node in nodes})
    assert groups_of(canonical_of) == connected_groups(events)


def test_a_withdrawal_that_comes_before_the_links_are_made(line: Line, server: EmbeddedRedis) -> None:
    """It is expanded to what is linked, and again after the deferred links of all workers."""
    phone, laptop, account = (f"{tier}{of * 32}" for tier, of in (("2", "a"), ("2", "b"), ("0", "c")))
    other = combinations(10, 1, "f")
    for worker in (0, 1):
        line.send(other, worker)
    server.kill()
    line.send([[account, phone], [account, laptop]], 1)
    server.start()
    wait_until(lambda: line.send(other)[0]["identity_state"] == "resolved", 20, "the graph to be mended")
    line.tick(0)
    assert deferred_count(line) == 2
    assert [request["nodes"] for request in line.withdraw(phone)] == [[phone]]
    line.tick(0)
    assert deferred_count(line) == 3, "the withdrawal waits for the other worker's links"

    def expanded() -> list[Record]:
        line.tick(1)
        (outcome,) = line.tick(0)
        return [decode(REGISTRY, value or b"")[1] for _, value, _ in outcome.out.get(REQUESTS, ())]

    (request,) = wait_until(expanded, 20, "the links, and the withdrawal after them")
    assert request["nodes"] == sorted([account, phone, laptop])
    assert deferred_count(line) == 0


@pytest.mark.parametrize("comes_back", ["as it was", "empty"])
def test_a_login_while_redis_is_away_hears_of_the_refusal(
    line: Line, server: EmbeddedRedis, tmp_path: Path, comes_back: str
) -> None:
    """Its deferred link hands over earlier refusals, also where Redis has lost them."""
    of = {"as it was": "3", "empty": "4"}[comes_back]
    phone, laptop, account = (f"{tier}{n}{of * 31}" for tier, n in (("2", "0"), ("2", "1"), ("0", "0")))
    line.send([[phone, laptop]])
    line.withdraw(laptop)
    assert {record["subject"] for record in line.signals} == {phone}
    server.kill()
    assert line.send([[account, phone]])[0]["identity_state"] == "unresolved"
    if comes_back == "empty":
        shutil.rmtree(tmp_path / "redis")
    server.start()
    wait_until(partial(caught_up, line, 0), 20, "the link that is due")
    assert account in {record["subject"] for record in line.signals}
    assert {(record["chosen_ts"], *record["purposes"]) for record in line.signals} == {(T, "personalization")}
    signal_count = len(line.signals)
    line.send([[account, phone], [account, laptop]])
    assert len(line.signals) == signal_count, "nobody is told again"


def test_refusals_of_who_was_erased_are_not_read_back(line: Line, server: EmbeddedRedis) -> None:
    """A rebuild restores refusals except those of erased subjects; undecodable records do not stop it."""
    phone, laptop = (f"2{n}{'5' * 31}" for n in "01")
    for node in (phone, laptop):
        line.send([[node]])
        line.withdraw(node)
    store = open_store(line.settings)
    store.write([Write(phone, None, Slot(phone, logged=True, epoch=1, state=ERASED, since=T), 0)])
    store.forget([phone, laptop], ())
    line.spoil()
    restore_refusals(line.settings, store, lambda _records: None)
    assert [len(memories) for memories in store.refusals([phone, laptop])] == [0, 1]


def test_a_mender_that_is_cut_short_begins_again_at_once(line: Line, server: EmbeddedRedis) -> None:
    """A worker whose rebuild was interrupted finds itself as the holder of the lock and continues."""
    with pytest.raises(StoreUnavailable), open_rebuilt(line.settings).rebuild_lock("0"):
        server.stop()
    server.start()
    with pytest.raises(StoreUnavailable, match="another worker"):
        rebuild_if_stale(line.settings, open_rebuilt(line.settings), "1")
    rebuild_if_stale(line.settings, open_rebuilt(line.settings), "0")
    assert open_rebuilt(line.settings).is_whole()


def test_a_silent_reconnection_to_another_process_is_lost(line: Line, server: EmbeddedRedis) -> None:
    """A reconnection to a restarted Redis is rejected before anything is written."""
    rebuild_if_stale(line.settings, open_rebuilt(line.settings), "t")
    store = open_fenced(line.settings)
    node = "2" + "f" * 32
    assert store.read([node]) == [None]
    server.stop()
    server.start()
    with pytest.raises(Exception, match="Redis"):
        store.read([node])
    with pytest.raises(StaleStore):
        store.read([node])
    rebuild_if_stale(line.settings, open_rebuilt(line.settings), "t")
    assert store.read([node]) == [None]
