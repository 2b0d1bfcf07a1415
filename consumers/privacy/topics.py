"""Finds records that name a person in long-kept topics, and writes records in transactions."""

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import confluent_kafka as ck

from consumers.privacy.reading import CLIENT, read_topics
from infra.clients.kafka import producer
from infra.errors import Retryable
from infra.settings import Settings
from schemas.codec import decode, encode
from schemas.registry import Registry
from streams.runtime.follow import kafka_unavailable

MERGES, LINKS, STATE = "identity.merges", "identity.links", "consent.state"
REQUESTS, ACKS, ERASURES, AUDIT = "privacy.requests", "privacy.acks", "privacy.erasures", "privacy.audit"
SEARCHED = (MERGES, LINKS, STATE, REQUESTS)
"""Topics kept until replaced or for more than a month. Other topics that name persons are kept for at most 30 days."""
NODE = re.compile(rb"[0-3][0-9a-f]{32}")
CHUNK = 5_000
KAFKA_S = 30.0


class PersonRecord(NamedTuple):
    """A record that names the person, the newest of its key."""

    topic: str
    partition: int
    key: bytes | None
    record: dict[str, Any]


class WriterRecord(NamedTuple):
    """A record to write; without a value it is a tombstone."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int = -1


class PersonRecords(NamedTuple):
    """Records that name a person, and the scopes of consent states."""

    by_topic: dict[str, list[PersonRecord]]
    scopes: list[str]
    """Regulation and site of every consent state of anybody. Few."""


def find_records(settings: Settings, nodes: Iterable[str]) -> PersonRecords:
    """Find the newest records of long-kept topics that name one of these nodes; memory grows with them only. Retryable."""
    node_ids, registry = {node.encode() for node in nodes}, Registry(settings.contracts)
    newest: dict[tuple[str, int, bytes | None], bytes] = {}
    scopes: set[bytes] = set()
    for message in read_topics(settings, SEARCHED):
        topic, key, value = message.topic(), message.key(), message.value()
        place = (topic, message.partition(), key)
        if topic == STATE:
            scopes.add((key or b"").rpartition(b"|")[0])
        if value is not None and not node_ids.isdisjoint(NODE.findall(value)):
            newest[place] = value
        elif newest:
            newest.pop(place, None)
    by_topic: dict[str, list[PersonRecord]] = {topic: [] for topic in SEARCHED}
    for (topic, partition, key), value in newest.items():
        by_topic[topic].append(PersonRecord(topic, partition, key, decode(registry, value)[1]))
    return PersonRecords(by_topic, sorted(scope.decode() for scope in scopes))


def read_records(settings: Settings, topic: str, since: int = 0) -> Iterable[tuple[bytes | None, dict[str, Any] | None]]:
    """Yield keys and records of a topic, tombstones too, each partition in order. `since`: milliseconds UTC. Retryable."""
    registry = Registry(settings.contracts)
    for message in read_topics(settings, [topic], since):
        value = message.value()
        yield message.key(), None if value is None else decode(registry, value)[1]


class TransactionalWriter:
    """Writes in transactions. Only one in the whole installation: a second one fences the first."""

    def __init__(self, settings: Settings) -> None:
        self._registry = Registry(settings.contracts)
        self._kafka = producer(settings, transactional_id=CLIENT)
        try:
            self._kafka.init_transactions(KAFKA_S)
        except ck.KafkaException as error:
            raise kafka_unavailable(settings, error) from error

    def encode(self, topic: str, key: bytes | None, record: dict[str, Any], partition: int = -1) -> WriterRecord:
        """Encode a record under the newest contract of its topic."""
        return WriterRecord(topic, key, encode(self._registry.latest(topic), record), partition)

    def write(self, outputs: Iterable[WriterRecord], then: Callable[[], Iterable[WriterRecord]] = tuple) -> None:
        """Write records, up to `CHUNK` in a transaction, and at its end the records that `then` returns once they are written.

        Retryable, also where another privacy command has begun meanwhile.
        """
        records = list(outputs)
        for start in range(0, len(records), CHUNK):
            try:
                self._kafka.begin_transaction()
                self._produce(records[start : start + CHUNK])
                if self._kafka.flush(KAFKA_S):
                    raise Retryable("Kafka did not take what was written in time")
                self._produce(then())
                self._kafka.commit_transaction(KAFKA_S)
            except ck.KafkaException as error:
                raise Retryable(
                    f"Kafka did not take what was written ({error.args[0].name()}), or another erasure began"
                ) from error

    def _produce(self, outputs: Iterable[WriterRecord]) -> None:
        for record in outputs:
            self._kafka.produce(record.topic, record.value, record.key, record.partition)


__all__ = [
    "ACKS",
    "AUDIT",
    "ERASURES",
    "LINKS",
    "MERGES",
    "REQUESTS",
    "SEARCHED",
    "STATE",
    "PersonRecord",
    "PersonRecords",
    "TransactionalWriter",
    "WriterRecord",
    "find_records",
    "read_records",
]  # fmt: skip
