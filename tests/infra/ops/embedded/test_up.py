"""`headwater up` as a user runs it: each failure has a message, and no process is left."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra.errors import EXIT_CONFIG, ConfigError
from infra.ops.embedded import probes
from infra.ops.embedded.ports import LOOPBACK
from infra.ops.embedded.servers.child import HEADWATER
from infra.ops.embedded.state import StateDir

UP = (*HEADWATER, "up")


def environment() -> dict[str, str]:
    """Return the environment without settings of another installation."""
    return {name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")}


def refusal_message(*words: str) -> str:
    """Return the message of an `up` that refuses to start."""
    run = subprocess.run([*UP, *words], capture_output=True, text=True, timeout=60, check=False, env=environment())
    assert run.returncode == EXIT_CONFIG, run.stdout + run.stderr
    return run.stderr


def test_taken_port_is_refused(tmp_path: Path) -> None:
    """A port that was asked for and is taken stops the start, with the option to change it."""
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        listener.listen()
        port = listener.getsockname()[1]
        message = refusal_message("--state-dir", str(tmp_path), "--collector-port", str(port))
    assert f"port {port} for collector is taken" in message
    assert "--collector-port" in message


def test_second_up_is_refused(tmp_path: Path) -> None:
    """A second `up` in the same state folder is refused."""
    state = StateDir(tmp_path)
    state.claim()
    try:
        assert f"process {os.getpid()}" in refusal_message("--state-dir", str(tmp_path))
    finally:
        state.release()


def test_open_secret_is_refused(tmp_path: Path) -> None:
    """A master secret that others may read stops the start."""
    StateDir(tmp_path).secret("secret")
    (tmp_path / "secret").chmod(0o644)
    assert "chmod 600" in refusal_message("--state-dir", str(tmp_path))


def test_absent_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message for an external server that does not answer names it, without its password."""
    monkeypatch.setattr(probes, "EXTERNAL_S", 0.1)
    with pytest.raises(ConfigError, match=r"Redis at redis://\*\*\*@host:1/0 does not answer.*--redis"):
        probes.wait_for_external("Redis", "redis://user:hidden@host:1/0", "--redis", lambda: False)


# -- the whole house


class Running:
    """One `headwater up` process."""

    def __init__(self, state_dir: Path, process: subprocess.Popen[bytes]) -> None:
        self.state_dir = state_dir
        self.process = process

    def services(self) -> dict[str, dict[str, Any]]:
        """Return the services of services.json by name."""
        rows = json.loads((self.state_dir / "services.json").read_text())["services"]
        return {row["name"]: row for row in rows}

    def until(self, condition: Callable[[], bool], patience_s: float = 90.0) -> None:
        """Wait for a condition for as long as `up` runs."""
        deadline = time.monotonic() + patience_s
        while not condition():
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.05)

    def output(self) -> str:
        """Return the printed output."""
        return (self.state_dir.parent / "up.log").read_text()

    def pids(self) -> list[int]:
        """Every process below `up`."""
        return [child.pid for child in psutil.Process(self.process.pid).children(recursive=True)]


@contextmanager
def running(state_dir: Path) -> Iterator[Running]:
    """A running `up` that has printed that it is ready."""
    log = state_dir.parent / "up.log"
    with log.open("wb") as output:
        process = subprocess.Popen([*UP, "--state-dir", str(state_dir)], stdout=output, stderr=output, env=environment())
    house = Running(state_dir, process)
    try:
        house.until(lambda: "  ready " in house.output())
        yield house
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def all_ended(pids: list[int], patience_s: float = 20.0) -> bool:
    """Whether all processes end in time; an unreaped zombie counts as ended."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if not any(is_running(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def is_running(pid: int) -> bool:
    """Whether a process runs."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_house_mends_itself_and_leaves_nothing(tmp_path: Path) -> None:
    """A killed worker comes back; kill -9 of `up` leaves no child; the next start has the same data and ends on Ctrl-C."""
    state_dir = tmp_path / "house"
    with running(state_dir) as house:
        first = house.services()["consent"]["pid"]
        os.kill(first, signal.SIGKILL)
        house.until(lambda: house.services()["consent"]["restarts"] == 1 and house.services()["consent"]["state"] == "ready")
        # Each worker's group is noted once it holds partitions: all three, or the next start notes the rest.
        house.until(
            lambda: [len(groups) for groups in json.loads((state_dir / "first-starts.json").read_text()).values()] == [3]
        )
        cluster = json.loads((state_dir / "first-starts.json").read_text())
        pids = house.pids()
        assert len(pids) >= len(house.services())
        house.process.kill()
        house.process.wait()
        assert all_ended(pids)
    with running(state_dir) as house:
        pids = house.pids()
        house.process.send_signal(signal.SIGINT)
        assert house.process.wait(60) == 0
        assert "stopped" in house.output()
        assert all_ended(pids)
    assert json.loads((state_dir / "first-starts.json").read_text()) == cluster
    assert not (state_dir / "house.json").exists()
