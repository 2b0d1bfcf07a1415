"""The loop: read Kafka, commit what is about to be inserted, insert it, commit. One static group member."""

import time
from collections.abc import Callable, Collection, Iterable
from itertools import groupby
from typing import Any, TypeVar

import confluent_kafka as ck
from confluent_kafka.admin import AdminClient

from consumers.warehouse.errors import ServerTrouble
from consumers.warehouse.loader.batch import InsertBatch, PartitionBuffer
from consumers.warehouse.loader.inserter import Inserter, Insertion
from consumers.warehouse.loader.intent import CommitMetadata, read_metadata
from consumers.warehouse.loader.rows import RejectedRecord, RowLoader
from consumers.warehouse.schema.tables import TABLES
from consumers.warehouse.topic_partition import TopicPartition
from infra.clients.kafka import admin, producer, reader
from infra.clients.topic_ids import describe_ids
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
KAFKA_S = 30.0
SLOW_S = 15.0
"""An insert that takes longer counts as waiting for ClickHouse."""
STOP_S = 5.0
"""What is in flight has so long to end once the loader is told to stop; the next start finds out what became of the rest."""
IDS_S = 10.0
"""So often Kafka is asked whether the topics are still the same."""
ANSWER_S = 2.0
MOST_IN_FLIGHT = 4
LETTER_BYTES = 4 * 1024 * 1024
"""A dead letter is larger than the record that it holds."""
SERVICES = ("clickhouse", "contracts", "")


class TopicReplaced(Exception):
    """A topic was deleted and created again while it was read: its offsets mean other records. Starting again sorts it out."""


class Warehouse:
    """Loads every topic of the table of tables."""

    def __init__(self, settings: Settings, loader: RowLoader, registry: Registry, metrics: Metrics) -> None:
        self._settings = settings
        self._inserter = Inserter(loader)
        self._metrics = metrics
        self._letters = DeadLetters(registry, PayloadKeyring(settings.keyring_dir, settings.master), STAGE)
        self._buffers: dict[tuple[str, int], PartitionBuffer] = {}
        self._rebalances = 0
        self._producer: ck.Producer | None = None
        self._server_trouble = False
        self._waiting = ""
        self._admin: AdminClient = admin(settings)
        self._topic_ids: dict[str, str] = {}
        self._ids_at = 0.0
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
        """Load until told to stop, then finish what was read, as far as ClickHouse takes it within `STOP_S`.

        TopicReplaced where a topic is no longer the one that was read.
        """
        self._metrics.set("headwater_assigned_partitions", 0, stage=STAGE)
        self._consumer.subscribe(list(TABLES), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked)
        try:
            while not stopping():
                self._read()
                self._collect()
                self._submit(lambda buffer, now, crowded: buffer.due(now) or (crowded and bool(buffer.offsets)))
                self._report()
                self._check_ids()
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
        self._keep_ids(_retry(lambda: describe_ids(self._admin, {partition.topic for partition in partitions})))
        self._ids_at = time.monotonic()
        for position in _retry(lambda: _committed(consumer, partitions)):
            if position.topic in self._topic_ids:
                buffer = self._buffer(position)
                self._buffers[position.topic, position.partition] = buffer
        replayed = sum(buffer.intent is not None for buffer in self._buffers.values())
        if replayed:
            get_logger().info("replaying what a predecessor was inserting", partitions=replayed)
        # Without a commit, the beginning: rows that are there already are asked for before anything is inserted.
        starts = [
            ck.TopicPartition(*key, b.committed if b.committed >= 0 else ck.OFFSET_BEGINNING)
            for key, b in self._buffers.items()
        ]
        consumer.assign(starts)
        consumer.resume(starts)  # a pause outlives its assignment
        self._metrics.set("headwater_assigned_partitions", len(starts), stage=STAGE)

    def _buffer(self, position: ck.TopicPartition) -> PartitionBuffer:
        source = TopicPartition(position.topic, position.partition, self._topic_ids[position.topic])
        metadata = read_metadata(position.offset, position.metadata)
        if metadata.topic_id not in ("", source.topic_id):
            get_logger().warning("topic was made anew: it is read from its beginning", topic=source.topic)
            return PartitionBuffer(source, -1)
        return PartitionBuffer(source, position.offset, metadata.intent, uncertain=metadata.intent is not None)

    def _revoked(self, _consumer: ck.Consumer, _partitions: list[ck.TopicPartition]) -> None:
        self._buffers.clear()  # not committed, so the next owner reads it again
        self._metrics.set("headwater_assigned_partitions", 0, stage=STAGE)

    def _check_ids(self) -> None:
        """Look at all topics once in a while: one that was made anew may bring nothing that would be looked at otherwise."""
        if time.monotonic() - self._ids_at >= IDS_S:
            self._ids_at = time.monotonic()
            self._same_topics(self._topic_ids)

    def _same_topics(self, topics: Collection[str]) -> bool:
        """Whether these topics are those that were assigned, as far as Kafka answers. TopicReplaced where one is not."""
        try:
            ids = describe_ids(self._admin, topics, ANSWER_S)
        except Retryable as error:
            get_logger().warning("kafka", error=str(error))
            return False
        self._keep_ids(ids)
        return True

    def _keep_ids(self, ids: dict[str, str]) -> None:
        """Remember the ids of topics for as long as the process runs. TopicReplaced where one is not what it was.

        Also on an assignment: the client remembers the former topic too, and would wait for its records for ever.
        """
        anew = sorted(topic for topic, topic_id in ids.items() if self._topic_ids.get(topic, topic_id) != topic_id)
        if anew:
            raise TopicReplaced(f"made anew while it was read: {', '.join(anew)}")
        self._topic_ids |= ids

    def _read(self) -> None:
        first = self._consumer.poll(POLL_S if self._inserter.in_flight else 2 * POLL_S)
        if first is None:
            return
        now, rebalances = time.monotonic(), self._rebalances
        messages = self._consumer.consume(self._settings.batch_records, 0)
        if rebalances == self._rebalances:  # otherwise `first` is read again, with what follows the committed offset
            messages.insert(0, first)
        # A run of records of one partition at a time: a fifth of the loader's time against one by one.
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
                self._trouble(error)
            elif buffer is not None:
                buffer.end = max(buffer.end, message.offset() or 0)

    def _trouble(self, error: ck.KafkaError) -> None:
        if error.code() in (ck.KafkaError._AUTO_OFFSET_RESET, ck.KafkaError.OFFSET_OUT_OF_RANGE):
            self._ids_at = 0.0
            self._check_ids()
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
        """Read no further where a batch has its size or too much waits; polling goes on, so the group stays."""
        for buffer in self._buffers.values():
            # Only what holds records is paused: a table that waits for a person must not stop the empty ones.
            pause = buffer.complete or (buffer.settled and (crowded or bool(buffer.waiting)))
            if pause == buffer.paused:
                continue
            change = self._consumer.pause if pause else self._consumer.resume
            change([ck.TopicPartition(buffer.source.topic, buffer.source.partition)])
            buffer.paused = pause

    # -- ClickHouse

    def _submit(self, is_due: Callable[[PartitionBuffer, float, bool], bool]) -> None:
        """Hand over what is to be inserted, longest waiting first, once its intent is committed."""
        now = time.monotonic()
        crowded = sum(buffer.size for buffer in self._buffers.values()) >= TOTAL_BYTES
        self._pause(crowded)
        # While ClickHouse is in trouble one insert at a time finds out whether it still is.
        free = (1 if self._server_trouble else MOST_IN_FLIGHT) - len(self._inserter.in_flight)
        if free <= 0:
            return
        # An insert of an earlier assignment may still run: two of one range side by side could put it in twice.
        flying = {insertion.batch.source for insertion in self._inserter.in_flight}
        idle = (buffer for buffer in self._buffers.values() if buffer.source not in flying and now >= buffer.retry_at)
        due = sorted((buffer for buffer in idle if is_due(buffer, now, crowded)), key=lambda b: max(b.since, b.retry_at))
        due = self._limit_retries(due)[:free]
        work = [(buffer, buffer.batch()) for buffer in due if buffer.intent is None or buffer.end > buffer.intent.last]
        # Asked after the records came: they are of the topic that their rows will name, or this finds out that they are not.
        if not work or not self._same_topics({buffer.source.topic for buffer, _ in work}):
            return
        self._commit([_intent(batch) for _, batch in work if batch.replayed is None])
        for buffer, batch in work:
            buffer.in_flight = batch
            self._inserter.submit(buffer, batch)

    def _limit_retries(self, due: list[PartitionBuffer]) -> list[PartitionBuffer]:
        """At most one insert at a time that failed before: a table that hangs must not hold every thread."""
        waits = any(insertion.buffer.waiting for insertion in self._inserter.in_flight)
        chosen = []
        for buffer in due:
            if buffer.waiting and waits:
                continue
            waits = waits or bool(buffer.waiting)
            chosen.append(buffer)
        return chosen

    def _collect(self) -> None:
        """Commit what was inserted; let what was not wait."""
        ends = []
        for insertion in self._inserter.collect():
            buffer, batch = insertion.buffer, insertion.batch
            if self._buffers.get((batch.source.topic, batch.source.partition)) is not buffer:
                continue  # revoked meanwhile: its intent is the next owner's
            if isinstance(insertion.error, Retryable):
                self._failed(insertion, insertion.error)
                continue
            if insertion.error is not None:
                raise insertion.error
            if insertion.bad:
                self._dead_letter(batch, insertion.bad)
            else:
                ends.append(_end(batch.source, batch.next))
            buffer.done(batch, time.monotonic())
            self._server_trouble = False
        self._commit(ends + self._idle_ends())

    def _failed(self, insertion: Insertion, error: Retryable) -> None:
        buffer, batch = insertion.buffer, insertion.batch
        self._metrics.count("headwater_retries_total", stage=STAGE)
        if str(error) != buffer.waiting:
            # Whoever looks at the group's commits sees what they wait for.
            self._commit([_intent(batch, str(error))])
        buffer.failed(batch, str(error), time.monotonic(), error.service)
        if isinstance(error, ServerTrouble):
            self._server_trouble = True

    def _idle_ends(self) -> list[ck.TopicPartition]:
        """Past the transaction markers at the end of a partition, so that its lag becomes 0."""
        ends = []
        for buffer in self._buffers.values():
            if not buffer.offsets and buffer.intent is None and buffer.end > max(buffer.committed, -1):
                ends.append(_end(buffer.source, buffer.end))
                buffer.committed = buffer.end
        return ends

    def _report(self) -> None:
        """Say what the loader waits for, when it changes."""
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

    # -- what has no row

    def _dead_letter(self, batch: InsertBatch, bad: list[RejectedRecord]) -> None:
        """Dead letters and the offset in one transaction, so that a letter is written once too."""
        if self._producer is None:
            name = f"{GROUP}-{self._settings.slot}"
            self._producer = producer(self._settings, transactional_id=name, message_max_bytes=LETTER_BYTES)
            self._producer.init_transactions(KAFKA_S)
        self._producer.begin_transaction()
        now = time.time()
        for rejected in bad:
            place = RecordPosition(batch.source.topic, batch.source.partition, batch.offsets[rejected.at])
            refusal = DeadLetterCause(rejected.reason, rejected.detail, place)
            key, value, _ = self._letters.letter(refusal, batch.keys[rejected.at], batch.values[rejected.at], now)
            self._producer.produce("events.dead", value, key)
            self._metrics.count("headwater_dead_total", stage=STAGE, reason=rejected.reason)
        end = [_end(batch.source, batch.next)]
        self._producer.send_offsets_to_transaction(end, self._consumer.consumer_group_metadata(), KAFKA_S)
        self._producer.commit_transaction(KAFKA_S)


def _group_key(message: ck.Message) -> Any:
    return message.topic(), message.partition(), message.error() is not None


def _buffer_records(buffer: PartitionBuffer, messages: list[ck.Message], now: float) -> None:
    end = messages[-1].offset() + 1
    if TOPICS[buffer.source.topic].retention_days is None:  # a compacted topic's tombstones have no row
        messages = [message for message in messages if message.value() is not None]
    if messages:
        offsets = [message.offset() for message in messages]
        buffer.extend(offsets, [message.key() for message in messages], [message.value() or b"" for message in messages], now)
    buffer.end = end


def _intent(batch: InsertBatch, waiting: str = "") -> ck.TopicPartition:
    """The commit that says what is about to be inserted."""
    metadata = CommitMetadata(batch.source.topic_id, batch.intent, waiting)
    return ck.TopicPartition(batch.source.topic, batch.source.partition, batch.intent.first, metadata=metadata.text)


def _end(source: TopicPartition, offset: int) -> ck.TopicPartition:
    return ck.TopicPartition(source.topic, source.partition, offset, metadata=CommitMetadata(source.topic_id).text)


def _committed(consumer: ck.Consumer, partitions: list[ck.TopicPartition]) -> list[ck.TopicPartition]:
    """Committed offsets with their metadata. KafkaException."""
    positions: list[ck.TopicPartition] = consumer.committed(partitions, timeout=10)
    for position in positions:
        if position.error is not None:
            raise ck.KafkaException(position.error)
    return positions


def _retry(ask: Callable[[], T]) -> T:
    """An answer of Kafka's; patient, because a coordinator may just be moving."""
    deadline = time.monotonic() + KAFKA_S
    while True:
        try:
            return ask()
        except (ck.KafkaException, Retryable):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
