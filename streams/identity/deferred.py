"""What passed while the graph was away: ranges of offsets whose links are made once it is back.

They are kept on a compacted topic, in the same transaction as the events themselves, so that no worker's end forgets them.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from schemas.codec import encode
from schemas.registry import Registry
from streams.runtime.stage import Batch, Output

DEFERRED = "identity.deferred"

ReadBack = Callable[[str, int, int, int], Batch]
"""(topic, partition, first, end) -> committed records from `first` on, before `end`, as many as come in one go."""


class Range(NamedTuple):
    """Offsets of one partition."""

    topic: str
    partition: int
    first: int
    end: int


class Deferred:
    """The ranges of this worker's partitions; one a partition, which may cover some that were resolved."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._ranges: dict[tuple[str, int], Range] = {}

    def add(self, batch: Batch) -> Output:
        """A batch passes unresolved; the record that says so."""
        known = self._ranges.get((batch.topic, batch.partition))
        first = batch.offsets[0] if known is None else min(known.first, batch.offsets[0])
        end = batch.offsets[-1] + 1 if known is None else max(known.end, batch.offsets[-1] + 1)
        return self._set(Range(batch.topic, batch.partition, first, end))

    def next(self) -> Range | None:
        """One that is due."""
        return next(iter(self._ranges.values()), None)

    def done(self, due: Range, until: int) -> Output:
        """Links of `due` are made up to this offset; the record that says so."""
        return self._set(due._replace(first=until))

    def _set(self, due: Range) -> Output:
        self._take(due)
        # What is done is said as an empty range and not as a tombstone: a reader that looks on sees it too.
        value = encode(self._registry.latest(DEFERRED), due._asdict())
        return Output(f"{due.topic}:{due.partition}".encode(), value, due.partition)

    def _take(self, due: Range) -> None:
        if due.first < due.end:
            self._ranges[due.topic, due.partition] = due
        else:
            self._ranges.pop((due.topic, due.partition), None)

    def restore(self, record: Mapping[str, Any]) -> None:
        """Take in a record of the topic."""
        self._take(Range(record["topic"], record["partition"], record["first"], record["end"]))

    def revoke(self, partition: int) -> None:
        """Somebody else's from now on."""
        for key in [key for key in self._ranges if key[1] == partition]:
            del self._ranges[key]

    def __len__(self) -> int:
        return sum(due.end - due.first for due in self._ranges.values())
