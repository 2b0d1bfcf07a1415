"""Counting: each decision's exposure once, its conversion once, bounded memory, and the same after a restart."""

import random
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from streams.bandit.counting import CountedOutcome, Counting
from streams.bandit.statistics import HOUR_MS, CellKey, StatsRecord, Sums

DAY = 24 * HOUR_MS


def outcome(unit: int, *, converts: bool = False, ts: int = 0, reward: float = 1.0) -> CountedOutcome:
    """One outcome of decision `unit`, decided at `ts`."""
    cell = CellKey("hero", 1, ts // HOUR_MS * HOUR_MS, "bandit", "ab"[unit % 2])
    return CountedOutcome(unit.to_bytes(16, "big"), cell, ts, converts, reward if converts else 0.0)


def total(counting: Counting) -> Sums:
    """Return the sum of all cells."""
    sums = Sums()
    for cell in counting._sums:
        sums = sums.plus(counting._sums[cell])
    return sums


def restore(earlier: Iterable[Counting]) -> Counting:
    """Restore a counter from the changes of earlier ones, as compacted topics keep them."""
    lines: dict[CellKey, StatsRecord] = {}
    units: dict[bytes, tuple[int, int]] = {}
    horizon = 0
    for counting in earlier:
        changes = counting.drain_changes()
        for record in counting.stats_records(changes.cells, 0):
            lines[record.cell] = record
        for decision in changes.forgotten:
            units.pop(decision, None)
        units |= changes.units
        horizon = changes.horizon if changes.horizon is not None else horizon
    restored = Counting(0)
    for record in lines.values():
        restored.restore_sums(record)
    for decision, (hour, bits) in units.items():
        restored.restore_unit(decision, hour, bits)
    restored.restore_unit(b"", horizon, 0)
    return restored


def test_a_view_and_a_purchase_count_once_each() -> None:
    """Repeated views and purchases give one exposure, one conversion and the first reward."""
    counting = Counting(0)
    verdicts = [
        counting.count(counted_outcome, DAY)
        for counted_outcome in (
            outcome(1),
            outcome(1),
            outcome(1, converts=True, reward=9.0),
            outcome(1, converts=True, reward=5.0),
            outcome(1),
        )
    ]
    assert verdicts == ["exposure", "again", "conversion", "again", "again"]
    assert total(counting) == Sums(1, 1, 9, 81)


def test_a_conversion_proves_its_exposure() -> None:
    """A purchase that overtakes its view counts both, and the late view counts nothing: conversions never exceed exposures."""
    counting = Counting(0)
    assert counting.count(outcome(1, converts=True), DAY) == "conversion"
    assert counting.count(outcome(1), DAY) == "again"
    assert total(counting)[:2] == (1, 1)


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), max_size=60), st.randoms(use_true_random=False), st.data())
def test_order_repetition_and_restarts_do_not_matter(
    outcomes: list[tuple[int, bool]], rng: random.Random, data: st.DataObject
) -> None:
    """Any order, duplicates and a restart anywhere give the totals of a recount."""
    expected = Sums(
        len({unit for unit, _ in outcomes}),
        len({unit for unit, converts in outcomes if converts}),
        len({unit for unit, converts in outcomes if converts}),
        len({unit for unit, converts in outcomes if converts}),
    )
    shuffled = outcomes * 2
    rng.shuffle(shuffled)
    at = data.draw(st.integers(0, len(shuffled)))
    first = Counting(0)
    for unit, converts in shuffled[:at]:
        first.count(outcome(unit, converts=converts), DAY)
    second = restore([first])
    for unit, converts in shuffled[at:]:
        second.count(outcome(unit, converts=converts), DAY)
    assert total(second) == expected


def test_what_was_forgotten_is_never_counted_again() -> None:
    """A decision older than the memory is refused as late, also after a restart; younger ones still count once."""
    counting = Counting(0)
    counting.count(outcome(1, ts=0), DAY)
    counting.count(outcome(2, ts=3 * DAY), DAY)
    assert counting.units == 1
    assert counting.count(outcome(1, ts=0, converts=True), DAY) == "late"
    restored = restore([counting])
    assert restored.count(outcome(1, ts=0, converts=True), DAY) == "late"
    assert restored.count(outcome(2, ts=3 * DAY), DAY) == "again"
    assert total(restored)[:2] == (2, 0)


def test_memory_is_bounded_by_number() -> None:
    """Beyond the limit the oldest hour is forgotten whole; within one hour further decisions are not counted."""
    counting = Counting(0, max_units=10)
    for unit in range(30):
        assert counting.count(outcome(unit, ts=unit * HOUR_MS), 100 * DAY) == "exposure"
        assert counting.units <= 10
    assert counting.count(outcome(0, ts=0), 100 * DAY) == "late"
    crowded = Counting(0, max_units=10)
    verdicts = [crowded.count(outcome(unit), DAY) for unit in range(12)]
    assert verdicts[9:] == ["exposure", "overflow", "overflow"]
    assert crowded.count(outcome(3, converts=True), DAY) == "conversion"


def test_changes_name_each_cell_once_with_cumulative_sums() -> None:
    """A batch writes one record per changed cell; an unchanged one is not written again."""
    counting = Counting(3)
    for unit in (1, 3, 5):
        counting.count(outcome(unit), DAY)
    (record,) = counting.stats_records(counting.drain_changes().cells, 41)
    assert (record.partition, record.applied_offset, record.sums.exposures) == (3, 41, 3)
    assert not counting.drain_changes().cells
