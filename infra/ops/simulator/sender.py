"""Sends journeys over HTTP and repeats each request until it is accepted or refused."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import aiohttp
import orjson

from infra.ops.simulator.ledger import DecisionLine, EventLine
from infra.ops.simulator.protocols.messages import Answer, Post, SendStamp
from infra.ops.simulator.protocols.requests import build_consent_request, build_decision_request, build_event_request
from infra.ops.simulator.truth import PERSONALIZATION, expected_outcome, expected_purposes
from infra.ops.simulator.world.acts import DecisionRequest, Defect, Journey, SimulatedEvent, SimulatedRequest, Statement
from infra.processes.back_off import BackOff

PATIENCE_S = 180.0
TIMEOUT_S = 20.0
BACK_OFF = BackOff(0.1, 2.0)

Line = EventLine | DecisionLine


@dataclass(frozen=True)
class Target:
    """Addresses and credentials of the services under test."""

    collector_url: str
    decisions_url: str
    write_key: str
    region_header: str
    """Header that the collector trusts for a visitor's region; empty = none."""
    produce_poison: Callable[[bytes, bytes], Awaitable[None]]
    """Writes (key, value) to `events.raw` past the collector."""


@dataclass
class SendProgress:
    """Progress of a run."""

    events: int = 0
    acknowledged: int = 0
    refused: int = 0
    open: int = 0
    """Events, and choices without an event, that were not acknowledged."""
    requests: int = 0
    retries: int = 0
    decisions: int = 0
    trouble: str = ""
    """The last reason for a retry."""
    waiting: str = ""
    """Lags that delay the next act."""

    def drain(self, lags: Mapping[str, int]) -> None:
        """Record the lags between two acts."""
        behind = ", ".join(f"{group.removeprefix('headwater.')} {lag}" for group, lag in lags.items())
        self.waiting = f"draining: {behind or 'Kafka does not answer'}"


@dataclass
class EventDelivery:
    """Deliveries of one event."""

    event: SimulatedEvent
    attempts: int = 0
    acked: int = 0
    status: int = 0
    decision: str = ""


@dataclass
class _JourneyRun:
    """One journey that is being sent."""

    deliveries: dict[int, EventDelivery] = field(default_factory=dict)
    posts: dict[int, Post] = field(default_factory=dict)
    """Request id -> body, so that a repeated request has the same bytes."""
    answer: Answer = field(default_factory=Answer)


class SendRate:
    """Limits the rate to `rate` events a second; 0 = no limit. `began`: monotonic seconds."""

    def __init__(self, rate: float, began: float) -> None:
        self._gap = 1 / rate if rate > 0 else 0.0
        self._next = began

    def delay(self, events: int, now: float) -> float:
        """Return the seconds to wait at `now` before sending `events` more."""
        if not self._gap:
            return 0.0
        # After a pause at most one second's worth of events is sent in a burst.
        self._next = max(self._next, now - 1)
        wait = max(0.0, self._next - now)
        self._next += events * self._gap
        return wait


class Sender:
    """Sends journeys in parallel and passes each journey's ledger lines to `write_line`."""

    def __init__(self, target: Target, pace: SendRate, write_line: Callable[[Line], None], seed: int) -> None:
        self.progress = SendProgress()
        self._target = target
        self._pace = pace
        self._write_line = write_line
        self._jitter = random.Random(seed)

    async def run(self, journeys: Iterable[Journey], width: int) -> None:
        """Send all journeys, `width` in parallel."""
        self.progress.waiting = ""
        waiting = iter(journeys)
        connector = aiohttp.TCPConnector(limit=width)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session, asyncio.TaskGroup() as walkers:
            for _ in range(width):
                walkers.create_task(self._walk_all(session, waiting))

    async def _walk_all(self, session: aiohttp.ClientSession, waiting: Iterator[Journey]) -> None:
        for journey in waiting:
            walk = _JourneyRun()
            try:
                for step in journey:
                    if isinstance(step, DecisionRequest):
                        await self._request_decision(session, walk, step)
                    elif isinstance(step, Statement):
                        await self._send_statement(session, step)
                    else:
                        await self._send(session, walk, step)
            finally:
                # An interrupted run still records what it has sent.
                self._write(walk)

    async def _request_decision(self, session: aiohttp.ClientSession, walk: _JourneyRun, step: DecisionRequest) -> None:
        post = build_decision_request(step, self._stamp())
        status, body, _ = await self._post(session, self._target.decisions_url, post)
        walk.answer = Answer.read(orjson.loads(body)) if status == 200 else Answer()
        lawful = bool(expected_purposes(step) & PERSONALIZATION)
        answer = walk.answer
        if answer.decision_id:
            self.progress.decisions += 1
            self._write_line(
                DecisionLine(answer.decision_id, step.experiment, answer.arm, answer.group, bool(answer.token), lawful)
            )

    async def _send_statement(self, session: aiohttp.ClientSession, step: Statement) -> None:
        post = build_consent_request(step, self._stamp())
        status, _, _ = await self._post(session, self._target.collector_url, post)
        if not 200 <= status < 300:
            # Without it the expected outcomes of later events are unknown.
            self.progress.open += 1
            self.progress.trouble = f"POST {post.path}: HTTP {status}"

    def _stamp(self, token: str = "") -> SendStamp:
        return SendStamp(int(time.time() * 1000), self._target.write_key, self._target.region_header, token)

    async def _send(self, session: aiohttp.ClientSession, walk: _JourneyRun, request: SimulatedRequest) -> None:
        await asyncio.sleep(self._pace.delay(len(request.events), time.monotonic()))
        post = walk.posts.get(id(request))
        if post is None:
            post = walk.posts[id(request)] = build_event_request(request, self._stamp(walk.answer.token))
        if request.events[0].defect is Defect.POISON:
            await self._target.produce_poison(request.events[0].id.encode(), post.body)
            status, attempts = 200, 1
        else:
            status, _, attempts = await self._post(session, self._target.collector_url, post)
        for event in request.events:
            delivery = walk.deliveries.setdefault(event.n, EventDelivery(event))
            delivery.attempts += attempts
            delivery.acked += 200 <= status < 300
            delivery.status = status
            delivery.decision = walk.answer.decision_id if event.answers and not delivery.decision else delivery.decision
            self._count(delivery)

    def _count(self, delivery: EventDelivery) -> None:
        if delivery.attempts > 1 and delivery.acked > 1:
            return
        self.progress.events += 1
        if 200 <= delivery.status < 300:
            self.progress.acknowledged += 1
        elif 400 <= delivery.status < 500:
            self.progress.refused += 1
        else:
            self.progress.open += 1

    async def _post(self, session: aiohttp.ClientSession, url: str, post: Post) -> tuple[int, bytes, int]:
        """Return (status, body, attempts); status 0 where there was no response within PATIENCE_S."""
        deadline = time.monotonic() + PATIENCE_S
        attempts, status, body = 0, 0, b""
        while True:
            attempts += 1
            self.progress.requests += 1
            try:
                async with session.post(url + post.path, data=post.body, headers=post.headers, params=post.query) as answer:
                    status, body = answer.status, await answer.read()
                    if status < 500 and status != 429:
                        return status, body, attempts
                    self.progress.trouble = f"HTTP {status}"
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                status, body = 0, b""
                self.progress.trouble = type(error).__name__
            if time.monotonic() > deadline:
                return status, body, attempts
            self.progress.retries += 1
            await asyncio.sleep(BACK_OFF.pause_s(attempts) * (0.5 + self._jitter.random()))

    def _write(self, walk: _JourneyRun) -> None:
        for delivery in walk.deliveries.values():
            self._write_line(event_line(delivery))


def event_line(delivery: EventDelivery) -> EventLine:
    """Return the ledger's line of one event."""
    event = delivery.event
    must = expected_outcome(event)
    return EventLine(
        n=event.n,
        id=event.id,
        door=event.device.door,
        name=event.name,
        attempts=delivery.attempts,
        acked=delivery.acked,
        status=delivery.status,
        fate=must.name,
        outcome=must.outcome,
        mask=must.mask,
        account=event.person.name if event.login else "",
        decision=delivery.decision if must.mask & PERSONALIZATION else "",
        refusal=event.refusal,
    )
