"""Tells how far a consumer group is from the ends that its topics had at a moment."""

from collections.abc import Iterable

import confluent_kafka as ck

from infra.clients.kafka import reader
from infra.errors import Retryable
from infra.settings import Settings
from streams.runtime.follow import partitions_of, stable_end

ASK_S = 30.0


class GroupProgress:
    """Keeps the ends of topics as they are now, open transactions included. Retryable while Kafka is away."""

    def __init__(self, settings: Settings, group: str, topics: Iterable[str]) -> None:
        self._settings = settings
        self._group = group
        consumer = reader(settings, group, isolation_level="read_uncommitted")
        try:
            places = [(topic, partition) for topic in topics for partition in partitions_of(consumer, topic)]
            self._ends = {place: end for place in places if (end := stable_end(consumer, *place)[1]) > 0}
        finally:
            consumer.close()

    def remaining(self) -> int:
        """Number of offsets up to those ends that the group has not committed. Retryable."""
        consumer = reader(self._settings, self._group)
        try:
            partitions = [ck.TopicPartition(*place) for place in self._ends]
            committed = consumer.committed(partitions, timeout=ASK_S) if partitions else []
            return sum(max(0, self._ends[offset.topic, offset.partition] - max(0, offset.offset)) for offset in committed)
        except ck.KafkaException as error:
            raise Retryable(f"no offsets of {self._group}: {error.args[0].name()}") from error
        finally:
            consumer.close()


__all__ = ["GroupProgress"]
