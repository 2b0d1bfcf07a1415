"""Experiments: what may be published, and what is refused with a helpful message."""

import json
from pathlib import Path
from typing import Any

import pytest

from infra.errors import ConfigError
from streams.bandit.commands import experiments as experiments_app
from streams.bandit.experiment import Eligibility, Experiment, parse

EXAMPLE = json.loads(experiments_app.EXAMPLE.read_text())


def changed(**changes: Any) -> Experiment:
    """Return the packaged example with changes."""
    return parse(json.dumps(EXAMPLE | changes))


def test_the_packaged_example_is_valid_and_keeps_its_version() -> None:
    """The example parses; its canonical text parses to the same version."""
    experiment = changed()
    assert parse(experiment.text()) == experiment
    assert parse(experiment.text()).version == experiment.version
    assert changed(mode="off").version != experiment.version


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"control": {"share": 0, "arm": "calm"}}, "control.share"),
        ({"control": {"share": 0.04, "arm": "calm"}}, "control.share"),
        ({"control": {"share": 0.1, "arm": "nobody"}}, "control.arm is no arm"),
        ({"default_arm": "nobody"}, "default_arm is no arm"),
        ({"floor": 0.2}, "less than half to learning"),
        ({"floor": 0}, "floor"),
        ({"reward": {"event": "purchase"}}, "reward.window_s"),
        ({"reward": {"event": "purchase", "window_s": 0}}, "reward.window_s"),
        ({"reward": {"event": "widget_viewed", "window_s": 60}}, "every view would be a success"),
        ({"arms": [{"id": "a"}, {"id": "a"}]}, "same id"),
        ({"arms": [{"id": "calm"}]}, "arms"),
        ({"arms": [{"id": "calm", "max_share": 0.4}, {"id": "bold", "max_share": 0.4}]}, "together is below 1"),
        ({"arms": [{"id": "calm"}, {"id": "bold", "max_share": 0.01}]}, "below floor"),
        ({"arms": [{"id": "calm", "eligible": {"stock": "left"}}, {"id": "bold"}]}, "eligible everywhere"),
        ({"policy": "best_guess"}, "policy"),
        ({"features": ["age"]}, "features"),
        ({"key": "Hero Banner"}, "key"),
        ({"mode": "pause"}, "mode"),
    ],
)
def test_a_broken_experiment_is_refused(changes: dict[str, Any], message: str) -> None:
    """Each broken experiment is refused with a message that names the field or the reason."""
    with pytest.raises(ConfigError, match=message):
        changed(**changes)


def test_broken_json_is_a_sentence() -> None:
    """Text that is no JSON is refused with the file's name."""
    with pytest.raises(ConfigError, match=r"my\.json"):
        parse("{", "my.json")


@pytest.mark.parametrize(
    ("rule", "context", "allowed"),
    [
        ({}, {}, True),
        ({"stock": "left"}, {"left": 3}, True),
        ({"stock": "left"}, {"left": 0}, False),
        ({"stock": "left"}, {}, False),
        ({"stock": "left"}, {"left": True}, False),
        ({"locale": ["de-DE"]}, {"locale": "de-DE"}, True),
        ({"locale": ["de-DE"]}, {"locale": "fr-FR"}, False),
        ({"device": ["mobile"]}, {}, False),
    ],
)
def test_eligibility_fails_closed(rule: dict[str, Any], context: dict[str, Any], allowed: bool) -> None:
    """A condition is met by the right context value only; a missing value does not meet it."""
    assert Eligibility.model_validate(rule).allows(context) is allowed


@pytest.mark.parametrize(
    "changes",
    [
        {"arms": [{"id": "calm"}, {"id": "bold"}]},
        {"reward": {"event": "add_to_cart", "window_s": 3600}},
        {"salt": "another"},
        {"control": {"share": 0.2, "arm": "calm"}},
    ],
)
def test_what_changes_the_meaning_of_statistics_needs_a_new_epoch(changes: dict[str, Any]) -> None:
    """Arms, reward, salt and control may change with the epoch only; the epoch never goes back."""
    current = changed()
    with pytest.raises(ConfigError, match="set epoch to 2"):
        experiments_app.check_epoch(current, changed(**changes))
    experiments_app.check_epoch(current, changed(epoch=2, **changes))
    experiments_app.check_epoch(current, changed(mode="freeze", floor=0.02))
    with pytest.raises(ConfigError, match="is over"):
        experiments_app.check_epoch(changed(epoch=2), current)


def test_the_example_is_packaged() -> None:
    """The example lies beside the code, where an installed wheel finds it."""
    assert Path(experiments_app.EXAMPLE).parent == Path(experiments_app.__file__).parent
