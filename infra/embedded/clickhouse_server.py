"""The loopback endpoint that speaks ClickHouse's HTTP interface over the engine in this process.

`python -m infra.embedded.clickhouse_server DIR --port N`. Queries run in a few threads beside each other; /ping is answered
by the event loop, so that it answers while they are busy. Results are not compressed: they never leave this machine.
"""

import argparse
import asyncio
import fcntl
import gzip
import json
import os
import signal
import sys
import uuid
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import IO

from aiohttp import web

from infra.embedded.clickhouse_engine import Answer, Engine, EngineError, Request
from infra.errors import EXIT_CONFIG, ConfigError

LOOPBACK = "127.0.0.1"
THREADS = 4
WAITING = 64
BODY_BYTES = 256 * 1024 * 1024
MEMORY_BYTES = 1_000_000_000
STOP_S = 10.0

# Parameters of the interface, not settings (ClickHouse: HTTPHandler, reserved_param_names).
RESERVED = frozenset(
    {
        "compress",
        "decompress",
        "user",
        "password",
        "quota_key",
        "query_id",
        "stacktrace",
        "role",
        "buffer_size",
        "wait_end_of_query",
        "session_id",
        "session_timeout",
        "session_check",
        "client_protocol_version",
        "close_session",
        "database",
        "default_format",
        "query",
    }
)
# Settings of the HTTP server that this endpoint is not: accepted, without effect.
IGNORED = frozenset(
    {
        "send_progress_in_http_headers",
        "http_headers_progress_interval_ms",
        "enable_http_compression",
        "http_zlib_compression_level",
        "cancel_http_readonly_queries_on_client_close",
        "http_write_exception_in_output_format",
    }
)
# ClickHouse: exceptionCodeToHTTPStatus. What is not here is 500.
STATUS = {
    **dict.fromkeys((6, 26, 27, 32, 33, 34, 36, 38, 41, 42, 43, 53, 62, 69, 70, 72, 117, 131, 306, 456, 457, 636), 400),
    **dict.fromkeys((46, 47, 50, 51, 56, 60, 63, 73, 78, 81, 115, 336), 404),
    48: 501,
    159: 408,
    202: 503,
    344: 400,
    396: 413,
}


class Endpoint:
    """The HTTP side of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._pool = ThreadPoolExecutor(THREADS, "query")
        self._busy = asyncio.Semaphore(THREADS)
        self._here = 0

    def app(self) -> web.Application:
        """The application."""
        app = web.Application(client_max_size=BODY_BYTES)
        app.router.add_get("/ping", self._ping)
        app.router.add_get("/", self._query)
        app.router.add_post("/", self._query)
        app.on_cleanup.append(self._close)
        return app

    async def _close(self, _app: web.Application) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self._pool.shutdown)
        self._engine.close()

    async def _ping(self, _request: web.Request) -> web.Response:
        return web.Response(text="Ok.\n", content_type="text/html")

    async def _query(self, request: web.Request) -> web.Response:
        if request.method == "GET" and "query" not in request.query:
            return web.Response(text="Ok.\n", content_type="text/html")
        headers = {
            "X-ClickHouse-Query-Id": request.query.get("query_id") or str(uuid.uuid4()),
            "X-ClickHouse-Timezone": self._engine.timezone,
            "X-ClickHouse-Server-Display-Name": "headwater",
        }
        if self._here >= THREADS + WAITING:
            return _failed(EngineError(202, "Code: 202. DB::Exception: Too many simultaneous queries.\n"), headers)
        self._here += 1
        try:
            async with self._busy:  # before the body is read: what lies in memory is bounded
                query = await _read(request)
                answer = await asyncio.get_running_loop().run_in_executor(self._pool, self._engine.run, query)
        except EngineError as error:
            return _failed(error, headers)
        finally:
            self._here -= 1
        return _answered(answer, headers)


async def _read(request: web.Request) -> Request:
    query, fields = request.query.get("query", "").encode(), dict(request.query)
    body = b""
    try:
        if request.content_type == "multipart/form-data":
            for name, value in (await request.post()).items():
                if not isinstance(value, str):
                    raise EngineError(
                        48, "Code: 48. DB::Exception: External tables are not supported here. (NOT_IMPLEMENTED)\n"
                    )
                fields[name] = value
            query = fields.get("query", "").encode()
        elif request.method == "POST":
            body = _plain(await request.read(), request.headers.get("Content-Encoding", ""))
    except web.HTTPRequestEntityTooLarge:
        raise EngineError(396, f"Code: 396. DB::Exception: The request is larger than {BODY_BYTES} bytes.\n") from None
    return Request(
        query=query,
        body=body,
        default_format=fields.get("default_format") or request.headers.get("X-ClickHouse-Format") or "TabSeparated",
        database=fields.get("database") or request.headers.get("X-ClickHouse-Database") or "",
        settings={k: v for k, v in fields.items() if k not in RESERVED | IGNORED and not k.startswith("param_")},
        parameters={k.removeprefix("param_"): v for k, v in fields.items() if k.startswith("param_")},
    )


def _plain(body: bytes, encoding: str) -> bytes:
    """The body without its compression; EngineError where it is unknown, broken or grows past the limit."""
    try:
        plain = _decompressed(body, encoding)
    except (RuntimeError, OSError, EOFError, ValueError, zlib.error) as error:
        raise EngineError(354, f"Code: 354. DB::Exception: Cannot decompress the body: {type(error).__name__}\n") from None
    if len(plain) > BODY_BYTES:
        raise EngineError(396, f"Code: 396. DB::Exception: The request is larger than {BODY_BYTES} bytes.\n")
    return plain


def _decompressed(body: bytes, encoding: str) -> bytes:
    if encoding in ("", "identity"):
        return body
    if encoding == "gzip":
        with gzip.GzipFile(fileobj=BytesIO(body)) as stream:
            return stream.read(BODY_BYTES + 1)
    if encoding == "deflate":
        return zlib.decompressobj().decompress(body, BODY_BYTES + 1)
    if encoding == "lz4":
        import lz4.frame  # type: ignore[import-untyped] # publishes no types

        plain: bytes = lz4.frame.LZ4FrameDecompressor().decompress(body, BODY_BYTES + 1)
        return plain
    if encoding == "zstd":
        from backports import zstd

        return bytes(zstd.ZstdDecompressor().decompress(body, BODY_BYTES + 1))
    raise ValueError("unknown content encoding")


def _answered(answer: Answer, headers: Mapping[str, str]) -> web.Response:
    return web.Response(
        body=answer.data,
        headers={
            **headers,
            "X-ClickHouse-Format": answer.format,
            "X-ClickHouse-Summary": json.dumps(answer.summary, separators=(",", ":")),
            "Content-Type": "application/json; charset=UTF-8" if answer.format == "JSON" else "text/plain; charset=UTF-8",
        },
    )


def _failed(error: EngineError, headers: Mapping[str, str]) -> web.Response:
    return web.Response(
        status=STATUS.get(error.code, 500),
        body=error.text.encode(errors="replace"),
        headers={**headers, "X-ClickHouse-Exception-Code": str(error.code), "Content-Type": "text/plain; charset=UTF-8"},
    )


def _claim(folder: Path) -> IO[str]:
    """Hold the folder for this process; ConfigError when another has it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / "owner").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        holder = lock.read().strip() or "unknown"
        raise ConfigError(
            f"{folder} is open in process {holder}: the engine lets one process in. Stop that one first"
        ) from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


async def _serve(folder: Path, port: int, memory_bytes: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    endpoint = Endpoint(Engine(folder / "data", memory_bytes))
    # We undo the compression of bodies ourselves, where a bound on what comes out can be kept.
    runner = web.AppRunner(endpoint.app(), access_log=None, auto_decompress=False, shutdown_timeout=STOP_S)
    await runner.setup()
    await web.TCPSite(runner, LOOPBACK, port).start()
    await stop.wait()
    await runner.cleanup()


def main() -> None:
    """Serve until a signal."""
    parser = argparse.ArgumentParser(description="ClickHouse's HTTP interface over chDB, on loopback.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--memory", type=int, default=MEMORY_BYTES, help="bytes the engine may use")
    given = parser.parse_args()
    try:
        lock = _claim(given.folder.resolve())
        asyncio.run(_serve(given.folder.resolve(), given.port, given.memory))
        lock.close()
    except (ConfigError, OSError) as error:
        sys.stderr.write(f"clickhouse: {error}\n")
        sys.exit(EXIT_CONFIG)


if __name__ == "__main__":
    main()
