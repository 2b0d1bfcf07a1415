"""Reads topics without a group: partitions to their ends (restores, commands), and topics that are followed (broadcasts)."""

import queue
import threading
import time
from collections.abc import Iterator, Mapping

import confluent_kafka as ck

from infra.clients.kafka import reader
from infra.clients.topic_ids import TopicWatch
from infra.errors import Retryable
from infra.settings import Settings

KeyValue = tuple[bytes | None, bytes | None]

TopicPartition = tuple[str, int]
"""Topic and partition."""

GROUP = "headwater.restore"
"""Name under which partitions are read; it never commits."""
CHUNK = 5_000
"""Records of one poll."""
POLL_S = 0.05
"""`consume` waits this long at the end of each partition, unless a whole chunk comes."""
ADMIN_S = 30.0
"""Time limit of a request to the broker, seconds."""
WITHOUT_LEADER = (ck.KafkaError.NOT_LEADER_FOR_PARTITION, ck.KafkaError.LEADER_NOT_AVAILABLE)
"""Answers about a partition that was just created or moves to another broker; the client does not repeat such a request."""
LEADER_S = 10.0


def stable_end(consumer: ck.Consumer, topic: str, partition: int) -> tuple[int, int]:
    """Return (first offset, end) of a partition (for committed records: the last stable offset). Retryable."""
    deadline = time.monotonic() + LEADER_S
    while True:
        try:
            first, end = consumer.get_watermark_offsets(ck.TopicPartition(topic, partition), timeout=ADMIN_S)
            return int(first), int(end)
        except ck.KafkaException as error:
            if error.args[0].code() not in WITHOUT_LEADER or time.monotonic() > deadline:
                raise Retryable(f"no offsets of {topic}:{partition}: {error.args[0].name()}") from error
        time.sleep(POLL_S)


def read_partition(settings: Settings, topic: str, partition: int, since: int = 0) -> Iterator[list[KeyValue]]:
    """Yield keys and values of all committed records of one partition, as `read_messages`."""
    for messages in read_messages(settings, topic, partition, since):
        yield [(message.key(), message.value()) for message in messages]


def read_messages(settings: Settings, topic: str, partition: int, since: int = 0) -> Iterator[list[ck.Message]]:
    """Yield all committed records of one partition, oldest first, up to its end at the time of the call, as `read_ranges`.

    `since`: only records with this timestamp or a later one, milliseconds UTC.
    """
    first, end = written_range(settings, topic, partition, since)
    yield from read_ranges(settings, {(topic, partition): (first, end)})


def read_ranges(
    settings: Settings, ranges: Mapping[TopicPartition, tuple[int, int]], group: str = GROUP
) -> Iterator[list[ck.Message]]:
    """Yield the committed records of partitions from a first offset up to an end, each partition in its order.

    The end is that of everything written, committed or not, because a commit returns before its markers are on all partitions:
    an open transaction before the end is waited for. Retryable when it stays open. Lists may be empty.
    """
    ends = {source: end for source, (first, end) in ranges.items() if first < end}
    if not ends:
        return
    consumer = reader(settings, group, enable_partition_eof="true")
    patience_s = settings.transaction_timeout_s + ADMIN_S
    try:
        consumer.assign([ck.TopicPartition(*source, ranges[source][0]) for source in ends])
        deadline = time.monotonic() + patience_s
        while ends:
            messages = consumer.consume(CHUNK, POLL_S)
            yield [message for message in messages if message.error() is None]
            for message in messages:
                if message.error() is None:
                    reached, deadline = message.offset() + 1, time.monotonic() + patience_s
                elif is_partition_end(message):
                    reached = message.offset()  # the last stable offset, behind markers and aborted records
                else:
                    continue
                source = (message.topic(), message.partition())
                if reached >= ends.get(source, 0):
                    ends.pop(source, None)
            if time.monotonic() > deadline:
                names = ", ".join(f"{topic}:{partition}" for topic, partition in sorted(ends))
                raise Retryable(f"{names} could not be read to the end")
    finally:
        consumer.close()


def kafka_unavailable(settings: Settings, error: ck.KafkaException) -> Retryable:
    """Build the error with which a command reports that Kafka does not answer."""
    return Retryable(f"Kafka at {settings.kafka}: {error.args[0].name()}")


def topic_partitions(settings: Settings, topic: str) -> list[int]:
    """Return the partition numbers of a topic, by a consumer of its own. Retryable while it is unknown or Kafka is away."""
    consumer = reader(settings, GROUP)
    try:
        return partitions_of(consumer, topic)
    except ck.KafkaException as error:
        raise kafka_unavailable(settings, error) from error
    finally:
        consumer.close()


def read_topic(settings: Settings, topic: str, since: int = 0) -> Iterator[list[KeyValue]]:
    """Yield keys and values of all committed records of a topic, one partition after the other, as `read_messages`."""
    for partition in topic_partitions(settings, topic):
        yield from read_partition(settings, topic, partition, since)


def read_range(settings: Settings, topic: str, partition: int, first: int, end: int) -> list[ck.Message]:
    """Return the committed records from offset `first` up to `end` that one poll brings; none where there are none left.

    Records that retention has deleted are left out. Retryable while they cannot be read.
    """
    consumer = reader(settings, GROUP, enable_partition_eof="true", auto_offset_reset="earliest")
    try:
        consumer.assign([ck.TopicPartition(topic, partition, first)])
        deadline = time.monotonic() + ADMIN_S
        while time.monotonic() < deadline:
            messages = consumer.consume(CHUNK, 0.5)
            records = [message for message in messages if message.error() is None]
            if records or any(is_partition_end(message) for message in messages):
                return [message for message in records if message.offset() < end]
        raise Retryable(f"{topic}:{partition} could not be read at {first}")
    finally:
        consumer.close()


def written_range(settings: Settings, topic: str, partition: int, since: int) -> tuple[int, int]:
    """Return (first offset at or after `since`, offset behind the last record written) of a partition. Retryable."""
    consumer = reader(settings, GROUP, isolation_level="read_uncommitted")
    try:
        first, end = stable_end(consumer, topic, partition)
        if since:
            position = consumer.offsets_for_times([ck.TopicPartition(topic, partition, since)], timeout=ADMIN_S)[0]
            first = position.offset if position.offset >= 0 else end
        return first, end
    except ck.KafkaException as error:
        raise Retryable(f"no offsets of {topic}:{partition}: {error.args[0].name()}") from error
    finally:
        consumer.close()


def is_partition_end(message: ck.Message) -> bool:
    """Return whether this is an end-of-partition event. KafkaException for an error that does not pass by itself."""
    error = message.error()
    if error is None:
        return False
    if error.code() == ck.KafkaError._PARTITION_EOF:
        return True
    if error.retriable() or error.code() in (ck.KafkaError._TRANSPORT, ck.KafkaError._ALL_BROKERS_DOWN):
        return False
    raise ck.KafkaException(error)


def partitions_of(consumer: ck.Consumer, topic: str) -> list[int]:
    """Return the partition numbers of a topic. Retryable while it is unknown."""
    metadata = consumer.list_topics(topic, timeout=ADMIN_S).topics[topic]
    if metadata.error is not None or not metadata.partitions:
        raise Retryable(f"topic {topic} is not there: run `headwater topics apply`")
    return sorted(metadata.partitions)


class Follower:
    """Follows whole topics in a thread of its own. Its records wait in a bounded queue for `drain`."""

    def __init__(self, settings: Settings, topics: tuple[str, ...]) -> None:
        self._settings = settings
        self._topics = topics
        self._queue: queue.Queue[tuple[str, list[KeyValue]]] = queue.Queue(maxsize=64)
        self._stop = threading.Event()
        self._caught_up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
        self.failure: BaseException | None = None

    def start(self) -> None:
        """Start reading."""
        if self._topics:
            self._thread.start()
        else:
            self._caught_up.set()

    def stop(self) -> None:
        """Stop the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def drain(self) -> Iterator[tuple[str, list[KeyValue]]]:
        """Yield (topic, records) read since the last call, without waiting. Raises the error that ended the thread, if any."""
        if self.failure is not None:
            raise self.failure
        while True:
            try:
                yield self._queue.get_nowait()
            except queue.Empty:
                return

    @property
    def caught_up(self) -> bool:
        """Whether all records that existed at the start are in the queue or were drained."""
        return self._caught_up.is_set()

    def _run(self) -> None:
        consumer = reader(self._settings, "headwater.follow", enable_partition_eof="true")
        try:
            watch = TopicWatch(self._settings, self._topics)
            watch.ids_at_start()
            waiting = {(topic, partition) for topic in self._topics for partition in partitions_of(consumer, topic)}
            consumer.assign([ck.TopicPartition(t, p, ck.OFFSET_BEGINNING) for t, p in sorted(waiting)])
            while not self._stop.is_set():
                self._enqueue(consumer.consume(CHUNK, 0.2), waiting)
                if (topic := watch.find_replaced()) is not None:
                    raise RuntimeError(f"{topic} was deleted and created again: it must be read from its beginning")
        except BaseException as error:  # `drain` raises it in the worker's thread
            self.failure = error
        finally:
            consumer.close()

    def _enqueue(self, records: list[ck.Message], waiting: set[tuple[str, int]]) -> None:
        by_topic: dict[str, list[KeyValue]] = {}
        for record in records:
            if record.error() is None:
                by_topic.setdefault(record.topic(), []).append((record.key(), record.value()))
            elif is_partition_end(record):
                waiting.discard((record.topic(), record.partition()))
        for item in by_topic.items():
            while not self._stop.is_set():
                try:
                    self._queue.put(item, timeout=0.5)
                    break
                except queue.Full:
                    continue
        if not waiting:
            self._caught_up.set()
