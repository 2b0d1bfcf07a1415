"""The kernel learns: simulated visitors, fixed seeds, regret against random choice."""

import json

import numpy as np
import pytest

from streams.bandit.commands.experiments import EXAMPLE
from streams.bandit.experiment import parse
from streams.bandit.snapshots.kernel import choose
from streams.bandit.snapshots.snapshot import Snapshot, next_snapshot
from streams.bandit.statistics import Sums

RATES = {"a": 0.02, "b": 0.03, "c": 0.05, "d": 0.025, "e": 0.06}
VISITORS = 20_000
EVERY = 200
"""Visitors between two publications."""


def expected_regret(seed: int, rates: dict[str, float]) -> tuple[float, Snapshot]:
    """Return the expected conversions lost against always showing the best arm, and the last snapshot."""
    base = parse(EXAMPLE.read_bytes()).model_dump(mode="json")
    arms = [{"id": arm} for arm in rates]
    settings = {"arms": arms, "default_arm": "a", "control": {"share": 0.1, "arm": "a"}, "floor": 0.01, "publish_s": 1}
    experiment = parse(json.dumps(base | settings))
    rng, totals, lost = np.random.default_rng(seed), dict.fromkeys(rates, Sums()), 0.0
    snapshot = next_snapshot(experiment, {}, None, 0)
    for n in range(VISITORS):
        assert snapshot is not None
        arm, _ = choose(snapshot.weights(), f"salt-{seed}", f"v{n}")
        totals[arm] = totals[arm].plus(Sums(1, float(rng.random() < rates[arm])))
        lost += max(rates.values()) - rates[arm]
        if n % EVERY == EVERY - 1:
            snapshot = next_snapshot(experiment, totals, snapshot, snapshot.published_ts + 1_000) or snapshot
    assert snapshot is not None
    return lost, snapshot


@pytest.mark.parametrize("seed", range(3))
def test_most_of_the_regret_of_random_choice_is_saved(seed: int) -> None:
    """Over 20,000 visitors and five arms, published every 200 visitors, the regret is under 40 % of random choice's."""
    random_choice = VISITORS * (max(RATES.values()) - sum(RATES.values()) / len(RATES))
    lost, last = expected_regret(seed, RATES)
    assert lost < 0.4 * random_choice
    assert max(last.weights(), key=last.weights().__getitem__) == "e"


def test_equal_arms_are_all_kept_alive() -> None:
    """Among equal arms none falls below the floor, and no snapshot is refused."""
    _, last = expected_regret(11, dict.fromkeys("ab", 0.05))
    assert min(last.probabilities) >= 0.01 - 1e-12
    assert sum(last.probabilities) == pytest.approx(1)
