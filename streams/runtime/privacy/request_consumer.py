"""Answers privacy requests for a room that is no stage: reads each request, calls the room's handler, writes an ack.

Withdrawals come on `privacy.requests`. Erasures, with the ids of the person, come on `privacy.erasures`, which keeps them only
until they are complete; the record of an erasure on `privacy.requests` names nobody and is not answered here.

Delivery is at least once: a request may be handled again after a crash, so handlers must be idempotent, and an ack may be
written twice.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import confluent_kafka as ck

from infra.clients.kafka import producer, reader
from infra.clients.topic_ids import TopicWatch, is_for_another_topic, offset_metadata
from infra.errors import EXIT_FENCED, Retryable
from infra.payload_keyring import PayloadKeyring
from infra.processes.back_off import BackOff
from infra.settings import Settings
from infra.telemetry.logs import get_logger
from infra.telemetry.metrics import Metrics
from schemas.codec import Undecodable, UnknownContract, decode, encode
from schemas.registry import Registry
from streams.runtime.dead_letters.dead_letter import DeadLetterCause, DeadLetters, RecordPosition

REQUESTS, ACKS, ERASURES = "privacy.requests", "privacy.acks", "privacy.erasures"
ERASURE, ASKED = "erasure", "asked"
ROOMS = ("warehouse", "bandit", "decisions")
"""Rooms that must answer each request."""
POLL_S = 0.5
BACK_OFF = BackOff(0.2, 10.0)
"""First and longest pause before a request is handled again."""
FLUSH_S = 30.0
COMMITTED_S = 30.0

RequestHandler = Callable[[Mapping[str, Any]], str]
"""Handles a decoded request; returns what was done, in words, without identifiers. After Retryable it is called again."""


class RequestAnswer(NamedTuple):
    """A record to produce for a request: an ack or a dead letter."""

    topic: str
    key: bytes | None
    value: bytes | None


def ack_record(request_id: str, room: str, detail: str, now: float) -> dict[str, Any]:
    """The record of `privacy.acks`; `now` in seconds UTC."""
    return {"request_id": request_id, "room": room, "done_ts": int(now * 1000), "detail": detail}


def needs_answer(topic: str, request: Mapping[str, Any]) -> bool:
    """Whether a room must answer this record of `privacy.requests` or `privacy.erasures`."""
    return bool(request["state"] == ASKED if topic == ERASURES else request["kind"] != ERASURE)


def _start_position(committed: ck.TopicPartition, ids: Mapping[str, str]) -> ck.TopicPartition:
    """The committed offset, or the beginning where it was committed for another topic of the same name."""
    another = is_for_another_topic(committed.metadata, ids.get(committed.topic, ""))
    return ck.TopicPartition(committed.topic, committed.partition, ck.OFFSET_BEGINNING if another else committed.offset)


class PrivacyRequestConsumer:
    """Handles the requests of one room in a thread of its own. An unexpected error ends the process."""

    def __init__(
        self, settings: Settings, room: str, withdraw: RequestHandler, erase: RequestHandler, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._room = room
        self._handlers = {REQUESTS: withdraw, ERASURES: erase}
        self._registry = Registry(settings.contracts)
        self._letters = DeadLetters(self._registry, PayloadKeyring(settings.keyring_dir, settings.master), room, metrics)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="privacy-requests", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, patience_s: float = 5.0) -> None:
        """Stop after the current request; wait up to `patience_s` seconds."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(patience_s)

    @cached_property
    def _watch(self) -> TopicWatch:
        """Opened by the thread, not by the constructor."""
        return TopicWatch(self._settings, self._handlers)

    def _run(self) -> None:
        group = f"headwater.{self._room}-privacy"
        try:
            consumer = reader(
                self._settings,
                group,
                # Handlers are idempotent, and a new room must answer the requests that are older than itself.
                auto_offset_reset="earliest",
                enable_partition_eof="true",
            )
            try:
                self._serve(consumer, producer(self._settings))
            finally:
                consumer.close()
        except BaseException as error:  # a thread that died unnoticed would leave requests unanswered
            get_logger().error("privacy requests cannot be answered, the process ends", exc_info=error)
            os._exit(EXIT_FENCED)

    def _serve(self, consumer: ck.Consumer, acks: ck.Producer) -> None:
        def assign(client: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
            client.assign(self._start_positions(client, partitions))

        consumer.subscribe(list(self._handlers), on_assign=assign)
        while not self._stop.is_set():
            message = consumer.poll(POLL_S)
            if (replaced := self._watch.find_replaced()) is not None:
                raise RuntimeError(f"{replaced} was deleted and created again: it must be read from its beginning")
            if message is None:
                continue
            if message.error() is not None:
                self._handle_error(consumer, message)
                continue
            answer = self._answer(message)
            if answer is not None:
                acks.produce(answer.topic, answer.value, answer.key)
                if acks.flush(FLUSH_S):
                    raise Retryable(f"{answer.topic} does not take an answer")
            elif self._stop.is_set():
                return
            self._commit(consumer, message, message.offset() + 1, asynchronous=False)

    def _handle_error(self, consumer: ck.Consumer, message: ck.Message) -> None:
        """Commit the end of a partition; raise fatal errors, log others."""
        error = message.error()
        if error.code() == ck.KafkaError._PARTITION_EOF:
            # A transaction marker follows the last request: without this commit the lag would stay at 1.
            self._commit(consumer, message, message.offset(), asynchronous=True)
        elif error.fatal():
            raise ck.KafkaException(error)
        else:
            get_logger().warning("privacy requests", error=error.name())

    def _commit(self, consumer: ck.Consumer, message: ck.Message, offset: int, *, asynchronous: bool) -> None:
        metadata = offset_metadata(self._watch.ids_at_start().get(message.topic(), ""))
        position = ck.TopicPartition(message.topic(), message.partition(), offset, metadata)
        consumer.commit(offsets=[position], asynchronous=asynchronous)

    def _start_positions(self, consumer: ck.Consumer, partitions: list[ck.TopicPartition]) -> list[ck.TopicPartition]:
        """Where each partition begins; retries while a coordinator is starting."""
        deadline = time.monotonic() + COMMITTED_S
        while True:
            try:
                committed = consumer.committed(partitions, COMMITTED_S / 3)
                return [_start_position(position, self._watch.ids_at_start()) for position in committed]
            except (ck.KafkaException, Retryable):
                if self._stop.wait(POLL_S) or time.monotonic() > deadline:
                    raise

    def _answer(self, message: ck.Message) -> RequestAnswer | None:
        """Handle one request until it succeeds. None where no answer is needed, or where the consumer is stopped first."""
        pauses = BACK_OFF.pauses()
        if message.value() is None and message.topic() == ERASURES:
            return None
        while True:
            try:
                request = decode(self._registry, message.value() or b"")[1]
                if not needs_answer(message.topic(), request):
                    return None
                record = ack_record(request["request_id"], self._room, self._handlers[message.topic()](request), time.time())
                return RequestAnswer(ACKS, record["request_id"].encode(), encode(self._registry.latest(ACKS), record))
            except Undecodable as error:
                position = RecordPosition(message.topic(), message.partition(), message.offset())
                cause = DeadLetterCause("UNDECODABLE", str(error), position)
                key, value, _ = self._letters.build(cause, message.key(), message.value(), time.time())
                return RequestAnswer("events.dead", key, value)
            except (Retryable, UnknownContract) as error:
                get_logger().warning("a privacy request waits", error=str(error))
                if self._stop.wait(next(pauses)):
                    return None


__all__ = [
    "ACKS",
    "ASKED",
    "ERASURE",
    "ERASURES",
    "REQUESTS",
    "ROOMS",
    "PrivacyRequestConsumer",
    "RequestAnswer",
    "RequestHandler",
    "ack_record",
    "needs_answer",
]  # fmt: skip
