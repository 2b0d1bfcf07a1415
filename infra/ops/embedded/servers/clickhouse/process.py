"""The server process of the embedded ClickHouse."""

import sys
from pathlib import Path

from infra.ops.embedded.ports import LOOPBACK
from infra.ops.embedded.probes import http_answers
from infra.ops.embedded.servers.child import Program
from infra.ops.embedded.servers.server import EmbeddedServer

START_S = 30.0
STOP_S = 20.0
MEMORY_BYTES = 1_000_000_000
"""Default memory limit of the engine."""


def command(data_dir: Path, port: int, memory_bytes: int = MEMORY_BYTES) -> list[str]:
    """Return the server's command line."""
    folder = str(data_dir.resolve())
    options = [] if memory_bytes == MEMORY_BYTES else ["--memory", str(memory_bytes)]
    return [sys.executable, "-P", "-m", "infra.ops.embedded.servers.clickhouse.server", folder, *options, "--port", str(port)]


class EmbeddedClickHouse(EmbeddedServer):
    """One server. `memory_bytes` limits its engine."""

    name = "clickhouse"
    start_s = START_S
    stop_s = STOP_S

    def __init__(self, data_dir: Path, port: int = 0, *, log: Path | None = None, memory_bytes: int = MEMORY_BYTES) -> None:
        super().__init__(data_dir, port, log=log)
        self._memory_bytes = memory_bytes

    @property
    def url(self) -> str:
        """Address of its HTTP interface for analysts."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def loader_url(self) -> str:
        """Address for the loader and commands, whose user has its own slots and memory."""
        return f"http://headwater@{LOOPBACK}:{self.port}"

    def prepare(self) -> Program:
        """Create the folder; return the program to run."""
        self._dir.mkdir(parents=True, exist_ok=True)
        return Program(self.name, command(self._dir, self.port, self._memory_bytes), self._log, port=self.port)

    def answers(self) -> bool:
        """Whether the endpoint answers `/ping`."""
        return http_answers(f"{self.url}/ping", "Ok.")
