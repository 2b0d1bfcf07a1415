"""Kafka clients as the house wants them. librdkafka's queues are bounded here, so that memory is bounded everywhere."""

from typing import Any

import confluent_kafka as ck
from confluent_kafka.admin import AdminClient

from infra.settings import Settings


def producer(settings: Settings, **options: Any) -> ck.Producer:
    """A producer that answers for durability (acks=all, idempotent) and partitions as Java clients do (murmur2)."""
    return ck.Producer(
        settings.kafka_config(
            **{
                "acks": "all",
                "enable_idempotence": "true",
                "partitioner": "murmur2_random",
                "compression_type": "lz4",
                "linger_ms": 5,
                "queue_buffering_max_kbytes": 131_072,
                **options,
            }
        )
    )


def reader(settings: Settings, group: str, **options: Any) -> ck.Consumer:
    """A consumer of committed records only, without automatic commits; 32 MB of prefetched records at the most."""
    return ck.Consumer(
        settings.kafka_config(
            **{
                "group_id": group,
                "enable_auto_commit": "false",
                "isolation_level": "read_committed",
                "queued_max_messages_kbytes": 32_768,
                "fetch_wait_max_ms": 50,
                **options,
            }
        )
    )


def admin(settings: Settings) -> AdminClient:
    """An admin client."""
    # librdkafka's own log would repeat every refused connection; what an admin call raises says it once.
    return AdminClient({**settings.kafka_config(), "log_level": 2})
