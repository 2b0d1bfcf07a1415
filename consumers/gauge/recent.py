"""Bounded state of the side topics: dead letters by reason, volumes of the last hour, snapshots of experiments."""

import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import confluent_kafka as ck

from infra.clients.kafka import reader
from infra.settings import Settings
from infra.telemetry.logs import get_logger
from schemas.codec import HeadReader, Undecodable, decode
from schemas.registry import Registry, UnknownContract
from streams.identity.graph.deferred import DEFERRED
from streams.runtime.privacy.request_consumer import ACKS, REQUESTS
from streams.runtime.privacy.requests import PendingRequest, RequestLog

DEAD, COUNTS, SNAPSHOTS = "events.dead", "stream.counts", "bandit.snapshots"
WHOLE = (REQUESTS, ACKS, DEFERRED)
"""Read from their first record."""
DEAD_KEPT = 5_000
DEAD_WINDOW_S = 24 * 3_600
HOUR_S = 3_600
BACK = {DEAD: 2_000, COUNTS: 200_000, SNAPSHOTS: 2_000, REQUESTS: 50_000, ACKS: 150_000, DEFERRED: 50_000}
"""Most records of a partition that are read back when the gauge starts."""
UNMAPPED = "unmapped"
"""Outcome under which the consent stage counts signals that no rule maps."""
EXPERIMENTS_KEPT = 100
CELLS_KEPT = 20_000


class DeadLetter(NamedTuple):
    """What the page shows of a dead letter; never its payload."""

    dead_ts: int
    stage: str
    reason: str
    source: str


class SnapshotSummary(NamedTuple):
    """An experiment's newest snapshot: arms with their share and posterior mean (None for another form of posterior)."""

    experiment: str
    published_ts: int
    arms: tuple[tuple[str, float, float | None], ...]


@dataclass(frozen=True, slots=True)
class RecentActivity:
    """What the page shows. `complete` is False while the gauge still reads the topics back."""

    dead: tuple[tuple[tuple[str, str, str], int], ...] = ()
    """((stage, reason, source), number) of the newest dead letters within a day, most frequent first."""
    dead_truncated: bool = False
    """Whether there were more than `DEAD_KEPT`."""
    volumes: tuple[tuple[tuple[str, str], int, tuple[int, ...]], ...] = ()
    """((stage, outcome), events in the last hour, events in each of its sixty minutes)."""
    snapshots: tuple[SnapshotSummary, ...] = ()
    pending: tuple[PendingRequest, ...] = ()
    """Privacy requests that some room has not answered yet, oldest first."""
    unmapped: tuple[tuple[tuple[str, str], int], ...] = ()
    """((source, name), events in the last hour) of consent signals that the policy does not map, most frequent first."""
    deferred: int = 0
    """Records that passed identity unresolved while its graph was away, and whose links are still missing."""
    complete: bool = False


class SideTopicState:
    """Accumulates records of the side topics and forgets them when they are old."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._heads = HeadReader(registry, "dead_ts")
        self._dead: deque[DeadLetter] = deque(maxlen=DEAD_KEPT)
        self._counts: Counter[tuple[int, str, str]] = Counter()
        self._unmapped: Counter[tuple[int, str, str]] = Counter()
        """By minute, source and name of the signal."""
        self._snapshots: OrderedDict[str, SnapshotSummary] = OrderedDict()
        self._requests = RequestLog()
        self._deferred: dict[tuple[str, int], int] = {}
        self._lock = threading.Lock()

    def add_record(self, topic: str, value: bytes) -> None:
        """Add one record. An undecodable one is logged and left out."""
        handlers: dict[str, Callable[[bytes], None]] = {
            DEAD: self._add_dead,
            COUNTS: self._add_count,
            SNAPSHOTS: self._add_snapshot,
            REQUESTS: lambda value: self._requests.add(REQUESTS, decode(self._registry, value)[1]),
            ACKS: lambda value: self._requests.add(ACKS, decode(self._registry, value)[1]),
            DEFERRED: self._add_deferred,
        }
        try:
            with self._lock:
                handlers[topic](value)
        except (Undecodable, UnknownContract):
            get_logger().warning("a record of a side topic cannot be read", topic=topic)

    def _add_dead(self, value: bytes) -> None:
        head = self._heads.read(value)[1]  # the payload is never touched
        self._dead.append(DeadLetter(head["dead_ts"], head["stage"], head["reason"], head["source"]))

    def _add_count(self, value: bytes) -> None:
        record = decode(self._registry, value)[1]
        if record["outcome"] == UNMAPPED:
            _add_bounded(
                self._unmapped, (record["minute"], record["source"], record["dimensions"].get("name", "")), record["n"]
            )
        elif not record["dimensions"]:  # events with dimensions are also counted without them
            _add_bounded(self._counts, (record["minute"], record["stage"], record["outcome"]), record["n"])

    def _add_snapshot(self, value: bytes) -> None:
        record = decode(self._registry, value)[1]
        self._snapshots[record["experiment"]] = summarise_snapshot(record)
        self._snapshots.move_to_end(record["experiment"])
        while len(self._snapshots) > EXPERIMENTS_KEPT:
            self._snapshots.popitem(last=False)

    def _add_deferred(self, value: bytes) -> None:
        record = decode(self._registry, value)[1]
        self._deferred[record["topic"], record["partition"]] = record["end"] - record["first"]

    def recent(self, now: float, complete: bool) -> RecentActivity:
        """Return the activity at `now` (seconds UTC) and forget older records."""
        with self._lock:
            while self._dead and self._dead[0].dead_ts < (now - DEAD_WINDOW_S) * 1000:
                self._dead.popleft()
            last = int(now // 60) * 60_000
            for counts in (self._counts, self._unmapped):
                for cell in [cell for cell in counts if cell[0] <= last - HOUR_S * 1000]:
                    del counts[cell]
            unmapped: Counter[tuple[str, str]] = Counter()
            for (_, source, name), n in self._unmapped.items():
                unmapped[source, name] += n
            dead = Counter((letter.stage, letter.reason, letter.source) for letter in self._dead)
            minutes: dict[tuple[str, str], list[int]] = {}
            for (minute, stage, outcome), n in self._counts.items():
                slot = 59 - (last - minute) // 60_000
                if 0 <= slot < 60:
                    minutes.setdefault((stage, outcome), [0] * 60)[slot] += n
            volumes = tuple((cell, sum(series), tuple(series)) for cell, series in sorted(minutes.items()))
            truncated = len(self._dead) == DEAD_KEPT
            return RecentActivity(
                tuple(dead.most_common()),
                truncated,
                volumes,
                tuple(sorted(self._snapshots.values())),
                tuple(self._requests.pending()),
                tuple(unmapped.most_common()),
                sum(self._deferred.values()),
                complete,
            )


def _add_bounded(counts: Counter[tuple[int, str, str]], cell: tuple[int, str, str], n: int) -> None:
    """Count up to `CELLS_KEPT` cells; further ones are left out."""
    if cell in counts or len(counts) < CELLS_KEPT:
        counts[cell] += n


def summarise_snapshot(record: dict[str, Any]) -> SnapshotSummary:
    """Summarise a record of `bandit.snapshots`. A posterior of two parameters is read as Beta(alpha, beta)."""
    arms = []
    for arm, share, posterior in zip(record["arms"], record["probabilities"], record["posterior"], strict=False):
        beta = len(posterior) == 2 and sum(posterior) > 0
        arms.append((arm, share, posterior[0] / sum(posterior) if beta else None))
    return SnapshotSummary(record["experiment"], record["published_ts"], tuple(arms))


class SideTopicConsumer:
    """Follows the side topics in a thread of its own, outside any group, and starts again after an error of Kafka."""

    def __init__(self, settings: Settings, state: SideTopicState) -> None:
        self._settings = settings
        self._state = state
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="side-topics", daemon=True)
        self.complete = False

    def start(self) -> None:
        """Start reading."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread and wait for it."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def _run(self) -> None:
        while not self._stop.is_set():
            consumer = reader(self._settings, "headwater-gauge", auto_offset_reset="earliest", enable_partition_eof="true")
            try:
                self._follow(consumer)
            except ck.KafkaException as error:
                get_logger().warning("side topics", error=error.args[0].name())
                self._stop.wait(5)
            finally:
                consumer.close()

    def _follow(self, consumer: Any) -> None:
        begin = start_offsets(consumer, time.time())
        if not begin:
            self._stop.wait(5)  # the topics do not exist yet
            return
        waiting = {(tp.topic, tp.partition) for tp in begin}
        self.complete = False
        consumer.assign(begin)
        while not self._stop.is_set():
            for message in consumer.consume(1_000, 0.5):
                error = message.error()
                if error is None:
                    if message.value() is not None:
                        self._state.add_record(message.topic(), message.value())
                elif error.code() == ck.KafkaError._PARTITION_EOF:
                    waiting.discard((message.topic(), message.partition()))
            self.complete = not waiting


def start_offsets(consumer: Any, now: float) -> list[ck.TopicPartition]:
    """Return where to begin: a day back for dead letters, an hour for counts, else the first record, at most `BACK` records."""
    topics = consumer.list_topics(timeout=10).topics
    since = {DEAD: now - DEAD_WINDOW_S, COUNTS: now - HOUR_S, SNAPSHOTS: 0.0, **dict.fromkeys(WHOLE, 0.0)}
    begin = []
    for topic, at in since.items():
        for partition in sorted(topics[topic].partitions) if topic in topics else ():
            first, end = consumer.get_watermark_offsets(ck.TopicPartition(topic, partition), timeout=10)
            (position,) = consumer.offsets_for_times([ck.TopicPartition(topic, partition, round(at * 1000))], timeout=10)
            offset = position.offset if position.offset >= 0 else end
            begin.append(ck.TopicPartition(topic, partition, max(first, offset, end - BACK[topic])))
    return begin
