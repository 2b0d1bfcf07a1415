"""Kafka clients with the project's durability settings and bounded queues, so that every process has bounded memory."""

import socket
import time
from typing import Any

import confluent_kafka as ck
from confluent_kafka.admin import AdminClient

from infra.errors import Retryable
from infra.settings import Settings, load_settings
from infra.telemetry.logs import get_logger

REPEAT_S = 30.0
"""Seconds after which the same client error is logged again."""
CONNECT_S = 2.0

_reported: dict[str, float] = {}


def report(error: ck.KafkaError) -> None:
    """Log a client error at most once per REPEAT_S: librdkafka repeats a refused connection many times a second."""
    now = time.monotonic()
    if now - _reported.get(error.name(), -REPEAT_S) >= REPEAT_S:
        _reported[error.name()] = now
        get_logger().warning("kafka", error=error.name(), text=error.str())


def settings_with_kafka() -> Settings:
    """Return settings for a command at a terminal. Retryable, within CONNECT_S per address, where no broker listens."""
    settings = load_settings()
    for address in settings.kafka.split(","):
        host, _, port = address.strip().rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
        except (OSError, ValueError):
            continue
        return settings
    raise Retryable(f"nobody listens at {settings.kafka}, where Kafka should be")


def _client(settings: Settings, options: dict[str, Any]) -> dict[str, Any]:
    # librdkafka's own log goes to stderr unstructured; its errors arrive through the callback too.
    return {**settings.kafka_config(**options), "log_level": 0, "error_cb": report}


def producer(settings: Settings, **options: Any) -> ck.Producer:
    """Return an idempotent producer with acks=all, which partitions as Java clients do (murmur2)."""
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
    """Return a consumer of committed records without automatic commits. It prefetches at most 32 MB."""
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
    """Return an admin client."""
    return AdminClient(_client(settings, {}))
