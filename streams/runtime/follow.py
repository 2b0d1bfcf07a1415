"""Reading topics outside the group: a compacted partition to its end (restore), and topics every worker follows whole."""

import queue
import threading
import time
from collections.abc import Iterator

import confluent_kafka as ck

from infra.clients.kafka import reader
from infra.clients.topic_ids import TopicWatch
from infra.errors import Retryable
from infra.settings import Settings

KeyValue = tuple[bytes | None, bytes | None]

CHUNK = 5_000
ADMIN_S = 30.0


def stable_end(consumer: ck.Consumer, topic: str, partition: int) -> tuple[int, int]:
    """(first offset, end) of a partition, as the broker says now: for a reader of committed records the last stable offset."""
    try:
        first, end = consumer.get_watermark_offsets(ck.TopicPartition(topic, partition), timeout=ADMIN_S)
    except ck.KafkaException as error:
        raise Retryable(f"no offsets of {topic}:{partition}: {error.args[0].name()}") from error
    return int(first), int(end)


def read_partition(settings: Settings, topic: str, partition: int, since: int = 0) -> Iterator[list[KeyValue]]:
    """Keys and values of all committed records of one partition, as `read_messages`."""
    for messages in read_messages(settings, topic, partition, since):
        yield [(message.key(), message.value()) for message in messages]


def read_messages(settings: Settings, topic: str, partition: int, since: int = 0) -> Iterator[list[ck.Message]]:
    """All committed records of one partition, oldest first, up to the end it had when the reading began.

    `since`: only those with this timestamp or a later one, milliseconds UTC.

    A commit returns before its markers are on all partitions. So the end is that of everything written, committed or not, and
    a transaction that is open there is waited for: its records are either restored or aborted. Retryable when it stays open.
    """
    first, end = written_range(settings, topic, partition, since)
    if first >= end:
        return
    consumer = reader(settings, "headwater.restore", enable_partition_eof="true")
    try:
        consumer.assign([ck.TopicPartition(topic, partition, first)])
        reached, deadline = first, time.monotonic() + settings.transaction_timeout_s + ADMIN_S
        while reached < end:
            messages = consumer.consume(CHUNK, 0.2)
            yield [message for message in messages if message.error() is None]
            for message in messages:
                # The offset of an end-of-partition event is the last stable offset, behind markers and aborted records.
                if message.error() is None:
                    reached, deadline = message.offset() + 1, time.monotonic() + settings.transaction_timeout_s + ADMIN_S
                elif _is_end(message):
                    reached = max(reached, message.offset())
            if time.monotonic() > deadline:
                raise Retryable(f"{topic}:{partition} could not be read to its end")
    finally:
        consumer.close()


def kafka_unavailable(settings: Settings, error: ck.KafkaException) -> Retryable:
    """What an error means to a command: Kafka does not answer."""
    return Retryable(f"Kafka at {settings.kafka}: {error.args[0].name()}")


def topic_partitions(settings: Settings, topic: str) -> list[int]:
    """Partition numbers of a topic, by a consumer of its own. Retryable while it is unknown, or Kafka is away."""
    consumer = reader(settings, "headwater.restore")
    try:
        return partitions_of(consumer, topic)
    except ck.KafkaException as error:
        raise kafka_unavailable(settings, error) from error
    finally:
        consumer.close()


def read_topic(settings: Settings, topic: str, since: int = 0) -> Iterator[list[KeyValue]]:
    """Keys and values of all committed records of a topic, one partition after the other, as `read_messages`."""
    for partition in topic_partitions(settings, topic):
        yield from read_partition(settings, topic, partition, since)


def read_range(settings: Settings, topic: str, partition: int, first: int, end: int) -> list[ck.Message]:
    """Committed records from offset `first` on, before `end`, as many as come in one go; none where there are none left.

    Records that retention has taken meanwhile are left out. Retryable while they cannot be read.
    """
    consumer = reader(settings, "headwater.restore", enable_partition_eof="true", auto_offset_reset="earliest")
    try:
        consumer.assign([ck.TopicPartition(topic, partition, first)])
        deadline = time.monotonic() + ADMIN_S
        while time.monotonic() < deadline:
            messages = consumer.consume(CHUNK, 0.5)
            records = [message for message in messages if message.error() is None]
            if records or any(_is_end(message) for message in messages):
                return [message for message in records if message.offset() < end]
        raise Retryable(f"{topic}:{partition} could not be read at {first}")
    finally:
        consumer.close()


def written_range(settings: Settings, topic: str, partition: int, since: int) -> tuple[int, int]:
    """(first offset, offset behind the last record written) of a partition since then, whatever is committed of it."""
    consumer = reader(settings, "headwater.restore", isolation_level="read_uncommitted")
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


def _is_end(record: ck.Message) -> bool:
    error = record.error()
    if error is None:
        return False
    if error.code() == ck.KafkaError._PARTITION_EOF:
        return True
    if error.retriable() or error.code() in (ck.KafkaError._TRANSPORT, ck.KafkaError._ALL_BROKERS_DOWN):
        return False
    raise ck.KafkaException(error)


def partitions_of(consumer: ck.Consumer, topic: str) -> list[int]:
    """Partition numbers of a topic. Retryable while it is unknown."""
    metadata = consumer.list_topics(topic, timeout=ADMIN_S).topics[topic]
    if metadata.error is not None or not metadata.partitions:
        raise Retryable(f"topic {topic} is not there: run `headwater topics apply`")
    return sorted(metadata.partitions)


class Follower:
    """Follows topics whole, in a thread of its own. What it has read waits in a bounded queue until `drain`."""

    def __init__(self, settings: Settings, topics: tuple[str, ...]) -> None:
        self._settings = settings
        self._topics = topics
        self._queue: queue.Queue[tuple[str, list[KeyValue]]] = queue.Queue(maxsize=64)
        self._stop = threading.Event()
        self._caught_up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
        self.failure: BaseException | None = None

    def start(self) -> None:
        """Begin to read."""
        if self._topics:
            self._thread.start()
        else:
            self._caught_up.set()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def drain(self) -> Iterator[tuple[str, list[KeyValue]]]:
        """(topic, records) read since the last call, without waiting. Raises what ended the thread, if anything did."""
        if self.failure is not None:
            raise self.failure
        while True:
            try:
                yield self._queue.get_nowait()
            except queue.Empty:
                return

    @property
    def caught_up(self) -> bool:
        """All that was there when the follower started has been read (and waits in the queue or was taken)."""
        return self._caught_up.is_set()

    def _run(self) -> None:
        consumer = reader(self._settings, "headwater.follow", enable_partition_eof="true")
        try:
            watch = TopicWatch(self._settings, self._topics)
            watch.ask()
            waiting = {(topic, partition) for topic in self._topics for partition in partitions_of(consumer, topic)}
            consumer.assign([ck.TopicPartition(t, p, ck.OFFSET_BEGINNING) for t, p in sorted(waiting)])
            while not self._stop.is_set():
                self._enqueue(consumer.consume(CHUNK, 0.2), waiting)
                if (topic := watch.replaced()) is not None:
                    raise RuntimeError(f"{topic} was deleted and created again: it must be read from its beginning")
        except BaseException as error:  # the worker raises it in its own thread: nothing may die here unseen
            self.failure = error
        finally:
            consumer.close()

    def _enqueue(self, records: list[ck.Message], waiting: set[tuple[str, int]]) -> None:
        by_topic: dict[str, list[KeyValue]] = {}
        for record in records:
            if record.error() is None:
                by_topic.setdefault(record.topic(), []).append((record.key(), record.value()))
            elif _is_end(record):
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
