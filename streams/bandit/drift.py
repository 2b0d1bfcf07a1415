"""Detects a change of an arm's reward rate with River's ADWIN. It raises an alarm only, and is not restored.

The adapter bounds the rates, waits for enough exposures before it reports anything, and starts afresh with a new epoch.
"""

from river import drift

from streams.bandit.statistics import Sums

MIN_EXPOSURES = 50
"""Least number of exposures of one observation."""
MAX_VALUES = 5_000
"""Most values per observation, so that a busy arm costs milliseconds; beyond it a sample of the same rate is fed."""
DELTA = 0.002
"""ADWIN's confidence, Bifet and Gavalda 2007."""


class ArmDrift:
    """One detector per arm, a few kilobytes each."""

    def __init__(self) -> None:
        self._detectors: dict[tuple[str, int, str], drift.ADWIN] = {}
        self._last: dict[tuple[str, int, str], Sums] = {}

    def detect(self, experiment: str, epoch: int, arm: str, total: Sums) -> bool:
        """Return whether the arm's rate has changed, given its totals so far. Few exposures wait for more."""
        key = (experiment, epoch, arm)
        last = self._last.setdefault(key, total)
        exposures = int(total.exposures - last.exposures)
        if exposures < MIN_EXPOSURES:
            return False
        self._last[key] = total
        values = min(exposures, MAX_VALUES)
        # Conversions lag behind their exposures, so an interval can hold more of them than exposures.
        conversions = min(values, max(0, round((total.conversions - last.conversions) * values / exposures)))
        detector = self._detectors.setdefault(key, drift.ADWIN(delta=DELTA))
        drifted = False
        for value in spread(conversions, values):
            detector.update(value)
            drifted = drifted or bool(detector.drift_detected)
        return drifted


def spread(ones: int, values: int) -> list[int]:
    """Return `ones` ones among zeros, evenly spread, because their order is unknown (Bresenham)."""
    return [(at + 1) * ones // values - at * ones // values for at in range(values)]
