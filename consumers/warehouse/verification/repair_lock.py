"""One repair at a time: who holds a partition of a consumer group of its own may change rows.

Kafka gives the partition to one member, and the sticky assignor leaves it there when others join; they are refused. A holder
that is killed loses it when its session ends.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import confluent_kafka as ck

from infra.clients.kafka import reader
from infra.errors import ConfigError, Halted
from infra.settings import Settings

GROUP = "headwater-warehouse-repair"
"""Outside the prefix of the groups that the lag monitor watches: it reads nothing."""
TOPIC, PARTITION = "stream.counts", 0
SESSION_MS = 10_000
PATIENCE_S = 25.0
"""Longer than the session of a holder that was killed."""
MAX_POLL_MS = 3_600_000


class RepairLock:
    """Held from `acquire` until `close`, or until `check` says that it was lost."""

    def __init__(self, settings: Settings) -> None:
        self._held = False
        self._lost = False
        self._consumer: ck.Consumer = reader(
            settings,
            GROUP,
            auto_offset_reset="latest",
            partition_assignment_strategy="cooperative-sticky",
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=SESSION_MS // 4,
            max_poll_interval_ms=MAX_POLL_MS,
            queued_min_messages=1,
            queued_max_messages_kbytes=1_024,
        )

    def acquire(self, patience_s: float = PATIENCE_S) -> None:
        """Wait for the partition. ConfigError where somebody else holds it."""
        self._consumer.subscribe([TOPIC], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked)
        deadline = time.monotonic() + patience_s
        while not self._held:
            if time.monotonic() > deadline:
                raise ConfigError(
                    "another `headwater warehouse replay` or `dedupe` runs, or was killed a moment ago: "
                    f"wait until it has ended, then try again (or there is no topic {TOPIC}: `headwater topics apply`)"
                )
            self._consumer.poll(0.1)

    def check(self) -> None:
        """Halted where the partition was lost: somebody else may be repairing. To be called before each change of rows."""
        self._consumer.consume(500, 0)
        if self._lost or not self._held:
            raise Halted("this repair lost its place to another one, or was stopped for too long: start it again")

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()

    def _assigned(self, _consumer: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
        self._held = self._held or any(partition.partition == PARTITION for partition in partitions)

    def _revoked(self, _consumer: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
        self._lost = self._lost or any(partition.partition == PARTITION for partition in partitions)


@contextmanager
def repair_lock(settings: Settings) -> Iterator[RepairLock]:
    """A lock that is held. ConfigError where somebody else holds it."""
    lock = RepairLock(settings)
    try:
        lock.acquire()
        yield lock
    finally:
        lock.close()
