"""The proof: which offsets a read-committed scan delivers up to the committed one, and which have exactly one row."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import confluent_kafka as ck

from consumers.warehouse import ddl
from consumers.warehouse.loop import GROUP, STAGE
from consumers.warehouse.store import Store
from consumers.warehouse.tables import TABLES, Table
from consumers.warehouse.topic_partition import TopicPartition
from infra.errors import ConfigError, Retryable
from infra.kafka import reader
from infra.settings import Settings
from infra.topic_ids import topic_ids
from schemas.topics import TOPICS

SLICE = 50_000
SILENCE_S = 30.0


@dataclass(frozen=True)
class Found:
    """One partition."""

    topic: str
    partition: int
    records: int
    rows: int
    missing: int
    """Records that have neither a row nor a dead letter."""
    duplicates: int
    """Rows beyond the first of an offset."""
    unexpected: int
    """Rows of offsets that Kafka does not deliver (aborted; not looked for in compacted topics), and rows that were erased."""
    dead: int
    erased: int = 0
    """Records whose row was erased, because the person was."""

    @property
    def exact(self) -> bool:
        """Whether each record has its one row."""
        return not (self.missing or self.duplicates or self.unexpected)

    @property
    def text(self) -> str:
        """For people."""
        return (
            f"{'ok  ' if self.exact else 'WRONG'} {self.topic}:{self.partition}  {self.records} records, {self.rows} rows, "
            f"{self.dead} dead, {self.erased} erased, {self.missing} missing, {self.duplicates} duplicates, "
            f"{self.unexpected} unexpected"
        )


def verify(settings: Settings) -> list[Found]:
    """One line a partition, over what Kafka still has and the warehouse has committed. ConfigError when either is away."""
    store = Store(settings)
    consumer = reader(settings, GROUP, auto_offset_reset="earliest", enable_partition_eof="true")
    try:
        listed = consumer.list_topics(timeout=10).topics
        ids = topic_ids(settings, TABLES)
        partitions = [ck.TopicPartition(topic, partition) for topic in ids for partition in listed[topic].partitions]
        committed = consumer.committed(partitions, timeout=30)
        return [
            _compare(store, consumer, TopicPartition(one.topic, one.partition, ids[one.topic]), one.offset)
            for one in committed
            if one.offset >= 0
        ]
    except ck.KafkaException as error:
        raise ConfigError(f"Kafka at {settings.kafka}: {error.args[0].str()}") from None
    except Retryable as error:
        raise ConfigError(str(error)) from None
    finally:
        consumer.close()
        store.close()


def _compare(store: Store, consumer: ck.Consumer, source: TopicPartition, end: int) -> Found:
    table, (topic, partition, _) = TABLES[source.topic], source
    first, _ = consumer.get_watermark_offsets(ck.TopicPartition(topic, partition), timeout=30)
    dead = _dead(store, topic, partition)
    records = rows = missing = unexpected = buried = gone = 0
    start = first
    for offsets, upto in _slices(consumer, topic, partition, end):
        present = store.present(table, source, start, upto - 1) if upto > start else set()
        erased = store.erased(table, source, start, upto - 1) if upto > start else set()
        missing += len(offsets - present - dead - erased)
        buried += len(offsets & dead)
        gone += len(offsets & erased)
        unexpected += len(present & erased) + (0 if TOPICS[topic].compacted else len(present - offsets))
        records, rows, start = records + len(offsets), rows + len(present), upto
    return Found(topic, partition, records, rows, missing, _duplicates(store, table, source), unexpected, buried, gone)


def _slices(consumer: ck.Consumer, topic: str, partition: int, end: int) -> Iterator[tuple[set[int], int]]:
    """Delivered offsets before `end`, some at a time, each with the offset up to which it is complete."""
    consumer.assign([ck.TopicPartition(topic, partition, ck.OFFSET_BEGINNING)])
    found: set[int] = set()
    heard = time.monotonic()
    while True:
        if time.monotonic() - heard > SILENCE_S:
            raise ConfigError(f"Kafka stopped delivering {topic}:{partition}")
        for message in consumer.consume(10_000, 0.1):
            heard = time.monotonic()
            error = message.error()
            if error is not None and error.code() != ck.KafkaError._PARTITION_EOF:
                raise ck.KafkaException(error)
            if error is not None or message.offset() >= end:
                yield found, end
                return
            if message.value() is not None or TOPICS[topic].retention_days is not None:
                found.add(message.offset())
            if len(found) >= SLICE:
                yield found, message.offset() + 1
                found = set()


def _dead(store: Store, topic: str, partition: int) -> set[int]:
    letters = ddl.quoted(store.database) + ".dead_letters"
    query = (
        f"SELECT source_offset FROM {letters} WHERE stage = '{STAGE}' AND source_topic = '{topic}' "  # noqa: S608 - ours
        f"AND source_partition = {partition}"
    )
    return {row[0] for row in store.rows(query)}


def _duplicates(store: Store, table: Table, source: TopicPartition) -> int:
    name = f"{ddl.quoted(store.database)}.{ddl.quoted(table.name)}"
    query = f"SELECT count() - uniqExact(_offset) FROM {name} WHERE {source.condition}"  # noqa: S608 - names of our own
    return int(store.rows(query)[0][0])
