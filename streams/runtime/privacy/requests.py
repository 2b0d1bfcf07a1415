"""Privacy requests that not every room has answered yet. Pure."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

from streams.runtime.privacy.request_consumer import ACKS, REQUESTS, ROOMS

MOST_REQUESTS = 100_000
"""Above this, answered requests are forgotten first, then the oldest."""


class PendingRequest(NamedTuple):
    """One request that waits for answers."""

    request_id: str
    kind: str
    requested_ts: int
    deadline_ts: int
    missing: tuple[str, ...]

    def overdue(self, now_ms: int) -> bool:
        """Whether the deadline has passed; `now_ms` in milliseconds UTC."""
        return now_ms > self.deadline_ts


class RequestLog:
    """Requests and their acks, added in any order."""

    def __init__(self) -> None:
        self._requests: OrderedDict[str, Mapping[str, Any]] = OrderedDict()
        self._answers: OrderedDict[str, set[str]] = OrderedDict()

    def add(self, topic: str, record: Mapping[str, Any]) -> None:
        """Add a decoded record of `privacy.requests` or `privacy.acks`."""
        request_id = record["request_id"]
        if topic == REQUESTS:
            self._requests.setdefault(request_id, record)
        elif topic == ACKS:
            self._answers.setdefault(request_id, set()).add(record["room"])
        for store in (self._requests, self._answers):
            if len(store) > 2 * MOST_REQUESTS:
                self._forget()

    def _forget(self) -> None:
        answered = [request_id for request_id in self._requests if not self._missing(request_id)]
        for request_id in answered:
            del self._requests[request_id]
            self._answers.pop(request_id, None)
        while len(self._requests) > MOST_REQUESTS:
            self._requests.popitem(last=False)
        while len(self._answers) > MOST_REQUESTS:
            self._answers.popitem(last=False)

    def _missing(self, request_id: str) -> tuple[str, ...]:
        return tuple(room for room in ROOMS if room not in self._answers.get(request_id, ()))

    def pending(self) -> list[PendingRequest]:
        """Requests that wait for answers, oldest first."""
        requests = [
            PendingRequest(request["request_id"], request["kind"], request["requested_ts"], request["deadline_ts"], missing)
            for request in self._requests.values()
            if (missing := self._missing(request["request_id"]))
        ]
        return sorted(requests, key=lambda request: request.requested_ts)

    @property
    def answered(self) -> int:
        """Number of requests that every room has answered."""
        return sum(not self._missing(request_id) for request_id in self._requests)


__all__ = ["MOST_REQUESTS", "PendingRequest", "RequestLog"]
