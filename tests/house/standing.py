"""An installation in a separate folder, started by `headwater up` as a user starts it."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import clickhouse_connect
import psutil

from infra.ops.embedded.ports import free_port
from infra.ops.embedded.servers.child import HEADWATER
from infra.ops.embedded.stack import DEFAULT_PORTS

READY_S = 180


def wait_until(condition: Callable[[], Any], seconds: float, condition_name: str) -> Any:
    """Return the first true result of `condition`. AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {condition_name}"
        time.sleep(0.1)
    return result


class StandingHouse:
    """`headwater up` in a subprocess, with its own copy of the contracts."""

    def __init__(self, folder: Path, contracts: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.contracts = folder / "contracts"
        shutil.copytree(contracts, self.contracts, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
        clean = {name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")}
        self.environment = {
            **clean,
            "HEADWATER_STATE_DIR": str(self.state),
            "HEADWATER_CONTRACTS": str(self.contracts),
            "PYTHONUNBUFFERED": "1",
        }

    def start(self) -> None:
        """Start it and wait until all services are ready."""
        # Free ports: an installation of another test may be choosing among the default ones.
        ports = [word for name in DEFAULT_PORTS for word in (f"--{name}-port", str(free_port()))]
        with (self.folder / "up.log").open("wb") as log:
            self._up = subprocess.Popen([*HEADWATER, "up", *ports], env=self.environment, stdout=log, stderr=log)
        try:
            wait_until(lambda: "Ctrl-C stops all" in self.output() or self._up.poll() is not None, READY_S, "the house")
            assert self._up.poll() is None, self.output()
        except BaseException:
            self._up.terminate()  # its services end with it
            self._up.wait(60)
            raise

    def output(self) -> str:
        """Return what `headwater up` has printed."""
        return (self.folder / "up.log").read_text()

    def stop(self) -> None:
        """Send Ctrl-C; all its processes must end."""
        children = psutil.Process(self._up.pid).children(recursive=True)
        self._up.send_signal(signal.SIGINT)
        assert self._up.wait(60) == 0, self.output()
        assert [child for child in children if child.is_running()] == []

    def run(self, *words: str, seconds: float = 180) -> subprocess.CompletedProcess[str]:
        """Run a `headwater` command against this installation."""
        command = [*HEADWATER, *words]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=seconds, check=False)

    def begin(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a `headwater` command in the background."""
        with (self.folder / f"{words[0]}.log").open("wb") as log:
            return subprocess.Popen([*HEADWATER, *words], env=self.environment, stdout=log, stderr=log)

    @property
    def settings(self) -> dict[str, str]:
        """Addresses in house.json."""
        settings: dict[str, str] = json.loads((self.state / "house.json").read_text())
        return settings

    @property
    def key(self) -> str:
        """The demo's write key."""
        return (self.state / "demo-key").read_text().strip()

    def pids(self) -> dict[str, int]:
        """Return service -> process id of the running services."""
        services = json.loads((self.state / "services.json").read_text())["services"]
        return {service["name"]: service["pid"] for service in services if service.get("pid")}

    def kill(self, name: str) -> None:
        """Kill a service with SIGKILL, and wait until it was restarted."""
        pid = wait_until(lambda: self.pids().get(name), 30, f"{name} to run")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: self.pids().get(name) not in (None, pid), 60, f"{name} to start again")

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Return rows of ClickHouse."""
        client = clickhouse_connect.get_client(dsn=self.settings["clickhouse"])
        try:
            return [tuple(row) for row in client.query(sql).result_rows]
        finally:
            client.close()

    def rows(self, filter_sql: str, columns: str = "event_id", n: int = 1) -> list[tuple[Any, ...]]:
        """Wait for at least `n` matching events in ClickHouse; return them."""
        sql = f"SELECT {columns} FROM headwater.events WHERE {filter_sql}"
        wait_until(lambda: len(self.query(sql)) >= n, 30, f"events where {filter_sql}")
        return self.query(sql)
