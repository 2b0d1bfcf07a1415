"""Watches each arm's reward rate for a change, with River's ADWIN. It alarms; it decides nothing and is not restored.

The adapter owns what River leaves open: rates are bounded, a first window is needed before anything is said, and a new
epoch starts afresh.
"""

from river import drift

from streams.bandit.statistics import Sums

MIN_EXPOSURES = 50
"""Exposures that make one observation."""
DELTA = 0.002
"""ADWIN's confidence, Bifet and Gavalda 2007."""


class ArmDrift:
    """One detector an arm. Memory: a few kilobytes each."""

    def __init__(self) -> None:
        self._detectors: dict[tuple[str, int, str], drift.ADWIN] = {}
        self._last: dict[tuple[str, int, str], Sums] = {}

    def changed(self, experiment: str, epoch: int, arm: str, total: Sums) -> bool:
        """Whether the arm's rate has changed, given its totals so far. Counts a partial observation on later."""
        key = (experiment, epoch, arm)
        last = self._last.setdefault(key, total)
        exposures = total.exposures - last.exposures
        if exposures < MIN_EXPOSURES:
            return False
        self._last[key] = total
        # Conversions lag behind their exposures, so an interval can hold more of them than exposures.
        rate = min(1.0, max(0.0, (total.conversions - last.conversions) / exposures))
        detector = self._detectors.get(key)
        if detector is None:
            # Checked with every observation (River's default is every 32nd, which here would be many minutes).
            detector = self._detectors[key] = drift.ADWIN(delta=DELTA, clock=1, grace_period=10)
        detector.update(rate)
        return bool(detector.drift_detected)
