"""Which arm, in which group, why: the failure ladder, from an experiment, a snapshot and one question. Pure."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from streams.bandit.experiment import ContextValue, Experiment
from streams.bandit.snapshots.kernel import choose, in_control
from streams.bandit.snapshots.snapshot import Snapshot

STALE_MS = 900_000
MAX_SNAPSHOT_AGE_MS = 86_400_000

Reason = Literal["ok", "stale", "fallback", "no_consent", "no_visitor", "ineligible", "killed"]


class DecisionInput(NamedTuple):
    """What is asked. `visitor` is the door's pseudonym; None where the client sent nothing that identifies."""

    visitor: str | None
    personalization: bool
    context: Mapping[str, ContextValue] = {}
    candidates: tuple[str, ...] | None = None
    """Arms that the widget could show; None = all."""


class ArmChoice(NamedTuple):
    """The answer. Only `bandit` and `control` are learned from and compared; everything else is group `none`."""

    arm: str
    group: Literal["bandit", "control", "none"]
    propensity: float
    reason: Reason
    snapshot_version: int = 0
    eligible: tuple[str, ...] = ()

    @property
    def counts(self) -> bool:
        """Whether events may be joined to this decision."""
        return self.group != "none"


def decide(experiment: Experiment, snapshot: Snapshot | None, decision_input: DecisionInput, now_ms: int) -> ArmChoice:
    """Answer one question."""
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
        # Control too: a group must not go on being counted while the other one is not.
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
    """The default arm, outside bandit and control."""
    return ArmChoice(experiment.default_arm, "none", 1.0, reason)


def eligible_arms(experiment: Experiment, decision_input: DecisionInput) -> tuple[str, ...]:
    """Arms that may be shown to this visitor here, in the experiment's order."""
    return tuple(
        arm.id
        for arm in experiment.arms
        if (decision_input.candidates is None or arm.id in decision_input.candidates)
        and (arm.eligible is None or arm.eligible.met(decision_input.context))
    )
