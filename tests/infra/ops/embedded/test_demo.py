"""The demo runs simulate and reconcile and returns their exit code."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from infra.ops.embedded import demo
from infra.ops.embedded.state import StateDir
from infra.ops.embedded.supervisor import Supervisor
from infra.settings import load_settings

# Stands for `headwater`: keeps its words, and ends as the environment says for each command.
COMMAND = """
import os, sys
with open(os.environ["WORDS"], "a") as file:
    print(*sys.argv[1:], file=file)
sys.exit(int(os.environ[sys.argv[1]]))
"""


def run_demo(folder: Path, monkeypatch: pytest.MonkeyPatch, **codes: int) -> tuple[int, list[str]]:
    """Run the demo without services; return its exit code and the commands that it ran."""
    monkeypatch.setattr(demo, "HEADWATER", (sys.executable, "-c", COMMAND))
    # The child writes to the terminal itself, which under pytest has no file behind it.
    monkeypatch.setattr(demo, "standard_output", lambda: (folder / "terminal").open("ab"))
    words = folder / "words"
    house: Any = SimpleNamespace(
        state=StateDir(folder),
        environment={"WORDS": str(words), **{name: str(code) for name, code in codes.items()}},
        supervisor=Supervisor((), lambda _name, _text: None),
        settings=load_settings(state_dir=folder),
    )
    code = demo.run_demo(house, events=100, rate=0, seed=7)
    return code, words.read_text().splitlines()


def test_verdict_is_the_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's exit code is reconcile's for the ledger of the simulation."""
    code, ran = run_demo(tmp_path, monkeypatch, simulate=0, reconcile=1)
    ledger = tmp_path / "demo-ledger.jsonl"
    assert code == 1
    assert ran == [f"simulate --events 100 --rate 0 --seed 7 --ledger {ledger}", f"reconcile --ledger {ledger}"]


def test_success_is_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """When everything is accounted for, the demo says so and where to look."""
    code, _ = run_demo(tmp_path, monkeypatch, simulate=0, reconcile=0)
    output = capsys.readouterr().out
    assert code == 0
    assert "nothing lost, nothing doubled, nothing forbidden" in output
    assert "ops page" in output


def test_failed_simulation_is_not_reconciled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed simulation reconcile is not run."""
    code, ran = run_demo(tmp_path, monkeypatch, simulate=3, reconcile=0)
    assert code == 3
    assert [line.split()[0] for line in ran] == ["simulate"]
