"""The explicit first start of a group: partitions without a usable committed offset begin at their earliest record.

An offset is unusable when its record was deleted, when it lies beyond the end of the partition, or when it was committed for
another topic of the same name.
"""

import time
from collections.abc import Mapping

import confluent_kafka as ck

from infra.clients.kafka import reader
from infra.clients.topic_ids import is_for_another_topic, offset_metadata, topic_ids
from infra.errors import ConfigError, Retryable
from infra.settings import Settings
from infra.telemetry.logs import get_logger
from streams.runtime.follow import partitions_of, stable_end

GROUP_EMPTY_S = 60.0
"""Seconds to wait until the group has no members."""


def begin_at_earliest(settings: Settings, group: str, topics: tuple[str, ...]) -> int:
    """Commit the earliest offset for each partition without a usable one and return their number.

    ConfigError when the group still has members after a minute: Kafka changes the offsets of an empty group only.
    """
    consumer = reader(settings, group)
    deadline = time.monotonic() + GROUP_EMPTY_S
    try:
        while True:
            try:
                return _commit_missing(consumer, group, topic_ids(settings, topics), topics)
            except Retryable:  # the group coordinator may have just started
                if time.monotonic() > deadline:
                    raise
            except ck.KafkaException as error:
                if time.monotonic() > deadline:
                    raise ConfigError(
                        f"group {group} is at work: stop its workers, then start once with --from earliest"
                    ) from error
            time.sleep(0.5)
    finally:
        consumer.close()


def _commit_missing(consumer: ck.Consumer, group: str, ids: Mapping[str, str], topics: tuple[str, ...]) -> int:
    missing = _without_offset(consumer, ids, topics)
    if missing:
        consumer.commit(offsets=missing, asynchronous=False)
        get_logger().info("first start", group=group, partitions=len(missing))
    return len(missing)


def _without_offset(consumer: ck.Consumer, ids: Mapping[str, str], topics: tuple[str, ...]) -> list[ck.TopicPartition]:
    partitions = [ck.TopicPartition(topic, partition) for topic in topics for partition in partitions_of(consumer, topic)]
    try:
        committed = consumer.committed(partitions, timeout=30)
    except ck.KafkaException as error:
        raise Retryable(f"no committed offsets: {error.args[0].name()}") from error
    missing = []
    for tp in committed:
        first, end = stable_end(consumer, tp.topic, tp.partition)
        topic_id = ids.get(tp.topic, "")
        if not first <= tp.offset <= end or is_for_another_topic(tp.metadata, topic_id):
            missing.append(ck.TopicPartition(tp.topic, tp.partition, first, offset_metadata(topic_id)))
    return missing
