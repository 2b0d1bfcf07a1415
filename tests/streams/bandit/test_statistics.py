"""Statistics: records may come in any order and any number of times."""

import random

from hypothesis import given
from hypothesis import strategies as st

from streams.bandit.statistics import CellKey, MergedStats, StatsRecord, Sums

cells = st.builds(
    CellKey, st.just("hero"), st.integers(1, 2), st.sampled_from([0, 3_600_000]), st.sampled_from(["bandit", "control"]),
    st.sampled_from(["a", "b"]),
)  # fmt: skip
record_lists = st.lists(
    st.builds(StatsRecord, cells, st.integers(0, 2), st.integers(0, 6), st.builds(Sums, *[st.integers(0, 50).map(float)] * 4)),
    max_size=30,
    unique_by=lambda record: (record.cell, record.partition, record.applied_offset),
)


def totals(order: list[StatsRecord]) -> dict[tuple[int, str], dict[str, Sums]]:
    """Merge these records and return all totals."""
    merged = MergedStats()
    for record in order:
        merged.add(record)
    return {(epoch, group): merged.totals("hero", epoch, group) for epoch in (1, 2) for group in ("bandit", "control")}


@given(record_lists, st.randoms(use_true_random=False))
def test_order_and_repetition_do_not_matter(records: list[StatsRecord], rng: random.Random) -> None:
    """Shuffled and doubled records give the same totals: the furthest record of each partition counts."""
    again = records * 2
    rng.shuffle(again)
    assert totals(again) == totals(records)


@given(record_lists)
def test_totals_are_the_sum_of_the_furthest_record_of_each_partition(records: list[StatsRecord]) -> None:
    """The merge agrees with a recount of the furthest record per cell and partition."""
    last: dict[tuple[CellKey, int], StatsRecord] = {}
    for record in sorted(records, key=lambda record: (record.sums.exposures + record.sums.conversions, record.applied_offset)):
        last[record.cell, record.partition] = record
    exposures = sum(record.sums.exposures for record in last.values())
    assert sum(sums.exposures for arms in totals(records).values() for sums in arms.values()) == exposures


def test_counting_continues_where_offsets_begin_again() -> None:
    """After the outcomes' topic was recreated and the sums were kept, a lower offset is not an older record."""
    cell, merged = CellKey("hero", 1, 0, "bandit", "a"), MergedStats()
    for offset, sums in ((900, Sums(40.0, 3.0)), (2, Sums(41.0, 3.0)), (5, Sums(41.0, 4.0, 9.0)), (900, Sums(40.0, 3.0))):
        merged.add(StatsRecord(cell, 0, offset, sums))
    assert merged.totals("hero", 1, "bandit") == {"a": Sums(41.0, 4.0, 9.0)}


@given(record_lists)
def test_a_record_round_trips(records: list[StatsRecord]) -> None:
    """A record decodes to what was encoded."""
    for record in records:
        assert StatsRecord.of(record.record()) == record


def test_records_without_a_group_belong_to_the_bandit() -> None:
    """A record without a group counts for the group `bandit`."""
    record = StatsRecord(CellKey("hero", 1, 0, "bandit", "a"), 0, 5, Sums(1.0)).record()
    del record["group"]
    assert StatsRecord.of(record).cell.group == "bandit"
