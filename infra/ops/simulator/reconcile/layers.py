"""Reads the layers that are Kafka topics: committed records since the start of the run, streamed."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

import confluent_kafka as ck

from infra.clients.kafka import reader
from infra.errors import ConfigError
from infra.ops.simulator.marks import MarkerScan, event_number
from infra.ops.simulator.reconcile.tally import Sighting
from infra.payload_keyring import KeyDestroyed, PayloadKeyring
from infra.settings import Settings
from schemas.codec import HeadReader, Record, Undecodable, decode
from schemas.registry import Registry, UnknownContract
from streams.runtime.dead_letters.dead_letter import open_letter

GROUP = "headwater.reconcile"
CHUNK = 10_000
TIMEOUT_S = 30.0
OTHER_RUNS = re.compile(rb"[a-f]{8}-0000-4000-8000-[0-9a-f]{12}|dd-[a-f]{8}-[a-p]{8}")


def scan(settings: Settings, topic: str, since: int = 0) -> Iterator[ck.Message]:
    """Yield every committed record of a topic written at or after `since` (milliseconds UTC; 0 = all)."""
    consumer = reader(settings, GROUP, enable_partition_eof="true")
    try:
        waiting = {place.partition for place in _start(consumer, topic, since)}
        while waiting:
            for message in _poll(consumer):
                error = message.error()
                if error is None:
                    yield message
                elif error.code() == ck.KafkaError._PARTITION_EOF:
                    waiting.discard(message.partition())
                elif not error.retriable():
                    raise ck.KafkaException(error)
    finally:
        consumer.close()


def ranges(settings: Settings, topic: str, since: int) -> dict[int, tuple[int, int]]:
    """Return partition -> (first offset written at or after `since`, end of the stable offsets)."""
    consumer = reader(settings, GROUP)
    try:
        starts = [ck.TopicPartition(topic, place.partition, since) for place in _partitions(consumer, topic)]
        offsets = {}
        for place in consumer.offsets_for_times(starts, timeout=TIMEOUT_S):
            _, end = consumer.get_watermark_offsets(place, timeout=TIMEOUT_S)
            offsets[place.partition] = (place.offset if place.offset >= 0 else end, end)
        return offsets
    finally:
        consumer.close()


def _poll(consumer: ck.Consumer) -> list[ck.Message]:
    """Return available records. (`consume` with a timeout waits until it has the full number.)"""
    first = consumer.poll(0.5)
    return [] if first is None else [first, *consumer.consume(CHUNK, 0)]


def begins_at_zero(settings: Settings, topics: Iterable[str]) -> bool:
    """Whether retention has removed nothing from these topics."""
    consumer = reader(settings, GROUP)
    try:
        return all(
            consumer.get_watermark_offsets(place, timeout=TIMEOUT_S)[0] == 0
            for topic in topics
            for place in _partitions(consumer, topic)
        )
    finally:
        consumer.close()


def _partitions(consumer: ck.Consumer, topic: str) -> list[ck.TopicPartition]:
    listed = consumer.list_topics(topic, timeout=TIMEOUT_S).topics[topic]
    if listed.error is not None:
        raise ConfigError(f"no topic {topic}: is this the house that the ledger was made with (HEADWATER_KAFKA)?")
    return [ck.TopicPartition(topic, partition, ck.OFFSET_BEGINNING) for partition in listed.partitions]


def _start(consumer: ck.Consumer, topic: str, since: int) -> list[ck.TopicPartition]:
    places = _partitions(consumer, topic)
    if since:
        starts = [ck.TopicPartition(topic, place.partition, since) for place in places]
        places = consumer.offsets_for_times(starts, timeout=TIMEOUT_S)
    consumer.assign(places)
    return places


class EventReader:
    """Converts records of the event topics to sightings."""

    def __init__(self, registry: Registry, run: str) -> None:
        self._heads = HeadReader(registry, "heartbeat")
        self._markers = MarkerScan(run)

    def read_sighting(self, value: bytes | None) -> Sighting:
        """Return the sighting of a record; of an unreadable one only its markers."""
        marks = self._markers.find(value or b"")
        try:
            _, head = self._heads.read(value or b"")
        except (Undecodable, UnknownContract):
            return Sighting("", "", marks=marks)
        return Sighting(
            head["event_id"],
            head["event_name"],
            head.get("consent_outcome", ""),
            head.get("consent_purposes", 0),
            head.get("profile_id", ""),
            head.get("identity_state", ""),
            head["heartbeat"],
            marks,
        )


class DeadLetterReader:
    """Identifies the events of dead letters by their bytes."""

    def __init__(self, settings: Settings, registry: Registry, run: str) -> None:
        self._keyring = PayloadKeyring(settings.keyring_dir, settings.master)
        self._registry = registry
        self._markers = MarkerScan(run)
        self._run = run
        self._ids = re.compile(run.encode() + rb"-0000-4000-8000-[0-9a-f]{12}")

    def identify(self, value: bytes | None) -> tuple[str, set[int], str]:
        """Return (stage that wrote it, numbers of its events, problem or an empty text)."""
        try:
            _, record = decode(self._registry, value or b"")
            _, payload = open_letter(record, self._keyring)
        except (Undecodable, UnknownContract, KeyDestroyed) as error:
            return "", set(), f"dead letter that cannot be opened ({type(error).__name__})"
        marked = {n for kind, n in self._markers.find(payload) if kind == "dd"}
        named = {event_number(self._run, event_id.decode()) for event_id in self._ids.findall(payload)}
        about = marked or {n for n in named if n is not None}
        if not about and not OTHER_RUNS.search(payload):
            return record["stage"], set(), f"dead letter of {record['stage']}: {record['reason']}"
        return record["stage"], about, ""


def records(settings: Settings, registry: Registry, topic: str, since: int) -> Iterator[tuple[bytes | None, Record]]:
    """Yield key and decoded record of everything in a topic since `since`."""
    for message in scan(settings, topic, since):
        value: Any = message.value()
        yield message.key(), decode(registry, value)[1]
