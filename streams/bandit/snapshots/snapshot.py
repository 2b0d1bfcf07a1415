"""A snapshot: one published probability vector, and how the next one follows from statistics. Pure."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from schemas.codec import Record
from streams.bandit.experiment import Experiment
from streams.bandit.snapshots import kernel
from streams.bandit.snapshots.kernel import InvalidDistribution
from streams.bandit.statistics import Sums

REFRESH_MS = 300_000
"""Milliseconds after which an unchanged snapshot is published again, so that its age shows whether the publisher lives."""


@dataclass(frozen=True)
class Snapshot:
    """The vector from which decisions are drawn. Immutable; `version` grows by one with each publication."""

    experiment: str
    version: int
    config_version: str
    epoch: int
    published_ts: int
    arms: tuple[str, ...]
    probabilities: tuple[float, ...]
    posterior: tuple[tuple[float, float], ...]
    clipped: bool = False

    @property
    def checksum(self) -> str:
        """SHA-256 of the arms and probabilities as JSON."""
        return hashlib.sha256(json.dumps([self.arms, self.probabilities]).encode()).hexdigest()

    def weights(self) -> dict[str, float]:
        """Return arm -> probability."""
        return dict(zip(self.arms, self.probabilities, strict=True))

    def record(self) -> Record:
        """Return the fields of the contract `bandit.snapshots`."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**fields, "checksum": self.checksum}


def from_record(record: Record) -> Snapshot:
    """Decode a record of `bandit.snapshots`. InvalidDistribution where its checksum or its vector is wrong."""
    snapshot = Snapshot(
        record["experiment"],
        record["version"],
        record["config_version"],
        record.get("epoch", 0),
        record["published_ts"],
        tuple(record["arms"]),
        tuple(record["probabilities"]),
        tuple((alpha, beta) for alpha, beta in record["posterior"]),
        record.get("clipped", False),
    )
    if snapshot.checksum != record["checksum"] or len(snapshot.arms) != len(snapshot.probabilities):
        raise InvalidDistribution("a snapshot that is not what its checksum says")
    kernel.check_distribution(np.array(snapshot.probabilities))
    return snapshot


def compute_posterior(experiment: Experiment, totals: Mapping[str, Sums]) -> tuple[tuple[float, float], ...]:
    """Return the Beta parameters of each arm: prior, plus conversions, plus exposures without one."""
    parameters = []
    for arm in experiment.arms:
        sums = totals.get(arm.id, Sums())
        failures = sums.exposures - sums.conversions
        # Unlike max(), this keeps NaN, which is refused later.
        parameters.append((arm.prior.alpha + sums.conversions, arm.prior.beta + (0.0 if failures < 0 else failures)))
    return tuple(parameters)


def compute_vector(experiment: Experiment, parameters: tuple[tuple[float, float], ...]) -> kernel.Vector:
    """Return P(best), floored and capped. InvalidDistribution where the parameters are invalid."""
    best = kernel.apply_floor(kernel.probability_best(parameters), experiment.floor)
    return kernel.apply_caps(best, np.array([arm.max_share for arm in experiment.arms]))


def too_early(experiment: Experiment, previous: Snapshot, now_ms: int) -> bool:
    """Return whether nothing can be due yet, whatever the statistics are."""
    return previous.config_version == experiment.version and now_ms - previous.published_ts < experiment.publish_s * 1_000


def next_snapshot(
    experiment: Experiment, totals: Mapping[str, Sums], previous: Snapshot | None, now_ms: int
) -> Snapshot | None:
    """Return the snapshot to publish after `previous`, or None while nothing is due. InvalidDistribution is for the caller.

    In every mode but `run` the published probabilities stay as they are.
    """
    if previous is None or previous.config_version != experiment.version:
        if previous is not None and experiment.mode != "run" and previous.arms == experiment.arm_ids:
            return replace(previous, version=previous.version + 1, config_version=experiment.version, published_ts=now_ms)
        return _fresh(experiment, totals, previous, now_ms)
    if too_early(experiment, previous, now_ms):
        return None
    if experiment.mode == "run" and (previous.clipped or compute_posterior(experiment, totals) != previous.posterior):
        return _step(experiment, totals, previous, now_ms)
    if now_ms - previous.published_ts < REFRESH_MS:
        return None
    return replace(previous, version=previous.version + 1, published_ts=now_ms)


def _fresh(experiment: Experiment, totals: Mapping[str, Sums], previous: Snapshot | None, now_ms: int) -> Snapshot:
    """Return the first snapshot of a configuration, whose move is not limited."""
    parameters = compute_posterior(experiment, totals)
    probabilities = compute_vector(experiment, parameters)
    return Snapshot(
        experiment.key,
        previous.version + 1 if previous else 1,
        experiment.version,
        experiment.epoch,
        now_ms,
        experiment.arm_ids,
        tuple(probabilities.tolist()),
        parameters,
    )


def _step(experiment: Experiment, totals: Mapping[str, Sums], previous: Snapshot, now_ms: int) -> Snapshot:
    whole = _fresh(experiment, totals, previous, now_ms)
    probabilities, clipped = kernel.limit_move(np.array(whole.probabilities), np.array(previous.probabilities))
    return replace(whole, probabilities=tuple(kernel.check_distribution(probabilities).tolist()), clipped=clipped)
