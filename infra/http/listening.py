"""Listening on a port."""

import logging
import socket
from typing import Any

from aiohttp import web

from infra.errors import ConfigError
from infra.telemetry.logs import get_logger

BACKLOG = 1_024
"""Connections that may wait to be accepted."""


MAX_LINE = 65_536
"""Bytes of a request's first line and of one header: events come in queries, and a host's own cookies can be many."""


def _log_kind_only(record: logging.LogRecord) -> bool:
    """Log what aiohttp refuses by its kind: its own message repeats the first line of the request, with keys and events."""
    kind = record.exc_info[0] if record.exc_info else None
    get_logger().warning("a request that is no valid HTTP was refused", error=kind.__name__ if kind else "unknown")
    return False


_LOGGER = logging.getLogger("headwater.http")
_LOGGER.addFilter(_log_kind_only)


def build_runner(app: web.Application) -> web.AppRunner:
    """Return the runner of a server. Bodies stay compressed: `infra.http.body` undoes more encodings than aiohttp."""
    return web.AppRunner(
        app,
        access_log=None,
        logger=_LOGGER,
        keepalive_timeout=75,
        shutdown_timeout=5,
        auto_decompress=False,
        max_line_size=MAX_LINE,
        max_field_size=MAX_LINE,
    )


async def listen(runner: web.AppRunner, host: str, port: int, reuse_port: bool | None = None) -> int:
    """Listen and return the port, which is a free one for 0. ConfigError where the port is taken.

    `reuse_port`: other processes of this user may listen on the port too, and the kernel spreads connections over them.
    """
    try:
        await web.TCPSite(runner, host, port, backlog=BACKLOG, reuse_port=reuse_port).start()
    except OSError as error:
        raise _port_taken(host, port, error) from None
    address: Any = runner.addresses[0]
    return int(address[1])


def listen_once(host: str, port: int) -> None:
    """Listen and stop again. ConfigError where the port is taken: processes that share one would not notice."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise _port_taken(host, port, error) from None


def _port_taken(host: str, port: int, error: OSError) -> ConfigError:
    return ConfigError(f"cannot serve on {host}:{port}: {error.strerror}; choose another with --port")


__all__ = ["build_runner", "listen", "listen_once"]
