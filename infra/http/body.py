"""Request bodies: how long one may take, how large it may be, and its decompression."""

import asyncio

from aiohttp import web

from infra.http.compression import InflatedBodyTooLarge, UndecodableBody, decompress


class BodyTooLarge(web.HTTPRequestEntityTooLarge):
    """The body, as sent or decompressed, exceeds the application's `client_max_size`."""

    def __init__(self, limit: int, received: bytes) -> None:
        super().__init__(limit, len(received))
        self.received = received
        """The body as sent, up to the limit."""


class BodyLate(TimeoutError):
    """The body did not arrive in time."""

    def __init__(self, received: bytes) -> None:
        super().__init__()
        self.received = received


class RequestBody:
    """The body of one request. `received` holds the bytes as sent, as far as they arrived."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._limit = request.client_max_size
        self._buffer = bytearray()

    @property
    def received(self) -> bytes:
        """Bytes as sent, up to the limit."""
        return bytes(self._buffer[: self._limit])

    async def read(self, timeout_s: float) -> bytes:
        """Return the decompressed body. Raises BodyLate, BodyTooLarge and UndecodableBody."""
        try:
            await asyncio.wait_for(self._receive(), timeout_s)
        except TimeoutError:
            raise BodyLate(self.received) from None
        except (web.HTTPException, asyncio.CancelledError, ConnectionError):
            raise
        except Exception:  # which exception aiohttp raises depends on the transfer encoding
            raise UndecodableBody from None
        try:
            return decompress(bytes(self._buffer), self._request.headers.get("Content-Encoding", ""), self._limit)
        except InflatedBodyTooLarge:
            raise BodyTooLarge(self._limit, self.received) from None

    async def _receive(self) -> None:
        content = self._request.content
        while chunk := await content.readany():
            self._buffer += chunk
            if len(self._buffer) > self._limit:
                raise BodyTooLarge(self._limit, self.received)


async def read_body(request: web.Request, timeout_s: float) -> bytes:
    """Return the decompressed body. Raises as `RequestBody.read`."""
    return await RequestBody(request).read(timeout_s)


__all__ = ["BodyLate", "BodyTooLarge", "RequestBody", "UndecodableBody", "read_body"]
