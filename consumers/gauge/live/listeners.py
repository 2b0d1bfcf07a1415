"""Those who listen: at most so many, each with a bounded queue. Kafka is read only while there is one."""

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from consumers.gauge.live.live_event import LiveEvent, LiveFilter

MAX_LISTENERS = 10
QUEUE = 1_000
"""Events that wait for one listener; further ones are lost to it, and it is told how many."""


class TooManyListeners(Exception):
    """`MAX_LISTENERS` listen already."""


class Delivery(NamedTuple):
    """What a listener is given at once."""

    events: Sequence[LiveEvent]
    lost: int
    """Events that it did not get since the last delivery: it was slow, or the gauge itself could not keep up."""
    is_last: bool
    """Whether the gauge stops."""


class LiveListener:
    """The events that wait for one listener."""

    def __init__(self, criteria: LiveFilter) -> None:
        self._criteria = criteria
        self._events: list[LiveEvent] = []
        self._lost = 0
        self._is_last = False
        self._changed = asyncio.Event()

    def offer(self, events: Sequence[LiveEvent], lost: int) -> None:
        """Queue the events that it asks for, as far as there is room. Never waits."""
        matching = [event for event in events if self._criteria.matches(event)]
        room = QUEUE - len(self._events)
        self._events += matching[:room]
        self._lost += lost + max(0, len(matching) - room)
        if self._events or self._lost:
            self._changed.set()

    def end(self) -> None:
        """Let the next delivery be the last."""
        self._is_last = True
        self._changed.set()

    async def receive(self, timeout_s: float) -> Delivery:
        """Return what waits, or an empty delivery after `timeout_s`."""
        try:
            await asyncio.wait_for(self._changed.wait(), timeout_s)
        except TimeoutError:
            return Delivery((), 0, False)
        self._changed.clear()
        events, lost, self._events, self._lost = self._events, self._lost, [], 0
        return Delivery(events, lost, self._is_last)


Publish = Callable[[Sequence[LiveEvent], int], None]
"""Called with complete events and the number of records that were skipped before them."""


class EventSource(Protocol):
    """Reads events while there are listeners."""

    def start(self, publish: Publish, on_ready: Callable[[], None]) -> None:
        """Begin to read at the end of the topics, in a thread; `on_ready` is called once nothing is missed any more."""

    def stop(self) -> None:
        """Stop reading. Returns at once; nothing is published any more."""


class ListenerHub:
    """Hands events to the listeners. All its methods are called in the event loop's thread."""

    def __init__(self, open_source: Callable[[], EventSource]) -> None:
        self._open_source = open_source
        self._listeners: set[LiveListener] = set()
        self._source: EventSource | None = None
        self._ready = asyncio.Event()
        self._closed = False

    def subscribe(self, criteria: LiveFilter) -> LiveListener:
        """Add a listener, and begin to read if it is the first. TooManyListeners."""
        if len(self._listeners) >= MAX_LISTENERS:
            raise TooManyListeners
        listener = LiveListener(criteria)
        self._listeners.add(listener)
        if self._closed:
            listener.end()
        elif self._source is None:
            self._start()
        return listener

    def unsubscribe(self, listener: LiveListener) -> None:
        """Remove a listener, and stop reading if it was the last."""
        self._listeners.discard(listener)
        if not self._listeners:
            self._stop()

    async def wait_ready(self) -> None:
        """Wait until no event that arrives from now on is missed; returns early when the gauge stops."""
        await self._ready.wait()

    def close(self) -> None:
        """End all listeners and stop reading."""
        self._closed = True
        self._stop()
        self._ready.set()
        for listener in self._listeners:
            listener.end()

    def _start(self) -> None:
        loop, source, ready = asyncio.get_running_loop(), self._open_source(), asyncio.Event()

        def publish(events: Sequence[LiveEvent], lost: int) -> None:
            loop.call_soon_threadsafe(self._publish, source, events, lost)

        def on_ready() -> None:
            loop.call_soon_threadsafe(ready.set)

        self._source, self._ready = source, ready
        source.start(publish, on_ready)

    def _publish(self, source: EventSource, events: Sequence[LiveEvent], lost: int) -> None:
        if source is self._source:  # else it was stopped meanwhile
            for listener in self._listeners:
                listener.offer(events, lost)

    def _stop(self) -> None:
        if self._source is not None:
            self._source.stop()
            self._source = None


__all__ = ["MAX_LISTENERS", "QUEUE", "Delivery", "EventSource", "ListenerHub", "LiveListener", "Publish", "TooManyListeners"]
