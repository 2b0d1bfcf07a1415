"""Pages of other origins: which may send, what a preflight is answered, and which were refused."""

from aiohttp import web

from infra.http.cors import AllowedOrigins, add_vary, allow_credentials, allow_origin, preflight_answer, requested_headers
from infra.telemetry.metrics import Metrics
from streams.collector.http.rejections import RejectionReason, RequestRejected

METHODS = "GET, HEAD, POST"
HEADERS = "Authorization, Content-Type, Content-Encoding, AnonymousId, SP-Anonymous"
"""Allowed where a preflight asks for none."""
MAX_NAMED = 50
"""Origins that the metric names; the others are `other`."""
MAX_ORIGIN = 253


class OriginRules:
    """The rules of one process."""

    def __init__(self, allowed: AllowedOrigins, metrics: Metrics) -> None:
        self._allowed = allowed
        self._metrics = metrics
        self._named: set[str] = set()

    def answer_preflight(self, request: web.Request) -> web.Response:
        """Answer a preflight. RequestRejected where the origin is not listed."""
        if not self._allowed.allows(request.headers.get("Origin", "")):
            raise RequestRejected(RejectionReason.ORIGIN)
        response = preflight_answer(METHODS, requested_headers(request, HEADERS))
        add_vary(response, "Origin", "Access-Control-Request-Headers")
        return response

    def share(self, request: web.Request, response: web.StreamResponse) -> None:
        """Let pages of a listed origin read the answer; count those of an origin that is not listed."""
        if self._allowed:
            add_vary(response, "Origin")
        origin = request.headers.get("Origin")
        if origin is None:
            return
        if self._allowed.allows(origin):
            allow_origin(response, origin)
            allow_credentials(response)
        elif origin.partition("://")[2] != request.host:  # a page of this host needs no permission
            self._metrics.count("headwater_origin_unlisted_total", origin=self._label(origin))

    def _label(self, origin: str) -> str:
        if origin not in self._named:
            if len(self._named) >= MAX_NAMED or len(origin) > MAX_ORIGIN or not origin.isascii() or not origin.isprintable():
                return "other"
            self._named.add(origin)
        return origin


__all__ = ["OriginRules"]
