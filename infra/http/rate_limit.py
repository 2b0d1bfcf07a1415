"""A token bucket per caller. The number of callers is bounded: the least recently seen one is removed."""

from collections import OrderedDict
from collections.abc import Callable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from infra.http.answers import retry_after

MAX_CALLERS = 10_000
EVERYONE = ""
"""The caller of a limit that all requests share."""


class RateLimit:
    """At most `per_second` calls on average and `burst` at once, for each caller."""

    def __init__(self, per_second: float, burst: float, callers: int = MAX_CALLERS) -> None:
        self._per_second = per_second
        self._burst = burst
        self._max_callers = callers
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allow(self, caller: str, now: float, calls: int = 1) -> bool:
        """Take `calls` tokens of `caller` at `now` (seconds), or none of them. A clock that goes back adds no tokens.

        More calls than the burst are allowed where the burst is whole: the caller then waits until its debt is paid.
        """
        tokens, since = self._buckets.pop(caller, (self._burst, now))
        tokens = min(self._burst, tokens + max(0.0, now - since) * self._per_second)
        allowed = tokens >= min(calls, self._burst)
        self._buckets[caller] = (tokens - calls if allowed else tokens, now)
        if len(self._buckets) > self._max_callers:
            self._buckets.popitem(last=False)
        return allowed


def limit_requests(limit: RateLimit, now: Callable[[], float]) -> Middleware:
    """Return a middleware that answers 429 to requests beyond a limit that all callers share."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not limit.allow(EVERYONE, now()):
            raise web.HTTPTooManyRequests(headers=retry_after(1))
        return await handler(request)

    return check


__all__ = ["EVERYONE", "RateLimit", "limit_requests"]
