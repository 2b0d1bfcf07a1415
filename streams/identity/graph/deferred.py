"""Offset ranges of records that passed while the graph was unavailable and whose links are still to be made.

The ranges are stored on a compacted topic, in the transaction of the events themselves, so they survive a worker's crash.
"""

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any, NamedTuple

from schemas.codec import encode
from schemas.registry import Registry
from streams.runtime.stage import Batch, Output

DEFERRED = "identity.deferred"

ReadBack = Callable[[str, int, int, int], Batch]
"""(topic, partition, first, end) -> a batch of committed records from `first` on, before `end`."""


class OffsetSpan(NamedTuple):
    """A range of offsets of one partition; `end` is exclusive."""

    topic: str
    partition: int
    first: int
    end: int


class DeferredRanges:
    """The deferred ranges of this worker's partitions, one a partition; a range may cover resolved records too.

    Ranges of topic `last` are processed once no worker has a range of another topic.
    """

    def __init__(self, registry: Registry, last: str) -> None:
        self._registry = registry
        self._last = last
        self._assigned: set[int] = set()
        self._ranges: dict[tuple[str, int], OffsetSpan] = {}
        self._logged: dict[tuple[str, int], OffsetSpan] = {}
        """Ranges of all workers' partitions by the log; for partitions assigned here `_ranges` is newer."""

    def defer(self, batch: Batch) -> Output:
        """Add a batch that passes unresolved; return the record that stores the range."""
        current = self._ranges.get((batch.topic, batch.partition))
        first = batch.offsets[0] if current is None else min(current.first, batch.offsets[0])
        end = batch.offsets[-1] + 1 if current is None else max(current.end, batch.offsets[-1] + 1)
        return self._set(OffsetSpan(batch.topic, batch.partition, first, end))

    @property
    def links_due(self) -> bool:
        """Whether any worker has links to make."""
        elsewhere = (due for due in self._logged.values() if due.partition not in self._assigned)
        return any(due.topic != self._last for due in chain(self._ranges.values(), elsewhere))

    def next_due(self) -> OffsetSpan | None:
        """Return the next range to process, or None."""
        due = sorted(self._ranges.values(), key=lambda due: due.topic == self._last)
        return due[0] if due and (due[0].topic != self._last or not self.links_due) else None

    def complete(self, due: OffsetSpan, until: int) -> Output:
        """Mark a range as processed before this offset; return the record that stores the rest."""
        return self._set(due._replace(first=until))

    def _set(self, due: OffsetSpan) -> Output:
        _update(self._ranges, due)
        # An empty range instead of a tombstone, so that other workers, which follow the topic, see it.
        value = encode(self._registry.latest(DEFERRED), due._asdict())
        return f"{due.topic}:{due.partition}".encode(), value, due.partition

    def observe(self, record: Mapping[str, Any]) -> None:
        """Apply a record of the topic that any worker has written."""
        _update(self._logged, _range(record))

    def assign(self, partition: int) -> None:
        """Own a partition from now on; `restore` loads its ranges."""
        self._assigned.add(partition)

    def restore(self, record: Mapping[str, Any]) -> None:
        """Load a range of an assigned partition."""
        _update(self._ranges, _range(record))

    def revoke(self, partition: int) -> None:
        """Forget a partition that another worker owns now."""
        self._assigned.discard(partition)
        for key in [key for key in self._ranges if key[1] == partition]:
            del self._ranges[key]

    def __len__(self) -> int:
        return sum(due.end - due.first for due in self._ranges.values())


def _range(record: Mapping[str, Any]) -> OffsetSpan:
    return OffsetSpan(record["topic"], record["partition"], record["first"], record["end"])


def _update(ranges: dict[tuple[str, int], OffsetSpan], due: OffsetSpan) -> None:
    if due.first < due.end:
        ranges[due.topic, due.partition] = due
    else:
        ranges.pop((due.topic, due.partition), None)
