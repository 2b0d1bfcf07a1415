"""Reads whole topics with one consumer, all partitions at a time."""

import time
from collections.abc import Iterable, Iterator

import confluent_kafka as ck

from infra.clients.kafka import reader
from infra.errors import Retryable
from infra.settings import Settings
from streams.runtime.follow import ADMIN_S, CHUNK, away, partitions_of, stable_end

CLIENT = "headwater.privacy"
"""Group and transactional id of the privacy commands."""
POLL_S = 0.05

Place = tuple[str, int]
"""Topic and partition."""


def read_topics(settings: Settings, topics: Iterable[str], since: int = 0) -> Iterator[ck.Message]:
    """Yield all committed records of topics up to their present ends, each partition in order. Retryable.

    `since`: only records with this timestamp or a later one, milliseconds UTC. The ends include open transactions, which are
    waited for, as in `streams.runtime.follow`.
    """
    starts, ends = _bounds(settings, topics, since)
    if not ends:
        return
    consumer = reader(settings, CLIENT, enable_partition_eof="true")
    patience = settings.transaction_timeout_s + ADMIN_S
    try:
        consumer.assign([ck.TopicPartition(*place, starts[place]) for place in ends])
        deadline = time.monotonic() + patience
        while ends:
            for message in consumer.consume(CHUNK, POLL_S):
                place = (message.topic(), message.partition())
                error = message.error()
                if error is None:
                    yield message
                    deadline = time.monotonic() + patience
                elif error.code() != ck.KafkaError._PARTITION_EOF:
                    _raise_unless_transient(error)
                    continue
                # An end-of-partition event carries the last stable offset, after markers and aborted records.
                if message.offset() + (error is None) >= ends.get(place, 0):
                    ends.pop(place, None)
            if time.monotonic() > deadline:
                raise Retryable(f"{', '.join(sorted({topic for topic, _ in ends}))} could not be read to the end")
    finally:
        consumer.close()


def _bounds(settings: Settings, topics: Iterable[str], since: int) -> tuple[dict[Place, int], dict[Place, int]]:
    """Start and end offsets of the partitions that have something to read."""
    consumer = reader(settings, CLIENT, isolation_level="read_uncommitted")
    try:
        places = [(topic, partition) for topic in topics for partition in partitions_of(consumer, topic)]
        bounds = {place: stable_end(consumer, *place) for place in places}
        starts = {place: first for place, (first, _) in bounds.items()}
        if since:
            requests = [ck.TopicPartition(*place, since) for place in places]
            answers = consumer.offsets_for_times(requests, timeout=ADMIN_S)
            starts = {(at.topic, at.partition): at.offset for at in answers if at.offset >= 0}
        return starts, {place: end for place, (_, end) in bounds.items() if starts.get(place, end) < end}
    except ck.KafkaException as error:
        raise away(settings, error) from error
    finally:
        consumer.close()


def _raise_unless_transient(error: ck.KafkaError) -> None:
    if not (error.retriable() or error.code() in (ck.KafkaError._TRANSPORT, ck.KafkaError._ALL_BROKERS_DOWN)):
        raise ck.KafkaException(error)


__all__ = ["CLIENT", "read_topics"]
