"""Cumulative statistics per (experiment, epoch, hour, group, arm) and source partition; the last write counts.

Each partition's counter writes only its own records, each with more views and conversions than the one before. Merging takes
the furthest record of each partition and sums up, which is idempotent, commutative and safe across restarts.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, Self

from schemas.codec import Record

HOUR_MS = 3_600_000


class CellKey(NamedTuple):
    """The key of a statistic. `hour`: start of the hour of the decision, milliseconds UTC."""

    experiment: str
    epoch: int
    hour: int
    group: str
    arm: str


class Sums(NamedTuple):
    """Cumulative sums of one cell."""

    exposures: float = 0.0
    conversions: float = 0.0
    reward_sum: float = 0.0
    reward_squares: float = 0.0

    def plus(self, other: "Sums") -> "Sums":
        """Return the sum of both."""
        return Sums(*(a + b for a, b in zip(self, other, strict=True)))


class StatsRecord(NamedTuple):
    """One record of `bandit.stats`."""

    cell: CellKey
    partition: int
    applied_offset: int
    sums: Sums

    @classmethod
    def of(cls, record: Record) -> Self:
        """Decode a record of `bandit.stats`. Records written before the field `group` existed belong to `bandit`."""
        fields: dict[str, Any] = {"group": "bandit", **record}
        return cls(
            CellKey(*(fields[name] for name in CellKey._fields)),
            fields["source_partition"],
            fields["applied_offset"],
            Sums(*(fields[name] for name in Sums._fields)),
        )

    @property
    def key(self) -> bytes:
        """Kafka key: experiment|epoch|hour|group|arm|source partition."""
        return "|".join(map(str, (*self.cell, self.partition))).encode()

    @property
    def reach(self) -> tuple[float, int]:
        """Orders records of one cell and partition. Not by offset alone, which begins at 0 when the topic is created again."""
        return self.sums.exposures + self.sums.conversions, self.applied_offset

    def record(self) -> Record:
        """Return the fields of the contract `bandit.stats`."""
        return {
            **self.cell._asdict(),
            "source_partition": self.partition,
            "applied_offset": self.applied_offset,
            **self.sums._asdict(),
        }


class MergedStats:
    """The statistics of all partitions."""

    def __init__(self) -> None:
        self._records: dict[tuple[str, int], dict[tuple[CellKey, int], StatsRecord]] = {}

    def add(self, new: StatsRecord) -> None:
        """Add one record, in any order and any number of times."""
        records = self._records.setdefault(new.cell[:2], {})
        current = records.get((new.cell, new.partition))
        if current is None or current.reach < new.reach:
            records[new.cell, new.partition] = new

    def totals(self, experiment: str, epoch: int, group: str) -> dict[str, Sums]:
        """Return arm -> sums over hours and partitions; arms without a record are absent."""
        sums: dict[str, Sums] = {}
        for record in self._select(experiment, epoch):
            if record.cell.group == group:
                sums[record.cell.arm] = sums.get(record.cell.arm, Sums()).plus(record.sums)
        return sums

    def _select(self, experiment: str, epoch: int) -> Iterator[StatsRecord]:
        return iter(self._records.get((experiment, epoch), {}).values())
