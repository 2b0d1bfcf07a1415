"""`GET /v1/live` over real sockets: token, filters, bounds, slow listeners, heartbeats, the end."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from aiohttp import ClientResponse, ClientSession
from aiohttp.test_utils import TestServer

from consumers.gauge.live import stream
from consumers.gauge.live.command import read_messages
from consumers.gauge.live.listeners import MAX_LISTENERS, QUEUE, ListenerHub, LiveListener, Publish
from consumers.gauge.live.live_event import LiveEvent, LiveFilter, LiveState
from consumers.gauge.page.page import Page
from consumers.gauge.server import HEADERS, Dashboard, GaugeApi

TOKEN = "a token of sixteen"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def event(number: int, source: str = "web-de") -> LiveEvent:
    """A resolved event."""
    return LiveEvent(LiveState.RESOLVED, 1_800_000_000_000, f"e-{number}", "purchase", source)


class ListedSource:
    """An event source whose events this test gives."""

    def __init__(self) -> None:
        self.publish: Publish = lambda _events, _lost: None
        self.reading = False

    def start(self, publish: Publish, on_ready: Callable[[], None]) -> None:
        """Be ready at once."""
        self.publish, self.reading = publish, True
        on_ready()

    def stop(self) -> None:
        """Stop."""
        self.reading = False


class Installation:
    """A gauge and its sources."""

    def __init__(self, session: ClientSession, hub: ListenerHub, sources: list[ListedSource]) -> None:
        self.session, self.hub, self.sources = session, hub, sources

    async def listen(self, **query: str) -> ClientResponse:
        """A listener that is told of all that comes."""
        answer = await self.session.get("/v1/live", params=query, headers=BEARER)
        assert answer.status == 200, await answer.text()
        assert await anext(read_messages(answer.content)) == ("comment", "listening")
        return answer

    def send(self, *events: LiveEvent, lost: int = 0) -> None:
        """Publish as the reading thread does."""
        self.sources[-1].publish(events, lost)


def visit(visitor: Callable[[Installation], Awaitable[None]]) -> None:
    """Serve on a free port while the visitor sends requests."""

    async def run() -> None:
        sources: list[ListedSource] = []

        def open_source() -> ListedSource:
            sources.append(ListedSource())
            return sources[-1]

        hub = ListenerHub(open_source)
        application = GaugeApi(Dashboard(30), Page(10, 30), TOKEN, hub=hub).app()
        async with TestServer(application) as server, ClientSession(server.make_url("/")) as session:
            await visitor(Installation(session, hub, sources))

    asyncio.run(asyncio.wait_for(run(), 30))


async def take(answer: ClientResponse, n: int) -> list[tuple[str, Any]]:
    """The next `n` messages."""
    messages = read_messages(answer.content)
    return [await anext(messages) for _ in range(n)]


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the condition is another part's state, which has no event to wait for
            await asyncio.sleep(0.01)


def test_the_token_is_needed_and_a_wrong_parameter_refused() -> None:
    """Nothing is read for those who may not listen."""

    async def visitor(house: Installation) -> None:
        async with house.session.get("/v1/live") as answer:
            assert answer.status == 401
        async with house.session.get("/v1/live", params={"only": "all"}, headers=BEARER) as answer:
            assert answer.status == 400
            assert "refused, problems" in (await answer.json())["error"]
        assert house.sources == []

    visit(visitor)


def test_listeners_get_the_events_that_they_ask_for() -> None:
    """Each by its own filter, with the gauge's security headers."""

    async def visitor(house: Installation) -> None:
        everything, app = await house.listen(), await house.listen(source="app")
        assert everything.headers["Content-Type"] == "text/event-stream"
        assert everything.headers["Content-Security-Policy"] == HEADERS["Content-Security-Policy"]
        assert len(house.sources) == 1
        house.send(event(1), event(2, "app"))
        assert [data["event_id"] for _, data in await take(everything, 2)] == ["e-1", "e-2"]
        ((kind, data),) = await take(app, 1)
        assert (kind, data["event_id"], data["state"]) == ("event", "e-2", "resolved")

    visit(visitor)


def test_kafka_is_read_only_while_somebody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one who leaves ends the reading; the next one begins it anew."""
    monkeypatch.setattr(stream, "HEARTBEAT_S", 0.05)  # a listener that left is noticed at the next write

    async def visitor(house: Installation) -> None:
        first = await house.listen()
        assert house.sources[0].reading
        first.close()
        await eventually(lambda: not house.sources[0].reading)
        await house.listen()
        assert [source.reading for source in house.sources] == [False, True]

    visit(visitor)


def test_too_many_listeners_are_refused() -> None:
    """With 429 and when to ask again."""

    async def visitor(house: Installation) -> None:
        for _ in range(MAX_LISTENERS):
            await house.listen()
        async with house.session.get("/v1/live", headers=BEARER) as answer:
            assert answer.status == 429
            assert int(answer.headers["Retry-After"]) > 0

    visit(visitor)


def test_a_slow_listener_loses_events_and_is_told_how_many() -> None:
    """Its queue is bounded, and what it does not ask for takes no room."""

    async def visitor(_house: Installation) -> None:
        listener = LiveListener(LiveFilter(sources=frozenset({"web-de"})))
        offered: Sequence[LiveEvent] = [event(number) for number in range(QUEUE + 30)]
        listener.offer([event(0, "app")] * 50, 0)
        listener.offer(offered, 0)
        listener.offer(offered[:5], 7)
        delivery = await listener.receive(1)
        assert (len(delivery.events), delivery.lost) == (QUEUE, 30 + 5 + 7)
        assert await listener.receive(0.01) == ((), 0, False)

    visit(visitor)


def test_a_listener_that_takes_nothing_holds_up_nobody() -> None:
    """Another one gets all events meanwhile, and the slow one is told of its loss when it reads again."""

    async def visitor(house: Installation) -> None:
        slow, quick = await house.listen(), await house.listen(source="app")
        big = event(0)._replace(problems=("x" * 20_000,))
        for number in range(60):
            house.send(*[big] * 100, event(number, "app"))
            ((_, data),) = await take(quick, 1)
            assert data["event_id"] == f"e-{number}"
        shown = lost = 0
        async for kind, data in read_messages(slow.content):
            shown, lost = shown + (kind == "event"), lost + (data["lost"] if kind == "lost" else 0)
            if shown + lost == 60 * 101:
                break
        assert lost > 0

    visit(visitor)


def test_heartbeats_show_that_the_connection_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """A comment, which clients of the format ignore."""
    monkeypatch.setattr(stream, "HEARTBEAT_S", 0.05)

    async def visitor(house: Installation) -> None:
        assert await take(await house.listen(), 2) == [("comment", "heartbeat")] * 2

    visit(visitor)


def test_the_end_of_the_gauge_ends_the_stream() -> None:
    """At once, with a message; the gauge does not wait for its listeners."""

    async def visitor(house: Installation) -> None:
        answer = await house.listen()
        house.hub.close()
        assert await take(answer, 1) == [("end", {})]
        assert await answer.content.read() == b""
        assert not house.sources[0].reading

    visit(visitor)
