"""Time lag against simulated traffic whose record times are known, in five hard situations."""

import random
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from consumers.gauge.lag.reading import GaugePartition, GroupFacts, KafkaFacts, PartitionEnds
from consumers.gauge.lag.watch import LagWatch

HOUR = 3_600.0
HERE = GaugePartition("t", 0)


@dataclass(frozen=True)
class Scenario:
    """`rate(t)`: records a second; `pace(t)`: records a second that the group can read; `looks(t)`: whether the gauge runs."""

    rate: Callable[[float], float]
    pace: Callable[[float], float]
    looks: Callable[[float], bool] = lambda _t: True
    hours: float = 8.0


SCENARIOS = {
    "a reader a little too slow": Scenario(lambda _t: 20, lambda _t: 19.5),
    "an outage of an hour, caught up in another": Scenario(lambda _t: 20, lambda t: 0 if HOUR < t < 2 * HOUR else 40),
    "traffic falls to a fiftieth at night, the reader stands still": Scenario(
        lambda t: 20 if t < 3 * HOUR else 0.4, lambda t: 100 if t < 2 * HOUR else (0 if t < 5 * HOUR else 3)
    ),
    "bursts after idle hours": Scenario(
        lambda t: 50 if t % (2 * HOUR) < 120 else 0, lambda t: 5 if t % (2 * HOUR) < 1800 else 2
    ),
    "the gauge is away for twenty minutes while the reader is behind": Scenario(
        lambda _t: 20, lambda t: 0 if HOUR < t < 2 * HOUR else 25, lambda t: not 1.5 * HOUR < t < 1.5 * HOUR + 1_200
    ),
}


def written(scenario: Scenario, seed: int) -> list[float]:
    """Return the times of all records, at random moments of each second."""
    rng, times, owed = random.Random(seed), [], 0.0
    for second in range(int(scenario.hours * HOUR)):
        owed += scenario.rate(second) * rng.uniform(0.8, 1.2)
        times += sorted(second + rng.random() for _ in range(int(owed)))
        owed -= int(owed)
    return times


def looks(scenario: Scenario, times: list[float]) -> Iterator[tuple[float, int, int]]:
    """Yield (time, end of the partition, committed offset) of each round, every 10 s."""
    committed = 0.0
    for second in range(1, int(scenario.hours * HOUR)):
        end = bisect_right(times, second)
        committed = min(float(end), committed + scenario.pace(second))
        if second % 10 == 0 and scenario.looks(second):
            yield float(second), end, int(committed)


@pytest.mark.parametrize("name", SCENARIOS)
def test_time_lag_is_right_within_three_seconds(name: str) -> None:
    """The p95 of the error over all rounds with waiting records is at most 3 s; ages from records count as they are."""
    scenario = SCENARIOS[name]
    times = written(scenario, 11)
    watch, errors, asked_at = LagWatch(), [], []
    for now, end, committed in looks(scenario, times):
        group = GroupFacts("headwater.g", 1, False, frozenset(), {HERE: committed})
        facts = KafkaFacts(now, {HERE: PartitionEnds(0, end, end)}, (group,))
        offsets = watch.update_tables(facts)
        asked_at += [now] * len(offsets)
        reading = watch.build_reading(facts, {key: round(times[key[1]] * 1000) for key in offsets})
        if committed < end:
            time_lag_s = reading.groups[0].time_lag_s
            assert time_lag_s is not None
            errors.append(abs(time_lag_s - (now - times[committed])))
    assert len(errors) > 100
    assert sorted(errors)[int(0.95 * len(errors))] <= 3.0
    # Records are read only where the table cannot know: from before the first round, or within a pause of the gauge.
    assert any(now > 300 for now in asked_at) == ("gauge is away" in name)
