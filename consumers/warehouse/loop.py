"""The loop: read Kafka, write down what is about to be inserted, insert it, commit. One thread, one static group member."""

import time
from collections.abc import Callable

import confluent_kafka as ck

from consumers.warehouse.batch import Batch, Buffer
from consumers.warehouse.intent import read_intent
from consumers.warehouse.rows import Bad, Loader
from consumers.warehouse.tables import TABLES
from infra.errors import Halted, Retryable
from infra.kafka import producer, reader
from infra.keyring import KeyRing
from infra.logs import get_logger
from infra.metrics import Metrics
from infra.settings import Settings
from schemas.registry import Registry
from schemas.topics import TOPICS
from streams.runtime.deadletter import DeadLetters, Place, Refusal

GROUP = "headwater.warehouse"
STAGE = "warehouse"
POLL_S = 0.1
TOTAL_BYTES = 64 * 1024 * 1024
KAFKA_S = 30.0


class Warehouse:
    """Loads every topic of the table of tables."""

    def __init__(self, settings: Settings, loader: Loader, registry: Registry, metrics: Metrics) -> None:
        self._settings = settings
        self._loader = loader
        self._metrics = metrics
        self._letters = DeadLetters(registry, KeyRing(settings.keyring_dir, settings.master), STAGE)
        self._buffers: dict[tuple[str, int], Buffer] = {}
        self._rebalances = 0
        self._producer: ck.Producer | None = None
        self._waiting = False
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
        """Load until told to stop, then finish what was read."""
        self._metrics.set("headwater_assigned_partitions", 0, stage=STAGE)
        self._consumer.subscribe(list(TABLES), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked)
        try:
            while not stopping():
                self._read()
                now = time.monotonic()
                crowded = sum(buffer.size for buffer in self._buffers.values()) >= TOTAL_BYTES
                due = [b for b in self._buffers.values() if b.due(now) or (crowded and b.offsets and b.intent is None)]
                self._flush(due)
                self._pause(crowded)
            self._flush([b for b in self._buffers.values() if b.offsets and b.intent is None and not b.doubtful])
        finally:
            self._consumer.close()

    # -- Kafka

    def _assigned(self, consumer: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
        self._rebalances += 1
        self._buffers.clear()
        for found in _committed(consumer, partitions):
            intent = read_intent(found.offset, found.metadata)
            self._buffers[found.topic, found.partition] = Buffer(
                found.topic, found.partition, found.offset, intent, doubtful=intent is not None
            )
        replayed = sum(buffer.intent is not None for buffer in self._buffers.values())
        if replayed:
            get_logger().info("replaying what a predecessor was inserting", partitions=replayed)
        # Without a commit, the beginning: rows that are there already are asked for before anything is inserted.
        starts = [
            ck.TopicPartition(b.topic, b.partition, b.committed if b.committed >= 0 else ck.OFFSET_BEGINNING)
            for b in self._buffers.values()
        ]
        consumer.assign(starts)
        consumer.resume(starts)  # a pause outlives its assignment
        self._metrics.set("headwater_assigned_partitions", len(starts), stage=STAGE)

    def _revoked(self, _consumer: ck.Consumer, _partitions: list[ck.TopicPartition]) -> None:
        self._buffers.clear()  # not committed, so the next owner reads it again
        self._metrics.set("headwater_assigned_partitions", 0, stage=STAGE)

    def _read(self) -> None:
        first = self._consumer.poll(POLL_S)
        if first is None:
            return
        now, rebalances = time.monotonic(), self._rebalances
        messages = self._consumer.consume(self._settings.batch_records, 0)
        if rebalances == self._rebalances:  # otherwise `first` is read again, with what follows the committed offset
            messages.insert(0, first)
        for message in messages:
            error = message.error()
            if error is not None and error.code() != ck.KafkaError._PARTITION_EOF:
                self._trouble(error)
                continue
            buffer = self._buffers.get((message.topic(), message.partition()))
            if buffer is None:
                continue
            if error is not None:
                buffer.end = max(buffer.end, message.offset())
            elif message.value() is None and TOPICS[buffer.topic].retention_days is None:
                buffer.end = message.offset() + 1  # a compacted topic's tombstone
            else:
                buffer.add(message.offset(), message.key(), message.value() or b"", now)

    def _trouble(self, error: ck.KafkaError) -> None:
        if error.code() in (ck.KafkaError._AUTO_OFFSET_RESET, ck.KafkaError.OFFSET_OUT_OF_RANGE):
            raise Halted(
                "records were deleted from Kafka before they were loaded: the committed offset is no longer there. "
                f"Move {GROUP} to the earliest offset with kafka-consumer-groups.sh and start again; what is gone stays missing"
            )
        if error.fatal():
            raise ck.KafkaException(error)
        get_logger().warning("consumer", error=error.name())

    def _commit(self, offsets: list[ck.TopicPartition]) -> None:
        if offsets:
            for done in self._consumer.commit(offsets=offsets, asynchronous=False):
                if done.error is not None:
                    raise ck.KafkaException(done.error)

    def _pause(self, crowded: bool) -> None:
        """Read no further where an insert has to be tried again or too much waits; polling goes on, so the group stays."""
        now = time.monotonic()
        for buffer in self._buffers.values():
            wanted = buffer.complete or (bool(buffer.offsets) and now < buffer.retry_at) or (crowded and buffer.intent is None)
            if wanted == buffer.paused:
                continue
            change = self._consumer.pause if wanted else self._consumer.resume
            change([ck.TopicPartition(buffer.topic, buffer.partition)])
            buffer.paused = wanted

    # -- ClickHouse

    def _flush(self, due: list[Buffer]) -> None:
        work = [(buffer, buffer.batch()) for buffer in due]
        new = [batch for buffer, batch in work if batch.replayed is None and batch.offsets]
        self._commit([ck.TopicPartition(b.topic, b.partition, b.intent.first, metadata=b.intent.metadata) for b in new])
        ends = []
        for buffer, batch in work:
            try:
                bad = self._load(buffer, batch)
            except Retryable as error:
                buffer.failed(time.monotonic())
                # From now on these offsets are an intent like a predecessor's: the same rows under the same token.
                buffer.intent = batch.intent
                self._wait(error)
                continue
            if bad:
                self._bury(batch, bad)
            else:
                ends.append(ck.TopicPartition(batch.topic, batch.partition, batch.next))
            buffer.done(batch, time.monotonic())
            self._go_on()
        ends += self._idle_ends()
        self._commit(ends)

    def _load(self, buffer: Buffer, batch: Batch) -> list[Bad]:
        if not batch.offsets:
            return []
        if buffer.highest is None:
            buffer.highest = self._loader.highest(buffer.topic, buffer.partition)
        if buffer.doubtful or batch.offsets[0] <= buffer.highest:
            return self._loader.reload(batch)
        return self._loader.load(batch)

    def _idle_ends(self) -> list[ck.TopicPartition]:
        """Past the transaction markers at the end of a partition, so that its lag becomes 0."""
        ends = []
        for buffer in self._buffers.values():
            if not buffer.offsets and buffer.intent is None and buffer.end > max(buffer.committed, -1):
                ends.append(ck.TopicPartition(buffer.topic, buffer.partition, buffer.end))
                buffer.committed = buffer.end
        return ends

    def _wait(self, error: Retryable) -> None:
        self._metrics.count("headwater_retries_total", stage=STAGE)
        if not self._waiting:
            self._waiting = True
            self._metrics.set("headwater_waiting", 1, stage=STAGE)
            get_logger().warning("waiting", error=str(error))

    def _go_on(self) -> None:
        if self._waiting and not any(buffer.pause_s for buffer in self._buffers.values()):
            self._waiting = False
            self._metrics.set("headwater_waiting", 0, stage=STAGE)
            get_logger().info("going on")

    # -- what has no row

    def _bury(self, batch: Batch, bad: list[Bad]) -> None:
        """Dead letters and the offset in one transaction, so that a letter is written once too."""
        if self._producer is None:
            self._producer = producer(self._settings, transactional_id=f"{GROUP}-{self._settings.slot}")
            self._producer.init_transactions(KAFKA_S)
        self._producer.begin_transaction()
        now = time.time()
        for one in bad:
            place = Place(batch.topic, batch.partition, batch.offsets[one.at])
            refusal = Refusal(one.reason, one.detail, place)
            key, value, _ = self._letters.letter(refusal, batch.keys[one.at], batch.values[one.at], now)
            self._producer.produce("events.dead", value, key)
            self._metrics.count("headwater_dead_total", stage=STAGE, reason=one.reason)
        end = [ck.TopicPartition(batch.topic, batch.partition, batch.next)]
        self._producer.send_offsets_to_transaction(end, self._consumer.consumer_group_metadata(), KAFKA_S)
        self._producer.commit_transaction(KAFKA_S)


def _committed(consumer: ck.Consumer, partitions: list[ck.TopicPartition]) -> list[ck.TopicPartition]:
    """Committed offsets with their metadata; patient, because a coordinator may just be moving."""
    deadline = time.monotonic() + KAFKA_S
    while True:
        try:
            found: list[ck.TopicPartition] = consumer.committed(partitions, timeout=10)
            for one in found:
                if one.error is not None:
                    raise ck.KafkaException(one.error)
            return found
        except ck.KafkaException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
