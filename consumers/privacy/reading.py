"""Reads whole topics with one consumer, all partitions at a time."""

from collections.abc import Iterable, Iterator

import confluent_kafka as ck

from infra.clients.kafka import reader
from infra.settings import Settings
from streams.runtime.follow import ADMIN_S, TopicPartition, kafka_unavailable, partitions_of, read_ranges, stable_end

CLIENT = "headwater.privacy"
"""Group and transactional id of the privacy commands."""


def read_topics(settings: Settings, topics: Iterable[str], since: int = 0) -> Iterator[ck.Message]:
    """Yield all committed records of topics up to their present ends, each partition in order. Retryable.

    `since`: only records with this timestamp or a later one, milliseconds UTC. The ends include open transactions, which are
    waited for, as in `streams.runtime.follow`.
    """
    for messages in read_ranges(settings, offset_ranges(settings, topics, since), CLIENT):
        yield from messages


def offset_ranges(settings: Settings, topics: Iterable[str], since: int) -> dict[TopicPartition, tuple[int, int]]:
    """Partition -> first offset and end of what there is to read; `since` as in `read_topics`. Retryable."""
    consumer = reader(settings, CLIENT, isolation_level="read_uncommitted")
    try:
        partitions = [(topic, partition) for topic in topics for partition in partitions_of(consumer, topic)]
        ranges = {source: stable_end(consumer, *source) for source in partitions}
        if since:
            times = [ck.TopicPartition(*source, since) for source in partitions]
            positions = consumer.offsets_for_times(times, timeout=ADMIN_S)
            starts = {(at.topic, at.partition): at.offset for at in positions if at.offset >= 0}
            ranges = {source: (starts[source], end) for source, (_, end) in ranges.items() if source in starts}
        return ranges
    except ck.KafkaException as error:
        raise kafka_unavailable(settings, error) from error
    finally:
        consumer.close()


__all__ = ["CLIENT", "offset_ranges", "read_topics"]
