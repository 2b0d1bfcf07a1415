"""The graph in a Redis Cluster: spread over all primaries, and correct while slots move between them."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import pytest
import redis

from infra.errors import ConfigError, Retryable
from infra.secrets import Secret
from infra.settings import Settings
from streams.identity.app import open_store, parse_seeds
from streams.identity.graph.redis_shards import TAGS, tag_of
from streams.identity.graph.redis_store import RedisGraphStore
from streams.identity.graph.store import GraphStore, MemoryGraphStore
from streams.identity.graph.union_find import SHARED, Slot, Write
from streams.identity.nodes import alias as make_alias
from streams.identity.repair.log import LogRecord, compare_with_log, rebuild
from streams.identity.repair.splitting import split_node
from tests.support.redis_cluster import LocalCluster, slot_of_tag

T = TypeVar("T")

NODES = [f"2{n:02x}" + f"{n:030x}" for n in range(4 * TAGS)]
"""Four nodes of each hash tag."""
ROOT = "1" + "0" * 32


@pytest.fixture
def cluster(redis_cluster: LocalCluster) -> LocalCluster:
    """An empty cluster."""
    redis_cluster.empty()
    return redis_cluster


@pytest.fixture
def store(cluster: LocalCluster) -> Iterator[RedisGraphStore]:
    """The graph in the cluster, opened as by a worker."""
    opened = open_store(Settings(identity_redis=cluster.address))
    yield opened
    opened.close()


def links(nodes: Sequence[str]) -> list[Write]:
    """Build first links of nodes to the root."""
    return [Write(node, None, Slot(ROOT, logged=False), 0) for node in nodes]


def duplicate_claims(graph: GraphStore, claims: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Return claims that another position holds."""
    return graph.claim(claims, 0)()


def retry_until_answered(call: Callable[[], T]) -> T:
    """Repeat a call while it is Retryable: primaries take a moment to agree on the owner of a slot."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return call()
        except Retryable:
            assert time.monotonic() < deadline, "it is to be repeated for ever"
            time.sleep(0.02)


def test_every_primary_holds_a_part(cluster: LocalCluster, store: RedisGraphStore) -> None:
    """Slots of all tags are spread over the primaries, read back and scanned."""
    assert all(store.write(links(NODES)))
    assert all(node.dbsize() > 50 for node in cluster.nodes)
    assert store.read([*NODES, ROOT]) == [*[Slot(ROOT, logged=False)] * len(NODES), None]
    assert sorted(node for some in store.scan_nodes() for node in some) == NODES
    assert store.children([ROOT]) == [set(NODES)]


def test_a_lost_cluster_is_rebuilt(cluster: LocalCluster, store: RedisGraphStore) -> None:
    """Every slot of the log is restored on its primary; differences are found."""
    log = [LogRecord(node, Slot(ROOT, logged=True), "e", 1) for node in NODES]
    assert rebuild(iter([log]), store, lambda _: None) == len(NODES)
    assert compare_with_log(iter([log]), store, lambda _: None).same
    cluster.nodes[1].flushall()
    missing = compare_with_log(iter([log]), store, lambda _: None).missing
    assert 0 < missing < len(NODES)
    assert rebuild(iter([log]), store, lambda _: None) == missing
    assert compare_with_log(iter([log]), store, lambda _: None).same


def test_a_split_reaches_every_primary(store: RedisGraphStore) -> None:
    """Everything under the node is free, on every primary; each slot is logged once."""
    store.write(links(NODES))
    log = dict[str, Slot]()
    alias = make_alias(Secret("for tests only, forty characters long..."))
    split_node(store, ROOT, lambda _: [(NODES[0], NODES[70])], alias, lambda _, slots: log.update(slots))
    assert len(log) == len(NODES) + 1
    slots = dict(zip([ROOT, *NODES], store.read([ROOT, *NODES]), strict=True))
    assert slots == {node: slot._replace(logged=True) for node, slot in log.items()}
    assert slots[ROOT] == Slot(ROOT, logged=True, epoch=1, state=SHARED)
    assert (log[NODES[70]].parent, log[NODES[71]].parent) == (NODES[0], NODES[71])


def test_slots_that_have_moved_are_found(cluster: LocalCluster, store: RedisGraphStore) -> None:
    """A slot that moves between two calls costs one repetition; nothing is written twice."""
    memory, chance = MemoryGraphStore(), random.Random(3)
    claims = {b"s:%d" % n: b"0:%d" % n for n in range(200)}
    calls: list[Callable[[RedisGraphStore | MemoryGraphStore], object]] = [
        lambda graph: graph.write(links(NODES[::2])),
        lambda graph: duplicate_claims(graph, claims),
        lambda graph: graph.confirm([(node, Slot(ROOT, logged=False)) for node in NODES[::4]]),
        lambda graph: graph.read(NODES),
        lambda graph: graph.children([ROOT, NODES[0]]),
    ]
    for call in calls:
        for tag in chance.sample(range(TAGS), 3):
            slot = slot_of_tag(tag)
            cluster.move(slot, (cluster.owner(slot) + 1) % len(cluster.nodes))
        retry_until_answered(partial(call, store))
        call(memory)
    assert retry_until_answered(lambda: store.read(NODES)) == memory.read(NODES)
    others = dict.fromkeys(claims, b"1:1")
    assert retry_until_answered(lambda: duplicate_claims(store, others)) == duplicate_claims(memory, others) == claims


def test_a_slot_that_moves_is_waited_for(cluster: LocalCluster, store: RedisGraphStore) -> None:
    """Calls are Retryable while half of a tag's keys are on either primary."""
    store.write(links(NODES))
    tag = tag_of(NODES[5])
    slot, nodes = slot_of_tag(tag), [node for node in NODES if tag_of(node) == tag]
    target = (cluster.owner(slot) + 1) % len(cluster.nodes)
    cluster.begin(slot, target)
    assert cluster.carry(slot, target, 2) == 2
    with pytest.raises(Retryable):
        store.read(nodes)
    swaps = [Write(node, Slot(ROOT, logged=False), Slot(ROOT, logged=False, epoch=1), 0) for node in nodes]
    with pytest.raises(Retryable):
        store.write(swaps)
    while cluster.carry(slot, target, 2):
        pass
    cluster.end(slot, target)
    retry_until_answered(lambda: store.write(swaps))
    retry_until_answered(lambda: store.write(swaps))
    assert store.read(nodes) == [Slot(ROOT, logged=False, epoch=1)] * len(nodes)


def test_one_node_that_answers_is_enough(cluster: LocalCluster) -> None:
    """One answering node of the address suffices."""
    for hosts in (
        f"127.0.0.1:1,{cluster.address.removeprefix('cluster+redis://')}",
        f"127.0.0.1:{cluster.ports[1]},127.0.0.1:1",
    ):
        store = open_store(Settings(identity_redis=f"cluster+redis://{hosts}"))
        assert store.read([ROOT]) == [None]
        store.close()


def test_addresses_of_a_cluster() -> None:
    """Name and password belong to the first node; each node has a port."""
    assert parse_seeds("redis://:secret@a:1,b:2,c:3") == ("redis://:secret@a:1", [("b", 2), ("c", 3)])
    assert parse_seeds("rediss://a:1") == ("rediss://a:1", [])
    with pytest.raises(ConfigError, match="host:port"):
        parse_seeds("redis://a:1,b")


def test_a_cluster_that_is_away_is_waited_for() -> None:
    """An unavailable cluster is Retryable."""
    with pytest.raises(Retryable):
        RedisGraphStore(lambda: redis.RedisCluster(host="127.0.0.1", port=1, socket_connect_timeout=0.2)).read([ROOT])
