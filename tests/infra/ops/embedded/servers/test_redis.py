"""The embedded Redis is a real one: on disk, never evicting."""

import os
import signal
import time
from pathlib import Path

import pytest
import redis

from infra.ops.embedded.servers.child import StartFailed
from infra.ops.embedded.servers.redis import EmbeddedRedis


def test_data_survive_kill_and_restart(tmp_path: Path) -> None:
    """What was flushed to the append-only file is there after kill -9, on the same address."""
    with EmbeddedRedis(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        client.set("a", "1")
        deadline = time.monotonic() + 10
        while client.info("persistence")["aof_pending_bio_fsync"] != 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        url, pid = server.url, server.pid
        os.kill(pid, signal.SIGKILL)
        while server.running and time.monotonic() < deadline:
            time.sleep(0.01)
        server.start()
        assert server.url == url
        assert server.pid != pid
        assert client.get("a") == b"1"


def test_never_evicts(tmp_path: Path) -> None:
    """A full Redis refuses writes instead of forgetting a part of the identity graph."""
    with EmbeddedRedis(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        client.set("kept", "1")
        client.config_set("maxmemory", "1")
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            client.set("refused", "1")
        assert client.get("kept") == b"1"


def test_taken_port_is_said(tmp_path: Path) -> None:
    """A second server on the same port does not start, and the one that is there does not answer for it."""
    with EmbeddedRedis(tmp_path / "one") as server, pytest.raises(StartFailed, match=f"port {server.port} for redis is taken"):
        EmbeddedRedis(tmp_path / "two", server.port).start()
