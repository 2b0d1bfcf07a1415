"""Detects batches and partitions of a worker that make no progress."""

import time
from collections.abc import Callable, Iterable

import confluent_kafka as ck

from infra.errors import Retryable
from streams.runtime.follow import TopicPartition, stable_end

RECHECK_S = 5.0
"""Seconds after which a suspected partition is checked again: an idle partition may have got its records this moment."""


class ProgressWatch:
    """Remembers when each assigned partition last made progress."""

    def __init__(self, stuck_after_s: float) -> None:
        self._stuck_after_s = stuck_after_s
        self._advanced_at: dict[TopicPartition, float] = {}
        self._suspected: dict[TopicPartition, int] = {}
        """Partition -> its position when it was suspected."""

    def __len__(self) -> int:
        """Return the number of assigned partitions."""
        return len(self._advanced_at)

    def record(self, partitions: Iterable[TopicPartition]) -> None:
        """Note that these partitions were assigned, or made progress, now."""
        now = time.monotonic()
        self._advanced_at.update(dict.fromkeys(partitions, now))

    def release(self, partitions: Iterable[TopicPartition]) -> None:
        """Forget partitions that are no longer assigned."""
        for tp in partitions:
            self._advanced_at.pop(tp, None)
            self._suspected.pop(tp, None)

    def batch_is_stuck(self) -> bool:
        """Return whether no partition has made progress for `stuck_after_s` seconds."""
        return bool(self._advanced_at) and time.monotonic() - max(self._advanced_at.values()) > self._stuck_after_s

    def find_stuck(self, kafka: ck.Consumer, position: Callable[[TopicPartition], int]) -> TopicPartition | None:
        """Return a partition that had unread records in two checks, `RECHECK_S` apart, without moving.

        `position` gives the offset behind what was done of a partition. The broker is asked only about partitions that made
        no progress for `stuck_after_s` seconds.
        """
        now = time.monotonic()
        for tp, since in list(self._advanced_at.items()):
            if now - since <= self._stuck_after_s:
                continue
            before = self._suspected.pop(tp, None)
            self._advanced_at[tp] = now
            try:
                _, end = stable_end(kafka, *tp)
            except Retryable:
                continue  # the broker is away, which a restart of this worker would not mend
            reached = position(tp)
            if reached >= end:
                continue
            if reached == before:
                return tp
            self._suspected[tp] = reached
            self._advanced_at[tp] = now - self._stuck_after_s + RECHECK_S
        return None
