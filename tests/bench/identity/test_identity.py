"""`python -m bench.identity` as a command."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench.identity.__main__ import rates_of
from bench.identity.constants import CASES, SHARE, make, measure
from bench.identity.rates import WORLDS

ROOT = Path(__file__).parents[3]


def run(*more: str) -> str:
    """Return the output of the command on a tiny world."""
    command = [sys.executable, "-m", "bench.identity.__main__", "--events", "2000", *more]
    wide = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(command, cwd=ROOT, env=wide, capture_output=True, text=True, check=True).stdout


def test_json_has_every_figure_of_everybody() -> None:
    """The JSON report has the bound, the stage and four other methods, with causes."""
    report = json.loads(run("--json", "--seed", "4"))
    assert report["seed"] == 4
    assert list(report["rows"]) == [
        "bound", "identity stage", "and tidied", "union of all", "capped union", "unique only", "labels in SQL",
    ]  # fmt: skip
    assert report["rows"]["identity stage"]["two_users"] == 0
    for name, row in report["rows"].items():
        assert {"wrong", "avoidable", "canonicals", "precision", "recall", "stale", "overrides"} <= row.keys()
        assert name == "bound" or {"seconds", "wrong_by_cause", "lost_by_cause"} <= row.keys()


def test_tables_are_for_people() -> None:
    """The tables show figures, and causes only if requested."""
    shown = run("--causes")
    assert shown.startswith("world 'shop', seed 1: 2,")
    assert "identities, against the truth" in shown
    assert "no evidence" in shown


def test_rates_can_be_changed() -> None:
    """Rates change by name within a world; an unknown rate is an error."""
    assert rates_of("members", 10, ["kiosks=4", "shared=0.5"]) == replace(WORLDS["members"], events=10, kiosks=4, shared=0.5)
    for change in ("nothing=1", "household_sizes=1", "shared=x"):
        with pytest.raises(ValueError):
            rates_of("shop", 10, [change])


def test_constants_do_not_merge_people() -> None:
    """In a small world of constants hardly any event is wrong, and none after the first day; slow constants met too few persons
    to be demoted."""
    figures = measure(make(persons=2_000, days=5), lambda _done: None, size=200)
    assert figures.events == 40_000
    assert figures.wrong - figures.wrong_slow / figures.events <= 0.005
    assert max(figures.merged.values()) <= 10
    assert (figures.wrong_later, figures.stamped_wrong_later) == (0, 0)
    assert 0 < figures.unattributed < len(CASES) * SHARE


def test_the_world_of_constants_is_a_world() -> None:
    """The world of constants is chosen by name and has no rates."""
    report = json.loads(run("--world", "constants", "--json"))
    assert report["persons"] == 100
    assert report["events"] == 2_000
    with pytest.raises(subprocess.CalledProcessError):
        run("--world", "constants", "--rate", "kiosks=1")
