"""The order of fallbacks: arm, group and reason."""

import json
from typing import Any

import pytest

from consumers.decisions.rules import MAX_SNAPSHOT_AGE_MS, STALE_MS, DecisionInput, decide
from streams.bandit.commands.experiments import EXAMPLE
from streams.bandit.experiment import Experiment, parse
from streams.bandit.snapshots.snapshot import Snapshot, next_snapshot

NOW = 1_795_000_000_000
FILE = json.loads(EXAMPLE.read_text())


def experiment(**changes: Any) -> Experiment:
    """Return the packaged example with changes."""
    return parse(json.dumps(FILE | changes))


HERO = experiment()


def snapshot(source: Experiment = HERO, at: int = NOW) -> Snapshot:
    """Return the first snapshot of an experiment."""
    first = next_snapshot(source, {}, None, at)
    assert first is not None
    return first


def ask(visitor: str | None = "v1", **changes: Any) -> DecisionInput:
    """Return an input with consent."""
    return DecisionInput(visitor, True)._replace(**changes)


def in_group(group: str) -> str:
    """Return a visitor of that group."""
    return next(f"v{n}" for n in range(1_000) if decide(HERO, snapshot(), ask(f"v{n}"), NOW).group == group)


@pytest.mark.parametrize(
    ("source", "current", "decision_input", "arm", "reason"),
    [
        (experiment(mode="off"), snapshot(), ask(), "calm", "killed"),
        (experiment(mode="control", control={"share": 0.1, "arm": "bold"}), snapshot(), ask(), "bold", "killed"),
        (HERO, snapshot(), ask(personalization=False), "calm", "no_consent"),
        (HERO, snapshot(), ask(None), "calm", "no_visitor"),
        (HERO, None, ask(), "calm", "fallback"),
        (HERO, snapshot(at=NOW - MAX_SNAPSHOT_AGE_MS - 1), ask(), "calm", "fallback"),
        (experiment(arms=[{"id": "calm"}, {"id": "new"}]), snapshot(), ask(), "calm", "fallback"),
        (HERO, snapshot(), ask(candidates=("nothing",)), "calm", "ineligible"),
    ],
)
def test_each_rung_serves_a_fixed_arm_outside_both_groups(
    source: Experiment, current: Snapshot | None, decision_input: DecisionInput, arm: str, reason: str
) -> None:
    """A visitor who cannot take part gets the default (or, by the kill switch, the control) arm and is not counted."""
    choice = decide(source, current, decision_input, NOW)
    assert (choice.arm, choice.reason, choice.group, choice.counts) == (arm, reason, "none", False)


def test_an_old_snapshot_is_used_as_stale() -> None:
    """After 15 minutes without a publication the same arm is drawn, with the reason `stale`."""
    fresh, old = decide(HERO, snapshot(), ask(), NOW), decide(HERO, snapshot(at=NOW - STALE_MS - 1), ask(), NOW)
    assert (fresh.reason, old.reason, old.arm) == ("ok", "stale", fresh.arm)
    assert old.counts


def test_the_control_group_gets_its_arm_with_certainty() -> None:
    """A control visitor gets the control arm, propensity 1, whatever the model publishes."""
    choice = decide(HERO, snapshot(), ask(in_group("control")), NOW)
    assert (choice.arm, choice.propensity, choice.eligible) == ("calm", 1.0, HERO.arm_ids)


def test_control_without_its_arm_is_in_no_group() -> None:
    """Where the widget cannot show the control arm, a control visitor is served the default outside both groups."""
    choice = decide(HERO, snapshot(), ask(in_group("control"), candidates=("bold", "seasonal")), NOW)
    assert (choice.arm, choice.group, choice.reason) == ("calm", "none", "ineligible")


def test_candidates_and_eligibility_come_before_probabilities() -> None:
    """Only eligible arms are drawn, with their share among the eligible ones, and the set is returned."""
    arms = [{"id": "calm"}, {"id": "bold", "eligible": {"stock": "left"}}, {"id": "seasonal"}]
    source = experiment(arms=arms)
    visitor = in_group("bandit")
    sold_out = decide(source, snapshot(source), ask(visitor, context={"left": 0}), NOW)
    assert sold_out.eligible == ("calm", "seasonal")
    assert sold_out.propensity == pytest.approx(0.5)
    assert decide(source, snapshot(source), ask(visitor, context={"left": 2}), NOW).eligible == source.arm_ids
