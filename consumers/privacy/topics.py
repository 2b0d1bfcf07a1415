"""What long-kept topics hold of a person, found by her ids, and written anew without them."""

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import confluent_kafka as ck

from consumers.privacy.reading import DESK, read
from infra.clients.kafka import producer
from infra.errors import Retryable
from infra.settings import Settings
from schemas.codec import decode, encode
from schemas.registry import Registry
from streams.runtime.follow import away

MERGES, LINKS, STATE = "identity.merges", "identity.links", "consent.state"
REQUESTS, ACKS, ERASURES, AUDIT = "privacy.requests", "privacy.acks", "privacy.erasures", "privacy.audit"
SEARCHED = (MERGES, LINKS, STATE, REQUESTS)
"""Kept until replaced, or for more than a month. Every other topic that names somebody is kept for 30 days at the most."""
NODE = re.compile(rb"[0-3][0-9a-f]{32}")
AT_ONCE = 5_000
KAFKA_S = 30.0


class PersonRecord(NamedTuple):
    """One record that names her, the newest of its key."""

    topic: str
    partition: int
    key: bytes | None
    record: dict[str, Any]


class WriterRecord(NamedTuple):
    """One record to be written; None is a tombstone."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int = -1


class PersonRecords(NamedTuple):
    """What the topics hold of a person."""

    by_topic: dict[str, list[PersonRecord]]
    scopes: list[str]
    """Regulation and site of every state that was ever kept, anybody's. Few."""


def find(settings: Settings, nodes: Iterable[str]) -> PersonRecords:
    """Newest records of the long-kept topics whose content names one of these nodes. Memory grows with them only. Retryable."""
    node_ids, registry = {node.encode() for node in nodes}, Registry(settings.contracts)
    newest: dict[tuple[str, int, bytes | None], bytes] = {}
    scopes: set[bytes] = set()
    for message in read(settings, SEARCHED):
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


def everything(settings: Settings, topic: str, since: int = 0) -> Iterable[tuple[bytes | None, dict[str, Any] | None]]:
    """Keys and records of a topic, tombstones too, each partition in its order; `since`: milliseconds UTC. Retryable."""
    registry = Registry(settings.contracts)
    for message in read(settings, [topic], since):
        value = message.value()
        yield message.key(), None if value is None else decode(registry, value)[1]


class TransactionalWriter:
    """Writes in transactions. One at a time in the whole installation: a second one fences the first."""

    def __init__(self, settings: Settings) -> None:
        self._registry = Registry(settings.contracts)
        self._kafka = producer(settings, transactional_id=DESK)
        try:
            self._kafka.init_transactions(KAFKA_S)
        except ck.KafkaException as error:
            raise away(settings, error) from error

    def output(self, topic: str, key: bytes | None, record: dict[str, Any], partition: int = -1) -> WriterRecord:
        """A record under the newest contract of its topic."""
        return WriterRecord(topic, key, encode(self._registry.latest(topic), record), partition)

    def write(self, outputs: Iterable[WriterRecord], then: Callable[[], Iterable[WriterRecord]] = tuple) -> None:
        """All of them, so many in one transaction; at its end what `then` says once they are on the topics.

        Retryable; also where another desk has begun meanwhile.
        """
        some = list(outputs)
        for start in range(0, len(some), AT_ONCE):
            try:
                self._kafka.begin_transaction()
                self._produce(some[start : start + AT_ONCE])
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
    "everything",
    "find",
]  # fmt: skip
