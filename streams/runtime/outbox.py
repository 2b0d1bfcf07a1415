"""The transactional outbox: outputs, dead letters, counts and input offsets of whole batches in one Kafka transaction.

Source: KIP-98 (transactions) and KIP-447 (the consumer group's generation fences a transaction, so that a zombie's commit is
refused although its transactional.id is its own).
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import confluent_kafka as ck

from infra.clients.kafka import producer
from infra.clients.topic_ids import offset_metadata
from infra.errors import EXIT_FENCED
from infra.settings import Settings
from infra.telemetry.logs import get_logger
from streams.runtime.follow import TopicPartition
from streams.runtime.stage import Output

Outputs = Mapping[str, Iterable[Output]]

PRODUCE_WAIT_S = 0.1
SEND_OFFSETS_S = 10
COMMIT_S = 20
GRACE_S = 5
"""Seconds that a call may exceed its limit. librdkafka's own limit does not hold while the group coordinator is away."""


def transactional_id(group: str, slot: str) -> str:
    """Return the transactional id of a slot: a restarted worker aborts the open transaction of its predecessor."""
    return f"{group}-{slot}"


class Outbox:
    """Collects a worker's outputs and offsets since the last commit. Callers of `put` and `advance` hold `lock`."""

    def __init__(self, settings: Settings, group: str, closing: Callable[[], Outputs]) -> None:
        self._interval = settings.commit_interval_s
        self._closing = closing
        """Returns the outputs that end each transaction (counts)."""
        self.lock = asyncio.Lock()
        self.group_metadata: Any = None
        """Set by the consumer's poll thread: on the event loop the call would deadlock with a rebalance."""
        self.topic_ids: Mapping[str, str] = {}
        """Topic -> Kafka's topic id, committed as the metadata of its offsets."""
        self._next: dict[TopicPartition, int] = {}
        self._committed: dict[TopicPartition, int] = {}
        self._hooks: list[Callable[[], None]] = []
        self._began: float | None = None
        self.on_committed: Callable[[float, list[Callable[[], None]]], None] = lambda _seconds, _hooks: None
        self.committing = False
        self._producer = producer(
            settings,
            transactional_id=transactional_id(group, settings.slot),
            transaction_timeout_ms=int(settings.transaction_timeout_s * 1000),
            batch_size=1_000_000,
            linger_ms=25,  # makes larger batches and delays nothing: a commit flushes the rest
            queue_buffering_max_messages=1_000_000,
        )

    def open(self) -> None:
        """Fence a predecessor in this slot and abort its open transaction. Blocks until the broker answers."""
        self._producer.init_transactions(60)

    def seconds_left(self) -> float:
        """Return the seconds until the open transaction is due; the whole interval if none is open or it is being committed."""
        if self._began is None or self.committing:
            return self._interval
        return max(0.0, self._began + self._interval - time.monotonic())

    def put(self, tp: TopicPartition, next_offset: int, outputs: Outputs, hooks: list[Callable[[], None]]) -> None:
        """Add the outputs of one batch and the offset behind it, synchronously, so that both are in one transaction."""
        self._begin()
        self._produce(outputs)
        self._next[tp] = next_offset
        self._hooks += hooks

    def advance(self, tp: TopicPartition, end_offset: int) -> None:
        """Move past a transaction marker at the end of a partition; otherwise its lag would stay at 1."""
        if end_offset > self.position(tp):
            self._begin()
            self._next[tp] = end_offset

    def add(self, outputs: Outputs, hooks: Sequence[Callable[[], None]] = ()) -> None:
        """Add outputs of no batch. An offset goes with them, so that the broker fences them like a batch."""
        if not outputs or not self._committed.keys() | self._next.keys():
            return
        self._begin()
        self._produce(outputs)
        self._hooks += hooks
        if not self._next:
            tp, offset = next(iter(self._committed.items()))
            self._next[tp] = offset

    def assign(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Set the start offsets of assigned partitions."""
        self._committed |= offsets

    def release(self, tps: Iterable[TopicPartition]) -> None:
        """Forget revoked partitions. The outbox must hold none of their offsets."""
        for tp in tps:
            self._committed.pop(tp, None)

    def position(self, tp: TopicPartition) -> int:
        """Return the offset behind the last processed record of a partition; -1 where it is unknown."""
        return max(self._next.get(tp, -1), self._committed.get(tp, -1))

    async def commit(self) -> None:
        """Commit the collected outputs and offsets, if there are any."""
        async with self.lock:
            await self.commit_locked()

    async def commit_locked(self) -> None:
        """Do `commit` for callers that hold the lock."""
        if not self._next:
            return
        self._produce(self._closing())
        offsets = [
            ck.TopicPartition(topic, partition, offset, offset_metadata(self.topic_ids.get(topic, "")))
            for (topic, partition), offset in self._next.items()
        ]
        started = time.monotonic()
        self.committing = True
        # When one of these fails, the next start aborts the transaction and reads from the committed offset.
        try:
            await self._call(SEND_OFFSETS_S, self._producer.send_offsets_to_transaction, offsets, self.group_metadata)
            await self._call(COMMIT_S, self._producer.commit_transaction)
        except ck.KafkaException as error:
            get_logger().error("commit refused, worker ends", error=str(error.args[0].name()))
            os._exit(EXIT_FENCED)
        except TimeoutError:
            get_logger().error("commit not answered, worker ends")
            os._exit(EXIT_FENCED)
        self.committing = False
        self._committed |= self._next
        hooks, self._hooks, self._next, self._began = self._hooks, [], {}, None
        self.on_committed(time.monotonic() - started, hooks)

    def _begin(self) -> None:
        if self._began is None:
            self._producer.begin_transaction()
            self._began = time.monotonic()

    def _produce(self, outputs: Outputs) -> None:
        produce = self._producer.produce
        for topic, records in outputs.items():
            for key, value, partition in records:
                while True:
                    try:
                        produce(topic, value, key, partition)  # positional: keyword arguments cost a third more per record
                        break
                    except BufferError:
                        self._producer.poll(PRODUCE_WAIT_S)
        self._producer.poll(0)

    async def _call(self, seconds: float, function: Callable[..., Any], *args: Any) -> None:
        """Run a blocking call whose last argument is its time limit, with a limit of our own in case that one does not hold."""
        await asyncio.wait_for(asyncio.to_thread(function, *args, seconds), seconds + GRACE_S)
