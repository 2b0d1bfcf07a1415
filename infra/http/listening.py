"""Listening on a port."""

from typing import Any

from aiohttp import web

from infra.errors import ConfigError

BACKLOG = 1_024
"""Connections that may wait to be accepted."""


async def listen(runner: web.AppRunner, host: str, port: int) -> int:
    """Listen and return the port, which is a free one for 0. ConfigError where the port is taken."""
    try:
        await web.TCPSite(runner, host, port, backlog=BACKLOG).start()
    except OSError as error:
        raise ConfigError(f"cannot serve on {host}:{port}: {error.strerror}; choose another with --port") from None
    address: Any = runner.addresses[0]
    return int(address[1])


__all__ = ["listen"]
