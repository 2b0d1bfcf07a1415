"""Allows one repair at a time: the lock is a partition of a consumer group.

Kafka assigns the partition to one member, and the sticky assignor leaves it there when others join; these are refused. A holder
that is killed loses the lock when its session ends.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import confluent_kafka as ck

from infra.clients.kafka import reader
from infra.errors import ConfigError, Halted
from infra.settings import Settings

GROUP = "headwater-warehouse-repair"
"""Not under the prefix of groups that the lag monitor watches, because the group reads nothing."""
TOPIC, PARTITION = "stream.counts", 0
SESSION_S = 10.0
"""Longest time until a killed holder loses the lock; `session_timeout_s` where that is less."""
PATIENCE_S = 25.0
"""Must exceed the session of a holder that was killed, seconds."""
MAX_POLL_MS = 3_600_000


class RepairLock:
    """Held from `acquire` until `close`, or until `check` raises Halted."""

    def __init__(self, settings: Settings) -> None:
        session_ms = int(min(SESSION_S, settings.session_timeout_s) * 1000)
        self._is_held = False
        self._is_lost = False
        self._consumer: ck.Consumer = reader(
            settings,
            GROUP,
            auto_offset_reset="latest",
            partition_assignment_strategy="cooperative-sticky",
            session_timeout_ms=session_ms,
            heartbeat_interval_ms=session_ms // 4,
            max_poll_interval_ms=MAX_POLL_MS,
            queued_min_messages=1,
            queued_max_messages_kbytes=1_024,
        )

    def acquire(self, patience_s: float = PATIENCE_S) -> None:
        """Wait for the lock. ConfigError where another repair holds it."""
        self._consumer.subscribe([TOPIC], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked)
        deadline = time.monotonic() + patience_s
        while not self._is_held:
            if time.monotonic() > deadline:
                raise ConfigError(
                    "another `headwater warehouse replay` or `dedupe` runs, or was killed a moment ago: "
                    f"wait until it has ended, then try again (or there is no topic {TOPIC}: `headwater topics apply`)"
                )
            self._consumer.poll(0.1)

    def check(self) -> None:
        """Raise Halted where the lock was lost. To be called before each change of rows."""
        self._consumer.consume(500, 0)
        if self._is_lost or not self._is_held:
            raise Halted("this repair lost its place to another one, or was stopped for too long: start it again")

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()

    def _assigned(self, _consumer: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
        self._is_held = self._is_held or any(partition.partition == PARTITION for partition in partitions)

    def _revoked(self, _consumer: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
        self._is_lost = self._is_lost or any(partition.partition == PARTITION for partition in partitions)


@contextmanager
def repair_lock(settings: Settings) -> Iterator[RepairLock]:
    """Hold the lock. ConfigError where another repair holds it."""
    lock = RepairLock(settings)
    try:
        lock.acquire()
        yield lock
    finally:
        lock.close()
