"""The reference loop: aiohttp, orjson and a producer. It parses each body and produces its items as they are, nothing else.

    python -m bench.collector.reference PORT KAFKA

The least that a collector in Python costs: no key, no protocol, no pseudonym, no mask, no contract, no spool.
"""

import asyncio
import sys
import threading
from collections import deque
from typing import Any

import orjson
import uvloop
from aiohttp import web

from infra.clients.kafka import producer
from infra.http.listening import build_runner, listen
from infra.settings import Settings

TOPIC = "bench.reference"


class ReferenceLoop:
    """Answers 200 once Kafka has acknowledged every item of a body."""

    def __init__(self, kafka: str) -> None:
        self._producer = producer(Settings(kafka=kafka), linger_ms=2, queue_buffering_max_messages=200_000)
        self._loop = asyncio.get_running_loop()
        self._acknowledged: deque[asyncio.Future[None]] = deque()
        threading.Thread(target=self._poll, daemon=True).start()

    async def take(self, request: web.Request) -> web.Response:
        """Produce the items of one request."""
        body = orjson.loads(await request.read())
        items = body.get("events") or body.get("batch") or body.get("data")
        future: asyncio.Future[None] = self._loop.create_future()
        outstanding = len(items)

        def report(error: Any, _message: Any) -> None:
            nonlocal outstanding
            outstanding -= 1
            if not outstanding and error is None:
                self._acknowledged.append(future)

        for item in items:
            self._producer.produce(TOPIC, orjson.dumps(item), on_delivery=report)
        await future
        return web.Response(body=orjson.dumps({"success": True, "accepted": len(items)}), content_type="application/json")

    def _poll(self) -> None:
        while True:
            self._producer.poll(0.05)
            if self._acknowledged:
                futures = [self._acknowledged.popleft() for _ in range(len(self._acknowledged))]
                self._loop.call_soon_threadsafe(_resolve, futures)


def _resolve(futures: list["asyncio.Future[None]"]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


async def serve(port: int, kafka: str) -> None:
    """Serve until the process is ended."""
    app = web.Application(client_max_size=1_000_000)
    app.router.add_post("/{path:.*}", ReferenceLoop(kafka).take)
    app.router.add_get("/health/live", lambda _request: asyncio.sleep(0, web.Response(text="ok")))
    runner = build_runner(app)
    await runner.setup()
    await listen(runner, "127.0.0.1", port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2]))
