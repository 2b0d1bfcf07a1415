"""The gauge on a real broker: transactions, deleted records, groups without members, restarts."""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import confluent_kafka as ck
import pytest
from confluent_kafka.admin import NewTopic

from consumers.gauge.app import Collector, GaugeOptions
from consumers.gauge.cluster import Cluster
from consumers.gauge.lag.reading import GroupReading, LagReading, PartitionReading
from consumers.gauge.lag.rules import LagLimits, LagState
from consumers.gauge.lag.store import RedisTables
from consumers.gauge.recent import SideTopicConsumer, SideTopicState
from infra.clients.kafka import admin, producer, reader
from infra.clients.topic_ids import topic_ids
from infra.errors import Retryable
from infra.ops.embedded.ports import free_port
from infra.settings import Settings, load_settings
from schemas.codec import encode
from schemas.registry import Registry
from tests.broker.groups import commit_offsets


@pytest.fixture
def house(kafka: str, redis_url: str, tmp_path: Path) -> Settings:
    """Settings on the session's broker."""
    return load_settings(kafka=kafka, redis=redis_url, state_dir=tmp_path)


@pytest.fixture
def topic(house: Settings) -> str:
    """A fresh topic with two partitions."""
    name = f"gauge.{uuid.uuid4().hex[:8]}"
    make_topics(house, NewTopic(name, 2, 1))
    return name


@pytest.fixture
def collector(house: Settings) -> Iterator[Collector]:
    """A collector without a store."""
    gauge_collector = Collector(house, GaugeOptions("127.0.0.1", 1, 0.5, LagLimits(hung_s=1.0)), None)
    yield gauge_collector
    gauge_collector.close()


def make_topics(house: Settings, *topics: NewTopic) -> None:
    """Create topics and wait until they have leaders."""
    client = admin(house)
    for future in client.create_topics(list(topics)).values():
        future.result(20)
    names = {topic.topic for topic in topics}
    eventually(
        lambda: all(p.leader >= 0 for n in names for p in client.list_topics(n, timeout=5).topics[n].partitions.values())
    )


def eventually(check: Callable[[], Any], seconds: float = 30) -> Any:
    """Poll `check` until it is true, and return its result."""
    deadline = time.monotonic() + seconds
    while not (result := check()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.1)
    return result


def group_name() -> str:
    """Return the name of a group that the gauge watches."""
    return f"headwater.t{uuid.uuid4().hex[:8]}"


def produce(house: Settings, topic: str, partition: int, n: int, at_ms: int = 0) -> None:
    """Produce `n` plain records with the timestamp `at_ms`, or now."""
    client = producer(house)
    for i in range(n):
        client.produce(topic, value=b"%d" % i, partition=partition, timestamp=at_ms)
    assert client.flush(20) == 0


def commit(house: Settings, group: str, *offsets: tuple[str, int, int]) -> None:
    """Commit for a group without joining it."""
    consumer = reader(house, group)
    tps = [ck.TopicPartition(*offset) for offset in offsets]
    try:
        commit_offsets(consumer, tps)
    finally:
        consumer.close()


def group_reading(reading: LagReading, group: str) -> GroupReading:
    """Return the reading of one group."""
    (match,) = [g for g in reading.groups if g.group == group]
    return match


def test_lag_is_zero_behind_a_transaction_marker(house: Settings, topic: str, collector: Collector) -> None:
    """A group that has committed past the marker at the end of a partition has no lag."""
    writer = producer(house, transactional_id=topic)
    writer.init_transactions(20)
    writer.begin_transaction()
    for i in range(10):
        writer.produce(topic, value=b"%d" % i, partition=0)
    writer.commit_transaction(20)
    group = group_name()
    commit(house, group, (topic, 0, 4), (topic, 1, 0))

    def settled() -> PartitionReading | None:
        # A commit returns before its marker is on the partition.
        reading = group_reading(collector.poll(time.time()), group).partitions[0]
        return reading if reading.end == 11 else None

    assert eventually(settled).lag == 7
    commit(house, group, (topic, 0, 11))
    after = group_reading(collector.poll(time.time()), group)
    assert (after.lag, after.time_lag_s, after.state) == (0, 0.0, LagState.OK)


def test_an_open_transaction_holds_back_readers_and_is_named(house: Settings, topic: str, collector: Collector) -> None:
    """Lag counts to the last stable offset; an open transaction is HUNG_TXN after its time."""
    group = group_name()
    commit(house, group, (topic, 0, 0))
    writer = producer(house, transactional_id=topic)
    writer.init_transactions(20)
    writer.begin_transaction()
    writer.produce(topic, value=b"x", partition=0)
    writer.flush(20)
    reading = eventually(
        lambda: hung if (hung := group_reading(collector.poll(time.time()), group)).state is LagState.HUNG_TXN else None
    )
    assert reading.lag == 0
    assert "holds back 1 records" in reading.worst.detail
    writer.abort_transaction(20)
    eventually(lambda: group_reading(collector.poll(time.time()), group).partitions[0].state is not LagState.HUNG_TXN)


def test_a_group_without_members_is_stopped_and_its_age_is_read_from_the_record(
    house: Settings, topic: str, collector: Collector
) -> None:
    """A gauge that has just started reads the age from the record, which is an hour old."""
    now = time.time()
    produce(house, topic, 0, 5, round((now - 3_600) * 1000))
    produce(house, topic, 0, 5, round((now - 1_800) * 1000))
    group = group_name()
    commit(house, group, (topic, 0, 2), (topic, 1, 0))
    reading = group_reading(collector.poll(now), group)
    assert (reading.state, reading.members, reading.lag) == (LagState.STOPPED, 0, 8)
    assert reading.time_lag_s == pytest.approx(3_600, abs=0.01)
    assert reading.partitions[0].time_lag_from == "record"
    commit(house, group, (topic, 0, 7))
    assert group_reading(collector.poll(now), group).time_lag_s == pytest.approx(1_800, abs=0.01)


def test_a_member_is_counted_and_what_it_reads_is_within_its_limit(house: Settings, topic: str, collector: Collector) -> None:
    """The partitions of a worker without commits are known from its assignment."""
    produce(house, topic, 1, 3)
    group = group_name()
    worker = reader(house, group, auto_offset_reset="earliest")
    worker.subscribe([topic])
    try:
        eventually(lambda: worker.poll(0.1))
        reading = eventually(lambda: next((g for g in collector.poll(time.time()).groups if g.group == group), None))
        assert (reading.members, reading.lag, reading.state) == (1, 3, LagState.OK)
        assert reading.time_lag_s < 60
    finally:
        worker.close()


def test_deleted_offsets_break_neither_the_round_nor_the_neighbour(house: Settings, topic: str, collector: Collector) -> None:
    """Unread deleted records are DATA_LOSS_RISK; other partitions are unaffected."""
    produce(house, topic, 0, 10)
    produce(house, topic, 1, 10)
    group = group_name()
    commit(house, group, (topic, 0, 2), (topic, 1, 10))
    client = admin(house)
    for future in client.delete_records([ck.TopicPartition(topic, 0, 6)]).values():
        future.result(20)
    reading = group_reading(collector.poll(time.time()), group)
    assert [p.state for p in reading.partitions] == [LagState.DATA_LOSS_RISK, LagState.OK]
    assert "4 records were deleted" in reading.partitions[0].detail
    assert reading.partitions[0].time_lag_s is not None


def test_a_deleted_topic_leaves_the_others_alone(house: Settings, topic: str, collector: Collector) -> None:
    """A group's committed offsets outlive their topic."""
    deleted = f"gauge.{uuid.uuid4().hex[:8]}"
    make_topics(house, NewTopic(deleted, 1, 1))
    group = group_name()
    commit(house, group, (topic, 0, 0), (deleted, 0, 0))
    client = admin(house)
    client.delete_topics([deleted])[deleted].result(20)
    eventually(lambda: {p.topic for p in group_reading(collector.poll(time.time()), group).partitions} == {topic})


def test_time_lag_outlives_a_restart_in_redis(house: Settings, topic: str, redis_url: str) -> None:
    """With an injected clock: after ten minutes of rounds and a restart the age is known without reading a record."""
    import redis

    store = RedisTables(redis.Redis.from_url(redis_url))
    group, options = group_name(), GaugeOptions("127.0.0.1", 1, 10.0, LagLimits())
    commit(house, group, (topic, 0, 0))
    began, first, writer = time.time(), Collector(house, options, store), producer(house)
    for look in range(31):
        first.poll(began + 20 * look)
        writer.produce(topic, value=b"x", partition=0)
        assert writer.flush(20) == 0
    commit(house, group, (topic, 0, 15))
    first.close()
    second = Collector(house, options, store)
    try:
        (partition, _) = group_reading(second.poll(began + 620), group).partitions
        # Record 15 was written after look 15 (300 s) and before look 16 (320 s).
        assert (partition.lag, partition.time_lag_from) == (16, "table")
        assert partition.time_lag_s == pytest.approx(310, abs=1)
    finally:
        second.close()


@pytest.mark.parametrize("restarted", [False, True])
def test_a_recreated_topic_has_its_own_ages(house: Settings, topic: str, redis_url: str, restarted: bool) -> None:
    """A recreated topic, whose time tables are still in Redis, has ages of its own."""
    import redis

    store = RedisTables(redis.Redis.from_url(redis_url))
    group, options = group_name(), GaugeOptions("127.0.0.1", 1, 10.0, LagLimits())
    commit(house, group, (topic, 0, 0))
    # The old topic's records were written over two days; the clock is injected.
    now, collector = time.time(), Collector(house, options, store)
    for look in range(12):
        collector.poll(now - 172_800 + 20 * look)
        produce(house, topic, 0, 10)
    if restarted:
        collector.close()
    recreate_topic(house, topic)
    commit(house, group, (topic, 0, 20))
    # More records than the old topic had: by offsets alone it has only grown.
    produce(house, topic, 0, 200, round((now - 60) * 1000))
    if restarted:
        collector = Collector(house, options, store)
    try:
        partition = group_reading(collector.poll(now), group).partitions[0]
        assert (partition.lag, partition.time_lag_from, partition.state) == (180, "record", LagState.STOPPED)
        assert partition.time_lag_s == pytest.approx(60, abs=1)
    finally:
        collector.close()


def recreate_topic(house: Settings, topic: str) -> None:
    """Delete a topic and create it again."""
    client, before = admin(house), topic_ids(house, [topic])
    client.delete_topics([topic])[topic].result(20)
    eventually(lambda: not topic_ids(house, [topic]))
    make_topics(house, NewTopic(topic, 2, 1))
    assert topic_ids(house, [topic]) != before


def test_an_unreachable_kafka_is_retryable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unreachable Kafka raises Retryable; it neither hangs nor gives empty facts."""
    monkeypatch.setattr("consumers.gauge.cluster.TIMEOUT_S", 1.0)
    alone = Cluster(load_settings(kafka="127.0.0.1:9", state_dir=tmp_path))
    with pytest.raises(Retryable, match="Kafka does not answer"):
        alone.fetch_facts(0)
    alone.close()


def test_side_topics_are_read_back(house: Settings, contracts_dir: Path) -> None:
    """Dead letters by reason, counts of the last hour, newest snapshots; unreadable records are skipped."""
    make_topics(
        house, *(NewTopic(name, 1, 1) for name in ("events.dead", "stream.counts", "bandit.snapshots", "identity.deferred"))
    )
    registry, now = Registry(contracts_dir), time.time()
    minute = int(now // 60) * 60_000
    source = {"source_topic": "events.raw", "source_partition": 0, "source_offset": 1, "source": "web"}
    cause = {"stage": "consent", "reason": "unreadable", "detail": ""}
    letter = {**cause, **source, "dead_ts": round(now * 1000), "key_day": "2026-01-01", "payload": b"x"}
    count = {"stage": "consent", "source": "web", "event_name": "page_view", "outcome": "pass", "n": 5}
    unmapped = count | {"event_name": "", "outcome": "unmapped", "dimensions": {"name": "partners"}}
    published = {"experiment": "hero", "version": 1, "config_version": "1", "published_ts": round(now * 1000), "checksum": ""}
    published |= {"arms": ["a", "b"], "posterior": [[1.0, 3.0], [1.0, 1.0]]}
    deferred = {"topic": "events.consented", "first": 10}
    records = [
        ("events.dead", letter),
        ("events.dead", letter | {"dead_ts": 0}),
        ("stream.counts", count | {"minute": minute}),
        ("stream.counts", count | {"minute": minute}),
        ("stream.counts", count | {"minute": minute - 3_600_000}),
        ("stream.counts", unmapped | {"minute": minute}),
        ("stream.counts", unmapped | {"minute": minute, "source": "app", "n": 7}),
        ("stream.counts", unmapped | {"minute": minute - 3_600_000}),
        ("stream.counts", unmapped | {"minute": minute, "outcome": "fingerprint"}),
        ("bandit.snapshots", published | {"probabilities": [0.5, 0.5]}),
        ("bandit.snapshots", published | {"probabilities": [0.2, 0.8]}),
        ("identity.deferred", deferred | {"partition": 0, "end": 40}),
        ("identity.deferred", deferred | {"partition": 1, "end": 90}),
        ("identity.deferred", deferred | {"partition": 0, "end": 10}),
    ]
    client = producer(house)
    client.produce("stream.counts", value=b"no record at all")
    for name, record in records:
        client.produce(name, value=encode(registry.latest(name), record))
    assert client.flush(20) == 0
    side_state = SideTopicState(registry)
    side_consumer = SideTopicConsumer(house, side_state)
    side_consumer.start()
    try:
        eventually(lambda: side_consumer.complete)
        recent = side_state.recent(now, True)
    finally:
        side_consumer.stop()
    assert dict(recent.dead)["consent", "unreadable", "web"] >= 1
    assert [(cell, total, series[-1]) for cell, total, series in recent.volumes] == [(("consent", "pass"), 10, 10)]
    assert recent.unmapped == ((("app", "partners"), 7), (("web", "partners"), 5))
    assert recent.snapshots[0].arms == (("a", 0.2, 0.25), ("b", 0.8, 0.5))
    assert recent.deferred == 80


def test_the_command_serves_and_prints(house: Settings, topic: str) -> None:
    """`headwater gauge` answers on its port and stops on SIGTERM; `--once --json` prints the lag."""
    produce(house, topic, 0, 3)
    group = group_name()
    commit(house, group, (topic, 0, 1), (topic, 1, 0))
    environment = {**os.environ, "HEADWATER_KAFKA": house.kafka, "HEADWATER_REDIS": house.redis}
    environment["HEADWATER_STATE_DIR"] = str(house.state_dir)
    command = [sys.executable, "-c", "from infra.ops.cli import main; main()", "gauge"]
    root = Path(__file__).parents[3]
    printed = subprocess.run(
        [*command, "--once", "--json"], env=environment, cwd=root, capture_output=True, check=True, timeout=60
    )
    (printed_group,) = [g for g in json.loads(printed.stdout)["groups"] if g["group"] == group]
    assert (printed_group["lag"], printed_group["state"]) == (2, "STOPPED")
    port = free_port()
    server = subprocess.Popen([*command, "--port", str(port), "--interval", "0.5"], env=environment, cwd=root)
    try:
        eventually(lambda: _get(port, "/health/ready"))
        assert group in (_get(port, "/lag") or "")
        assert f'kafka_consumergroup_group_lag{{group="{group}",partition="0",topic="{topic}"}} 2.0' in (
            _get(port, "/metrics") or ""
        )
        assert f"{group} is STOPPED" in (_get(port, "/") or "") or "problems:" in (_get(port, "/") or "")
    finally:
        server.terminate()
        assert server.wait(20) == 0


def _get(port: int, path: str) -> str | None:
    try:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return None
