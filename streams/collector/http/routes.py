"""Finds the handler of a request. Paths may have slashes too many, and the base path or none."""

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from aiohttp import web

from infra.errors import ConfigError
from streams.collector.http.other_products import refuse_product
from streams.collector.http.rejections import RejectionReason, RequestRejected
from streams.collector.http.sender_request import SenderRequest

RouteHandler = Callable[[SenderRequest], Awaitable[web.StreamResponse]]

_SLASHES = re.compile("/{2,}")
_BASE_PATH = re.compile(r"(?:/[A-Za-z0-9_.~-]+)+")


class Route(NamedTuple):
    """A path with its method; the path is the metrics' label `door`."""

    method: str
    path: str
    handle: RouteHandler


class RouteTable:
    """Every route of the collector."""

    def __init__(self, routes: Iterable[Route], base_path: str = "") -> None:
        self._base_path = base_path
        self._by_path: dict[str, dict[str, Route]] = {}
        for route in routes:
            self._by_path.setdefault(route.path, {})[route.method] = route

    def find(self, method: str, path: str) -> Route:
        """Return the route. RequestRejected names what to use instead where there is none."""
        path = self._normalise(path)
        routes = self._by_path.get(path)
        if routes is None:
            raise RequestRejected(RejectionReason.NOT_FOUND, refuse_product(path))
        if method not in routes:
            raise RequestRejected(RejectionReason.NOT_FOUND, f"{path} takes {', '.join(routes)}")
        return routes[method]

    def _normalise(self, path: str) -> str:
        if path in self._by_path:
            return path
        path = _SLASHES.sub("/", path).rstrip("/")
        if self._base_path and (path + "/").startswith(self._base_path + "/"):
            path = path[len(self._base_path) :]
        return path or "/"


def check_base_path(path: str) -> str:
    """Return a base path with a leading and without a final slash. ConfigError where it is no path."""
    stripped = path.strip("/")
    if stripped and not _BASE_PATH.fullmatch(f"/{stripped}"):
        raise ConfigError(f"--base-path must be a path such as /t: {path!r:.200}")
    return f"/{stripped}" if stripped else ""


__all__ = ["Route", "RouteHandler", "RouteTable", "check_base_path"]
