"""Reads the records that should have rows from Kafka, slice by slice."""

import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import confluent_kafka as ck

from consumers.warehouse.loader.intent import read_metadata
from consumers.warehouse.loader.loop import GROUP
from consumers.warehouse.schema.tables import TABLES
from consumers.warehouse.topic_partition import TopicPartition
from infra.clients.kafka import admin, reader
from infra.clients.topic_ids import describe_ids
from infra.errors import ConfigError, Retryable
from infra.settings import Settings
from schemas.topics import TOPICS

MAX_RECORDS = 50_000
MAX_BYTES = 16 * 1024 * 1024
SILENCE_S = 30.0
"""A partition that delivers nothing for so long fails, seconds."""
KAFKA_S = 30.0
POLL_S = 0.2
MESSAGES = 5_000
"""Messages taken over from the client at once."""


class Slice(NamedTuple):
    """All records of offsets `first` (included) to `end` (excluded) that a read-committed consumer receives."""

    first: int
    end: int
    offsets: list[int]
    values: list[bytes]

    def since(self, first: int) -> "Slice":
        """The same slice from an offset on."""
        at = bisect_left(self.offsets, first)
        return Slice(first, self.end, self.offsets[at:], self.values[at:])


class CommittedOffset(NamedTuple):
    """The loader's committed offset of a partition; -1 where it has committed nothing."""

    source: TopicPartition
    offset: int
    metadata: str = ""
    """Metadata of the loader's commit, see `loader/intent.py`."""


class OffsetBounds(NamedTuple):
    """Bounds of one read: from `first` on until `last` is reached; then the range is complete up to `end`."""

    first: int
    last: int
    end: int


class KafkaRecords:
    """Kafka's records and the loader's offsets, read by a consumer that joins no group."""

    def __init__(self, settings: Settings) -> None:
        self._admin = admin(settings)
        self._consumer: ck.Consumer = reader(settings, GROUP, auto_offset_reset="earliest", enable_partition_eof="true")

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()

    def committed(self, topics: Iterable[str] = TABLES) -> list[CommittedOffset]:
        """The loader's offset of every partition of these topics, in order. Retryable, ConfigError."""
        ids = describe_ids(self._admin, topics)
        try:
            listed = self._consumer.list_topics(timeout=KAFKA_S).topics
            partitions = [ck.TopicPartition(topic, number) for topic in ids for number in sorted(listed[topic].partitions)]
            positions = self._consumer.committed(partitions, timeout=KAFKA_S) if partitions else []
        except ck.KafkaException as error:
            raise _away(error) from error
        return [_position(position, ids[position.topic]) for position in positions]

    def low(self, source: TopicPartition) -> int:
        """The first offset that Kafka still has. Retryable."""
        return self._watermarks(source)[0]

    def high(self, source: TopicPartition) -> int:
        """The offset after the last record or marker, including open transactions. Retryable."""
        return self._watermarks(source)[1]

    def offsets_at(self, sources: Sequence[TopicPartition], time_ms: int) -> list[int | None]:
        """The first offset of each partition written at `time_ms` (UTC) or later; None where there is none. Retryable."""
        requests = [ck.TopicPartition(source.topic, source.partition, time_ms) for source in sources]
        try:
            answered = self._consumer.offsets_for_times(requests, timeout=KAFKA_S)
        except ck.KafkaException as error:
            raise _away(error) from error
        return [position.offset if position.offset >= 0 else None for position in answered]

    def slices(self, source: TopicPartition, first: int, end: int) -> Iterator[Slice]:
        """Yield the records of a range in order, at most `MAX_RECORDS` a slice; slices cover it without gaps. Retryable."""
        last = min(end, self.high(source))  # Kafka has no more, whatever was committed
        if first >= last:
            yield Slice(first, end, [], [])
            return
        self._consumer.assign([ck.TopicPartition(source.topic, source.partition, first)])
        try:
            yield from self._read(source, OffsetBounds(first, last, end))
        finally:
            self._consumer.unassign()  # otherwise the consumer would go on fetching

    def _read(self, source: TopicPartition, bounds: OffsetBounds) -> Iterator[Slice]:
        tombstones = TOPICS[source.topic].retention_days is None
        begin, size, last_message = bounds.first, 0, time.monotonic()
        offsets: list[int] = []
        values: list[bytes] = []
        while True:
            messages = self._receive()
            if not messages and time.monotonic() - last_message > SILENCE_S:
                raise Retryable(f"Kafka stopped delivering {source}")
            for message in messages:
                if (message.topic(), message.partition()) != (source.topic, source.partition):
                    continue
                last_message = time.monotonic()
                error = message.error()
                if error is not None and error.code() != ck.KafkaError._PARTITION_EOF:
                    raise _away(ck.KafkaException(error))
                if message.offset() >= bounds.last:
                    yield Slice(begin, bounds.end, offsets, values)
                    return
                if error is not None or (message.value() is None and tombstones):
                    continue
                offsets.append(message.offset())
                values.append(message.value() or b"")
                size += len(values[-1])
                if len(offsets) >= MAX_RECORDS or size >= MAX_BYTES:
                    yield Slice(begin, offsets[-1] + 1, offsets, values)
                    begin, size, offsets, values, last_message = offsets[-1] + 1, 0, [], [], time.monotonic()

    def _receive(self) -> list[ck.Message]:
        """What Kafka has delivered. `consume` with a timeout would wait for as many messages as it may return."""
        first = self._consumer.poll(POLL_S)
        return [] if first is None else [first, *self._consumer.consume(MESSAGES, 0)]

    def _watermarks(self, source: TopicPartition) -> tuple[int, int]:
        try:
            low, high = self._consumer.get_watermark_offsets(ck.TopicPartition(source.topic, source.partition), timeout=KAFKA_S)
        except ck.KafkaException as error:
            raise _away(error) from error
        return int(low), int(high)


def _position(committed: ck.TopicPartition, topic_id: str) -> CommittedOffset:
    """The loader's offset; -1 where it was committed for another topic id."""
    source, metadata = TopicPartition(committed.topic, committed.partition, topic_id), committed.metadata or ""
    if committed.offset < 0 or read_metadata(committed.offset, metadata).topic_id not in ("", topic_id):
        return CommittedOffset(source, -1)
    return CommittedOffset(source, committed.offset, metadata)


def _away(error: ck.KafkaException) -> Exception:
    reason = error.args[0]
    if reason.code() in (ck.KafkaError.TOPIC_AUTHORIZATION_FAILED, ck.KafkaError.GROUP_AUTHORIZATION_FAILED):
        return ConfigError(
            f"Kafka does not let this user read ({reason.name()}): grant READ on the topics and on group {GROUP}"
        )
    return Retryable(f"Kafka does not answer: {reason.name()}", "kafka")
