"""The size of polls adapts to the processing time: large polls delay rebalances, small ones cost more per record."""

import pytest

from streams.runtime.transport import FEWEST, ROUND_S, PollSize

MOST = 20_000


def paced(rate: float, polls: int = 20, most: int = MOST) -> PollSize:
    """Return the poll size after full polls of a stage that processes `rate` records a second."""
    pace = PollSize(most)
    for _ in range(polls):
        pace.record(pace.records, pace.records / rate)
    return pace


@pytest.mark.parametrize(
    ("rate", "records"), [(100, FEWEST), (15_000, int(15_000 * ROUND_S)), (1e6, MOST)], ids=["slow", "middling", "fast"]
)
def test_it_settles_at_what_is_done_in_time(rate: float, records: int) -> None:
    """The size settles at what fits into `ROUND_S`, within its bounds."""
    assert paced(rate).records == pytest.approx(records, abs=1)


def test_it_rises_step_by_step_and_falls_at_once() -> None:
    """The size at most doubles after a fast poll, and falls at once after a slow one."""
    pace = PollSize(MOST)
    pace.record(FEWEST, 0.0)
    assert pace.records == 2 * FEWEST
    pace = paced(1e6)
    pace.record(MOST, 10 * ROUND_S)
    assert pace.records == FEWEST


def test_a_poll_that_brought_little_tells_nothing() -> None:
    """A poll of few records does not change the size."""
    pace = paced(1e6)
    pace.record(10, 1.0)
    pace.record(0, 0.0)
    assert pace.records == MOST


def test_what_the_operator_allows_is_never_exceeded() -> None:
    """The operator's limit holds even below `FEWEST`."""
    assert [paced(1e6, most=7).records, paced(1, most=7).records] == [7, 7]
