"""River behind its adapter: it alarms when an arm's rate changes, and its defects elsewhere do not matter."""

import math
import random

import pytest
from river import proba
from scipy.stats import beta as scipy_beta

from streams.bandit.drift import MAX_VALUES, MIN_EXPOSURES, ArmDrift, spread
from streams.bandit.snapshots.kernel import probability_best
from streams.bandit.statistics import Sums


def alarms(rates: list[float], seed: int) -> list[int]:
    """Return the observations, of 200 exposures each, at which an arm with these true rates alarms."""
    rng, watch, total, positions = random.Random(seed), ArmDrift(), Sums(), []
    for at, rate in enumerate(rates):
        conversions = sum(rng.random() < rate for _ in range(200))
        total = total.plus(Sums(200, conversions))
        if watch.detect("hero", 1, "a", total):
            positions.append(at)
    return positions


def test_a_fallen_rate_alarms_soon() -> None:
    """When the rate falls from 10 % to 5 % there is an alarm within 20 observations, for each of five seeds."""
    for seed in range(5):
        positions = alarms([0.1] * 60 + [0.05] * 30, seed)
        assert positions
        assert 60 <= positions[0] < 80


def test_a_steady_rate_is_quiet() -> None:
    """A constant rate gives no alarm in 300 observations, for each of five seeds."""
    assert [alarms([0.05] * 300, seed) for seed in range(5)] == [[]] * 5


def test_too_few_exposures_are_no_observation() -> None:
    """A handful of converted views gives no alarm; they count together with those that follow."""
    watch = ArmDrift()
    for n in range(MIN_EXPOSURES):
        assert not watch.detect("hero", 1, "a", Sums(n, n))


def test_late_conversions_do_not_leave_the_unit_interval() -> None:
    """More conversions than exposures in an interval (they lag behind) count as a rate of 1, not of 3."""
    watch = ArmDrift()
    watch.detect("hero", 1, "a", Sums(100, 0))
    watch.detect("hero", 1, "a", Sums(160, 180))
    (detector,) = watch._detectors.values()
    assert detector.estimation == 1.0


def test_a_busy_arm_is_sampled_at_its_rate() -> None:
    """However many exposures come at once, a bounded number of values of the same rate is fed."""
    watch = ArmDrift()
    watch.detect("hero", 1, "a", Sums(0, 0))
    watch.detect("hero", 1, "a", Sums(1_000_000, 250_000))
    (detector,) = watch._detectors.values()
    assert detector.width == MAX_VALUES
    assert detector.estimation == pytest.approx(0.25)


@pytest.mark.parametrize(("ones", "values"), [(0, 5), (5, 5), (2, 7), (3, 10)])
def test_ones_are_spread_evenly(ones: int, values: int) -> None:
    """All of them are placed, at most one per position."""
    spread_values = spread(ones, values)
    assert (sum(spread_values), len(spread_values), set(spread_values) <= {0, 1}) == (ones, values, True)


def test_rivers_beta_counts_a_fraction_as_a_success() -> None:
    """`Beta.update(0.2)` adds a whole success, so posteriors are computed from the stage's own sums."""
    posterior = proba.Beta(1, 1)
    posterior.update(0.2)
    assert (posterior.alpha, posterior.beta) == (2, 1)


def test_rivers_beta_density_is_lost_at_real_counts() -> None:
    """At a few thousand observations River's density fails; the quadrature works in logarithms."""
    a, b = 300.0, 5_000.0
    with pytest.raises(ZeroDivisionError):
        proba.Beta(a, b)(a / (a + b))
    assert math.isfinite(scipy_beta.logpdf(a / (a + b), a, b))
    assert probability_best([(a, b), (a, b)]) == pytest.approx([0.5, 0.5])
