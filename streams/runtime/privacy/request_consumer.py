"""Answers privacy requests for a room that is no stage: reads them, lets the room do its part, acknowledges.

Withdrawals come on `privacy.requests`, erasures with the ids of the person on `privacy.erasures`, where they last no longer
than it takes; what `privacy.requests` says of an erasure names nobody and is not answered here.

At least once: a request may come again after a crash, so a part must be safe to do again, and an ack may stand twice.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import confluent_kafka as ck

from infra.clients.kafka import producer, reader
from infra.clients.topic_ids import TopicWatch, is_for_another_topic, offset_metadata
from infra.errors import EXIT_FENCED, Retryable
from infra.payload_keyring import PayloadKeyring
from infra.settings import Settings
from infra.telemetry.logs import get_logger
from infra.telemetry.metrics import Metrics
from schemas.codec import Undecodable, UnknownContract, decode, encode
from schemas.registry import Registry
from streams.runtime.dead_letters.dead_letter import DeadLetterCause, DeadLetters, RecordPosition

REQUESTS, ACKS, ERASURES = "privacy.requests", "privacy.acks", "privacy.erasures"
ERASURE, ASKED = "erasure", "asked"
ROOMS = ("warehouse", "bandit", "decisions")
"""Who must answer each request."""
POLL_S = 0.5
BACK_OFF_S = (0.2, 10.0)
FLUSH_S = 30.0
COMMITTED_S = 30.0

Part = Callable[[Mapping[str, Any]], str]
"""A request -> what was done, for people, without identifiers. Retryable: it is asked again."""


def ack(request_id: str, room: str, detail: str, now: float) -> dict[str, Any]:
    """The record of `privacy.acks`."""
    return {"request_id": request_id, "room": room, "done_ts": int(now * 1000), "detail": detail}


def asks(topic: str, request: Mapping[str, Any]) -> bool:
    """Whether a record asks a clerk for something."""
    return bool(request["state"] == ASKED if topic == ERASURES else request["kind"] != ERASURE)


def _usable(committed: ck.TopicPartition, ids: Mapping[str, str]) -> ck.TopicPartition:
    """Where a partition begins: at its first record where the offset is another topic's, for a request may come again."""
    another = is_for_another_topic(committed.metadata, ids.get(committed.topic, ""))
    return ck.TopicPartition(committed.topic, committed.partition, ck.OFFSET_BEGINNING if another else committed.offset)


class PrivacyRequestConsumer:
    """One room's, in a thread of its own. What it cannot survive ends the process."""

    def __init__(self, settings: Settings, room: str, withdraw: Part, erase: Part, metrics: Metrics) -> None:
        self._settings = settings
        self._room = room
        self._parts = {REQUESTS: withdraw, ERASURES: erase}
        self._registry = Registry(settings.contracts)
        self._letters = DeadLetters(self._registry, PayloadKeyring(settings.keyring_dir, settings.master), room, metrics)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="clerk", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, patience_s: float = 5.0) -> None:
        """Finish the request in hand."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(patience_s)

    def _run(self) -> None:
        group = f"headwater.{self._room}-privacy"
        try:
            consumer = reader(
                self._settings,
                group,
                # Requests are safe to do again, and a new room owes an answer to those that were made before it.
                auto_offset_reset="earliest",
                enable_partition_eof="true",
            )
            try:
                self._serve(consumer, producer(self._settings))
            finally:
                consumer.close()
        except BaseException as error:  # nothing may die here unseen
            get_logger().error("privacy requests cannot be answered, the process ends", exc_info=error)
            os._exit(EXIT_FENCED)

    def _serve(self, consumer: ck.Consumer, acks: ck.Producer) -> None:
        watch = TopicWatch(self._settings, self._parts)

        def assign(client: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
            client.assign(self._starts(client, watch, partitions))

        def commit(message: ck.Message, offset: int, *, asynchronous: bool) -> None:
            metadata = offset_metadata(watch.ids_at_start().get(message.topic(), ""))
            place = ck.TopicPartition(message.topic(), message.partition(), offset, metadata)
            consumer.commit(offsets=[place], asynchronous=asynchronous)

        consumer.subscribe(list(self._parts), on_assign=assign)
        while not self._stop.is_set():
            message = consumer.poll(POLL_S)
            if (replaced := watch.find_replaced()) is not None:
                raise RuntimeError(f"{replaced} was deleted and created again: it must be read from its beginning")
            if message is None:
                continue
            error = message.error()
            if error is not None:
                if error.code() == ck.KafkaError._PARTITION_EOF:
                    # Behind the last request stands the marker of its transaction: without this, lag stays at 1 for ever.
                    commit(message, message.offset(), asynchronous=True)
                    continue
                if error.fatal():
                    raise ck.KafkaException(error)
                get_logger().warning("privacy requests", error=error.name())
                continue
            topic, key, value = self._answered(message)
            if self._stop.is_set() and not topic:
                return
            if topic:
                acks.produce(topic, value, key)
                if acks.flush(FLUSH_S):
                    raise Retryable(f"{topic} does not take an answer")
            commit(message, message.offset() + 1, asynchronous=False)

    def _starts(self, consumer: ck.Consumer, watch: TopicWatch, partitions: list[ck.TopicPartition]) -> list[ck.TopicPartition]:
        """Where partitions begin; waits for a coordinator that has just started."""
        deadline = time.monotonic() + COMMITTED_S
        while True:
            try:
                return [_usable(at, watch.ids_at_start()) for at in consumer.committed(partitions, COMMITTED_S / 3)]
            except (ck.KafkaException, Retryable):
                if self._stop.wait(POLL_S) or time.monotonic() > deadline:
                    raise

    def _answered(self, message: ck.Message) -> tuple[str, bytes | None, bytes | None]:
        """Where the answer goes, and what it is: an ack, or a dead letter; an empty topic where there is none to give."""
        pause, most = BACK_OFF_S
        if message.value() is None and message.topic() == ERASURES:
            return "", None, None
        while True:
            try:
                request = decode(self._registry, message.value() or b"")[1]
                if not asks(message.topic(), request):
                    return "", None, None
                record = ack(request["request_id"], self._room, self._parts[message.topic()](request), time.time())
                return ACKS, record["request_id"].encode(), encode(self._registry.latest(ACKS), record)
            except Undecodable as error:
                place = RecordPosition(message.topic(), message.partition(), message.offset())
                refusal = DeadLetterCause("UNDECODABLE", str(error), place)
                key, value, _ = self._letters.build(refusal, message.key(), message.value(), time.time())
                return "events.dead", key, value
            except (Retryable, UnknownContract) as error:
                get_logger().warning("a privacy request waits", error=str(error))
                if self._stop.wait(pause):
                    return "", None, None
                pause = min(most, pause * 2)


__all__ = ["ACKS", "ASKED", "ERASURE", "ERASURES", "REQUESTS", "ROOMS", "Part", "PrivacyRequestConsumer", "ack", "asks"]
