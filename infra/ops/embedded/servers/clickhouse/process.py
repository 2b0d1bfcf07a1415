"""The server process: its command line, its start, its end."""

import sys
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from infra.ops.embedded.ports import LOOPBACK, free_port
from infra.ops.embedded.probes import http_answers
from infra.ops.embedded.servers.child import Child, Program

START_S = 30.0
STOP_S = 20.0
MEMORY_BYTES = 1_000_000_000
"""What the engine may use."""


def command(data_dir: Path, port: int, memory_bytes: int = MEMORY_BYTES) -> list[str]:
    """The server's command line."""
    folder = str(data_dir.resolve())
    options = [] if memory_bytes == MEMORY_BYTES else ["--memory", str(memory_bytes)]
    return [sys.executable, "-P", "-m", "infra.ops.embedded.servers.clickhouse.server", folder, *options, "--port", str(port)]


class EmbeddedClickHouse:
    """One server. Its port stays the same for the object's life; its data stay in `data_dir`. `port` 0 takes a free one."""

    def __init__(self, data_dir: Path, port: int = 0, *, log: Path | None = None, memory_bytes: int = MEMORY_BYTES) -> None:
        self._dir = data_dir.resolve()
        self.port = port or free_port()
        self._log = log or self._dir / "clickhouse.log"
        self._memory_bytes = memory_bytes
        self._child: Child | None = None

    @property
    def url(self) -> str:
        """Address of its HTTP interface, for people."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def loader_url(self) -> str:
        """The same as the user of the loader and of commands: slots and memory of their own."""
        return f"http://headwater@{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int:
        """The server's process id; 0 before the first start."""
        return self._child.pid if self._child else 0

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._child is not None and self._child.exit_code() is None

    def start(self) -> Self:
        """Start the server and return once it answers; NotReady carries the end of its log."""
        if self.running:
            return self
        self._dir.mkdir(parents=True, exist_ok=True)
        words = command(self._dir, self.port, self._memory_bytes)
        self._child = Child(Program("clickhouse", words, self._log, port=self.port))
        try:
            self._child.wait_ready(partial(http_answers, f"{self.url}/ping", "Ok."), START_S)
        except BaseException:
            self._child.kill()
            raise
        return self

    def stop(self) -> None:
        """Stop the server; running queries end first."""
        if self._child is not None:
            self._child.stop(STOP_S)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
