"""Publishes snapshots: from merged statistics to `bandit.snapshots`, and from there, once committed, to Redis."""

from collections.abc import Iterable
from dataclasses import replace

from infra.telemetry.logs import get_logger
from infra.telemetry.metrics import Metrics
from schemas.codec import decode, encode
from schemas.registry import Registry
from streams.bandit.drift import ArmDrift
from streams.bandit.experiment import Experiment
from streams.bandit.snapshots.kernel import InvalidDistribution
from streams.bandit.snapshots.snapshot import Snapshot, from_record, next_snapshot, too_early
from streams.bandit.snapshots.store import SnapshotStore
from streams.bandit.statistics import MergedStats, StatsRecord, Sums
from streams.runtime.stage import BY_KEY, Output

LEARNED = "bandit"
"""The group that is learned from: its arms share one mix of hours. Control is the baseline for uplift and stays out."""


class Publisher:
    """Every worker keeps its state, so that any can take over; the elected one publishes."""

    def __init__(self, registry: Registry, store: SnapshotStore, metrics: Metrics) -> None:
        self.elected = False
        self._registry = registry
        self._store = store
        self._metrics = metrics
        self._merged = MergedStats()
        self._drift = ArmDrift()
        self._published: dict[str, Snapshot] = {}
        self._waiting: dict[str, tuple[int, bytes]] = {}
        """Experiment -> newest committed version that is not in Redis yet."""
        self._in_force: dict[str, int] = {}
        """Experiment -> version that Redis points to."""
        self._retry_at: dict[str, int] = {}

    def add_stats(self, record: StatsRecord) -> None:
        """Add one record of `bandit.stats`."""
        self._merged.add(record)

    def add_published(self, value: bytes) -> None:
        """Add a committed record of `bandit.snapshots`."""
        try:
            snapshot = from_record(decode(self._registry, value)[1])
        except InvalidDistribution as error:
            get_logger().error("snapshot not taken over", error=str(error))
            return
        previous = self._published.get(snapshot.experiment)
        if previous is None or previous.version <= snapshot.version:
            self._published[snapshot.experiment] = snapshot
            self._waiting[snapshot.experiment] = (snapshot.version, value)

    def publish_due(self, experiments: Iterable[Experiment], now_ms: int) -> list[Output]:
        """Write committed snapshots to Redis, then return the records to publish now. Retryable while Redis is away."""
        self._move_to_redis()
        return [output for experiment in experiments for output in self._publish(experiment, now_ms)]

    def _move_to_redis(self) -> None:
        for experiment, (version, value) in list(self._waiting.items()):
            self._in_force[experiment] = self._store.publish(experiment, version, value)
            del self._waiting[experiment]

    def _publish(self, experiment: Experiment, now_ms: int) -> list[Output]:
        previous = self._published.get(experiment.key)
        # The first vector depends on the experiment alone, so any worker may publish it.
        if not (self.elected or previous is None) or now_ms < self._retry_at.get(experiment.key, 0):
            return []
        previous = self._overtake_redis(experiment, previous)
        if previous is not None and too_early(experiment, previous, now_ms):
            return []
        totals = self._merged.totals(experiment.key, experiment.epoch, LEARNED)
        try:
            snapshot = next_snapshot(experiment, totals, previous, now_ms)
        except InvalidDistribution as error:
            # The snapshot in force stays in force; its age shows that.
            self._retry_at[experiment.key] = now_ms + experiment.publish_s * 1_000
            self._count(experiment, "refused")
            get_logger().error("snapshot refused", experiment=experiment.key, error=str(error))
            return []
        if snapshot is None:
            return []
        self._published[experiment.key] = snapshot
        self._count(experiment, "clipped" if snapshot.clipped else "published")
        self._detect_drift(experiment, totals)
        value = encode(self._registry.latest("bandit.snapshots"), snapshot.record())
        return [(experiment.key.encode(), value, BY_KEY)]

    def _overtake_redis(self, experiment: Experiment, previous: Snapshot | None) -> Snapshot | None:
        """Return `previous`, at Redis' version where that is higher (Kafka was created again): it must be exceeded."""
        in_force = self._in_force.get(experiment.key, 0)
        if previous is None or previous.version >= in_force:
            return previous
        return replace(previous, version=in_force, config_version="")

    def _detect_drift(self, experiment: Experiment, totals: dict[str, Sums]) -> None:
        for arm in experiment.arm_ids:
            if self._drift.detect(experiment.key, experiment.epoch, arm, totals.get(arm, Sums())):
                self._metrics.count("headwater_reward_drift_total", experiment=experiment.key, arm=arm)
                get_logger().warning("reward rate has changed", experiment=experiment.key, arm=arm)

    def _count(self, experiment: Experiment, outcome: str) -> None:
        self._metrics.count("headwater_snapshots_total", experiment=experiment.key, outcome=outcome)
