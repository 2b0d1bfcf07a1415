"""Counts one partition of `bandit.outcomes`: each decision's exposure once and its conversion once.

All outcomes of a decision lie on one partition (their key is the decision id), so this partition alone decides what is new.
The memory is bounded by time and by number. A forgotten decision is never counted again, because outcomes older than the
horizon are refused as late.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from streams.bandit.statistics import HOUR_MS, CellKey, StatsRecord, Sums

EXPOSED, CONVERTED = 1, 2
MAX_UNITS = 150_000
"""Most remembered decisions of a partition, about 150 bytes each."""

Verdict = Literal["exposure", "conversion", "again", "late", "overflow"]


class CountedOutcome(NamedTuple):
    """The fields of an outcome that counting needs."""

    decision: bytes
    cell: CellKey
    decided_ts: int
    converts: bool
    reward: float


@dataclass(slots=True)
class Changes:
    """What has changed since the last call of `drain_changes`."""

    cells: set[CellKey] = field(default_factory=set)
    units: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    """Decision -> (hour, bits of what was counted)."""
    forgotten: list[bytes] = field(default_factory=list)
    horizon: int | None = None
    """The new horizon, if it has moved."""


class Counting:
    """The counter of one partition."""

    def __init__(self, partition: int, max_units: int = MAX_UNITS) -> None:
        self.partition = partition
        self.horizon = 0
        """Start of the first remembered hour, milliseconds UTC."""
        self._max_units = max_units
        self._hours: dict[int, dict[bytes, int]] = {}
        self._units = 0
        self._sums: dict[CellKey, Sums] = {}
        self._changes = Changes()

    # -- restore

    def restore_sums(self, record: StatsRecord) -> None:
        """Restore the sums of a cell from this partition's record."""
        self._sums[record.cell] = record.sums

    def restore_unit(self, decision: bytes, hour: int, bits: int) -> None:
        """Restore what was counted of a decision. An empty decision id carries the horizon in `hour`."""
        if not decision:
            self.horizon = max(self.horizon, hour)
            return
        units = self._hours.setdefault(hour, {})
        self._units += decision not in units
        units[decision] = bits

    def restore_forgotten(self, decision: bytes) -> None:
        """Restore that a decision was forgotten."""
        for units in self._hours.values():
            if units.pop(decision, None) is not None:
                self._units -= 1
                return

    # -- work

    def count(self, outcome: CountedOutcome, keep_ms: int) -> Verdict:
        """Count one outcome. Decisions older than `keep_ms` before the newest one of the partition are forgotten."""
        hour = outcome.cell.hour
        if hour < self.horizon:
            return "late"
        self._forget_before((outcome.decided_ts - keep_ms) // HOUR_MS * HOUR_MS)
        counted = self._hours.get(hour, {}).get(outcome.decision, 0)
        # A conversion implies an exposure that was lost or is late, so conversions never exceed exposures.
        gained = (EXPOSED | CONVERTED if outcome.converts else EXPOSED) & ~counted
        if not gained:
            return "again"
        if not counted and not self._has_room(hour):
            return "overflow"
        self._remember(outcome.decision, hour, counted | gained)
        self._add(outcome, gained)
        return "conversion" if gained & CONVERTED else "exposure"

    def _has_room(self, hour: int) -> bool:
        while self._units >= self._max_units:
            oldest = min(self._hours)
            if oldest >= hour:
                return False
            self._forget_before(oldest + HOUR_MS)
        return True

    def _remember(self, decision: bytes, hour: int, bits: int) -> None:
        units = self._hours.setdefault(hour, {})
        self._units += decision not in units
        units[decision] = bits
        self._changes.units[decision] = (hour, bits)

    def _add(self, outcome: CountedOutcome, gained: int) -> None:
        converts = bool(gained & CONVERTED)
        reward = outcome.reward if converts else 0.0
        gain = Sums(float(gained & EXPOSED), float(converts), reward, reward * reward)
        self._sums[outcome.cell] = self._sums.get(outcome.cell, Sums()).plus(gain)
        self._changes.cells.add(outcome.cell)

    def _forget_before(self, horizon: int) -> None:
        if horizon <= self.horizon:
            return
        self.horizon = self._changes.horizon = horizon
        for hour in [hour for hour in self._hours if hour < horizon]:
            units = self._hours.pop(hour)
            self._units -= len(units)
            for decision in units:
                self._changes.units.pop(decision, None)
                self._changes.forgotten.append(decision)

    # -- what to write

    def drain_changes(self) -> Changes:
        """Return the changes since the last call."""
        changes, self._changes = self._changes, Changes()
        return changes

    def stats_records(self, cells: set[CellKey], applied_offset: int) -> Iterator[StatsRecord]:
        """Yield the records of these cells, in a fixed order."""
        for cell in sorted(cells):
            yield StatsRecord(cell, self.partition, applied_offset, self._sums[cell])

    @property
    def units(self) -> int:
        """Number of remembered decisions."""
        return self._units
