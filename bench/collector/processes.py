"""The measured processes: one `headwater collect`, and the reference loop, on the same broker."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

from bench.collector.load import connect
from infra.ops.embedded.ports import free_port
from infra.settings import Settings

START_S = 90.0
"""Seconds that a server may take to start."""
SECRET = "bench-" * 6
HEALTH = b"GET /health/live HTTP/1.1\r\nHost: collector\r\n\r\n"


class MeasuredServer(NamedTuple):
    """A server and its process."""

    port: int
    process: psutil.Process

    def cpu_s(self) -> float:
        """Return the CPU time of the process and its children, in seconds."""
        total = 0.0
        for process in (self.process, *self.process.children(recursive=True)):
            times = process.cpu_times()
            total += times.user + times.system
        return total

    def rss_mb(self) -> float:
        """Return the memory of the process and its children."""
        processes = (self.process, *self.process.children(recursive=True))
        return float(sum(process.memory_info().rss for process in processes)) / 1e6


@contextmanager
def run_collector(settings: Settings, options: Sequence[str] = ()) -> Iterator[MeasuredServer]:
    """Run `headwater collect`."""
    port = free_port()
    environment = {
        "HEADWATER_KAFKA": settings.kafka,
        "HEADWATER_STATE_DIR": str(settings.state_dir),
        "HEADWATER_SECRET": SECRET,
    }
    command = [sys.executable, "-m", "infra.ops.cli", "collect", "--port", str(port), *options]
    with _run(command, port, environment, Path(settings.state_dir) / "collector.log") as server:
        yield server


@contextmanager
def run_reference(settings: Settings) -> Iterator[MeasuredServer]:
    """Run the reference loop."""
    port = free_port()
    command = [sys.executable, "-m", "bench.collector.reference", str(port), settings.kafka]
    with _run(command, port, {}, Path(settings.state_dir) / "reference.log") as server:
        yield server


@contextmanager
def _run(command: list[str], port: int, environment: Mapping[str, str], log: Path) -> Iterator[MeasuredServer]:
    with log.open("ab") as output:
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + START_S
        while not asyncio.run(_lives(port)):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start: {log.read_text()[-2_000:]}")
            time.sleep(0.1)
        yield MeasuredServer(port, psutil.Process(process.pid))
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def _lives(port: int) -> bool:
    try:
        connection = await connect(port)
        return b" 200 " in await connection.ask(HEALTH)
    except OSError:
        return False


__all__ = ["SECRET", "MeasuredServer", "run_collector", "run_reference"]
