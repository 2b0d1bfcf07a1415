"""Sends dead letters back to their topics, none of them twice.

Each transaction holds the records of some letters and, on `events.replays`, the positions of those letters on `events.dead`:
both are committed or neither is. All runs share one transactional id, so a run aborts the open transaction of a killed
predecessor and then reads what was sent before. A position counts together with its topic's id, because an `events.dead` that
was created again has the same positions.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import NamedTuple, Self

import confluent_kafka as ck

from infra.clients.kafka import producer
from infra.clients.topic_ids import topic_ids
from infra.errors import Retryable
from infra.settings import Settings
from schemas.codec import decode, encode
from schemas.registry import Registry
from streams.runtime.dead_letters.scan import Letter
from streams.runtime.follow import kafka_unavailable, read_topic

DEAD, REPLAYS = "events.dead", "events.replays"
TRANSACTIONAL_ID = "headwater.dead.replay"
TRANSACTION_S = 1.0
"""Seconds for which a transaction is filled; readers of its topics wait for it."""
TRANSACTION_LETTERS = 1_000
CATCH_UP_S = 0.1
"""Seconds of delay that are made up by sending faster: enough for a commit, not for letters that were only read."""
TIMEOUT_S = 30.0
"""Seconds after which Kafka aborts the transaction of a killed run."""
KAFKA_S = 30.0
MAX_BYTES = 4_194_304
"""Largest record that the topics accept."""
BITS = 1_024
"""Offsets per integer of a `LetterSet`."""


class LetterPosition(NamedTuple):
    """Position of a letter on `events.dead`."""

    partition: int
    offset: int


def letter_position(letter: Letter) -> LetterPosition:
    """Return the position of a letter."""
    return LetterPosition(letter["dead_partition"], letter["dead_offset"])


class LetterSet:
    """A set of letter positions, one bit each: there may be millions of them, mostly adjacent."""

    def __init__(self) -> None:
        self._bits: dict[tuple[int, int], int] = {}

    def add(self, position: LetterPosition) -> None:
        """Add a position."""
        chunk, bit = self._locate(position)
        self._bits[chunk] = self._bits.get(chunk, 0) | bit

    def __contains__(self, position: LetterPosition) -> bool:
        chunk, bit = self._locate(position)
        return bool(self._bits.get(chunk, 0) & bit)

    def __len__(self) -> int:
        return sum(bits.bit_count() for bits in self._bits.values())

    def _locate(self, position: LetterPosition) -> tuple[tuple[int, int], int]:
        chunk, bit = divmod(position.offset, BITS)
        return (position.partition, chunk), 1 << bit


def read_replayed(settings: Settings) -> LetterSet:
    """Return the positions of the letters that were sent back. Retryable while Kafka does not answer."""
    ids = topic_ids(settings, (DEAD, REPLAYS))
    replayed, registry = LetterSet(), Registry(settings.contracts)
    if REPLAYS not in ids:  # no version that records replays has run yet
        return replayed
    for records in read_topic(settings, REPLAYS):
        for _, value in records:
            _, record = decode(registry, value or b"")
            if record["topic_id"] == ids.get(DEAD):
                for offset in record["offsets"]:
                    replayed.add(LetterPosition(record["partition"], offset))
    return replayed


class Replay:
    """Context manager that sends letters, at most `rate` a second (0: no limit).

    It commits at its end and aborts on an exception. A second one in the installation fences the first. Every call may raise
    Retryable.
    """

    def __init__(self, settings: Settings, rate: float) -> None:
        self._settings = settings
        self._rate = rate
        self._contract = Registry(settings.contracts).latest(REPLAYS)
        self._producer = producer(
            settings,
            transactional_id=TRANSACTIONAL_ID,
            transaction_timeout_ms=int(TIMEOUT_S * 1000),
            message_max_bytes=MAX_BYTES,
        )
        self._pending: dict[int, list[int]] = {}
        """Partition -> offsets of the letters in the open transaction."""
        self._opened = 0.0
        self._due: float | None = None
        """When the next letter may be sent (monotonic seconds)."""
        self.sent = 0
        """Number of committed letters."""

    def __enter__(self) -> Self:
        ids = topic_ids(self._settings, (DEAD, REPLAYS))
        if REPLAYS not in ids or DEAD not in ids:
            raise Retryable(f"{DEAD} or {REPLAYS} is not there: run `headwater topics apply`")
        self._topic_id = ids[DEAD]
        with self._translate_errors():
            self._producer.init_transactions(KAFKA_S)
        # Read only now: the transaction of a run before this one is committed, or never will be.
        self.replayed = read_replayed(self._settings)
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        if kind is None:
            self.commit()
        elif self._pending:
            self._abort()

    def send(self, letter: LetterPosition, topic: str, key: bytes | None, value: bytes) -> None:
        """Send one letter's record, waiting as `rate` demands."""
        self._wait()
        if not self._pending:
            with self._translate_errors():
                self._producer.begin_transaction()
            self._opened = time.monotonic()
        self._produce(topic, key, value)
        self._pending.setdefault(letter.partition, []).append(letter.offset)
        if sum(map(len, self._pending.values())) >= TRANSACTION_LETTERS:
            self.commit()

    def commit_due(self) -> None:
        """Commit a transaction that has been open for `TRANSACTION_S`, also while no letter is sent."""
        if self._pending and time.monotonic() - self._opened >= TRANSACTION_S:
            self.commit()

    def commit(self) -> None:
        """Commit the sent records together with the positions of their letters."""
        if not self._pending:
            return
        now = int(time.time() * 1000)
        for partition, offsets in self._pending.items():
            mark = {"topic_id": self._topic_id, "partition": partition, "offsets": offsets, "replayed_ts": now}
            self._produce(REPLAYS, f"{self._topic_id}:{partition}".encode(), encode(self._contract, mark))
        with self._translate_errors():
            self._producer.commit_transaction(KAFKA_S)
        self.sent += sum(map(len, self._pending.values()))
        self._pending = {}

    def _wait(self) -> None:
        """Wait for the turn of the next letter, without keeping a transaction open for long."""
        if not self._rate:
            return
        now = time.monotonic()
        due = now if self._due is None else max(self._due, now - CATCH_UP_S)
        if self._pending and due - self._opened >= TRANSACTION_S:
            self.commit()
        time.sleep(max(0.0, due - time.monotonic()))
        self._due = due + 1 / self._rate

    def _produce(self, topic: str, key: bytes | None, value: bytes) -> None:
        while True:
            try:
                with self._translate_errors():
                    self._producer.produce(topic, value, key)
                    self._producer.poll(0)
                return
            except BufferError:
                with self._translate_errors():
                    self._producer.poll(0.1)

    def _abort(self) -> None:
        try:
            self._producer.abort_transaction(KAFKA_S)
        except ck.KafkaException:
            return  # Kafka aborts it after TIMEOUT_S, or the next run does

    def _fatal_cause(self) -> ck.KafkaException | None:
        """Return what ended the producer. Later calls only say that it has ended; the next poll raises the cause."""
        try:
            self._producer.poll(1.0)
        except ck.KafkaException as cause:
            return cause
        return None

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Translate errors of Kafka into Retryable."""
        try:
            yield
        except ck.KafkaException as error:
            if error.args[0].code() == ck.KafkaError._FATAL:
                error = self._fatal_cause() or error
            if error.args[0].code() in (ck.KafkaError._FENCED, ck.KafkaError.PRODUCER_FENCED):
                raise Retryable("another replay has begun, and goes on in place of this one") from error
            raise kafka_unavailable(self._settings, error) from error
