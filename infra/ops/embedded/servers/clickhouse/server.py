"""ClickHouse's HTTP interface on loopback over the engine in this process.

Queries run in threads, with separate slots for analysts and the loader. The event loop answers /ping, also while all slots
are busy.
"""

import argparse
import asyncio
import signal
import sys
import uuid
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from aiohttp import web

from infra.errors import EXIT_CONFIG, ConfigError
from infra.ops.embedded.servers.clickhouse import access
from infra.ops.embedded.servers.clickhouse.access import QueryClass, User
from infra.ops.embedded.servers.clickhouse.bodies import BODY_BYTES, BodyFile
from infra.ops.embedded.servers.clickhouse.encoders import Encoder, IdentityEncoder, NativeBlockEncoder, encoder
from infra.ops.embedded.servers.clickhouse.engine import Engine, Execution, UserStatement
from infra.ops.embedded.servers.clickhouse.errors import EngineError, clickhouse_error
from infra.ops.embedded.servers.clickhouse.native import CUSTOM_SERIALIZATION, with_protocol
from infra.ops.embedded.servers.clickhouse.process import MEMORY_BYTES
from infra.ops.embedded.servers.clickhouse.requests import Query, foreign_reason, read_query, user_of
from infra.ops.embedded.servers.clickhouse.results import ResultPipe, send, send_whole, summary_header
from infra.ops.embedded.servers.clickhouse.slots import Slots
from infra.ops.embedded.servers.clickhouse.sql import is_select
from infra.processes.file_lock import LockedElsewhere, claim

LOOPBACK = "127.0.0.1"

STOP_S = 10.0
EXAMPLE = """example:
  python -m infra.ops.embedded.servers.clickhouse.server .headwater/clickhouse --port 8123
  curl 'http://127.0.0.1:8123/?query=SELECT+version()'
"""


async def _no_query() -> None:
    """Do nothing: no query has started."""


@dataclass
class Exchange:
    """A request with an allowed statement. `end` stops the statement where needed and returns when it has ended."""

    request: web.Request
    query: Query
    execution: Execution
    headers: Mapping[str, str]
    end: Callable[[], Awaitable[None]] = _no_query


class Endpoint:
    """The HTTP side of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        slots = access.ANALYST_SLOTS + access.LOADER_SLOTS
        # A query uses up to three threads: to run it, to read its result, and to stop it.
        self._threads = ThreadPoolExecutor(3 * slots, "query")
        self._slots = {
            QueryClass.ANALYST: Slots(QueryClass.ANALYST.value, access.ANALYST_SLOTS, access.QUEUE),
            QueryClass.LOADER: Slots(QueryClass.LOADER.value, access.LOADER_SLOTS, access.QUEUE),
        }
        self._running: set[asyncio.Task[None]] = set()
        self._streaming: set[asyncio.Transport] = set()

    def app(self) -> web.Application:
        """Return the application."""
        app = web.Application(client_max_size=BODY_BYTES, middlewares=[_refuse_foreign])
        app.router.add_get("/ping", self._ping)
        app.router.add_get("/", self._query)
        app.router.add_post("/", self._query)
        app.on_shutdown.append(self._break_streams)
        app.on_cleanup.append(self._close)
        return app

    async def _break_streams(self, _app: web.Application) -> None:
        """Abort results that are being sent, which could take hours; other statements may end."""
        for transport in self._streaming:
            transport.abort()

    async def _close(self, _app: web.Application) -> None:
        await asyncio.gather(*self._running, return_exceptions=True)
        await asyncio.get_running_loop().run_in_executor(None, self._threads.shutdown)
        self._engine.close()

    async def _ping(self, _request: web.Request) -> web.Response:
        return web.Response(text="Ok.\n", content_type="text/html")

    async def _query(self, request: web.Request) -> web.StreamResponse:
        if request.method in ("GET", "HEAD") and "query" not in request.query:
            return web.Response(text="Ok.\n", content_type="text/html")
        headers = {
            "X-ClickHouse-Query-Id": request.query.get("query_id") or str(uuid.uuid4()),
            "X-ClickHouse-Timezone": self._engine.timezone,
            "X-ClickHouse-Server-Display-Name": "headwater",
        }
        try:
            user = user_of(request)
            slots = access.slots_for(user, request.query, self._engine.memory_bytes)
            await self._slots[user.query_class].acquire(slots)  # before the body is read, which bounds the memory of all bodies
        except EngineError as error:
            return _error_response(error, headers)
        return await self._with_slots(request, user, slots, headers)

    async def _with_slots(self, request: web.Request, user: User, slots: int, headers: Mapping[str, str]) -> web.StreamResponse:
        """Answer, and release the slots when the query has ended in the engine, which may be after the client has left."""
        body: BodyFile | None = None
        exchange: Exchange | None = None
        try:
            body = BodyFile()
            query = await read_query(request, body)
            statement = UserStatement(
                text=query.text,
                user=user,
                slots=slots,
                default_format=query.default_format,
                database=query.database,
                settings=query.settings,
                parameters=query.parameters,
                readonly=user.readonly or request.method in ("GET", "HEAD"),
                insert=query.insert,
            )
            self._engine.check(statement)
            exchange = Exchange(request, query, Execution(self._engine, statement), headers)
            if query.insert is None and is_select(query.text):
                return await self._stream(exchange)
            return await self._answer(exchange, body)
        except EngineError as error:
            return _error_response(error, headers)
        finally:
            task = asyncio.create_task(self._release(user, slots, body, exchange))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _release(self, user: User, slots: int, body: BodyFile | None, exchange: Exchange | None) -> None:
        try:
            if exchange is not None:
                await exchange.end()
        finally:
            if body is not None:
                body.close()
            self._slots[user.query_class].release(slots)

    async def _stream(self, exchange: Exchange) -> web.StreamResponse:
        query = exchange.query
        name = exchange.execution.format
        result = ResultPipe(exchange.execution, self._threads, protocol=_uses_native_protocol(query, name))
        exchange.end = result.close
        coding, packer = _encoder(exchange.request, query)
        headers = {**exchange.headers, **self._result_headers(name), **coding}
        whole = query.fields.get("wait_end_of_query", "0") == "1"
        transport = exchange.request.transport
        if transport is None:  # the client has left
            return web.Response()
        self._streaming.add(transport)
        try:
            return await (send_whole if whole else send)(exchange.request, result, packer, headers)
        except ConnectionError:  # the client has left
            return web.Response()
        finally:
            self._streaming.discard(transport)

    async def _answer(self, exchange: Exchange, body: BodyFile) -> web.StreamResponse:
        execution = exchange.execution
        is_insert = execution.statement.insert is not None
        run = self._threads.submit(execution.run_insert, body.fd) if is_insert else self._threads.submit(execution.run_other)

        async def end() -> None:
            # The loader's inserts continue without their client (it finds them in system.processes); other queries are stopped.
            if not run.done() and execution.statement.user.query_class is not QueryClass.LOADER:
                await asyncio.get_running_loop().run_in_executor(self._threads, execution.cancel)
            await asyncio.wait([asyncio.wrap_future(run)])

        exchange.end = end
        answer = await asyncio.shield(asyncio.wrap_future(run))
        coding, packer = _encoder(exchange.request, exchange.query) if answer.data else ({}, IdentityEncoder())
        headers = {**exchange.headers, **self._result_headers(answer.format), **coding}
        headers["X-ClickHouse-Summary"] = summary_header(answer.summary)
        data = answer.data
        if _uses_native_protocol(exchange.query, answer.format):
            data = b"".join(with_protocol([data]))
        return web.Response(body=packer.encode(data) + packer.finish(), headers=headers)

    def _result_headers(self, name: str) -> dict[str, str]:
        kind = self._engine.formats.get(name.lower()) or "text/plain; charset=UTF-8"
        return {"X-ClickHouse-Format": name, "Content-Type": kind}


@web.middleware
async def _refuse_foreign(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    reason = foreign_reason(request, LOOPBACK)
    if reason is not None:
        return web.Response(status=403, text=clickhouse_error(497, reason, "ACCESS_DENIED").text)
    return await handler(request)


def _uses_native_protocol(query: Query, result_format: str) -> bool:
    """Whether the client expects Native with block info and serialization bytes."""
    version = query.fields.get("client_protocol_version", "")
    return result_format.lower() == "native" and version.isdecimal() and int(version) >= CUSTOM_SERIALIZATION


def _encoder(request: web.Request, query: Query) -> tuple[dict[str, str], Encoder]:
    """Return the Content-Encoding header, if any, and the encoder for a request."""
    if query.fields.get("compress", "0") == "1":
        return {}, NativeBlockEncoder(query.fields.get("network_compression_method", "LZ4"))
    if query.fields.get("enable_http_compression", "0") == "1":
        coding, packer = encoder(request.headers.get("Accept-Encoding", ""))
        return ({"Content-Encoding": coding} if coding else {}), packer
    return {}, IdentityEncoder()


def _error_response(error: EngineError, headers: Mapping[str, str]) -> web.Response:
    return web.Response(
        status=error.status,
        body=error.text.encode(errors="replace"),
        headers={**headers, "X-ClickHouse-Exception-Code": str(error.code), "Content-Type": "text/plain; charset=UTF-8"},
    )


def _lock_folder(folder: Path) -> IO[str]:
    """Lock the folder for this process. ConfigError where another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return claim(folder / "owner")
    except LockedElsewhere as error:
        raise ConfigError(
            f"{folder} is open in process {error.holder}: the engine lets one process in. Stop that one first"
        ) from None


async def _serve(folder: Path, port: int, memory_bytes: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    endpoint = Endpoint(Engine(folder / "data", memory_bytes))
    # Bodies are decompressed by `bodies.py`, which bounds the output. The handler of a client that leaves is cancelled, and
    # with it the query.
    runner = web.AppRunner(
        endpoint.app(), access_log=None, auto_decompress=False, shutdown_timeout=STOP_S, handler_cancellation=True
    )
    await runner.setup()
    await web.TCPSite(runner, LOOPBACK, port).start()
    await stop.wait()
    await runner.cleanup()


def main() -> None:
    """Serve until a signal."""
    parser = argparse.ArgumentParser(
        description="ClickHouse's HTTP interface over chDB, on loopback.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="where the data lie")
    parser.add_argument("--port", type=int, required=True, help="port on loopback")
    parser.add_argument("--memory", type=int, default=MEMORY_BYTES, help="bytes the engine may use (default %(default)s)")
    arguments = parser.parse_args()
    try:
        lock = _lock_folder(arguments.folder.resolve())
        asyncio.run(_serve(arguments.folder.resolve(), arguments.port, arguments.memory))
        lock.close()
    except (ConfigError, OSError) as error:
        sys.stderr.write(f"clickhouse: {error}\n")
        sys.exit(EXIT_CONFIG)


if __name__ == "__main__":
    main()
