"""Measures decisions a second and their latency, over HTTP with a real broker and a real Redis on this machine.

It does two runs of a few seconds: 16 connections that ask as fast as they can (throughput, and decisions per CPU second of
the server), then a fixed, modest rate, each request timed from when it was due (latency without coordinated omission).
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import redis

from infra.ops import topics as topics_app
from infra.ops.embedded.servers.kafka import EmbeddedKafka
from infra.ops.embedded.servers.redis import EmbeddedRedis
from infra.settings import Settings, load_settings
from schemas.codec import encode
from schemas.registry import Registry
from streams.bandit.commands.experiments import EXAMPLE, publish_experiment
from streams.bandit.experiment import parse
from streams.bandit.snapshots.snapshot import next_snapshot
from streams.bandit.snapshots.store import RedisSnapshotStore
from streams.collector.write_keys import create_key
from streams.consent.ledger.store import RedisStateStore

SECONDS = 6.0
CONNECTIONS = 16
RATE = 500
SECRET = "bench-" * 6
RUN = "from infra.ops.cli import main; main()"


def request(n: int) -> bytes:
    """Return one HTTP request as a browser sends it."""
    body = json.dumps(
        {
            "experiment": "hero-banner",
            "visitor": f"GA1.2.{n}.1795000000",
            "consent": {"cmp.personalization": "granted", "gcs": "G111", "gcd": "13r3r3r3r5"},
            "context": {"locale": "de-DE", "device": "mobile"},
        }
    ).encode()
    head = f"POST /v1/decide HTTP/1.1\r\nHost: decide\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Connection:
    """One keep-alive connection with as little overhead as possible."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def open(self) -> "Connection":
        """Connect."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def ask(self, n: int) -> bytes:
        """Send one request and return the body of the response."""
        self._writer.write(request(n))
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        assert head.startswith(b"http/1.1 200"), head
        length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
        return await self._reader.readexactly(length)


async def measure_throughput(port: int) -> int:
    """Return the responses within SECONDS to CONNECTIONS that each wait for one before they ask again."""
    end = time.perf_counter() + SECONDS

    async def ask_until_end(first: int) -> int:
        connection, n = await Connection(port).open(), 0
        while time.perf_counter() < end:
            await connection.ask(first + n)
            n += 1
        return n

    return sum(await asyncio.gather(*(ask_until_end(at * 1_000_000) for at in range(CONNECTIONS))))


async def measure_latency(port: int) -> list[float]:
    """Return the seconds from when each of RATE requests a second was due until its response arrived."""
    free: asyncio.Queue[Connection] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        free.put_nowait(await Connection(port).open())
    took: list[float] = []
    start = time.perf_counter()

    async def ask_when_due(n: int) -> None:
        due = start + n / RATE
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        connection = await free.get()
        await connection.ask(n)
        free.put_nowait(connection)
        took.append(time.perf_counter() - due)

    await asyncio.gather(*(ask_when_due(n) for n in range(int(RATE * SECONDS))))
    return took


def prepare(settings: Settings) -> None:
    """Create topics, a write key, an empty view of the consent ledger, the packaged experiment and its first snapshot."""
    topics_app.apply(settings)
    create_key(settings.write_keys_file, "shop", site="shop.example")
    view = RedisStateStore(partial(redis.Redis.from_url, settings.redis), lambda _partition, _since: iter(()), 3_600)
    for partition in range(settings.partitions):
        view.open(partition)
    experiment = publish_experiment(settings, parse(EXAMPLE.read_bytes()))
    snapshot = next_snapshot(experiment, {}, None, time.time_ns() // 1_000_000)
    assert snapshot is not None
    with redis.Redis.from_url(settings.redis) as client:
        value = encode(Registry(settings.contracts).latest("bandit.snapshots"), snapshot.record())
        RedisSnapshotStore(client).publish(experiment.key, 1, value)


async def wait_until_drawn(port: int) -> None:
    """Wait until the server draws from the snapshot."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            answer = json.loads(await (await Connection(port).open()).ask(0))
        except (OSError, AssertionError):
            answer = {}
        if answer.get("reason") == "ok":
            return
        await asyncio.sleep(0.1)
    raise TimeoutError("the server does not draw")


def measure(port: int, pid: int) -> dict[str, Any]:
    """Do both runs and return the figures."""
    server = psutil.Process(pid)
    asyncio.run(wait_until_drawn(port))
    before = server.cpu_times()
    answers = asyncio.run(measure_throughput(port))
    after = server.cpu_times()
    cpu = after.user + after.system - before.user - before.system
    took = sorted(asyncio.run(measure_latency(port)))
    return {
        "decisions_per_s": round(answers / SECONDS),
        "decisions_per_cpu_s": round(answers / cpu),
        "at_rate": RATE,
        "p50_ms": round(took[len(took) // 2] * 1_000, 2),
        "p99_ms": round(took[int(len(took) * 0.99)] * 1_000, 2),
        "rss_mb": round(server.memory_info().rss / 1e6),
    }


def main() -> None:
    """Start the servers, measure, and print JSON."""
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        with EmbeddedKafka(state / "kafka") as kafka, EmbeddedRedis(state / "redis") as redis_server:
            settings = load_settings(kafka=kafka.address, redis=redis_server.url, state_dir=state, secret=SECRET)
            prepare(settings)
            from infra.ops.embedded.ports import free_port

            port = free_port()
            environment = {
                **os.environ,
                "HEADWATER_KAFKA": settings.kafka,
                "HEADWATER_REDIS": settings.redis,
                "HEADWATER_STATE_DIR": folder,
                "HEADWATER_SECRET": SECRET,
            }
            server = subprocess.Popen([sys.executable, "-c", RUN, "decide", "--port", str(port)], env=environment)
            try:
                print(json.dumps(measure(port, server.pid)))
            finally:
                server.terminate()
                server.wait(20)


if __name__ == "__main__":
    main()
