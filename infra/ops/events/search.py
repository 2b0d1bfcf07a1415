"""Searches topics for the records of one event, all partitions at a time, from a time to the end of what is written."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import confluent_kafka as ck

from consumers.privacy.reading import offset_ranges
from infra.clients.kafka import reader
from infra.errors import Retryable
from infra.settings import Settings
from schemas.codec import Record, Undecodable, decode
from schemas.registry import Registry, UnknownContract
from schemas.topics import DAY_MS, TOPICS
from streams.runtime.follow import ADMIN_S, kafka_unavailable, read_ranges

CLIENT = "headwater.events-why"
MAX_COPIES = 100
"""Copies of one event that are kept. A sender in a loop can make millions."""


class EventCopy(NamedTuple):
    """A record of a topic that is about the event."""

    topic: str
    partition: int
    offset: int
    written_ms: int
    """Timestamp of the Kafka record, milliseconds UTC."""
    record: Record

    @property
    def place(self) -> str:
        """Partition and offset, as commands print them."""
        return f"{self.partition}:{self.offset}"


@dataclass
class TopicSearch:
    """What was searched, and what was there. Times are milliseconds UTC; older records than the topic keeps are gone."""

    topic: str
    since: int
    until: int
    copies: list[EventCopy] = field(default_factory=list)
    to_end: bool = True
    """Whether everything up to `until` was read; a search may end with the first copy."""
    unreadable: int = 0
    """Records that hold the event's id and are of no contract, or dead letters whose key is destroyed."""


RecordMatch = Callable[[ck.Message], Record | None]
"""Returns the decoded record where a message is about the event. Raises Undecodable, UnknownContract."""
Advance = Callable[[str, int, int], None]
"""Called with a topic, its number of offsets and the records read since the last call."""


def match_event_ids(registry: Registry, event_ids: Sequence[str]) -> RecordMatch:
    """Return a match for records of the event topics. Only a record that holds an id's bytes is decoded."""
    needles = tuple(event_id.encode() for event_id in event_ids)

    def match(message: ck.Message) -> Record | None:
        value = message.value() or b""
        if not any(needle in value for needle in needles):
            return None
        record = decode(registry, value)[1]
        return record if record["event_id"] in event_ids else None

    return match


class TopicSearcher:
    """Searches one topic after the other."""

    def __init__(self, settings: Settings, advance: Advance) -> None:
        self._settings = settings
        self._advance = advance

    def search(self, topic: str, since: int, match: RecordMatch, *, to_end: bool) -> TopicSearch:
        """Search a topic from `since` (milliseconds UTC) to its present end, or only to the first copy. Retryable."""
        now_ms = int(time.time() * 1000)
        kept_days = TOPICS[topic].retention_days
        oldest = now_ms - kept_days * DAY_MS if kept_days else 0
        result = TopicSearch(topic, max(since, oldest), now_ms)
        try:
            limits = offset_ranges(self._settings, [topic], since)
            offsets = sum(max(0, end - first) for first, end in limits.values())
            chunks = read_ranges(self._settings, limits, CLIENT)
            for messages in chunks:
                self._advance(topic, offsets, len(messages))
                _add_copies(result, messages, match)
                if result.copies and not to_end:
                    result.to_end = False
                    chunks.close()  # type: ignore[attr-defined] # it is a generator, which closes its consumer
                    break
        except ck.KafkaException as error:
            raise kafka_unavailable(self._settings, error) from error
        result.copies.sort(key=lambda copy: copy.written_ms)
        return result

    def records_before(self, group: str, copy: EventCopy) -> int | None:
        """Number of offsets that a group must still read to be past this record; 0 = past it, None = it never committed.

        Retryable.
        """
        consumer = reader(self._settings, group)
        try:
            (position,) = consumer.committed([ck.TopicPartition(copy.topic, copy.partition)], timeout=ADMIN_S)
        except ck.KafkaException as error:
            raise Retryable(f"no offsets of {group}: {error.args[0].name()}") from error
        finally:
            consumer.close()
        return None if position.offset < 0 else max(0, copy.offset + 1 - position.offset)


def _add_copies(result: TopicSearch, messages: Sequence[ck.Message], match: RecordMatch) -> None:
    for message in messages:
        try:
            record = match(message)
        except (Undecodable, UnknownContract):
            result.unreadable += 1
            continue
        if record is not None and len(result.copies) < MAX_COPIES:
            written_ms = message.timestamp()[1]
            result.copies.append(EventCopy(result.topic, message.partition(), message.offset(), written_ms, record))


__all__ = ["MAX_COPIES", "Advance", "EventCopy", "RecordMatch", "TopicSearch", "TopicSearcher", "match_event_ids"]
