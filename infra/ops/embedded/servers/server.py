"""What the embedded servers share: one child process on loopback, started when it answers and stopped in order."""

from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from infra.ops.embedded.ports import free_port
from infra.ops.embedded.servers.child import Child, Program


class EmbeddedServer(ABC):
    """A server in a child process. Its port stays the same for the object's life; its data stay in `data_dir`.

    `port` 0 takes a free one. `log` is the file that gets the server's output, `<data_dir>/<name>.log` when absent.
    """

    name: ClassVar[str]
    start_s: ClassVar[float]
    stop_s: ClassVar[float]

    def __init__(self, data_dir: Path, port: int = 0, *, log: Path | None = None) -> None:
        self._dir = data_dir.resolve()
        self.port = port or free_port()
        self._log = log or self._dir / f"{self.name}.log"
        self._child: Child | None = None

    @abstractmethod
    def prepare(self) -> Program:
        """Create what the server needs on disk; return the program to run. ConfigError where something cannot be had."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether the server takes requests."""

    @property
    def pid(self) -> int:
        """The server's process id; 0 before the first start."""
        return self._child.pid if self._child else 0

    @property
    def running(self) -> bool:
        """Whether the process exists."""
        return self._child is not None and self._child.exit_code() is None

    def start(self) -> Self:
        """Start the server and return once it answers. StartFailed holds the end of its log."""
        if self.running:
            return self
        self._child = Child(self.prepare())
        try:
            self._child.wait_ready(self.answers, self.start_s)
        except BaseException:
            self._child.kill()
            raise
        return self

    def stop(self) -> None:
        """Stop the server in order; kill it where that takes too long."""
        if self._child is not None:
            self._child.stop(self.stop_s)

    def kill(self) -> None:
        """End the server at once, as a power cut would."""
        if self._child is not None:
            self._child.kill()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
