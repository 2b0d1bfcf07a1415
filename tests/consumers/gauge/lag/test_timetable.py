"""Time tables against traffic whose record times are known."""

import math
import random

import pytest

from consumers.gauge.lag.timetable import TimeTable, unpack

PAUSE = 30_000


def traffic(hours: float, rate: float, night: float, seed: int = 7) -> list[float]:
    """Return times (seconds) of records: `rate` a second in the first half, `night` times that in the second."""
    rng, at, times = random.Random(seed), 0.0, []
    while at < hours * 3600:
        now = rate if at < hours * 1800 else rate * night
        at += rng.expovariate(now)
        times.append(at)
    return times


def watched(times: list[float], interval: float, limit: int) -> TimeTable:
    """Build a table from a round every `interval` seconds."""
    table, end, at = TimeTable(), 0, 0.0
    while end < len(times):
        while end < len(times) and times[end] <= at:
            end += 1
        table.add(end, round(at * 1000), PAUSE, limit)
        at += interval
    return table


@pytest.mark.parametrize(
    ("rate", "night", "limit", "p95_s"),
    [
        (20, 1.0, 4_096, 1.0),
        (20, 0.02, 4_096, 3.0),  # traffic falls at night
        (2, 0.001, 4_096, 3.0),  # and nearly stops
        (20, 1.0, 300, 3.0),  # a table thinned to a seventh of its points keeps the day
        (20, 0.02, 300, 12.0),  # and is less exact where traffic is thin and random
    ],
)
def test_the_time_of_a_record_is_right_within_seconds(rate: float, night: float, limit: int, p95_s: float) -> None:
    """The p95 of the error over all records, with a round every 10 s for six hours, is within the bound."""
    times = traffic(6, rate, night)
    table = watched(times, 10.0, limit)
    assert len(table) <= limit
    errors = []
    for offset in range(0, len(times), max(1, len(times) // 2000)):
        estimated = table.time_of(offset)
        assert estimated is not None
        errors.append(abs(estimated / 1000 - times[offset]))
    assert sorted(errors)[int(0.95 * len(errors))] <= p95_s


def test_an_idle_stretch_does_not_smear_over_what_follows() -> None:
    """After an idle hour the first record of a burst is dated after the hour, not half-way into it."""
    table = TimeTable()
    for at in range(0, 3_600_000, 10_000):
        table.add(100, at, PAUSE)
    table.add(200, 3_600_000, PAUSE)
    assert len(table) == 3
    assert 3_590_000 <= (table.time_of(100) or 0) <= 3_600_000


def test_times_within_a_pause_are_unknown() -> None:
    """After a pause of an hour, records within it have no time; those around it have."""
    table = TimeTable()
    table.add(0, 0, PAUSE)
    table.add(100, 10_000, PAUSE)
    table.add(9_000, 3_600_000, PAUSE)
    table.add(9_100, 3_610_000, PAUSE)
    assert table.time_of(50) == pytest.approx(5_000, abs=100)
    assert table.time_of(100) is None
    assert table.time_of(8_999) is None
    assert table.time_of(9_050) == pytest.approx(3_605_000, abs=100)


def test_a_pause_in_which_nothing_was_written_is_no_gap() -> None:
    """When the end has not moved during a pause, nothing was missed."""
    table = TimeTable()
    table.add(100, 0, PAUSE)
    table.add(100, 3_600_000, PAUSE)
    table.add(110, 3_610_000, PAUSE)
    assert table.time_of(100) == pytest.approx(3_600_500, abs=10)


def test_older_than_the_table_is_unknown() -> None:
    """A record older than the table has no time."""
    table = TimeTable()
    table.add(500, 1_000, PAUSE)
    assert table.time_of(499) is None
    assert table.oldest() == 1_000


def test_what_the_slowest_group_has_passed_is_dropped() -> None:
    """The points around the slowest group's offset stay."""
    table = TimeTable()
    for i in range(100):
        table.add(i * 10, i * 1_000, PAUSE)
    before = table.time_of(905)
    table.forget_before(905)
    assert len(table) == 10
    assert table.time_of(905) == before
    assert table.time_of(899) is None


def test_a_recreated_topic_starts_a_new_table() -> None:
    """A falling offset means another topic of the same name."""
    table = TimeTable()
    table.add(5_000, 0, PAUSE)
    table.add(3, 10_000, PAUSE)
    assert table.offsets == [3]


def test_thinning_keeps_gaps_and_order() -> None:
    """After any number of thinnings both columns ascend, and gaps are not interpolated."""
    rng, table, offset, at = random.Random(3), TimeTable(), 0, 0
    gaps = []
    for i in range(3_000):
        at += PAUSE * 10 if i in (1_000, 2_000) else 10_000
        if i in (1_000, 2_000):
            gaps.append(offset)
        offset += rng.randrange(1, 50)
        table.add(offset, at, PAUSE, 200)
    assert len(table) <= 200
    assert table.offsets == sorted(table.offsets)
    assert table.times == sorted(table.times)
    assert [table.time_of(gap) for gap in gaps] == [None, None]


def test_pack_and_unpack_are_inverse() -> None:
    """Unpacking returns the packed table."""
    table = TimeTable()
    for i in range(50):
        table.add(int(100 * math.sqrt(i)), i * 45_000, PAUSE)
    again = unpack(table.pack())
    assert again == table
    assert table.gaps


@pytest.mark.parametrize(
    "broken", [b"", b"{}", b"[]", b'{"offsets":[2,1],"times":[1,2],"gaps":[]}', b'{"offsets":[1],"times":[],"gaps":[]}']
)
def test_broken_bytes_are_refused(broken: bytes) -> None:
    """Bytes that are no table raise ValueError."""
    with pytest.raises(ValueError):
        unpack(broken)
