"""Chooses arm, group and reason from an experiment, a snapshot and one request; falls back in a fixed order. Pure."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from streams.bandit.experiment import ContextValue, Experiment
from streams.bandit.snapshots.kernel import choose, in_control
from streams.bandit.snapshots.snapshot import Snapshot

STALE_MS = 900_000
MAX_SNAPSHOT_AGE_MS = 86_400_000

Reason = Literal["ok", "stale", "fallback", "no_consent", "no_visitor", "ineligible", "killed"]


class DecisionInput(NamedTuple):
    """The input of one decision. `visitor` is a pseudonym; None where nothing identifies the visitor."""

    visitor: str | None
    personalization: bool
    context: Mapping[str, ContextValue] = {}
    candidates: tuple[str, ...] | None = None
    """Arms that the widget can show; None = all."""


class ArmChoice(NamedTuple):
    """The chosen arm. Only groups `bandit` and `control` are compared and learned from."""

    arm: str
    group: Literal["bandit", "control", "none"]
    propensity: float
    reason: Reason
    snapshot_version: int = 0
    eligible: tuple[str, ...] = ()

    @property
    def counts(self) -> bool:
        """Whether events are joined to this decision."""
        return self.group != "none"


def decide(experiment: Experiment, snapshot: Snapshot | None, decision_input: DecisionInput, now_ms: int) -> ArmChoice:
    """Choose an arm at `now_ms` (milliseconds UTC)."""
    if experiment.mode == "off":
        return fallback_choice(experiment, "killed")
    if experiment.mode == "control":
        return fallback_choice(experiment, "killed")._replace(arm=experiment.control.arm)
    if not decision_input.personalization:
        return fallback_choice(experiment, "no_consent")
    if decision_input.visitor is None:
        return fallback_choice(experiment, "no_visitor")
    if (
        snapshot is None
        or set(snapshot.arms) != set(experiment.arm_ids)
        or now_ms - snapshot.published_ts > MAX_SNAPSHOT_AGE_MS
    ):
        # Control too: one group must not be counted while the other is not.
        return fallback_choice(experiment, "fallback")
    reason: Reason = "stale" if now_ms - snapshot.published_ts > STALE_MS else "ok"
    eligible = eligible_arms(experiment, decision_input)
    if in_control(experiment.salt, decision_input.visitor, experiment.control.share):
        if experiment.control.arm not in eligible:
            return fallback_choice(experiment, "ineligible")
        return ArmChoice(experiment.control.arm, "control", 1.0, reason, snapshot.version, eligible)
    weights = {arm: weight for arm, weight in snapshot.weights().items() if arm in eligible and weight > 0}
    if not weights:
        return fallback_choice(experiment, "ineligible")
    arm, propensity = choose(weights, experiment.salt, decision_input.visitor)
    return ArmChoice(arm, "bandit", propensity, reason, snapshot.version, eligible)


def fallback_choice(experiment: Experiment, reason: Reason) -> ArmChoice:
    """Return the default arm, outside the groups bandit and control."""
    return ArmChoice(experiment.default_arm, "none", 1.0, reason)


def eligible_arms(experiment: Experiment, decision_input: DecisionInput) -> tuple[str, ...]:
    """Return the arms that may be shown for this input, in the experiment's order."""
    return tuple(
        arm.id
        for arm in experiment.arms
        if (decision_input.candidates is None or arm.id in decision_input.candidates)
        and (arm.eligible is None or arm.eligible.allows(decision_input.context))
    )
