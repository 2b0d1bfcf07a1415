"""The client against a real HTTP server that fails and refuses requests."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

import orjson
import pytest
from aiohttp import web

from infra.ops.simulator.ledger import DecisionLine, EventLine
from infra.ops.simulator.sender import Line, Sender, SendProgress, SendRate, Target
from infra.ops.simulator.world.acts import Defect, SimulatedRequest
from infra.ops.simulator.world.world import ShopWorld

RUN = "abcdefab"
KEY = "k" * 32


@dataclass
class Doors:
    """A server that refuses wrong keys and broken bodies, and accepts other requests only the second time."""

    flaky: bool
    closed: str = ""
    """Path of a door that answers 400 to everything."""
    bodies: Counter[bytes] = field(default_factory=Counter)

    async def take(self, request: web.Request) -> web.Response:
        """Handle a request to the collector."""
        body = await request.read()
        self.bodies[body] += 1
        if request.path == self.closed:
            return web.Response(status=400)
        text = request.headers.get("Authorization", "") + str(request.query_string) + body.decode()
        if "wrong-" in text:
            return web.Response(status=401)
        try:
            if request.path != "/g/collect":
                orjson.loads(body)
        except orjson.JSONDecodeError:
            return web.Response(status=400)
        return web.Response(status=503 if self.flaky and self.bodies[body] == 1 else 200)

    async def decide(self, _request: web.Request) -> web.Response:
        """Handle a request to the decision API."""
        return web.json_response({"decision_id": "d", "arm": "calm", "group": "bandit", "token": "t"})


async def walk(doors: Doors, events: int) -> tuple[list[Line], list[bytes]]:
    """Send a world to this server; return (ledger lines, poison)."""
    lines, poison, _ = await drive(doors, events)
    return lines, poison


async def drive(doors: Doors, events: int) -> tuple[list[Line], list[bytes], SendProgress]:
    """As `walk`, with the sender's progress."""
    app = web.Application()
    app.router.add_post("/v1/decide", doors.decide)
    app.router.add_post("/{path:.*}", doors.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    lines: list[Line] = []
    poison: list[bytes] = []

    async def produce(_key: bytes, value: bytes) -> None:
        poison.append(value)

    try:
        sender = Sender(Target(url, url, KEY, "X-Region", produce), SendRate(0, 0.0), lines.append, seed=1)
        await sender.run(ShopWorld(1, RUN, events).journeys(), 8)
    finally:
        await runner.cleanup()
    return lines, poison, sender.progress


def event_lines(doors: Doors, events: int) -> list[EventLine]:
    """The event lines of a walk."""
    lines, _ = asyncio.run(walk(doors, events))
    return sorted((line for line in lines if isinstance(line, EventLine)), key=lambda line: line.n)


@pytest.mark.parametrize("flaky", [False, True])
def test_every_event_is_in_the_ledger_once_with_what_the_house_said(flaky: bool) -> None:
    """Acknowledged or refused, however often it had to be sent."""
    lines = event_lines(Doors(flaky), 400)
    assert [line.n for line in lines] == list(range(400))
    for line in lines:
        if line.fate == "refused":
            assert (line.acked, line.status) in {(0, 400), (0, 401)}
        else:
            assert (line.acked > 0, line.status) == (True, 200)
    assert any(line.attempts > line.acked for line in lines if line.fate != "refused") == flaky


def test_a_retry_is_the_same_bytes() -> None:
    """Repeated requests have the same bytes, so that they can be recognised as duplicates."""
    doors = Doors(flaky=True)
    event_lines(doors, 200)
    broken = {body for body, n in doors.bodies.items() if n == 1}
    assert len(broken) < len(doors.bodies) / 4  # only what was refused came once


def test_poison_takes_the_back_way_and_decisions_are_noted() -> None:
    """Poison is not sent over HTTP; each answered decision request has its line."""
    lines, poison = asyncio.run(walk(Doors(flaky=False), 5_000))
    expected = {
        event.n
        for journey in ShopWorld(1, RUN, 5_000).journeys()
        for step in journey
        if isinstance(step, SimulatedRequest)
        for event in step.events
        if event.defect is Defect.POISON
    }
    assert len(poison) == len(expected) > 0
    assert any(isinstance(line, DecisionLine) for line in lines)


def test_a_rate_is_kept() -> None:
    """Ten events a second; what a pause left undone is made up for by a second's worth at the most."""
    pace = SendRate(10, began=100.0)
    assert [round(pace.delay(1, 100.0), 3) for _ in range(3)] == [0.0, 0.1, 0.2]
    assert pace.delay(5, 200.0) == 0.0
    assert sum(pace.delay(1, 200.0) == 0.0 for _ in range(20)) == 6
    assert SendRate(0, began=0.0).delay(1_000, 0.0) == 0.0


def test_a_choice_that_the_house_does_not_take_leaves_the_run_open() -> None:
    """A refused choice counts as open, because the expected outcome of later events is unknown."""
    _, _, progress = asyncio.run(drive(Doors(flaky=False), 3_000))
    assert progress.open == 0
    lines, _, progress = asyncio.run(drive(Doors(flaky=False, closed="/v1/consent"), 3_000))
    assert progress.open > 0
    assert "/v1/consent" in progress.trouble
    assert any(isinstance(line, EventLine) and line.refusal >= 0 for line in lines)
