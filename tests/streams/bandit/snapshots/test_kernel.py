"""The kernel: exact probabilities, floors, caps, and a hash that draws the published vector."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from streams.bandit.snapshots.kernel import (
    MAX_MOVE,
    InvalidDistribution,
    apply_caps,
    apply_floor,
    choose,
    in_control,
    limit_move,
    probability_best,
    uniform,
)
from tests.support.scale import examples

POSTERIORS = [
    [(1.0, 1.0), (1.0, 1.0), (1.0, 1.0)],
    [(20.0, 980.0), (30.0, 970.0), (25.0, 975.0)],
    [(1.0, 1.0), (2_000.0, 98_000.0), (5.0, 300.0)],
    [(0.5, 0.5), (0.5, 3.0), (10.0, 2.0)],
    [(1.0 + arm, 100.0) for arm in range(10)],
    [(5_000.0, 95_000.0), (5_100.0, 95_000.0)],
    [(1.0, 1e6), (1.0, 1.0), (1e5, 1e6)],
]

positive = st.floats(0.5, 1e5)
vectors = st.lists(st.floats(0.001, 1), min_size=2, max_size=12).map(lambda w: np.array(w) / sum(w))


@pytest.mark.parametrize("posteriors", POSTERIORS)
def test_quadrature_agrees_with_four_hundred_thousand_draws(posteriors: list[tuple[float, float]]) -> None:
    """P(best) is within 0.002 of the share of fixed-seed draws in which the arm was best."""
    rng = np.random.default_rng(7)
    winners = np.array([rng.beta(a, b, 400_000) for a, b in posteriors]).argmax(0)
    drawn = np.bincount(winners, minlength=len(posteriors)) / 400_000
    assert np.abs(probability_best(posteriors) - drawn).max() <= 0.002


def test_two_arms_agree_with_the_closed_form() -> None:
    """P(Beta(a, 1) beats Beta(c, 1)) is a / (a + c), to nine digits."""
    assert probability_best([(3.0, 1.0), (5.0, 1.0)])[0] == pytest.approx(3 / 8, abs=1e-9)


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(st.tuples(positive, positive), min_size=2, max_size=8), st.randoms())
def test_the_order_of_arms_does_not_matter(posteriors: list[tuple[float, float]], rng: object) -> None:
    """Whatever the posteriors, the result is a distribution and follows its arms when they are reordered."""
    forward, backward = probability_best(posteriors), probability_best(posteriors[::-1])
    assert forward.sum() == pytest.approx(1)
    assert np.abs(forward - backward[::-1]).max() < 1e-6


@pytest.mark.parametrize("bad", [(0.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0), (float("inf"), 1.0)])
def test_a_posterior_that_is_none_is_refused(bad: tuple[float, float]) -> None:
    """Zero, negative, NaN and infinite parameters raise instead of being published."""
    with pytest.raises(InvalidDistribution):
        probability_best([bad, (1.0, 1.0)])


@given(vectors, st.floats(0.001, 0.04))
def test_the_floor_holds(weights: np.ndarray, floor: float) -> None:
    """Every arm gets at least the floor and the sum stays 1."""
    floored = apply_floor(weights, floor)
    assert floored.min() >= floor - 1e-12
    assert floored.sum() == pytest.approx(1)


@given(vectors, st.data())
def test_caps_hold_and_nothing_is_lost(weights: np.ndarray, data: st.DataObject) -> None:
    """No arm exceeds its cap, nobody below it loses by it, and the sum stays 1."""
    caps = np.array(data.draw(st.lists(st.floats(0.05, 1), min_size=len(weights), max_size=len(weights))))
    if caps.sum() < 1:
        caps = caps / caps.sum()
    capped = apply_caps(weights, caps)
    assert (capped <= caps + 1e-9).all()
    assert capped.sum() == pytest.approx(1)
    assert (capped >= np.minimum(weights, caps) - 1e-9).all()


@given(vectors, st.data())
def test_a_step_is_cut_to_a_quarter(weights: np.ndarray, data: st.DataObject) -> None:
    """The published vector never moves by more than .25 in total variation, and says when it was cut."""
    other = np.array(data.draw(st.lists(st.floats(0.001, 1), min_size=len(weights), max_size=len(weights))))
    other = other / other.sum()
    step, clipped = limit_move(weights, other)
    assert 0.5 * np.abs(step - other).sum() <= MAX_MOVE + 1e-12
    assert step.sum() == pytest.approx(1)
    assert clipped == (0.5 * np.abs(weights - other).sum() > MAX_MOVE)


WEIGHTS = {"a": 0.55, "b": 0.3, "c": 0.1, "d": 0.05}


@pytest.mark.parametrize("salt", ["spring", "summer", "autumn"])
def test_the_hash_draws_the_published_vector(salt: str) -> None:
    """Over 40,000 visitors the arms' shares pass a chi-square test against the weights."""
    drawn = [choose(WEIGHTS, salt, f"visitor-{n}")[0] for n in range(40_000)]
    observed = [drawn.count(arm) for arm in WEIGHTS]
    assert chisquare(observed, [w * 40_000 for w in WEIGHTS.values()]).pvalue > 0.001


def test_the_propensity_is_the_share_among_what_could_be_shown() -> None:
    """Without one of the arms the others' probabilities are those of the rest."""
    rest = {arm: weight for arm, weight in WEIGHTS.items() if arm != "a"}
    arm, propensity = choose(rest, "spring", "visitor-1")
    assert propensity == pytest.approx(rest[arm] / 0.45)


def test_a_visitor_keeps_her_arm() -> None:
    """The same vector gives the same arm, in whatever order it is written."""
    for n in range(200):
        assert choose(WEIGHTS, "s", f"v{n}") == choose(dict(reversed(WEIGHTS.items())), "s", f"v{n}")


def test_selling_out_one_arm_moves_nobody_else() -> None:
    """Taking an arm away moves only the visitors who had it."""
    rest = {arm: weight for arm, weight in WEIGHTS.items() if arm != "b"}
    for n in range(2_000):
        before = choose(WEIGHTS, "s", f"v{n}")[0]
        assert before == "b" or choose(rest, "s", f"v{n}")[0] == before


def test_a_small_step_moves_few_visitors() -> None:
    """Moving a tenth of the weight from one arm to another moves about that share, not a third of everybody."""
    moved = WEIGHTS | {"a": 0.45, "b": 0.4}
    switched = sum(choose(WEIGHTS, "s", f"v{n}")[0] != choose(moved, "s", f"v{n}")[0] for n in range(5_000))
    assert 0.08 < switched / 5_000 < 0.16


def test_the_control_group_has_its_share_and_no_model() -> None:
    """A tenth of the visitors is in control, and their group tells nothing about the arm the bandit would draw."""
    control = [n for n in range(20_000) if in_control("s", f"v{n}", 0.1)]
    assert 0.093 < len(control) / 20_000 < 0.107
    drawn = [choose(WEIGHTS, "s", f"v{n}")[0] for n in control]
    expected = [weight * len(control) for weight in WEIGHTS.values()]
    assert chisquare([drawn.count(arm) for arm in WEIGHTS], expected).pvalue > 0.001


def test_uniform_stays_inside_the_open_interval() -> None:
    """The hash is never 0 or 1, so its logarithm exists, and parts cannot run into each other."""
    numbers = [uniform("s", str(n)) for n in range(1_000)]
    assert min(numbers) > 0
    assert max(numbers) < 1
    assert uniform("ab", "c") != uniform("a", "bc")
