"""Both stores of time tables behave alike."""

from collections.abc import Callable

import pytest
import redis

from consumers.gauge.lag.reading import GaugePartition
from consumers.gauge.lag.store import PREFIX, MemoryTables, RedisTables, TableStore
from consumers.gauge.lag.timetable import TimeTable
from infra.errors import Retryable

HERE, THERE = GaugePartition("events.raw", 0), GaugePartition("events.raw", 1)


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest, redis_url: str) -> TableStore:
    """Each store, empty."""
    if request.param == "memory":
        return MemoryTables()
    client = redis.Redis.from_url(redis_url, db=7)
    client.flushdb()
    return RedisTables(client)


def table(points: int) -> TimeTable:
    """Return a table with this number of points."""
    filled = TimeTable()
    for i in range(points):
        filled.add(i * 7, i * 10_000, 30_000)
    return filled


def test_what_was_saved_is_loaded(store: TableStore) -> None:
    """Each partition has its newest saved table; one that was never saved is absent."""
    store.save({HERE: table(3)})
    store.save({HERE: table(5)})
    assert store.load([HERE, THERE]) == {HERE: table(5)}


def test_a_saved_table_is_a_copy(store: TableStore) -> None:
    """Changes after the save do not reach the store."""
    mine = table(3)
    store.save({HERE: mine})
    mine.add(10_000, 1_000_000, 30_000)
    assert store.load([HERE])[HERE] == table(3)


def test_a_broken_value_in_redis_is_left_out(redis_url: str) -> None:
    """An unreadable table is left out."""
    client = redis.Redis.from_url(redis_url, db=7)
    client.set(f"{PREFIX}events.raw:0", b"half a val")
    assert RedisTables(client).load([HERE]) == {}


@pytest.mark.parametrize("call", [lambda s: s.load([HERE]), lambda s: s.save({HERE: table(1)})])
def test_an_unreachable_redis_is_retryable(call: Callable[[TableStore], object]) -> None:
    """A Redis that does not answer raises Retryable."""
    away = RedisTables(redis.Redis.from_url("redis://127.0.0.1:9/0", socket_connect_timeout=0.2))
    with pytest.raises(Retryable, match="Redis is away"):
        call(away)
