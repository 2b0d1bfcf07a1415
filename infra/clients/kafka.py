"""Kafka clients as the house wants them. librdkafka's queues are bounded here, so that memory is bounded everywhere."""

import socket
import time
from typing import Any

import confluent_kafka as ck
from confluent_kafka.admin import AdminClient

from infra.errors import Retryable
from infra.settings import Settings, load_settings
from infra.telemetry.logs import get_logger

REPEAT_S = 30.0
KNOCK_S = 2.0

_reported: dict[str, float] = {}


def report(error: ck.KafkaError) -> None:
    """Log a client's error once in a while: librdkafka repeats a refused connection many times a second."""
    now = time.monotonic()
    if now - _reported.get(error.name(), -REPEAT_S) >= REPEAT_S:
        _reported[error.name()] = now
        get_logger().warning("kafka", error=error.name(), text=error.str())


def settings_with_kafka() -> Settings:
    """Settings for a command at a terminal; Retryable where no broker listens, at once and not after a client's half minute."""
    settings = load_settings()
    for address in settings.kafka.split(","):
        host, _, port = address.strip().rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), KNOCK_S).close()
        except (OSError, ValueError):
            continue
        return settings
    raise Retryable(f"nobody listens at {settings.kafka}, where Kafka should be")


def _client(settings: Settings, options: dict[str, Any]) -> dict[str, Any]:
    # librdkafka's own log goes to stderr unstructured; what matters of it comes through the error callback.
    return {**settings.kafka_config(**options), "log_level": 0, "error_cb": report}


def producer(settings: Settings, **options: Any) -> ck.Producer:
    """A producer that answers for durability (acks=all, idempotent) and partitions as Java clients do (murmur2)."""
    return ck.Producer(
        _client(
            settings,
            {
                "acks": "all",
                "enable_idempotence": "true",
                "partitioner": "murmur2_random",
                "compression_type": "lz4",
                "linger_ms": 5,
                "queue_buffering_max_kbytes": 131_072,
                **options,
            },
        )
    )


def reader(settings: Settings, group: str, **options: Any) -> ck.Consumer:
    """A consumer of committed records only, without automatic commits; 32 MB of prefetched records at the most."""
    return ck.Consumer(
        _client(
            settings,
            {
                "group_id": group,
                "enable_auto_commit": "false",
                "isolation_level": "read_committed",
                "queued_max_messages_kbytes": 32_768,
                "fetch_wait_max_ms": 50,
                **options,
            },
        )
    )


def admin(settings: Settings) -> AdminClient:
    """An admin client."""
    return AdminClient(_client(settings, {}))
