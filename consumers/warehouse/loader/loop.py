"""The loader's loop: reads Kafka, commits the intent of each insert, inserts, commits the end. One static group member."""

import time
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any, TypeVar

import confluent_kafka as ck

from consumers.warehouse.errors import ServerTrouble
from consumers.warehouse.loader.batch import InsertBatch, PartitionBuffer
from consumers.warehouse.loader.inserter import Inserter, Insertion
from consumers.warehouse.loader.intent import CommitMetadata, read_metadata
from consumers.warehouse.loader.rows import RejectedRecord, RowLoader
from consumers.warehouse.loader.topic_check import TopicCheck
from consumers.warehouse.schema.tables import TABLES
from consumers.warehouse.topic_partition import TopicPartition
from infra.clients.kafka import producer, reader
from infra.errors import Halted, Retryable
from infra.payload_keyring import PayloadKeyring
from infra.settings import Settings
from infra.telemetry.logs import get_logger
from infra.telemetry.metrics import Metrics
from schemas.registry import Registry
from schemas.topics import TOPICS
from streams.runtime.dead_letters.dead_letter import DeadLetterCause, DeadLetters, RecordPosition

T = TypeVar("T")

GROUP = "headwater.warehouse"
STAGE = "warehouse"
POLL_S = 0.05
TOTAL_BYTES = 64 * 1024 * 1024
"""Above this, buffers that hold records are not read further."""
KAFKA_S = 30.0
SLOW_S = 15.0
"""An insert that takes longer counts as waiting for ClickHouse."""
STOP_S = 5.0
"""How long inserts in flight may take once the loader is stopped; the next start checks the others."""
MAX_IN_FLIGHT = 4
DEAD_LETTER_BYTES = 4 * 1024 * 1024
"""Message limit of dead letters: each is larger than its record."""
SERVICES = ("clickhouse", "contracts", "")


class Warehouse:
    """Loads every topic of `TABLES`."""

    def __init__(self, settings: Settings, loader: RowLoader, registry: Registry, metrics: Metrics) -> None:
        self._settings = settings
        self._inserter = Inserter(loader)
        self._metrics = metrics
        self._letters = DeadLetters(registry, PayloadKeyring(settings.keyring_dir, settings.master), STAGE, metrics)
        self._buffers: dict[tuple[str, int], PartitionBuffer] = {}
        self._rebalances = 0
        self._producer: ck.Producer | None = None
        self._server_trouble = False
        self._waiting = ""
        self._topics = TopicCheck(settings)
        self._consumer = reader(
            settings,
            GROUP,
            group_instance_id=f"{GROUP}-{settings.slot}",
            session_timeout_ms=int(settings.session_timeout_s * 1000),
            heartbeat_interval_ms=int(settings.session_timeout_s * 250),
            auto_offset_reset="error",
            enable_partition_eof="true",
            partition_assignment_strategy="range",
        )

    def run(self, stopping: Callable[[], bool]) -> None:
        """Load until `stopping` returns True, then insert what was read, as far as possible within `STOP_S`.

        TopicReplaced where a topic was deleted and created again; Halted where records are lost; KafkaException.
        """
        self._metrics.set("headwater_assigned_partitions", 0, stage=STAGE)
        self._consumer.subscribe(list(TABLES), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked)
        try:
            while not stopping():
                self._read()
                self._collect()
                self._submit(lambda buffer, now, crowded: buffer.due(now) or (crowded and bool(buffer.offsets)))
                self._report()
                self._topics.confirm_due()
            self._finish(time.monotonic() + STOP_S)
        finally:
            self._consumer.close()

    def _finish(self, deadline: float) -> None:
        while time.monotonic() < deadline:
            self._collect()
            if not self._server_trouble:
                self._submit(lambda buffer, _now, _crowded: bool(buffer.offsets) and not buffer.uncertain)
            if not self._inserter.in_flight:
                return
            time.sleep(POLL_S)
        get_logger().warning("stops in the middle of inserts: the next start looks what became of them")

    # -- Kafka

    def _assigned(self, consumer: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
        self._rebalances += 1
        self._buffers.clear()
        _retry(lambda: self._topics.learn({partition.topic for partition in partitions}))
        for position in _retry(lambda: _committed(consumer, partitions)):
            if position.topic in self._topics.ids:
                buffer = self._buffer(position)
                self._buffers[position.topic, position.partition] = buffer
        replayed = sum(buffer.intent is not None for buffer in self._buffers.values())
        if replayed:
            get_logger().info("replaying what a predecessor was inserting", partitions=replayed)
        # Without a commit, the beginning: the loader checks which rows are present before it inserts.
        starts = [
            ck.TopicPartition(*key, b.committed if b.committed >= 0 else ck.OFFSET_BEGINNING)
            for key, b in self._buffers.items()
        ]
        consumer.assign(starts)
        consumer.resume(starts)  # a pause outlives its assignment
        self._metrics.set("headwater_assigned_partitions", len(starts), stage=STAGE)

    def _buffer(self, position: ck.TopicPartition) -> PartitionBuffer:
        source = TopicPartition(position.topic, position.partition, self._topics.ids[position.topic])
        metadata = read_metadata(position.offset, position.metadata)
        if metadata.topic_id not in ("", source.topic_id):
            get_logger().warning("topic was made anew: it is read from its beginning", topic=source.topic)
            return PartitionBuffer(source, -1)
        return PartitionBuffer(source, position.offset, metadata.intent, uncertain=metadata.intent is not None)

    def _revoked(self, _consumer: ck.Consumer, _partitions: list[ck.TopicPartition]) -> None:
        self._buffers.clear()  # uncommitted records are read again by the next owner
        self._metrics.set("headwater_assigned_partitions", 0, stage=STAGE)

    def _read(self) -> None:
        first = self._consumer.poll(POLL_S if self._inserter.in_flight else 2 * POLL_S)
        if first is None:
            return
        now, rebalances = time.monotonic(), self._rebalances
        messages = self._consumer.consume(self._settings.batch_records, 0)
        if rebalances == self._rebalances:  # otherwise `first` is read again, from the committed offset
            messages.insert(0, first)
        # Records are handled in runs of one partition, because one by one is measurably slower.
        for (topic, partition, failed), run in groupby(messages, _group_key):
            buffer = self._buffers.get((topic, partition))
            if failed:
                self._handle_errors(buffer, run)
            elif buffer is not None:
                _buffer_records(buffer, list(run), now)

    def _handle_errors(self, buffer: PartitionBuffer | None, messages: Iterable[ck.Message]) -> None:
        for message in messages:
            error = message.error()
            if error is not None and error.code() != ck.KafkaError._PARTITION_EOF:
                self._handle_error(error)
            elif buffer is not None:
                buffer.end = max(buffer.end, message.offset() or 0)

    def _handle_error(self, error: ck.KafkaError) -> None:
        if error.code() in (ck.KafkaError._AUTO_OFFSET_RESET, ck.KafkaError.OFFSET_OUT_OF_RANGE):
            self._topics.confirm_all()
            raise Halted(
                "records were deleted from Kafka before they were loaded: the committed offset is no longer there. "
                f"Move {GROUP} to the earliest offset with kafka-consumer-groups.sh and start again; what is gone stays missing"
            )
        if error.fatal():
            raise ck.KafkaException(error)
        get_logger().warning("consumer", error=error.name())

    def _commit(self, offsets: list[ck.TopicPartition]) -> None:
        if offsets:
            for committed in self._consumer.commit(offsets=offsets, asynchronous=False):
                if committed.error is not None:
                    raise ck.KafkaException(committed.error)

    def _pause(self, crowded: bool) -> None:
        """Pause partitions whose batch is full, or which wait while too much is buffered. Polling goes on, for the group."""
        for buffer in self._buffers.values():
            # Only partitions with records are paused: a table that waits for repair must not stop the others.
            pause = buffer.complete or (buffer.ready and (crowded or bool(buffer.waiting)))
            if pause == buffer.paused:
                continue
            change = self._consumer.pause if pause else self._consumer.resume
            change([ck.TopicPartition(buffer.source.topic, buffer.source.partition)])
            buffer.paused = pause

    # -- ClickHouse

    def _submit(self, is_due: Callable[[PartitionBuffer, float, bool], bool]) -> None:
        """Commit the intents of due batches and submit them, longest waiting first."""
        now = time.monotonic()
        crowded = sum(buffer.size for buffer in self._buffers.values()) >= TOTAL_BYTES
        self._pause(crowded)
        # While ClickHouse is in trouble, one insert at a time probes it.
        free = (1 if self._server_trouble else MAX_IN_FLIGHT) - len(self._inserter.in_flight)
        if free <= 0:
            return
        # An insert of an earlier assignment may still run: two inserts of one range at a time could double it.
        flying = {insertion.batch.source for insertion in self._inserter.in_flight}
        idle = (buffer for buffer in self._buffers.values() if buffer.source not in flying and now >= buffer.retry_at)
        due = sorted((buffer for buffer in idle if is_due(buffer, now, crowded)), key=lambda b: max(b.since, b.retry_at))
        due = self._limit_retries(due)[:free]
        work = [(buffer, buffer.next_batch()) for buffer in due if buffer.intent is None or buffer.end > buffer.intent.last]
        # Confirmed after the records came, so they belong to the topic id that their rows will carry.
        if not work or not self._topics.confirm({buffer.source.topic for buffer, _ in work}):
            return
        self._commit([_intent_position(batch) for _, batch in work if batch.replayed is None])
        for buffer, batch in work:
            buffer.in_flight = batch
            self._inserter.submit(buffer, batch)

    def _limit_retries(self, due: list[PartitionBuffer]) -> list[PartitionBuffer]:
        """Allow at most one insert at a time that failed before: a table that hangs must not occupy every thread."""
        waits = any(insertion.buffer.waiting for insertion in self._inserter.in_flight)
        chosen = []
        for buffer in due:
            if buffer.waiting and waits:
                continue
            waits = waits or bool(buffer.waiting)
            chosen.append(buffer)
        return chosen

    def _collect(self) -> None:
        """Commit batches that were inserted; schedule the others for another try."""
        ends = []
        for insertion in self._inserter.collect():
            buffer, batch = insertion.buffer, insertion.batch
            if self._buffers.get((batch.source.topic, batch.source.partition)) is not buffer:
                continue  # revoked meanwhile: the next owner replays its intent
            if isinstance(insertion.error, Retryable):
                self._record_failure(insertion, insertion.error)
                continue
            if insertion.error is not None:
                raise insertion.error
            if insertion.rejected:
                self._dead_letter(batch, insertion.rejected)
            else:
                ends.append(_end_position(batch.source, batch.next))
            buffer.mark_committed(batch, time.monotonic())
            self._server_trouble = False
        self._commit(ends + self._idle_ends())

    def _record_failure(self, insertion: Insertion, error: Retryable) -> None:
        buffer, batch = insertion.buffer, insertion.batch
        self._metrics.count("headwater_retries_total", stage=STAGE)
        if str(error) != buffer.waiting:
            # The reason is visible in the group's commits.
            self._commit([_intent_position(batch, str(error))])
        buffer.mark_failed(batch, str(error), time.monotonic(), error.service)
        if isinstance(error, ServerTrouble):
            self._server_trouble = True

    def _idle_ends(self) -> list[ck.TopicPartition]:
        """Positions after trailing transaction markers of idle partitions, so that their lag becomes 0."""
        ends = []
        for buffer in self._buffers.values():
            if not buffer.offsets and buffer.intent is None and buffer.end > max(buffer.committed, -1):
                ends.append(_end_position(buffer.source, buffer.end))
                buffer.committed = buffer.end
        return ends

    def _report(self) -> None:
        """Set the waiting metrics, and log the reasons when they change."""
        reasons = {buffer.waiting: buffer.service for buffer in self._buffers.values() if buffer.waiting}
        now = time.monotonic()
        if any(now - insertion.begun > SLOW_S for insertion in self._inserter.in_flight):
            reasons.setdefault("ClickHouse does not answer", "clickhouse")
        for service in SERVICES:
            self._metrics.set("headwater_waiting", int(service in reasons.values()), stage=STAGE, service=service)
        text = "; ".join(sorted(reasons))
        if text == self._waiting:
            return
        self._waiting = text
        if text:
            get_logger().warning("waiting", error=text[:1000])
        else:
            get_logger().info("going on")

    # -- dead letters

    def _dead_letter(self, batch: InsertBatch, records: list[RejectedRecord]) -> None:
        """Write dead letters and the offset in one transaction, so that each dead letter is written once."""
        if self._producer is None:
            name = f"{GROUP}-{self._settings.slot}"
            self._producer = producer(self._settings, transactional_id=name, message_max_bytes=DEAD_LETTER_BYTES)
            self._producer.init_transactions(KAFKA_S)
        self._producer.begin_transaction()
        now = time.time()
        for rejected in records:
            position = RecordPosition(batch.source.topic, batch.source.partition, batch.offsets[rejected.at])
            cause = DeadLetterCause(rejected.reason, rejected.detail, position)
            key, value, _ = self._letters.build(cause, batch.keys[rejected.at], batch.values[rejected.at], now)
            self._producer.produce("events.dead", value, key)
        end = [_end_position(batch.source, batch.next)]
        self._producer.send_offsets_to_transaction(end, self._consumer.consumer_group_metadata(), KAFKA_S)
        self._producer.commit_transaction(KAFKA_S)


def _group_key(message: ck.Message) -> Any:
    return message.topic(), message.partition(), message.error() is not None


def _buffer_records(buffer: PartitionBuffer, messages: list[ck.Message], now: float) -> None:
    end = messages[-1].offset() + 1
    if TOPICS[buffer.source.topic].retention_days is None:  # tombstones of a compacted topic have no row
        messages = [message for message in messages if message.value() is not None]
    if messages:
        offsets = [message.offset() for message in messages]
        buffer.extend(offsets, [message.key() for message in messages], [message.value() or b"" for message in messages], now)
    buffer.end = end


def _intent_position(batch: InsertBatch, waiting: str = "") -> ck.TopicPartition:
    """The commit that announces an insert."""
    metadata = CommitMetadata(batch.source.topic_id, batch.intent, waiting)
    return ck.TopicPartition(batch.source.topic, batch.source.partition, batch.intent.first, metadata=metadata.text)


def _end_position(source: TopicPartition, offset: int) -> ck.TopicPartition:
    return ck.TopicPartition(source.topic, source.partition, offset, metadata=CommitMetadata(source.topic_id).text)


def _committed(consumer: ck.Consumer, partitions: list[ck.TopicPartition]) -> list[ck.TopicPartition]:
    """Committed offsets with their metadata. KafkaException."""
    positions: list[ck.TopicPartition] = consumer.committed(partitions, timeout=10)
    for position in positions:
        if position.error is not None:
            raise ck.KafkaException(position.error)
    return positions


def _retry(request: Callable[[], T]) -> T:
    """Repeat a request for up to `KAFKA_S`, because a coordinator may be moving. KafkaException or Retryable after that."""
    deadline = time.monotonic() + KAFKA_S
    while True:
        try:
            return request()
        except (ck.KafkaException, Retryable):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
