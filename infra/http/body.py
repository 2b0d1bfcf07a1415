"""Request bodies: how long one may take, and one that does not decompress."""

import asyncio

from aiohttp import web


class UndecodableBody(Exception):
    """The body is not compressed as its Content-Encoding says."""


async def read_body(request: web.Request, timeout_s: float) -> bytes:
    """Return the decompressed body. The application's `client_max_size` bounds it.

    Raises TimeoutError, aiohttp's HTTPRequestEntityTooLarge and UndecodableBody.
    """
    try:
        return await asyncio.wait_for(request.read(), timeout_s)
    except (TimeoutError, web.HTTPException, asyncio.CancelledError, ConnectionError):
        raise
    except Exception:  # which exception aiohttp raises depends on the encoding
        raise UndecodableBody from None


__all__ = ["UndecodableBody", "read_body"]
