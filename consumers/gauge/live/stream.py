"""`GET /v1/live`: events as Server-Sent Events (https://html.spec.whatwg.org/multipage/server-sent-events.html).

`event: event` carries an event as JSON, `event: lost` the number of events that this listener did not get, `event: end` says
that the gauge stops. A comment every 15 s shows that the connection is alive.
"""

import asyncio
from collections.abc import Iterator, Mapping

import orjson
from aiohttp import web

from consumers.gauge.live.listeners import Delivery, ListenerHub, LiveListener, TooManyListeners
from consumers.gauge.live.live_event import parse_filter
from infra.http.answers import error_answer, retry_after

PATH = "/v1/live"
HEARTBEAT_S = 15.0
WRITE_S = 600.0
"""How long a listener may take nothing before its connection is closed, seconds."""
RETRY_S = 30
LISTENING, HEARTBEAT = b": listening\n\n", b": heartbeat\n\n"


def live_routes(hub: ListenerHub, headers: Mapping[str, str]) -> list[web.RouteDef]:
    """Return the route. `headers` are sent with the stream: a middleware adds them too late."""

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            criteria = parse_filter({name: request.query.getall(name) for name in request.query})
            listener = hub.subscribe(criteria)
        except ValueError as error:
            return error_answer(400, str(error))
        except TooManyListeners:
            return error_answer(429, "too many listeners", retry_after(RETRY_S))
        try:
            return await _send(request, hub, listener, headers)
        finally:
            hub.unsubscribe(listener)

    return [web.get(PATH, handle, allow_head=False)]


async def _send(
    request: web.Request, hub: ListenerHub, listener: LiveListener, headers: Mapping[str, str]
) -> web.StreamResponse:
    """Send until the listener leaves or the gauge stops."""
    response = web.StreamResponse(headers={**headers, "Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
    await response.prepare(request)
    try:
        await _wait_ready(hub, response)
        await response.write(LISTENING)
        while True:
            delivery = await listener.receive(HEARTBEAT_S)
            await asyncio.wait_for(response.write(b"".join(_format(delivery)) or HEARTBEAT), WRITE_S)
            if delivery.is_last:
                return response
    except (ConnectionError, TimeoutError):
        return response  # it left, or takes nothing any more


async def _wait_ready(hub: ListenerHub, response: web.StreamResponse) -> None:
    """Wait until the topics are read. A heartbeat meanwhile detects a listener that left: Kafka may be away for long."""
    while True:
        try:
            return await asyncio.wait_for(hub.wait_ready(), HEARTBEAT_S)
        except TimeoutError:
            await asyncio.wait_for(response.write(HEARTBEAT), WRITE_S)


def _format(delivery: Delivery) -> Iterator[bytes]:
    """The messages of a delivery; none where it is empty."""
    if delivery.lost:
        yield _message("lost", {"lost": delivery.lost})
    for event in delivery.events:
        yield _message("event", event.as_data())
    if delivery.is_last:
        yield _message("end", {})


def _message(kind: str, data: object) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), orjson.dumps(data))


__all__ = ["PATH", "live_routes"]
