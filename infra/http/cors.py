"""Cross-origin answers (https://fetch.spec.whatwg.org/#http-cors-protocol). Which origins are allowed is each server's rule."""

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

import idna
from aiohttp import web

from infra.errors import ConfigError

PREFLIGHT_S = 600
"""Seconds for which a browser may keep the answer to a preflight."""
DEFAULT_PORTS = {"http": 80, "https": 443}
MAX_REQUESTED = 2_048
"""Characters of a preflight's list of request headers."""

_HEADER_LIST = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+(?:[ \t]*,[ \t]*[A-Za-z0-9!#$%&'*+.^_`|~-]+)*")
_SUBDOMAIN = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")


class AllowedOrigins:
    """Origins as browsers send them, and wildcards such as `https://*.shop.example` for every subdomain of a host."""

    def __init__(self, origins: Iterable[str] = ()) -> None:
        checked = [_check_origin(origin.strip()) for origin in origins]
        self._exact = frozenset(origin for origin in checked if "*" not in origin)
        self._wildcards = [origin.split("*") for origin in checked if "*" in origin]

    def __bool__(self) -> bool:
        return bool(self._exact or self._wildcards)

    def allows(self, origin: str) -> bool:
        """Whether pages of this origin are allowed."""
        return origin in self._exact or any(_matches(origin, start, end) for start, end in self._wildcards)


def _matches(origin: str, start: str, end: str) -> bool:
    if not (origin.startswith(start) and origin.endswith(end)):
        return False
    return _SUBDOMAIN.fullmatch(origin[len(start) : len(origin) - len(end)]) is not None


def _check_origin(origin: str) -> str:
    """Return an origin that a browser can send. ConfigError names the right spelling of one that none ever sends."""
    if origin in ("*", "null"):
        reason = "would let every page of the web read the answers" if origin == "*" else "is what every sandboxed page sends"
        raise ConfigError(f"the origin {origin} {reason}: list the origins, or https://*.shop.example for subdomains")
    try:
        spelling = _spell_origin(origin)
    except ValueError:
        raise ConfigError(f"no origin: {origin!r:.200}; write scheme://host, as https://shop.example") from None
    if spelling != origin:
        raise ConfigError(f"no browser sends the origin {origin!r:.200}; write {spelling}")
    if "*" in origin and not re.fullmatch(r"[a-z][a-z0-9+.-]*://\*\.[^*/]*\.[^*/]+", origin):
        raise ConfigError(f"a * stands for subdomains only, as in https://*.shop.example: {origin!r:.200}")
    return origin


def _spell_origin(origin: str) -> str:
    """Return the origin as browsers write it. ValueError where it has no host."""
    parts = urlsplit(origin if "://" in origin else f"https://{origin}")
    host = (parts.hostname or "").removesuffix(".")
    if not host or any(character.isspace() for character in host):
        raise ValueError
    if not host.isascii():
        host = idna.encode(host, uts46=True).decode()
    host = f"[{host}]" if ":" in host else host
    port = "" if parts.port is None or parts.port == DEFAULT_PORTS.get(parts.scheme) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}"


def allow_origin(response: web.StreamResponse, origin: str) -> None:
    """Let pages of this origin read the answer."""
    response.headers["Access-Control-Allow-Origin"] = origin
    add_vary(response, "Origin")


def add_vary(response: web.StreamResponse, *names: str) -> None:
    """Tell caches that answers differ by these request headers."""
    present = [name.strip() for name in response.headers.get("Vary", "").split(",") if name.strip()]
    response.headers["Vary"] = ", ".join(dict.fromkeys((*present, *names)))


def allow_credentials(response: web.StreamResponse) -> None:
    """Let pages send with credentials, as every beacon does, and read when to send again."""
    response.headers["Access-Control-Allow-Credentials"] = "true"
    response.headers["Access-Control-Expose-Headers"] = "Retry-After"


def requested_headers(request: web.Request, default: str) -> str:
    """Return the request headers that a preflight asks for; `default` where it asks for none or its list is malformed."""
    requested = request.headers.get("Access-Control-Request-Headers", "").strip()
    return requested if len(requested) <= MAX_REQUESTED and _HEADER_LIST.fullmatch(requested) else default


def preflight_answer(methods: str, headers: str) -> web.Response:
    """Answer a preflight with the methods and request headers that are allowed, each a comma-separated list."""
    allowed = {
        "Access-Control-Allow-Methods": methods,
        "Access-Control-Allow-Headers": headers,
        "Access-Control-Max-Age": str(PREFLIGHT_S),
    }
    return web.Response(status=204, headers=allowed)


__all__ = ["AllowedOrigins", "add_vary", "allow_credentials", "allow_origin", "preflight_answer", "requested_headers"]
