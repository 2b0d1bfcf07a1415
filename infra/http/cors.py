"""Cross-origin answers (https://fetch.spec.whatwg.org/#http-cors-protocol). Which origins are allowed is each server's rule."""

from aiohttp import web

PREFLIGHT_S = 600
"""Seconds for which a browser may keep the answer to a preflight."""


def allow_origin(response: web.StreamResponse, origin: str) -> None:
    """Let pages of this origin read the answer."""
    response.headers["Access-Control-Allow-Origin"] = origin
    response.headers["Vary"] = "Origin"


def preflight_answer(methods: str, headers: str) -> web.Response:
    """Answer a preflight with the methods and request headers that are allowed, each a comma-separated list."""
    allowed = {
        "Access-Control-Allow-Methods": methods,
        "Access-Control-Allow-Headers": headers,
        "Access-Control-Max-Age": str(PREFLIGHT_S),
    }
    return web.Response(status=204, headers=allowed)


__all__ = ["allow_origin", "preflight_answer"]
