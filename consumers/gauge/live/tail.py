"""Reads the event topics from their ends, in a thread, outside any group, while somebody listens."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import confluent_kafka as ck

from consumers.gauge.live.joiner import FOLLOWED, RAW, READERS, Committed, EventJoiner, TopicRecord
from consumers.gauge.live.listeners import Publish
from infra.clients.kafka import reader
from infra.errors import Retryable
from infra.settings import Settings
from infra.telemetry.logs import get_logger
from schemas.registry import Registry
from streams.runtime.follow import partitions_of, stable_end

CLIENT = "headwater-gauge-live"
CHUNK = 500
POLL_S = 0.1
COMMITTED_S = 1.0
"""Seconds between two questions for the stages' offsets, while events wait."""
SETTLE_S = 1.0
"""Seconds after a full poll before an event counts as not passed on."""
ASK_S = 5.0
RETRY_S = 5.0
BEHIND_MS = 5_000
"""Age of the records on `events.raw` at which the tail gives up, skips to the end and says how much it skipped."""


class LiveTail:
    """An `EventSource` over Kafka. It starts again after an error of Kafka, at the ends of then."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = threading.Event()
        self._joiner = EventJoiner(Registry(settings.contracts))
        self._committed: Committed = {}
        self._asked_at = 0.0
        self._busy_at = 0.0

    def start(self, publish: Publish, on_ready: Callable[[], None]) -> None:
        """Begin to read."""
        threading.Thread(target=self._run, args=(publish, on_ready), name="live-tail", daemon=True).start()

    def stop(self) -> None:
        """Let the thread end by itself."""
        self._stop.set()

    def _run(self, publish: Publish, on_ready: Callable[[], None]) -> None:
        while not self._stop.is_set():
            consumer = reader(self._settings, CLIENT, auto_offset_reset="latest")
            groups = {topic: reader(self._settings, f"headwater.{stage}") for topic, stage in READERS.items()}
            try:
                self._follow(consumer, groups, publish, on_ready)
            except (ck.KafkaException, Retryable) as error:
                get_logger().warning("live events", error=str(error))
                self._stop.wait(RETRY_S)
            finally:
                for client in (consumer, *groups.values()):
                    client.close()

    def _follow(self, consumer: Any, groups: dict[str, Any], publish: Publish, on_ready: Callable[[], None]) -> None:
        _seek_to_ends(consumer)
        self._joiner.clear()
        on_ready()
        while not self._stop.is_set():
            messages = _poll(consumer)
            now = time.monotonic()
            if _is_behind(messages, time.time() * 1000):
                lost = _seek_to_ends(consumer)
                self._joiner.clear()
            else:
                self._add(messages, now)
                lost = self._joiner.take_unknown()
            if self._joiner.is_waiting and now - self._asked_at >= COMMITTED_S:
                self._asked_at, self._committed = now, self._fetch_committed(consumer, groups)
            if len(messages) > CHUNK:
                self._busy_at = now
            # While more is there than one poll brings, an event's next record may lie behind what was read.
            events = self._joiner.take_ready(now, self._committed if now - self._busy_at >= SETTLE_S else {})
            if (events or lost) and not self._stop.is_set():
                publish(events, lost)

    def _add(self, messages: Sequence[ck.Message], now: float) -> None:
        for message in messages:
            if message.error() is None and message.value() is not None:
                self._joiner.add(TopicRecord(message.topic(), message.partition(), message.offset(), message.value()), now)

    def _fetch_committed(self, consumer: Any, groups: dict[str, Any]) -> Committed:
        """The stages' offsets. Fewer than there are where a group's coordinator does not answer: the events wait then."""
        committed: dict[tuple[str, int], int] = {}
        for topic, group in groups.items():
            partitions = [place for place in consumer.assignment() if place.topic == topic]
            try:
                positions = group.committed([ck.TopicPartition(topic, place.partition) for place in partitions], timeout=ASK_S)
            except ck.KafkaException as error:
                get_logger().warning("live events: no offsets", topic=topic, error=error.args[0].name())
                continue
            committed.update({(topic, position.partition): position.offset for position in positions})
        return committed


def _poll(consumer: Any) -> list[ck.Message]:
    """Return what is there. (`consume` with a timeout waits until it has the full number.)"""
    first = consumer.poll(POLL_S)
    return [] if first is None else [first, *consumer.consume(CHUNK, 0)]


def _is_behind(messages: Sequence[ck.Message], now_ms: float) -> bool:
    """Whether the records of a full poll arrived too long ago: listeners want to see what happens now."""
    times = [message.timestamp()[1] for message in messages if message.error() is None and message.topic() == RAW]
    return len(messages) > CHUNK and bool(times) and now_ms - max(times) > BEHIND_MS


def _seek_to_ends(consumer: Any) -> int:
    """Read on at the ends of the topics; return the number of offsets of `events.raw` that are skipped. Retryable."""
    positions = {(at.topic, at.partition): at.offset for at in consumer.position(consumer.assignment())}
    places = [(topic, number) for topic in FOLLOWED for number in partitions_of(consumer, topic)]
    ends = {place: stable_end(consumer, *place)[1] for place in places}
    consumer.assign([ck.TopicPartition(*place, end) for place, end in ends.items()])
    return sum(max(0, ends[place] - at) for place, at in positions.items() if place[0] == RAW and at >= 0 and place in ends)


__all__ = ["LiveTail"]
