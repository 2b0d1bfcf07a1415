"""The states as a table of situations."""

from dataclasses import replace

import pytest

from consumers.gauge.lag.rules import SEVERITY, LagCase, LagLimits, LagState, Sample, judge, rates, window

LIMITS = LagLimits()
START, NOW = 0.0, 400.0
TIMES = tuple(float(at) for at in range(0, 401, 10))


def case(
    head: tuple[float, float],
    committed_range: tuple[float, float],
    behind: tuple[float, float] = (0.0, 0.0),
    *,
    start: int = 0,
    blocked: int = 0,
    members: int | None = 1,
    rebalanced_at: float | None = None,
    sibling_moved: bool = False,
    since: float = START,
) -> LagCase:
    """Build a case from forty 10-second samples whose end, committed offset and age are linear between two values."""
    samples = []
    for at in TIMES:
        share = at / NOW
        stable, committed, age = (round(a + (b - a) * share) for a, b in (head, committed_range, behind))
        if at >= since:
            samples.append(Sample(at, start, stable, stable + blocked, committed, float(age)))
    return LagCase(tuple(samples), members, rebalanced_at, sibling_moved, LIMITS)


def jump(lag_case: LagCase, at: float, **changed: int) -> LagCase:
    """Return the case with other fields from `at` on."""
    samples = tuple(s._replace(**changed) if s.at >= at else s for s in lag_case.samples)
    return replace(lag_case, samples=samples)


IDLE, BUSY = (1000, 1000), (1000, 5000)

TABLE = [
    # (situation, case, state, words that the detail must contain)
    ("idle topic, all read", case(IDLE, IDLE), LagState.OK, "up to date"),
    ("idle and empty topic", case((0, 0), (0, 0)), LagState.OK, "up to date"),
    ("idle topic whose records are all deleted", case(IDLE, IDLE, start=1000), LagState.OK, "up to date"),
    ("idle topic, all read, no worker", case(IDLE, IDLE, members=0), LagState.OK, "up to date"),
    ("busy topic, read along", case(BUSY, (980, 4980), (1, 1)), LagState.OK, "within its limit"),
    (
        "busy topic, standing worker, but it began to wait a moment ago",
        jump(case(BUSY, BUSY), 400, committed=4990),
        LagState.OK,
        "",
    ),
    ("first record after an idle day", jump(case(IDLE, IDLE), 400, stable=1001, high=1001), LagState.OK, "within its limit"),
    ("far behind and getting better", case(BUSY, (0, 4500), (900, 100)), LagState.CATCHING_UP, "catching up"),
    ("far behind, watched for a minute only", case(BUSY, (0, 0), (300, 700), since=340), LagState.CATCHING_UP, "no estimate"),
    ("over the limit, not falling", case(BUSY, (500, 4500), (70, 75)), LagState.WARN, "75 s behind"),
    ("over the limit, falling slowly", case(BUSY, (500, 4550), (90, 70)), LagState.CATCHING_UP, "catching up"),
    ("just under the limit, not falling", case(BUSY, (500, 4500), (59, 60)), LagState.OK, "within its limit"),
    ("worker hangs, records come", case(BUSY, (900, 900), (30, 430)), LagState.STALLED, "nothing read for 2 min"),
    ("worker hangs, records stopped coming", case(IDLE, (900, 900), (30, 430)), LagState.WARN, "behind"),
    ("worker hangs since a minute", jump(case(BUSY, BUSY), 340, committed=4400), LagState.OK, ""),
    ("one partition hangs", case(BUSY, (900, 900), sibling_moved=True), LagState.STUCK_PARTITION, "at offset 900"),
    ("one partition hangs on an idle topic", case(IDLE, (900, 900), sibling_moved=True), LagState.STUCK_PARTITION, "siblings"),
    ("worker hangs, just rebalanced", case(BUSY, (900, 900), (30, 430), rebalanced_at=300), LagState.CATCHING_UP, "anew"),
    ("worker hangs, grace is over", case(BUSY, (900, 900), (30, 430), rebalanced_at=280), LagState.STALLED, ""),
    ("late, just rebalanced", case(BUSY, (500, 4500), (70, 75), rebalanced_at=399), LagState.CATCHING_UP, ""),
    ("no worker, records wait", case(BUSY, (900, 900), (30, 430), members=0), LagState.STOPPED, "no worker; 4,100"),
    ("no worker, seen once", case(BUSY, (900, 900), members=0, since=400), LagState.STOPPED, ""),
    ("no worker, one record waits on an idle topic", case(IDLE, (999, 999), members=0), LagState.STOPPED, "1 records"),
    ("coordinator does not say who is there", case(BUSY, (980, 4980), (1, 1), members=None), LagState.OK, ""),
    ("started over", jump(case(BUSY, BUSY), 350, committed=0), LagState.REWIND, "went back by 4,400"),
    ("started over, three minutes ago", jump(case(BUSY, BUSY, (1, 1)), 220, committed=0), LagState.STALLED, ""),
    ("retention is close", case(BUSY, (1500, 1500), start=1400), LagState.DATA_LOSS_RISK, "97%"),
    ("retention has overtaken", case(BUSY, (900, 900), start=1400), LagState.DATA_LOSS_RISK, "500 records were deleted"),
    ("retention has taken everything unread", case(IDLE, (900, 900), start=1000), LagState.DATA_LOSS_RISK, "100 records"),
    ("a young topic, first reader", case((1000, 5000), (0, 4000), (20, 20)), LagState.OK, "within"),
    ("a fifth of it unread", case(BUSY, (0, 4200), start=10), LagState.OK, ""),
    ("open transaction, all read up to it", case(IDLE, IDLE, blocked=7), LagState.HUNG_TXN, "holds back 7 records"),
    ("open transactions come and go", case(BUSY, BUSY, blocked=7), LagState.OK, "up to date"),
    ("open transaction for half a minute", case(IDLE, IDLE, blocked=7, since=370), LagState.OK, "up to date"),
    ("age unknown", case(BUSY, (0, 3000), since=390), LagState.OK, ""),
]


@pytest.mark.parametrize(("lag_case", "state", "words"), [pytest.param(*row[1:], id=row[0]) for row in TABLE])
def test_each_situation_has_its_state(lag_case: LagCase, state: LagState, words: str) -> None:
    """Each row describes 400 s and the state that they lead to."""
    verdict = judge(lag_case)
    assert verdict.state is state, verdict
    assert words in verdict.detail


def test_an_unknown_age_is_not_ok() -> None:
    """Waiting records of unknown age are not OK."""
    lag_case = case(BUSY, (0, 3000), since=390)
    samples = tuple(s._replace(behind_s=None) for s in lag_case.samples)
    assert judge(replace(lag_case, samples=samples)).state is LagState.CATCHING_UP


def test_the_estimate_is_lag_over_the_difference_of_the_rates() -> None:
    """Reading 20/s against 10/s written, 1,000 waiting, takes 100 s."""
    lag_case = case((1000, 5000), (-4000, 4000), (900, 100))
    verdict = judge(lag_case)
    assert verdict.eta_s == pytest.approx(100, rel=0.05)
    written_rate, read_rate = rates(lag_case.samples, 60)
    assert written_rate == pytest.approx(10)
    assert read_rate == pytest.approx(20)


def test_a_pause_of_the_gauge_is_not_a_pause_of_the_worker() -> None:
    """After a laptop's sleep the clock is hours on without samples: there is no alarm until there are new ones."""
    before = [s for s in case(BUSY, (900, 900), (30, 430)).samples if s.at <= 30]
    after = [s._replace(at=s.at + 30_000) for s in case(BUSY, (900, 900), (30, 430)).samples if 30 < s.at <= 60]
    lag_case = LagCase((*before, *after), 1, None, False, LIMITS)
    assert judge(lag_case).state is LagState.CATCHING_UP


@pytest.mark.parametrize(
    ("times", "seconds", "samples"),
    [
        ((0, 10, 20, 30), 20, 3),
        ((0, 10, 20, 30), 30, 4),
        ((0, 10, 20, 30), 31, None),  # not watched long enough
        ((0, 30), 30, None),  # two samples are not enough
        ((0, 20, 30), 30, None),  # a gap of two thirds of it
        ((0, 9.5, 20, 30.2), 30, 4),  # rounds are never exactly on time
        ((0,), 30, None),
    ],
)
def test_a_window_must_be_covered_by_samples(times: tuple[float, ...], seconds: float, samples: int | None) -> None:
    """A window exists only where samples cover it."""
    watched = window([Sample(at, 0, 0, 0, 0) for at in times], seconds)
    assert (watched and len(watched)) == samples


def test_one_sample_is_enough_for_a_verdict() -> None:
    """One sample is enough for a verdict, whatever its values."""
    for lag in (0, 1, 1_000_000):
        for members in (None, 0, 1):
            lag_case = LagCase((Sample(0, 5, 1_000_005, 1_000_006, 1_000_005 - lag, None),), members, None, True, LIMITS)
            assert judge(lag_case).state in SEVERITY
