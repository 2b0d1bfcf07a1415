"""Sending of results: read from the engine's pipe, buffered until their status is known, compressed."""

import asyncio
import fcntl
import json
import os
import secrets
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import Executor, Future, wait

from aiohttp import web

from infra.ops.embedded.servers.clickhouse.encoders import Encoder
from infra.ops.embedded.servers.clickhouse.engine import PIPE_BYTES, Execution
from infra.ops.embedded.servers.clickhouse.errors import EngineError, clickhouse_error
from infra.ops.embedded.servers.clickhouse.native import with_protocol

HOLD_BYTES = 1024 * 1024
"""Results up to this size are sent with their final status and length; the status of larger ones is sent before the end."""
SPOOL_BYTES = 16 * 1024 * 1024
"""Memory for such a result; the rest is in a file."""
WHOLE_BYTES = 1024 * 1024 * 1024
"""Maximum size of a result that is sent after the end of its query (`wait_end_of_query`)."""
F_SETPIPE_SZ = getattr(fcntl, "F_SETPIPE_SZ", 0)


class ResultPipe:
    """A running SELECT: the engine writes and `pieces` reads, each in a thread. `close` stops both."""

    def __init__(self, execution: Execution, threads: Executor, *, protocol: bool) -> None:
        self._execution = execution
        self._threads = threads
        self._reader, writer = os.pipe()
        if F_SETPIPE_SZ:
            fcntl.fcntl(writer, F_SETPIPE_SZ, PIPE_BYTES)
        self._pieces = with_protocol(self._read()) if protocol else self._read()
        self._reading: Future[bytes | None] | None = None
        self._run = threads.submit(execution.stream, writer)

    @property
    def ended(self) -> bool:
        """Whether the query has ended in the engine."""
        return self._run.done()

    async def outcome(self) -> Mapping[str, str]:
        """Wait for the end of the query; return its summary. EngineError."""
        return await asyncio.shield(asyncio.wrap_future(self._run))

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the result in pieces."""
        while True:
            self._reading = self._threads.submit(next, self._pieces, None)
            piece = await asyncio.shield(asyncio.wrap_future(self._reading))
            if piece is None:
                return
            yield piece

    async def close(self) -> None:
        """Stop the query if it runs, and return when it has ended in the engine."""
        await asyncio.get_running_loop().run_in_executor(self._threads, self._stop)

    def _stop(self) -> None:
        if not self._run.done():
            stopping = threading.Thread(target=self._execution.cancel)
            stopping.start()
            # A query that is blocked on a full pipe does not notice the cancellation.
            while os.read(self._reader, PIPE_BYTES):
                pass
            stopping.join()
        wait([self._run])
        if self._reading is not None:
            wait([self._reading])
        os.close(self._reader)

    def _read(self) -> Iterator[bytes]:
        while piece := os.read(self._reader, PIPE_BYTES):
            yield piece


async def send(request: web.Request, result: ResultPipe, encoder: Encoder, headers: Mapping[str, str]) -> web.StreamResponse:
    """Stream a result. EngineError where it fails before anything was sent.

    A later failure ends the body with ClickHouse's exception block, and the connection without the last chunk, so that no
    client mistakes a part for the whole.
    """
    tag = secrets.token_hex(8)
    buffer = bytearray()
    response: web.StreamResponse | None = None
    try:
        async for piece in result.pieces():
            buffer += piece
            if response is None:
                if len(buffer) < HOLD_BYTES:
                    continue
                if result.ended:
                    await result.outcome()
                response = web.StreamResponse(headers={**headers, "X-ClickHouse-Exception-Tag": tag})
                response.enable_chunked_encoding()
                await response.prepare(request)
            await response.write(encoder.encode(bytes(buffer)))
            buffer.clear()
        figures = await result.outcome()
    except EngineError as error:
        if response is None:
            raise
        await _abort_response(request, response, encoder, error, tag)
        return response
    if response is None:
        body = encoder.encode(bytes(buffer)) + encoder.finish()
        return web.Response(body=body, headers={**headers, "X-ClickHouse-Summary": summary_header(figures)})
    await response.write(encoder.finish())
    await response.write_eof()
    return response


async def send_whole(
    request: web.Request, result: ResultPipe, encoder: Encoder, headers: Mapping[str, str]
) -> web.StreamResponse:
    """Send a result after its query has ended (`wait_end_of_query=1`), with its final status and summary."""
    with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as spool:
        size = 0
        async for piece in result.pieces():
            size += spool.write(encoder.encode(piece))
            if size > WHOLE_BYTES:
                text = f"The result is larger than {WHOLE_BYTES} bytes: ask without wait_end_of_query."
                raise clickhouse_error(396, text, "TOO_MANY_ROWS_OR_BYTES")
        figures = await result.outcome()
        size += spool.write(encoder.finish())
        response = web.StreamResponse(headers={**headers, "X-ClickHouse-Summary": summary_header(figures)})
        response.content_length = size
        await response.prepare(request)
        spool.seek(0)
        while piece := spool.read(PIPE_BYTES):
            await response.write(piece)
    await response.write_eof()
    return response


def summary_header(figures: Mapping[str, str]) -> str:
    """Return the value of X-ClickHouse-Summary."""
    return json.dumps(dict(figures), separators=(",", ":"))


async def _abort_response(
    request: web.Request, response: web.StreamResponse, encoder: Encoder, error: EngineError, tag: str
) -> None:
    text = error.text.rstrip("\n") + "\n"
    block = f"\r\n__exception__\r\n{tag}\r\n{text}{len(text.encode())} {tag}\r\n__exception__\r\n"
    await response.write(encoder.encode(block.encode()) + encoder.finish())
    if request.transport is not None:
        request.transport.close()
