"""Listening on a port."""

import asyncio

import pytest
from aiohttp import web

from infra.errors import ConfigError
from infra.http.listening import listen, listen_once


def test_a_port_that_is_taken_is_a_configuration_error() -> None:
    """Port 0 gives a free one; listening on it again names the option to change."""

    async def visit() -> None:
        first, second = web.AppRunner(web.Application()), web.AppRunner(web.Application())
        await first.setup()
        await second.setup()
        try:
            port = await listen(first, "127.0.0.1", 0)
            with pytest.raises(ConfigError, match=f"127.0.0.1:{port}.*--port"):
                await listen(second, "127.0.0.1", port)
            with pytest.raises(ConfigError, match=f"127.0.0.1:{port}.*--port"):
                listen_once("127.0.0.1", port)
        finally:
            await first.cleanup()
            await second.cleanup()

    asyncio.run(visit())
