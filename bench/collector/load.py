"""A load generator with little overhead: connections kept alive that send prepared requests."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, cast

import uvloop

ANSWER_S = 60.0
"""Seconds after which a server without an answer has failed the run."""


class LoadResult(NamedTuple):
    """What became of the requests of one run."""

    seconds: float
    statuses: Counter[int]
    latencies_s: list[float]
    """Of answers 200, sorted: from when the request was due until its answer, so a late start counts too."""
    without_retry_after: int = 0
    """Answers 429 and 503 that do not say when to send again."""

    def latency_ms(self, share: float) -> float:
        """Return a percentile of the latencies; 0 without any answer 200."""
        return self.latencies_s[int(len(self.latencies_s) * share)] * 1e3 if self.latencies_s else 0.0


class LoadConnection(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self) -> None:
        self._buffer = b""
        self._answer: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's has no such base class

    def data_received(self, data: bytes) -> None:
        """Resolve the answer once it is whole."""
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return
        lower = head.lower()
        length = int(lower.split(b"content-length: ")[1].split(b"\r\n")[0])
        if len(body) >= length and self._answer and not self._answer.done():
            self._buffer = b""
            self._answer.set_result(lower)

    def connection_lost(self, error: Exception | None) -> None:
        """Fail the request that waits."""
        if self._answer and not self._answer.done():
            self._answer.set_exception(error or ConnectionResetError("the connection was closed"))

    async def ask(self, request: bytes) -> bytes:
        """Send a request and return the head of its answer in lower case."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await asyncio.wait_for(self._answer, ANSWER_S)

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()


async def connect(port: int) -> LoadConnection:
    """Open a connection."""
    _, connection = await asyncio.get_running_loop().create_connection(LoadConnection, "127.0.0.1", port)
    return connection


def send_for(port: int, requests: Sequence[bytes], seconds: float, connections: int, rate: float = 0.0) -> LoadResult:
    """Send the requests in turn for some seconds: as they are answered, or `rate` a second where connections are free."""
    return uvloop.run(_send_for(port, requests, seconds, connections, rate))


async def _send_for(port: int, requests: Sequence[bytes], seconds: float, connections: int, rate: float) -> LoadResult:
    statuses, latencies = Counter[int](), list[float]()
    began = time.perf_counter()
    number = unhelpful = 0

    async def send_until_end() -> None:
        nonlocal number, unhelpful
        connection = await connect(port)
        while time.perf_counter() < began + seconds:
            number += 1
            due = began + number / rate if rate else time.perf_counter()
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            try:
                head = await connection.ask(requests[number % len(requests)])
            except ConnectionError:
                statuses[0] += 1
                connection = await connect(port)
                continue
            status = int(head[9:12])
            statuses[status] += 1
            if status == 200:
                latencies.append(time.perf_counter() - due)
            elif status in {429, 503} and b"retry-after:" not in head:
                unhelpful += 1
            if b"connection: close" in head:
                connection.close()
                connection = await connect(port)
        connection.close()

    await asyncio.gather(*(send_until_end() for _ in range(connections)))
    return LoadResult(time.perf_counter() - began, statuses, sorted(latencies), unhelpful)


__all__ = ["LoadResult", "connect", "send_for"]
