"""What long-kept topics hold of a person, found by her ids, and written anew without them."""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import confluent_kafka as ck

from infra.errors import Retryable
from infra.kafka import producer, reader
from infra.settings import Settings
from schemas.codec import decode, encode
from schemas.registry import Registry
from streams.runtime.follow import partitions_of, read_partition

MERGES, LINKS, STATE = "identity.merges", "identity.links", "consent.state"
REQUESTS, ACKS, ERASURES, AUDIT = "privacy.requests", "privacy.acks", "privacy.erasures", "privacy.audit"
SEARCHED = (MERGES, LINKS, STATE, REQUESTS)
"""Kept until replaced, or for more than a month. Every other topic that names somebody is kept for 30 days at the most."""
NODE = re.compile(rb"[0-3][0-9a-f]{32}")
DESK = "headwater.privacy"
AT_ONCE = 5_000
KAFKA_S = 30.0


class Held(NamedTuple):
    """One record that names her, the newest of its key."""

    topic: str
    partition: int
    key: bytes | None
    record: dict[str, Any]


class Output(NamedTuple):
    """One record to be written; None is a tombstone."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int = -1


def find(settings: Settings, topic: str, nodes: Iterable[str]) -> list[Held]:
    """Newest records of a topic whose content names one of these nodes. Memory grows with them only. Retryable."""
    wanted, registry = {node.encode() for node in nodes}, Registry(settings.contracts)
    found: dict[tuple[int, bytes | None], bytes] = {}
    for partition in partitions(settings, topic):
        for records in read_partition(settings, topic, partition):
            for key, value in records:
                if value is not None and not wanted.isdisjoint(NODE.findall(value)):
                    found[partition, key] = value
                elif found:
                    found.pop((partition, key), None)
    return [Held(topic, partition, key, decode(registry, value)[1]) for (partition, key), value in found.items()]


def scopes(settings: Settings) -> set[str]:
    """Regulation and site of every state that was ever kept. Few. Retryable."""
    found: set[bytes] = set()
    for partition in partitions(settings, STATE):
        for records in read_partition(settings, STATE, partition):
            found.update((key or b"").rpartition(b"|")[0] for key, _ in records)
    return {scope.decode() for scope in found}


def partitions(settings: Settings, topic: str) -> list[int]:
    """Of a topic. Retryable while it is unknown."""
    consumer = reader(settings, DESK)
    try:
        return partitions_of(consumer, topic)
    except ck.KafkaException as error:
        raise Retryable(f"Kafka at {settings.kafka}: {error.args[0].name()}") from error
    finally:
        consumer.close()


def everything(settings: Settings, topic: str, since: int = 0) -> Iterable[tuple[bytes | None, dict[str, Any] | None]]:
    """Keys and records of a topic, tombstones too, each partition in its order; `since`: milliseconds UTC. Retryable."""
    registry = Registry(settings.contracts)
    for partition in partitions(settings, topic):
        for records in read_partition(settings, topic, partition, since):
            for key, value in records:
                yield key, None if value is None else decode(registry, value)[1]


class Pen:
    """Writes in transactions. One at a time in the whole installation: a second one fences the first."""

    def __init__(self, settings: Settings) -> None:
        self._registry = Registry(settings.contracts)
        self._kafka = producer(settings, transactional_id=DESK)
        try:
            self._kafka.init_transactions(KAFKA_S)
        except ck.KafkaException as error:
            raise Retryable(f"Kafka at {settings.kafka}: {error.args[0].name()}") from error

    def output(self, topic: str, key: bytes | None, record: dict[str, Any], partition: int = -1) -> Output:
        """A record under the newest contract of its topic."""
        return Output(topic, key, encode(self._registry.latest(topic), record), partition)

    def write(self, outputs: Iterable[Output]) -> None:
        """All of them, so many in one transaction. Retryable; also where another desk has begun meanwhile."""
        some = list(outputs)
        for start in range(0, len(some), AT_ONCE):
            try:
                self._kafka.begin_transaction()
                for one in some[start : start + AT_ONCE]:
                    self._kafka.produce(one.topic, one.value, one.key, one.partition)
                self._kafka.commit_transaction(KAFKA_S)
            except ck.KafkaException as error:
                raise Retryable(
                    f"Kafka did not take what was written ({error.args[0].name()}), or another erasure began"
                ) from error


__all__ = [
    "ACKS", "AUDIT", "ERASURES", "LINKS", "MERGES", "REQUESTS", "SEARCHED", "STATE", "Held", "Output", "Pen",
    "everything", "find", "partitions", "scopes",
]  # fmt: skip
