"""`python -m bench.faults.old_insert DIR --port N`: an endpoint whose inserts go through chDB's streaming insert.

That call parses the data and answers; what goes wrong afterwards (a full disk, a constraint, memory) it keeps to itself, so an
insert that failed is answered with 200. It knows what the loader sends and no more: no compression, no streams, no users.
"""

import argparse
import asyncio
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from aiohttp import web

LOOPBACK = "127.0.0.1"
THREADS = 4
BODY_BYTES = 256 * 1024 * 1024
CONFIG = "<clickhouse><merge_tree><fsync_after_insert>1</fsync_after_insert></merge_tree></clickhouse>\n"
# What clients send beside settings.
PARAMETERS = frozenset(
    {
        *("query", "database", "default_format", "query_id", "user", "password", "compress", "decompress", "role", "quota_key"),
        *("client_protocol_version", "wait_end_of_query", "buffer_size", "stacktrace", "session_id", "session_timeout"),
    }
)
INSERT = re.compile(rb"\s*(INSERT\s+INTO\s.+?)\s+FORMAT\s+(\w+)\s*\n?(.*)", re.IGNORECASE | re.DOTALL)
CODE = re.compile(r"Code: (\d+)")


class OldEngine:
    """chDB over one folder; a connection a request."""

    def __init__(self, folder: Path, memory_bytes: int) -> None:
        import chdb

        folder.mkdir(parents=True, exist_ok=True)
        config = folder.with_name(folder.name + ".xml")
        config.write_text(CONFIG)
        self._address = f"{folder}?config-file={config}&max_server_memory_usage={memory_bytes}"
        self._connect = chdb._chdb.connect
        self._open = self._connect(self._address)  # held: the engine ends with its last connection

    def run(self, fields: dict[str, str], body: bytes) -> bytes:
        """The answer to one request. RuntimeError with ClickHouse's text."""
        connection = self._connect(self._address)
        try:
            settings = {name: value for name, value in fields.items() if name not in PARAMETERS and "http" not in name}
            assignments = ", ".join(f"{name} = '{value}'" for name, value in {"async_insert": "0", **settings}.items())
            connection.query(f"SET {assignments}", "TSV")
            if fields.get("database"):
                connection.query(f"USE `{fields['database']}`", "TSV")
            text = b"\n".join(part for part in (fields.get("query", "").encode(), body) if part)
            insert = INSERT.fullmatch(text)
            if insert is not None and insert.group(3):
                return self._insert(connection, *insert.groups())
            result: bytes = connection.query(text.decode(), fields.get("default_format", "TabSeparated")).bytes()
            return result
        finally:
            connection.close()

    def _insert(self, connection: Any, statement: bytes, name: bytes, data: bytes) -> bytes:
        inserter = connection.send_insert(statement.decode(), name.decode())
        try:
            connection.insert_append(inserter, data)
            connection.insert_done(inserter)
        except Exception:
            connection.insert_cancel(inserter)
            raise
        return b""


class OldEndpoint:
    """The HTTP side."""

    def __init__(self, engine: OldEngine) -> None:
        self._engine = engine
        self._pool = ThreadPoolExecutor(THREADS, "query")

    def app(self) -> web.Application:
        """The application."""
        app = web.Application(client_max_size=BODY_BYTES)
        app.router.add_get("/ping", self._ping)
        app.router.add_post("/", self._query)
        app.router.add_get("/", self._query)
        return app

    async def _ping(self, _request: web.Request) -> web.Response:
        return web.Response(text="Ok.\n")

    async def _query(self, request: web.Request) -> web.Response:
        fields = dict(request.query)
        if request.content_type == "multipart/form-data":
            fields |= {name: value for name, value in (await request.post()).items() if isinstance(value, str)}
            body = b""
        else:
            body = await request.read()
        try:
            answer = await asyncio.get_running_loop().run_in_executor(self._pool, self._engine.run, fields, body)
        except Exception as error:  # whatever the engine raises is an answer
            code = CODE.search(str(error))
            headers = {"X-ClickHouse-Exception-Code": code.group(1) if code else "1002"}
            return web.Response(status=500, text=str(error), headers=headers)
        return web.Response(body=answer, headers={"X-ClickHouse-Format": fields.get("default_format", "TabSeparated")})


async def serve(folder: Path, port: int, memory_bytes: int) -> None:
    """Serve until a signal."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(OldEndpoint(OldEngine(folder / "data", memory_bytes)).app(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, LOOPBACK, port).start()
    await stop.wait()
    await runner.cleanup()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.faults.old_insert",
        description=__doc__,
        epilog="Example: python -m bench.faults.old_insert data --port 8123",
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--memory", type=int, default=1_000_000_000, help="bytes the engine may use")
    options = parser.parse_args()
    asyncio.run(serve(options.folder.resolve(), options.port, options.memory))


if __name__ == "__main__":
    main()
