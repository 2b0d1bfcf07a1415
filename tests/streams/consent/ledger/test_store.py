"""The ledger's view on a real Redis: it merges, a loss is noticed, and it is rebuilt from the topic."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import redis

from infra.errors import ConfigError, Retryable
from infra.ops.embedded.servers.redis import EmbeddedRedis
from streams.consent.ledger.store import MARGIN_MS, LedgerSlice, RedisStateStore, States, merge_records

NOW = 1_795_000_000_000
KEY = "opt-in|shop.example|2" + "a" * 32


class Topic:
    """A stand-in for `consent.state` that records requests."""

    def __init__(self, states: States, erased: dict[str, int] | None = None) -> None:
        self.piece = LedgerSlice(erased or {}, states)
        self.requests: list[tuple[int, int]] = []

    def __call__(self, partition: int, since: int) -> Iterator[LedgerSlice]:
        """One chunk."""
        self.requests.append((partition, since))
        yield self.piece


@pytest.fixture
def view(redis_url: str) -> Iterator[Callable[[Topic], RedisStateStore]]:
    """Views on an empty Redis."""
    client = redis.Redis.from_url(redis_url)
    client.flushall()
    yield lambda topic: RedisStateStore(partial(redis.Redis.from_url, redis_url), topic, 60)
    client.flushall()
    client.close()


def test_writes_merge(view: Callable[[Topic], RedisStateStore]) -> None:
    """The larger time of each name stays in any order of writes; thirteen digits are kept."""
    states = view(Topic({}))
    states.open(0)
    states.write(0, {KEY: {"a.granted": 1_795_000_000_123, "a.denied": 7}}, 1)
    states.write(0, {KEY: {"a.granted": 5, "a.withdrawn": 1_795_000_000_999}}, 2)
    assert states.read(0, [KEY, "other"]) == [
        {"a.granted": 1_795_000_000_123, "a.denied": 7, "a.withdrawn": 1_795_000_000_999},
        None,
    ]


def test_what_is_not_open_or_lost_is_incomplete(view: Callable[[Topic], RedisStateStore], redis_url: str) -> None:
    """A view is incomplete until it is opened here, after its mark is lost, and while another worker builds it."""
    states = view(Topic({}))
    assert states.incomplete([]) == []
    assert states.incomplete([0, 1]) == [0, 1]
    states.open(1)
    assert states.incomplete([0, 1]) == [0]
    assert view(Topic({})).incomplete([1]) == [1], "what was committed since the mark may be missing"
    states.open(0)
    assert states.incomplete([0, 1]) == []
    with redis.Redis.from_url(redis_url) as client:
        client.set("cv:{0}", "building|0123456789abcdef")
        client.delete("cv:{1}")
    assert states.incomplete([0, 1]) == [0, 1]


def test_who_was_erased_leaves_a_mark_that_expires(view: Callable[[Topic], RedisStateStore], redis_url: str) -> None:
    """An erasure removes earlier times, and a late write does not restore them; later choices are stored."""
    states = view(Topic({}))
    states.open(0)
    states.write(0, {KEY: {"a.granted": 5}}, 1)
    assert (states.keys_until(0, [KEY, "other"], 10), states.keys_until(0, [KEY], 4)) == ([KEY], [])
    states.erase(0, [KEY], 10)
    assert states.read(0, [KEY]) == [{"erased": 10}]
    states.write(0, {KEY: {"a.granted": 12}}, 2)
    assert states.keys_until(0, [KEY], 10) == []
    states.erase(0, [KEY], 20)
    with redis.Redis.from_url(redis_url) as client:
        (key,) = client.scan_iter(match="cs:*")
        assert 7 * 86_400 < client.ttl(key) <= 8 * 86_400


def test_a_tombstone_takes_out_what_older_records_said(view: Callable[[Topic], RedisStateStore], redis_url: str) -> None:
    """A tombstone removes states from the view; an existing mark stays; states written after the tombstone count."""
    other = KEY.replace("a", "b")
    before = view(Topic({KEY: {"a.granted": 5}, other: {"a.granted": 5}}))
    before.open(0)
    before.erase(0, [KEY], 10)
    before.write(0, {KEY: {"a.granted": 5}}, 1)
    states = view(Topic({other: {"a.denied": 3}}, {KEY: 12, other: 12}))
    states.open(0)
    assert states.read(0, [KEY, other]) == [{"erased": 10}, {"erased": 12, "a.denied": 3}]
    with redis.Redis.from_url(redis_url) as client:
        assert 7 * 86_400 < client.ttl(f"cs:{{0}}:{KEY}") <= 8 * 86_400


def test_pieces_of_the_topic_are_in_order() -> None:
    """Records before a tombstone of their key are dropped, records after it are kept."""
    records = [("k", {"a": 1}, 5), ("l", {"a": 1}, 5), ("k", None, 6), ("k", {"a": 2}, 7), ("k", {"a": 1, "b": 1}, 8)]
    assert merge_records(records) == LedgerSlice({"k": 6}, {"l": {"a": 1}, "k": {"a": 2, "b": 1}})


def test_a_lost_view_is_built_again(view: Callable[[Topic], RedisStateStore], redis_url: str) -> None:
    """After Redis was emptied, the next look-up reads the whole topic first."""
    topic = Topic({KEY: {"a.withdrawn": 5}})
    states = view(topic)
    states.open(3)
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    assert states.read(3, [KEY]) == [{"a.withdrawn": 5}]
    assert topic.requests == [(3, 0), (3, 0)]


def test_a_new_worker_reads_only_what_is_new(view: Callable[[Topic], RedisStateStore]) -> None:
    """With a mark, only records from `MARGIN_MS` before its time are read."""
    topic = Topic({})
    states = view(topic)
    states.open(0)
    states.write(0, {KEY: {"a.granted": 5}}, 1_795_000_000_000)
    view(topic).open(0)
    assert topic.requests == [(0, 0), (0, 1_795_000_000_000 - 300_000)]


def test_a_restarted_redis_is_not_trusted(tmp_path: Path) -> None:
    """A restarted server may lack its last second, so the topic is read again; while it is away: Retryable."""
    topic = Topic({KEY: {"a.withdrawn": 5}})
    with EmbeddedRedis(tmp_path) as server:
        states = RedisStateStore(partial(redis.Redis.from_url, server.url), topic, 60)
        states.open(0)
        server.stop()
        with pytest.raises(Retryable):
            states.read(0, [KEY])
        server.start()
        assert states.read(0, [KEY]) == [{"a.withdrawn": 5}]
        assert topic.requests == [(0, 0), (0, 0)]


def test_a_partition_is_believed_only_where_it_was_built(tmp_path: Path) -> None:
    """After a restart one partition is rebuilt, and a late write to another does not mark it as complete."""
    topic = Topic({KEY: {"a.withdrawn": 5}})
    with EmbeddedRedis(tmp_path) as server:
        states = RedisStateStore(partial(redis.Redis.from_url, server.url), topic, 60)
        for partition in (0, 1):
            states.open(partition)
        server.stop()
        server.start()
        with redis.Redis.from_url(server.url) as client:
            client.delete(f"cs:{{0}}:{KEY}")
        assert states.read(1, [KEY]) == [{"a.withdrawn": 5}]
        states.write(0, {"other": {"a.granted": 1}}, 9)
        assert states.read(0, [KEY, "other"]) == [{"a.withdrawn": 5}, {"a.granted": 1}]


def test_a_write_does_not_hide_that_the_view_was_emptied(view: Callable[[Topic], RedisStateStore], redis_url: str) -> None:
    """Redis is emptied between a look-up and the following write."""
    states = view(Topic({KEY: {"a.withdrawn": 5}}))
    states.open(0)
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    states.write(0, {"other": {"a.granted": 1}}, 9)
    assert states.read(0, [KEY, "other"]) == [{"a.withdrawn": 5}, {"a.granted": 1}]


def test_a_view_that_is_emptied_while_it_is_built_is_not_whole(redis_url: str) -> None:
    """It is rebuilt; an interrupted build leaves no mark."""
    flushes = 1

    def changed(_partition: int, since: int) -> Iterator[LedgerSlice]:
        nonlocal flushes
        assert since == 0
        yield LedgerSlice({}, {KEY: {"a.withdrawn": 5}})
        if flushes:
            flushes -= 1
            with redis.Redis.from_url(redis_url) as client:
                client.flushall()
        yield LedgerSlice({}, {"other": {"a.granted": 1}})

    states = RedisStateStore(partial(redis.Redis.from_url, redis_url), changed, 60)
    with pytest.raises(Retryable, match="while its view was built"):
        states.open(7)
    states.open(7)
    assert states.read(7, [KEY, "other"]) == [{"a.withdrawn": 5}, {"a.granted": 1}]


def test_a_redis_that_forgets_is_refused(tmp_path: Path) -> None:
    """A server that may evict keys is a ConfigError that says what to do."""
    with EmbeddedRedis(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(ConfigError, match="noeviction"):
            RedisStateStore(partial(redis.Redis.from_url, server.url), Topic({}), 60).open(0)


def test_states_of_other_partitions_are_read_in_one_round(view: Callable[[Topic], RedisStateStore]) -> None:
    """Views of other workers are read; a missing view is built first; a missing state is None."""
    owner, reader_topic = view(Topic({KEY: {"a.denied": 5}})), Topic({"late": {"a.denied": 7}})
    owner.open(1)
    reader = view(reader_topic)
    reader.open(0)
    reader_topic.requests.clear()
    assert reader.read_elsewhere({1: [KEY, "other"], 2: ["late"]}) == {
        KEY: {"a.denied": 5},
        "other": None,
        "late": {"a.denied": 7},
    }
    assert reader_topic.requests == [(2, 0)]


def test_other_partitions_of_a_server_that_was_started_again_are_built_anew(tmp_path: Path) -> None:
    """Their marks have another run id, so their views are rebuilt."""
    topic = Topic({KEY: {"a.withdrawn": 5}})
    with EmbeddedRedis(tmp_path) as server:
        connect = partial(redis.Redis.from_url, server.url)
        RedisStateStore(connect, topic, 60).open(1)
        server.stop()
        server.start()
        with redis.Redis.from_url(server.url) as client:
            client.delete(f"cs:{{1}}:{KEY}")
        states = RedisStateStore(connect, topic, 60)
        states.open(0)
        assert states.read_elsewhere({1: [KEY]}) == {KEY: {"a.withdrawn": 5}}


def test_while_redis_is_away_nothing_is_read_elsewhere(tmp_path: Path) -> None:
    """Retryable, as with any look-up."""
    with EmbeddedRedis(tmp_path) as server:
        states = RedisStateStore(partial(redis.Redis.from_url, server.url), Topic({}), 60)
        states.open(0)
        server.stop()
        with pytest.raises(Retryable):
            states.read_elsewhere({1: [KEY]})


def test_a_topic_made_anew_is_read_whole_and_nothing_is_forgotten(redis_url: str) -> None:
    """Records of a recreated topic may be older than the mark; states of the old topic stay in the view."""
    connect = partial(redis.Redis.from_url, redis_url)
    other = "opt-in|shop.example|2" + "b" * 32
    with connect() as client:
        client.flushall()
    first = Topic({KEY: {"a.denied": 7}})
    states = RedisStateStore(connect, first, 60, lambda: "first")
    states.open(0)
    states.write(0, {KEY: {"a.denied": 9}}, NOW)
    RedisStateStore(connect, first, 60, lambda: "first").open(0)
    assert [since for _, since in first.requests] == [0, NOW - MARGIN_MS]
    anew = Topic({other: {"a.denied": 3}})
    again = RedisStateStore(connect, anew, 60, lambda: "second")
    again.open(0)
    assert anew.requests == [(0, 0)]
    assert again.read(0, [KEY, other]) == [{"a.denied": 9}, {"a.denied": 3}]
    again.write(0, {KEY: {"a.granted": 10}}, NOW)
    RedisStateStore(connect, anew, 60, lambda: "second").open(0)
    assert anew.requests[-1] == (0, NOW - MARGIN_MS)


def test_a_mark_without_a_topic_is_not_believed(redis_url: str) -> None:
    """A mark of an older version has no topic id: everything is read once."""
    connect = partial(redis.Redis.from_url, redis_url)
    topic = Topic({})
    with connect() as client:
        run = client.info("server")["run_id"]
        client.set("cv:{0}", f"{run}|{NOW}")
    RedisStateStore(connect, topic, 60, lambda: "first").open(0)
    assert topic.requests == [(0, 0)]


def test_kafka_away_leaves_the_mark_alone(redis_url: str) -> None:
    """Without the topic's id no view is built, and the mark of another worker stays."""
    connect = partial(redis.Redis.from_url, redis_url)

    def away() -> str:
        raise Retryable("Kafka is away")

    RedisStateStore(connect, Topic({}), 60, lambda: "first").open(0)
    with connect() as client:
        before = client.get("cv:{0}")
        with pytest.raises(Retryable, match="Kafka is away"):
            RedisStateStore(connect, Topic({}), 60, away).open(0)
        assert client.get("cv:{0}") == before
