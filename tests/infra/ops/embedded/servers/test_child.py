"""Child processes die with their parent, however it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from infra.ops.embedded.servers.child import LOG_BYTES, Child, Program, StartFailed, truncate_log

SLEEP = (sys.executable, "-c", "import time; time.sleep(600)")
STUBBORN = (
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)",
)


def has_ended(pid: int, patience_s: float = 10.0) -> bool:
    """Whether the process ends in time; an unreaped zombie counts as ended."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="the leash is Linux's prctl")
def test_child_dies_when_parent_is_killed(tmp_path: Path) -> None:
    """After kill -9 of the parent the child is gone too."""
    code = (
        "import sys, time; from pathlib import Path; from infra.ops.embedded.servers.child import Child, Program\n"
        f"child = Child(Program('sleeper', {SLEEP!r}, Path({str(tmp_path / 'log')!r})))\n"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
        parent.kill()
        assert has_ended(pid)


def test_stop_ends_one_that_does_not_listen(tmp_path: Path) -> None:
    """A child that ignores SIGTERM is killed when patience ends."""
    child = Child(Program("deaf", STUBBORN, tmp_path / "log"))
    child.wait_ready(lambda: "deaf" in child.tail(), 20)
    assert child.stop(0.2) == -signal.SIGKILL


def test_stop_ends_grandchildren(tmp_path: Path) -> None:
    """What a child started in its session goes with it."""
    code = f"import subprocess, time; print(subprocess.Popen({list(SLEEP)!r}).pid, flush=True); time.sleep(600)"
    child = Child(Program("parent", (sys.executable, "-c", code), tmp_path / "log"))
    child.wait_ready(lambda: child.tail().isdigit(), 20)
    grandchild = int(child.tail())
    child.stop(5)
    assert has_ended(grandchild)


def test_stopped_child_can_be_stopped(tmp_path: Path) -> None:
    """A child in SIGSTOP is woken to end."""
    child = Child(Program("frozen", SLEEP, tmp_path / "log"))
    os.kill(child.pid, signal.SIGSTOP)
    assert child.stop(10) == -signal.SIGTERM


def test_early_end_is_said_with_the_log(tmp_path: Path) -> None:
    """A child that ends instead of answering raises with its exit code and last words."""
    child = Child(Program("brief", (sys.executable, "-c", "import sys; sys.exit('no luck')"), tmp_path / "log"))
    with pytest.raises(StartFailed, match="exit code 1:\nno luck"):
        child.wait_ready(lambda: False, 20)


def test_log_stays_bounded(tmp_path: Path) -> None:
    """A long log keeps its end."""
    log = tmp_path / "log"
    log.write_bytes(b"x" * LOG_BYTES + b"the end")
    truncate_log(log)
    assert log.stat().st_size <= LOG_BYTES // 2
    assert log.read_bytes().endswith(b"the end")
