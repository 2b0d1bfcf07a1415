"""A token bucket per caller, bounded in number: the least recently seen caller is forgotten."""

from collections import OrderedDict

CALLERS = 10_000


class RateLimit:
    """At most `per_second` calls on average and `burst` at once, for each caller."""

    def __init__(self, per_second: float, burst: float, callers: int = CALLERS) -> None:
        self._per_second = per_second
        self._burst = burst
        self._most = callers
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allow(self, caller: str, now: float, calls: int = 1) -> bool:
        """Take `calls` calls of `caller` at `now` (seconds, any clock that does not go back), or none of them."""
        tokens, since = self._buckets.pop(caller, (self._burst, now))
        tokens = min(self._burst, tokens + (now - since) * self._per_second)
        allowed = tokens >= calls
        self._buckets[caller] = (tokens - calls if allowed else tokens, now)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        return allowed
