"""Locks between processes."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from infra.processes.file_lock import LockedElsewhere, claim, exclusive

HOLD = """
import sys
from pathlib import Path
from infra.processes.file_lock import {name}
with {name}(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def holder(path: Path, name: str) -> subprocess.Popen[str]:
    """Start another process that locks `path` until its input ends."""
    command = [sys.executable, "-c", HOLD.format(name=name), str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    return process


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_second_process_waits_for_the_first(kind: str, tmp_path: Path) -> None:
    """It says that it waits, and goes on once the other has ended, also when that was killed."""
    path = tmp_path if kind == "folder" else tmp_path / "lock"
    waits, entered = threading.Event(), threading.Event()

    def enter() -> None:
        with exclusive(path, on_wait=waits.set):
            entered.set()

    with holder(path, "exclusive") as other:
        thread = threading.Thread(target=enter)
        thread.start()
        assert waits.wait(20)
        assert not entered.is_set()
        other.kill()
        assert entered.wait(20)
        thread.join(20)


def test_nobody_waits_for_a_free_lock(tmp_path: Path) -> None:
    """A released lock can be taken again at once, also after an error."""
    waits: list[str] = []
    for _ in range(2):
        with pytest.raises(ValueError, match="inside"), exclusive(tmp_path / "lock", on_wait=lambda: waits.append("waits")):
            raise ValueError("inside")
    assert waits == []


def test_a_claimed_file_names_its_process(tmp_path: Path) -> None:
    """A second process is told who has it; after the first has ended the file is free and names the next one."""
    file = tmp_path / "owner"
    with holder(file, "claim") as other:
        with pytest.raises(LockedElsewhere) as held_elsewhere:
            claim(file)
        assert held_elsewhere.value.holder == str(other.pid)
        other.kill()
        other.wait(20)
    claim(file).close()
    assert file.read_text() == f"{os.getpid()}\n"


def test_a_claim_without_an_id_is_still_a_claim(tmp_path: Path) -> None:
    """The holder may not have written its id yet."""
    file = tmp_path / "owner"
    with exclusive(file), pytest.raises(LockedElsewhere, match="process unknown"):
        claim(file)
