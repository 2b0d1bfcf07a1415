"""What passed while the graph was away: ranges of offsets whose links are made once it is back.

They are kept on a compacted topic, in the same transaction as the events themselves, so that no worker's end forgets them.
"""

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any, NamedTuple

from schemas.codec import encode
from schemas.registry import Registry
from streams.runtime.stage import Batch, Output

DEFERRED = "identity.deferred"

ReadBack = Callable[[str, int, int, int], Batch]
"""(topic, partition, first, end) -> committed records from `first` on, before `end`, as many as come in one go."""


class OffsetSpan(NamedTuple):
    """Offsets of one partition."""

    topic: str
    partition: int
    first: int
    end: int


class DeferredRanges:
    """The ranges of this worker's partitions; one a partition, which may cover some that were resolved.

    Ranges of `last` have their turn when nobody, in any worker, has a range of another topic.
    """

    def __init__(self, registry: Registry, last: str) -> None:
        self._registry = registry
        self._last = last
        self._assigned: set[int] = set()
        self._ranges: dict[tuple[str, int], OffsetSpan] = {}
        self._logged: dict[tuple[str, int], OffsetSpan] = {}
        """What the log says of all workers' partitions; of those that are held here, `_ranges` is newer."""

    def defer(self, batch: Batch) -> Output:
        """A batch passes unresolved; the record that says so."""
        current = self._ranges.get((batch.topic, batch.partition))
        first = batch.offsets[0] if current is None else min(current.first, batch.offsets[0])
        end = batch.offsets[-1] + 1 if current is None else max(current.end, batch.offsets[-1] + 1)
        return self._set(OffsetSpan(batch.topic, batch.partition, first, end))

    @property
    def links_due(self) -> bool:
        """Whether links are due, here or in another worker."""
        elsewhere = (due for due in self._logged.values() if due.partition not in self._assigned)
        return any(due.topic != self._last for due in chain(self._ranges.values(), elsewhere))

    def next_due(self) -> OffsetSpan | None:
        """One that is due and whose turn it is."""
        due = sorted(self._ranges.values(), key=lambda due: due.topic == self._last)
        return due[0] if due and (due[0].topic != self._last or not self.links_due) else None

    def complete(self, due: OffsetSpan, until: int) -> Output:
        """Links of `due` are made up to this offset; the record that says so."""
        return self._set(due._replace(first=until))

    def _set(self, due: OffsetSpan) -> Output:
        _update(self._ranges, due)
        # What is done is said as an empty range and not as a tombstone: a reader that looks on sees it too.
        value = encode(self._registry.latest(DEFERRED), due._asdict())
        return f"{due.topic}:{due.partition}".encode(), value, due.partition

    def observe(self, record: Mapping[str, Any]) -> None:
        """Take in a record of the topic that any worker has written."""
        _update(self._logged, _range(record))

    def assign(self, partition: int) -> None:
        """This worker's from now on; `restore` says what is due of it."""
        self._assigned.add(partition)

    def restore(self, record: Mapping[str, Any]) -> None:
        """Take in a record of a partition that is held."""
        _update(self._ranges, _range(record))

    def revoke(self, partition: int) -> None:
        """Somebody else's from now on."""
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
