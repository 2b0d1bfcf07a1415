"""Tasks are due on schedule, retried after a failure, and stopped with their parent."""

import json
from pathlib import Path

import psutil
import pytest

from infra.ops.upkeep import DAY_S, RETRY_S, Task, TaskLog, run_task

TIDY, EXPIRE = Task(("identity", "tidy"), DAY_S), Task(("privacy", "expire"), 7 * DAY_S)
NOW = 1_790_000_000.0


def test_a_task_is_due_after_its_time(tmp_path: Path) -> None:
    """Counted from its last success, or from when it was first met; also by who starts anew."""
    file = tmp_path / "state" / "upkeep.json"
    task_log = TaskLog(file, [TIDY, EXPIRE], NOW)
    assert not task_log.is_due(TIDY, NOW + DAY_S - 1)
    assert task_log.is_due(TIDY, NOW + DAY_S)
    assert not task_log.is_due(EXPIRE, NOW + DAY_S)
    task_log.record_run(TIDY, NOW + DAY_S + 5, succeeded=True)
    again = TaskLog(file, [TIDY, EXPIRE], NOW + 2 * DAY_S)
    assert not again.is_due(TIDY, NOW + 2 * DAY_S)
    assert again.is_due(TIDY, NOW + 2 * DAY_S + 5)
    assert again.is_due(EXPIRE, NOW + 7 * DAY_S)


def test_a_task_that_fails_is_late_and_tried_again(tmp_path: Path) -> None:
    """In an hour, and not before; it stays late until it succeeds."""
    task_log = TaskLog(tmp_path / "upkeep.json", [TIDY], NOW)
    later = NOW + DAY_S + 10
    task_log.record_run(TIDY, later, succeeded=False)
    assert not task_log.is_due(TIDY, later + RETRY_S - 1)
    assert task_log.is_due(TIDY, later + RETRY_S)
    assert task_log.late_s(TIDY, later + RETRY_S) == 10 + RETRY_S
    assert json.loads((tmp_path / "upkeep.json").read_text()) == {"identity tidy": NOW}


def test_a_diary_that_is_broken_begins_anew(tmp_path: Path) -> None:
    """An unreadable file of successes does not prevent the tasks."""
    (tmp_path / "upkeep.json").write_text("{")
    assert not TaskLog(tmp_path / "upkeep.json", [TIDY], NOW).is_due(TIDY, NOW)


def test_a_command_is_run_and_its_words_are_kept(tmp_path: Path) -> None:
    """A task returns its exit code and writes its own log."""
    assert run_task(Task(("contracts", "lint"), DAY_S), tmp_path, lambda: False) == 0
    assert run_task(Task(("identity", "tydy"), DAY_S), tmp_path, lambda: False) == 2
    assert (tmp_path / "contracts-lint.log").read_text()
    assert "tydy" in (tmp_path / "identity-tydy.log").read_text()


def test_a_command_does_not_outlive_its_keeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop ends the running command first."""
    monkeypatch.setenv("HEADWATER_STATE_DIR", str(tmp_path))
    before = set(psutil.Process().children(recursive=True))  # another test's house may have an upkeep of its own
    assert run_task(Task(("upkeep",), DAY_S), tmp_path, (tmp_path / "upkeep.json").exists) == 0
    children = set(psutil.Process().children(recursive=True)) - before
    assert [child.cmdline() for child in children if "upkeep" in child.cmdline()] == []
