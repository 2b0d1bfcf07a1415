"""Which arm, in which group, why: the failure ladder, from an experiment, a snapshot and one question. Pure."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from streams.bandit.experiment import ContextValue, Experiment
from streams.bandit.snapshots.kernel import choose, in_control
from streams.bandit.snapshots.snapshot import Snapshot

STALE_MS = 900_000
GONE_MS = 86_400_000

Reason = Literal["ok", "stale", "fallback", "no_consent", "no_visitor", "ineligible", "killed"]


class Question(NamedTuple):
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


def decide(experiment: Experiment, snapshot: Snapshot | None, question: Question, now_ms: int) -> ArmChoice:
    """Answer one question."""
    if experiment.mode == "off":
        return aside(experiment, "killed")
    if experiment.mode == "control":
        return aside(experiment, "killed")._replace(arm=experiment.control.arm)
    if not question.personalization:
        return aside(experiment, "no_consent")
    if question.visitor is None:
        return aside(experiment, "no_visitor")
    if snapshot is None or set(snapshot.arms) != set(experiment.arm_ids) or now_ms - snapshot.published_ts > GONE_MS:
        # Control too: a group must not go on being counted while the other one is not.
        return aside(experiment, "fallback")
    reason: Reason = "stale" if now_ms - snapshot.published_ts > STALE_MS else "ok"
    eligible = eligible_arms(experiment, question)
    if in_control(experiment.salt, question.visitor, experiment.control.share):
        if experiment.control.arm not in eligible:
            return aside(experiment, "ineligible")
        return ArmChoice(experiment.control.arm, "control", 1.0, reason, snapshot.version, eligible)
    weights = {arm: weight for arm, weight in snapshot.weights().items() if arm in eligible and weight > 0}
    if not weights:
        return aside(experiment, "ineligible")
    arm, propensity = choose(weights, experiment.salt, question.visitor)
    return ArmChoice(arm, "bandit", propensity, reason, snapshot.version, eligible)


def aside(experiment: Experiment, reason: Reason) -> ArmChoice:
    """The default arm, outside bandit and control."""
    return ArmChoice(experiment.default_arm, "none", 1.0, reason)


def eligible_arms(experiment: Experiment, question: Question) -> tuple[str, ...]:
    """Arms that may be shown to this visitor here, in the experiment's order."""
    return tuple(
        arm.id
        for arm in experiment.arms
        if (question.candidates is None or arm.id in question.candidates)
        and (arm.eligible is None or arm.eligible.allows(question.context))
    )
