"""A poll brings what can be done in time: rebalances wait for it, and small polls make each record dearer."""

import pytest

from streams.runtime.transport import FEWEST, ROUND_S, PollSize

MOST = 20_000


def paced(rate: float, polls: int = 20, most: int = MOST) -> PollSize:
    """After so many full polls of a stage that works on `rate` records a second."""
    pace = PollSize(most)
    for _ in range(polls):
        pace.record(pace.records, pace.records / rate)
    return pace


@pytest.mark.parametrize(
    ("rate", "records"), [(100, FEWEST), (15_000, int(15_000 * ROUND_S)), (1e6, MOST)], ids=["slow", "middling", "fast"]
)
def test_it_settles_at_what_is_done_in_time(rate: float, records: int) -> None:
    """Between the fewest and the most."""
    assert paced(rate).records == pytest.approx(records, abs=1)


def test_it_rises_step_by_step_and_falls_at_once() -> None:
    """One quick poll proves little; one slow poll has held up a rebalance already."""
    pace = PollSize(MOST)
    pace.record(FEWEST, 0.0)
    assert pace.records == 2 * FEWEST
    pace = paced(1e6)
    pace.record(MOST, 10 * ROUND_S)
    assert pace.records == FEWEST


def test_a_poll_that_brought_little_tells_nothing() -> None:
    """Overhead is most of it; and nothing takes no time at all."""
    pace = paced(1e6)
    pace.record(10, 1.0)
    pace.record(0, 0.0)
    assert pace.records == MOST


def test_what_the_operator_allows_is_never_exceeded() -> None:
    """Be it less than the fewest."""
    assert [paced(1e6, most=7).records, paced(1, most=7).records] == [7, 7]
