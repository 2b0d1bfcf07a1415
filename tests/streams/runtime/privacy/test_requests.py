"""Privacy requests are open until every room has answered, overdue after their deadline, and bounded in number."""

import pytest

from streams.runtime.privacy import requests
from streams.runtime.privacy.request_consumer import ACKS, REQUESTS, ROOMS
from streams.runtime.privacy.requests import RequestLog


def asked(name: str, at: int = 1_000) -> dict[str, object]:
    """A request."""
    return {"request_id": name, "kind": "withdrawal", "requested_ts": at, "deadline_ts": at + 500}


def answered(name: str, room: str) -> dict[str, object]:
    """An ack."""
    return {"request_id": name, "room": room}


def test_a_request_is_open_until_every_room_has_answered() -> None:
    """Acks count in any order, before the request and twice; missing rooms and overdue requests are named."""
    log = RequestLog()
    log.add(ACKS, answered("b", ROOMS[0]))
    log.add(REQUESTS, asked("b", 2_000))
    log.add(REQUESTS, asked("a"))
    assert [(request.request_id, request.missing) for request in log.pending()] == [("a", ROOMS), ("b", ROOMS[1:])]
    assert [request.overdue(1_501) for request in log.pending()] == [True, False]
    for room in (*ROOMS, ROOMS[0]):
        log.add(ACKS, answered("a", room))
    assert [request.request_id for request in log.pending()] == ["b"]
    assert log.answered == 1


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answered requests are forgotten first; open ones stay as long as there is room."""
    monkeypatch.setattr(requests, "MOST_REQUESTS", 10)
    log = RequestLog()
    for n in range(200):
        log.add(REQUESTS, asked(f"r{n}", n))
        if n != 3:
            for room in ROOMS:
                log.add(ACKS, answered(f"r{n}", room))
    assert [request.request_id for request in log.pending()] == ["r3"]
    assert log.answered < 21
