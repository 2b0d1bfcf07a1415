"""Pure rules of verification and repair: ranges, merged results, which row of an offset stays, bounds of a replay."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.warehouse.verification.compare import Offsets
from consumers.warehouse.verification.dedupe import DoubledRow, choose_rows, cluster_offsets, differing_offsets
from consumers.warehouse.verification.replay import ReplayBound, ReplayScope, _overlaps, parse_bound
from consumers.warehouse.verification.results import OffsetRange, Verification
from consumers.warehouse.verification.segments import MAX_MERGED, merged, segments, total
from infra.errors import ConfigError

NOW_MS = 1_800_000_000_000


def result(first: int, end: int, **counts: int) -> Verification:
    """Result of a range."""
    whole = Verification("t", 0, records=end - first, rows=end - first, topic_id="id", from_offset=first, to_offset=end)
    return replace(whole, **counts)  # type: ignore[arg-type] # mypy takes them for any field's


def test_ranges_that_were_wrong_are_compared_again_whole() -> None:
    """Wrong ranges before, in and across the requested range; those beyond the committed offset wait."""
    faults = [OffsetRange(40, 60), OffsetRange(0, 5), OffsetRange(95, 120)]
    assert segments(OffsetRange(50, 100), faults, 100) == [
        (OffsetRange(0, 5), True),
        (OffsetRange(40, 60), True),
        (OffsetRange(60, 100), False),
    ]
    assert segments(OffsetRange(50, 50), [], 50) == []


@given(
    st.tuples(st.integers(0, 50), st.integers(0, 50)).map(lambda pair: OffsetRange(min(pair), max(pair))),
    st.lists(st.integers(0, 60), unique=True, max_size=8),
)
def test_segments_cover_what_is_wanted_without_overlap(requested: OffsetRange, cuts: list[int]) -> None:
    """Every requested offset and every offset of a fault is covered once."""
    edges = sorted(cuts)
    faults = [OffsetRange(first, end) for first, end in zip(edges[::2], edges[1::2], strict=False)]
    covered = [offset for reach, _ in segments(requested, faults, 60) for offset in range(*reach)]
    assert covered == sorted({*range(*requested), *(offset for fault in faults for offset in range(*fault))})


def test_neighbours_of_one_verdict_become_one_result_of_bounded_size() -> None:
    """A wrong result stays apart from exact ones, so that only its offsets are compared again."""
    results = [result(0, 10), result(10, 20), result(20, 30, missing=1), result(30, 40), result(50, 60)]
    shown = [(merged_result.from_offset, merged_result.to_offset, merged_result.exact) for merged_result in merged(results)]
    assert shown == [(0, 20, True), (20, 30, False), (30, 40, True), (50, 60, True)]
    long = list(merged([result(0, MAX_MERGED), result(MAX_MERGED, MAX_MERGED + 1)]))
    assert len(long) == 2
    whole = total(results)
    assert whole is not None
    assert (whole.records, whole.missing, whole.from_offset, whole.to_offset) == (50, 1, 0, 60)
    assert total([]) is None


def test_what_is_missing_and_what_is_unexpected() -> None:
    """A dead letter, an erasure or the TTL excuse a missing row; compaction excuses a row without its record."""
    offsets = Offsets(
        frozenset({1, 2, 3, 4, 5, 6}), {1: 1, 6: 2, 9: 1}, dead=frozenset({2}), erased=frozenset({3, 6}), expired=frozenset({4})
    )
    assert offsets.missing == {5}
    assert offsets.unexpected(compacted=False) == {6, 9}
    assert offsets.unexpected(compacted=True) == {6}


def row(offset: int, loaded_ms: int, part: str, number: int, digest: int = 1) -> DoubledRow:
    """A row of an offset."""
    return DoubledRow(offset, loaded_ms, part, number, digest)


def test_of_equal_rows_the_one_loaded_first_stays() -> None:
    """Of rows loaded at the same time the first part and row stay, so that every run decides the same."""
    rows = [row(1, 9, "b", 0), row(1, 5, "c", 4), row(1, 5, "c", 3), row(2, 1, "a", 0)]
    choice = choose_rows(rows, ())
    assert sorted(choice.removed) == sorted([rows[0], rows[1]])
    assert (choice.unproven, choice.corrected) == ([], [])


def test_of_differing_rows_the_one_that_equals_the_record_stays() -> None:
    """Without a record the row loaded first stays, and the offset is reported."""
    rows = [row(1, 5, "a", 0, digest=7), row(1, 9, "b", 0, digest=8), row(2, 5, "a", 1, digest=7), row(2, 9, "b", 1, digest=8)]
    choice = choose_rows(rows, {("b", 0)})
    assert choice.removed == [rows[0], rows[3]]
    assert (choice.corrected, choice.unproven) == ([1], [2])
    assert differing_offsets(rows) == {1, 2}


@given(
    st.lists(
        st.builds(row, st.integers(0, 4), st.integers(0, 3), st.sampled_from("abc"), st.integers(0, 9), st.integers(0, 1)),
        unique_by=lambda doubled: doubled.location,
    ),
    st.sets(st.tuples(st.sampled_from("abc"), st.integers(0, 9))),
)
def test_exactly_one_row_of_each_offset_stays(rows: list[DoubledRow], equal: set[tuple[str, int]]) -> None:
    """Whatever the rows hold, whichever equal the record, and in whatever order they are read."""
    removed = choose_rows(rows, equal).removed
    stays = [doubled for doubled in rows if doubled not in removed]
    assert sorted(doubled.offset for doubled in stays) == sorted({doubled.offset for doubled in rows})
    assert set(choose_rows(rows[::-1], equal).removed) == set(removed)


def test_affected_ranges_leave_out_large_gaps() -> None:
    """A verification of them reads few other records."""
    assert cluster_offsets([3, 5, 200_000]) == [OffsetRange(3, 6), OffsetRange(200_000, 200_001)]


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("1500", ReplayBound(offset=1500)),
        ("0", ReplayBound(offset=0)),
        ("2h", ReplayBound(time_ms=NOW_MS - 7_200_000)),
        ("3 d", ReplayBound(time_ms=NOW_MS - 3 * 86_400_000)),
        ("2026-05-01", ReplayBound(time_ms=1_777_593_600_000)),
        ("2026-05-01T02:00:00+02:00", ReplayBound(time_ms=1_777_593_600_000)),
    ],
)
def test_bounds_are_offsets_times_or_ages(text: str, bound: ReplayBound) -> None:
    """Offsets are bare numbers; a time without a zone is UTC."""
    assert parse_bound(text, NOW_MS) == bound


@pytest.mark.parametrize("text", ["", "-5", "yesterday", "2x", "2026-13-01", "1" * 13, "\u0665"])
def test_what_is_no_bound_is_refused_with_examples(text: str) -> None:
    """The message shows all three forms."""
    with pytest.raises(ConfigError, match=r"1500.*2026.*2h"):
        parse_bound(text, NOW_MS)


def test_offsets_need_their_topic() -> None:
    """An offset means something only within one topic."""
    with pytest.raises(ConfigError, match="--topic"):
        ReplayScope(ReplayBound(offset=5))
    with pytest.raises(ConfigError, match="--topic"):
        ReplayScope(ReplayBound(time_ms=5), partition=1)
    ReplayScope(ReplayBound(offset=5), topic="events.resolved")


def test_running_inserts_of_the_same_offsets_are_recognised() -> None:
    """Overlap is recognised by the range in the token, also in that of a fill."""
    assert _overlaps("100-200:7", 150, 160)
    assert _overlaps("100-200:7:fill-1-3", 200, 400)
    assert not _overlaps("100-200:7", 201, 400)
