"""`headwater collect --processes`: several processes on one port, without a broker, so that events go to the spools."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

from infra.ops.embedded.ports import free_port
from streams.collector.write_keys import create_key

START_S = 120
"""Two interpreters start on a machine that may be busy."""


class Group:
    """The command with its processes."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        self.key = create_key(folder / "write-keys.json", "web", site="shop.example")
        environment = {
            **os.environ,
            "HEADWATER_KAFKA": "127.0.0.1:1",
            "HEADWATER_STATE_DIR": str(folder),
            "HEADWATER_SECRET": "for tests only, forty characters long...",
        }
        arguments = ["--port", str(self.port), "--processes", "2", "--budget", "0.1", *options]
        command = [sys.executable, "-m", "infra.ops.cli", "collect", *arguments]
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def servers(self) -> list[psutil.Process]:
        """The processes that listen."""
        children = psutil.Process(self.process.pid).children()
        return [child for child in children if self.port in ports(child)]

    def wait_for_servers(self) -> list[psutil.Process]:
        """Wait until both listen."""
        deadline = time.monotonic() + START_S
        while len(servers := self.servers()) < 2:
            assert time.monotonic() < deadline, self.log.read_text()
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.1)
        return servers

    def send(self) -> None:
        """Send an event over a connection of its own, so that the kernel chooses the process."""
        answer = requests.post(f"{self.url}/v1/events?key={self.key}", json={"event_name": "x"}, timeout=30)
        assert answer.json()["accepted"] == 1

    def counted(self) -> float:
        """Events that the page of whichever process counts."""
        page = requests.get(f"{self.url}/metrics", timeout=30).text
        counts = re.findall(r'^headwater_collected_total\{[^}]*source="web"[^}]*\} (\S+)$', page, re.MULTILINE)
        return sum(map(float, counts))


def ports(process: psutil.Process) -> list[int]:
    """Addresses at which a process listens."""
    with contextlib.suppress(psutil.Error):
        return [
            connection.laddr.port for connection in process.net_connections("tcp") if connection.status == psutil.CONN_LISTEN
        ]
    return []


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    """Two processes."""
    started = Group(tmp_path)
    yield started
    started.process.kill()
    started.process.wait()


def test_processes_share_a_port(group: Group) -> None:
    """Both serve, metrics are sums, a dead one is started again, and SIGTERM ends all within ten seconds."""
    first, _ = group.wait_for_servers()
    for _ in range(40):
        group.send()
    assert {group.counted() for _ in range(5)} == {40.0}
    assert all(list((group.folder / f"spool-{number}").glob("*.spool")) for number in (0, 1))
    first.kill()
    first.wait()
    assert first.pid not in [server.pid for server in group.wait_for_servers()]
    group.send()
    assert group.counted() == 41.0
    servers = group.servers()
    group.process.send_signal(signal.SIGTERM)
    assert group.process.wait(15) == 0
    assert not any(server.is_running() and server.status() != psutil.STATUS_ZOMBIE for server in servers)


def test_processes_end_with_their_parent(group: Group) -> None:
    """Nobody else would end them."""
    servers = group.wait_for_servers()
    group.process.kill()
    ended, alive = psutil.wait_procs(servers, 30)
    assert (len(ended), alive) == (2, [])


@pytest.mark.parametrize(
    ("options", "variables", "message"),
    [
        (("--snowplow-path", "v1/track"), {}, "--snowplow-path"),
        (("--cors-origin", "https://shop.example/"), {}, "write https://shop.example"),
        ((), {"HEADWATER_CORS_ORIGINS": "https://a.example, *"}, "list the origins"),
        ((), {"HEADWATER_TRUSTED_PROXIES": "-1"}, "HEADWATER_TRUSTED_PROXIES"),
    ],
)
def test_a_wrong_configuration_ends_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], variables: dict[str, str], message: str
) -> None:
    """With the exit code of a configuration error and what to write, instead of starting again for ever."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    wrong = Group(tmp_path, *options)
    assert wrong.process.wait(START_S) == 78
    assert message in wrong.log.read_text()
