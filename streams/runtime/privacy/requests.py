"""Privacy requests that not every room has answered yet. Pure."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

from streams.runtime.privacy.request_consumer import ACKS, REQUESTS, ROOMS

MOST_REQUESTS = 100_000
"""Kept at once; past it the oldest answered ones are forgotten first, then the oldest."""


class PendingRequest(NamedTuple):
    """One request that waits for answers."""

    request_id: str
    kind: str
    requested_ts: int
    deadline_ts: int
    missing: tuple[str, ...]

    def overdue(self, now_ms: int) -> bool:
        """Whether its time is up."""
        return now_ms > self.deadline_ts


class RequestLog:
    """What the two topics say, in any order."""

    def __init__(self) -> None:
        self._asked: OrderedDict[str, Mapping[str, Any]] = OrderedDict()
        self._answers: OrderedDict[str, set[str]] = OrderedDict()

    def take(self, topic: str, record: Mapping[str, Any]) -> None:
        """One decoded record of either topic."""
        request_id = record["request_id"]
        if topic == REQUESTS:
            self._asked.setdefault(request_id, record)
        elif topic == ACKS:
            self._answers.setdefault(request_id, set()).add(record["room"])
        for store in (self._asked, self._answers):
            if len(store) > 2 * MOST_REQUESTS:
                self._forget()

    def _forget(self) -> None:
        answered = [request_id for request_id in self._asked if not self._missing(request_id)]
        for request_id in answered:
            del self._asked[request_id]
            self._answers.pop(request_id, None)
        while len(self._asked) > MOST_REQUESTS:
            self._asked.popitem(last=False)
        while len(self._answers) > MOST_REQUESTS:
            self._answers.popitem(last=False)

    def _missing(self, request_id: str) -> tuple[str, ...]:
        return tuple(room for room in ROOMS if room not in self._answers.get(request_id, ()))

    def pending(self) -> list[PendingRequest]:
        """Oldest first."""
        requests = [
            PendingRequest(request["request_id"], request["kind"], request["requested_ts"], request["deadline_ts"], missing)
            for request in self._asked.values()
            if (missing := self._missing(request["request_id"]))
        ]
        return sorted(requests, key=lambda request: request.requested_ts)

    @property
    def answered(self) -> int:
        """How many have been answered by every room."""
        return sum(not self._missing(request_id) for request_id in self._asked)


__all__ = ["MOST_REQUESTS", "PendingRequest", "RequestLog"]
