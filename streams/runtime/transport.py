"""A Faust transport over librdkafka: one Faust message per partition and polled batch, in lock step.

Poll, hand over, collect, commit, poll again. librdkafka prefetches in the background, so polling ahead would gain little, and
a rebalance, which happens inside poll, always finds an outbox of whole batches.
Faust finds this transport by the entry point `faust.transports`: broker URLs start with `librdkafka://`.
"""

import asyncio
import os
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import confluent_kafka as ck
from faust.transport.base import Transport as BaseTransport
from faust.transport.consumer import Consumer as FaustConsumer
from faust.types import TP, ConsumerMessage
from mode import Service

from infra.errors import EXIT_FENCED
from infra.telemetry.logs import get_logger
from streams.runtime.follow import TopicPartition
from streams.runtime.stage import Batch

STILL_WORKING_S = 1.0
"""Seconds after which the consumer polls with all partitions paused while a batch runs, to stay in its group."""
ROUND_S = 0.6
"""Target seconds for processing one poll: longer delays rebalances, shorter raises the cost per record."""
FEWEST = 5_000
"""Least number of records that one poll may bring."""


class Lease:
    """The right to emit for one partition: granted with its assignment, withdrawn (`valid` = False) with its revocation."""

    valid = True


@dataclass(frozen=True, slots=True)
class LeasedBatch:
    """What the Faust agent receives: one batch and the lease of its partition."""

    lease: Lease
    batch: Batch


class PollSize:
    """Adapts the number of records of the next poll so that processing it takes about `ROUND_S`, up to `most` records."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._fewest = min(FEWEST, most)
        self.records = self._fewest

    def record(self, records: int, seconds: float) -> None:
        """Note the duration of a round. A poll that brought few records does not tell what a full one takes."""
        if 2 * records > self.records:
            affordable = int(records * ROUND_S / max(seconds, 1e-6))
            self.records = max(self._fewest, min(affordable, 2 * self.records, self._most))


@dataclass(slots=True)
class PollResult:
    """The result of one poll."""

    batches: dict[TopicPartition, list[ck.Message]] = field(default_factory=lambda: defaultdict(list))
    ends: dict[TopicPartition, int] = field(default_factory=dict)
    """Partition -> offset of its end, where the poll reached it."""


class Consumer(FaustConsumer):
    """Polls in a thread of its own and processes on the event loop. The outbox manages offsets, not Faust."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.worker = self.app.worker
        self.poll_thread = ThreadPoolExecutor(1, "poll")
        self.leases: dict[TopicPartition, Lease] = {}
        self.outstanding = 0
        self.all_finished = asyncio.Event()
        self.subscribed = asyncio.Event()
        self.pace = PollSize(self.worker.settings.batch_records)
        self.early: list[tuple[ck.Message, Lease | None]] = []
        """Records polled while the stage was still busy; the next poll begins with them."""

    async def on_start(self) -> None:
        """Open the outbox and the Kafka client before Faust subscribes."""
        self.event_loop = asyncio.get_running_loop()
        self.kafka = self.worker.open_consumer()
        await super().on_start()

    async def subscribe(self, topics: Any) -> None:
        """Join the group. Faust calls this once with the agent's topics."""
        self.kafka.subscribe(sorted(topics), on_assign=self._assign, on_revoke=self._revoke, on_lost=self._lost)
        self.subscribed.set()

    @Service.task
    async def _drive(self) -> None:
        """Run the worker's main loop. Any exception ends the process: a worker that only looks alive is worse than none."""
        await self.subscribed.wait()
        try:
            while not self.should_stop:
                polled = await self._in_poll_thread(self._poll, self.worker.outbox.seconds_left())
                leases = dict(self.leases)
                began = time.monotonic()
                await self._process(polled)
                self.pace.record(sum(map(len, polled.batches.values())), time.monotonic() - began)
                # An end counts only under the lease it was polled with: after a rebalance its batch may be unfinished.
                await self.worker.end_round({tp: end for tp, end in polled.ends.items() if tp in leases and leases[tp].valid})
        except Exception as error:
            self.worker.terminate(error)

    async def _process(self, polled: PollResult) -> None:
        batches = [(TP(*tp), self.leases[tp], records) for tp, records in polled.batches.items() if tp in self.leases]
        self.outstanding = len(batches)
        self.all_finished.clear()
        for tp, lease, records in batches:
            batch = Batch(
                tp.topic,
                tp.partition,
                list(map(ck.Message.key, records)),
                list(map(ck.Message.value, records)),
                list(map(ck.Message.offset, records)),
                self.worker.outbox.topic_ids.get(tp.topic, ""),
            )
            await self.callback(self._message(tp, LeasedBatch(lease, batch)))
        paused = False
        while self.outstanding and not self.should_stop:
            try:
                await asyncio.wait_for(self.all_finished.wait(), STILL_WORKING_S)
            except TimeoutError:
                await self._in_poll_thread(self._poll_paused)
                paused = True
                self.worker.check_batch()
        if paused:
            await self._in_poll_thread(self._resume)

    def _message(self, tp: TP, leased: LeasedBatch) -> ConsumerMessage:
        # Faust's stream silently skips messages of another generation, so this is the one that Faust considers current.
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            leased.batch.offsets[-1],
            time.time(),
            1,
            [],
            None,
            leased,
            None,
            0,
            0,
            tp,
            generation_id=self.app.consumer_generation_id,
        )

    def finish_batch(self) -> None:
        """Note that the agent has finished one batch. (Faust inlines its acks in Cython: overriding `ack()` has no effect.)"""
        self.outstanding -= 1
        if not self.outstanding:
            self.all_finished.set()

    def _in_poll_thread(self, function: Any, *args: Any) -> Any:
        return self.event_loop.run_in_executor(self.poll_thread, function, *args)

    # -- in the poll thread

    def _poll(self, seconds: float) -> PollResult:
        opening, self.early = self.early, []
        if not opening:
            # Poll for the first record, then consume what is there: consume(n, seconds) waits all the time unless n come.
            record = self.kafka.poll(seconds)
            opening = [] if record is None else [self._with_lease(record)]
        more = self.kafka.consume(self.pace.records, 0) if opening else ()
        self._refresh_group_metadata()
        self.worker.check_partitions(self.kafka)
        polled = PollResult()
        # `consume` may have run a rebalance: records polled before it count only if their lease is still valid.
        self._sort(polled, [record for record, lease in opening if lease is None or lease.valid])
        self._sort(polled, more)
        return polled

    def _sort(self, polled: PollResult, records: Sequence[ck.Message]) -> None:
        """Sort records into batches and errors. Records come in runs of one partition, and runs are kept whole."""
        failed = [record for record in records if record.error() is not None] if any(map(ck.Message.error, records)) else []
        if failed:
            records = [record for record in records if record.error() is None]
        for topic, of_topic in groupby(records, ck.Message.topic):
            for partition, run in groupby(of_topic, ck.Message.partition):
                polled.batches[topic, partition] += run
        for record in failed:
            if record.error().code() == ck.KafkaError._PARTITION_EOF:
                polled.ends[record.topic(), record.partition()] = record.offset()
            else:
                self.worker.consumer_error(record.error())

    def _with_lease(self, record: ck.Message) -> tuple[ck.Message, Lease | None]:
        return record, self.leases.get((record.topic(), record.partition()))

    def _refresh_group_metadata(self) -> None:
        if self.leases:
            self.worker.outbox.group_metadata = self.group_metadata()

    def group_metadata(self) -> Any:
        """Return the member id and generation, which fence a zombie's commit (KIP-447)."""
        return self.kafka.consumer_group_metadata()

    def _poll_paused(self) -> None:
        self.kafka.pause(self.kafka.assignment())
        record = self.kafka.poll(0)
        if record is not None:
            self.early.append(self._with_lease(record))  # from a partition assigned just now, or an end-of-partition event
        self._refresh_group_metadata()

    def _resume(self) -> None:
        self.kafka.resume(self.kafka.assignment())

    def _on_loop(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.event_loop).result()

    def _assign(self, kafka: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
        try:
            started = self.worker.prepare(kafka, partitions)
        except Exception as error:
            self.worker.terminate(error)
            return
        kafka.assign(started)
        self.leases |= {(p.topic, p.partition): Lease() for p in partitions}
        self._refresh_group_metadata()
        self.app.on_rebalance_start()
        self._on_loop(self.on_partitions_assigned(self.assignment(), self.app.consumer_generation_id))

    def _revoke(self, kafka: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
        self._on_loop(self.revoke([(p.topic, p.partition) for p in partitions]))
        # A pause outlives its assignment, so a partition that comes back would stay silent. Resuming right behind an assignment
        # instead can collide with librdkafka's first fetch, which then comes a second later.
        kafka.resume(partitions)
        kafka.unassign()

    def _lost(self, _kafka: ck.Consumer, _partitions: list[ck.TopicPartition]) -> None:
        get_logger().error("partitions lost, worker ends")
        os._exit(EXIT_FENCED)  # another worker has them already, so nothing may be committed any more

    async def revoke(self, tps: list[TopicPartition]) -> None:
        """Commit finished batches and withdraw the leases of the batches that the stage still processes, in one step.

        Otherwise a batch could enter the outbox after this commit and be committed under the new generation, which fences
        nothing.
        """
        async with self.worker.outbox.lock:
            await self.worker.outbox.commit_locked()
            for tp in tps:
                lease = self.leases.pop(tp, None)
                if lease is not None:
                    lease.valid = False
            self.worker.release(tps)

    async def on_stop(self) -> None:
        """Commit finished batches and close. Static membership keeps the partitions assigned until the session times out."""
        await self.revoke(list(self.leases))
        await self._in_poll_thread(self.kafka.close)
        self.worker.close()
        self.poll_thread.shutdown(wait=False)

    # -- Faust's hooks for offsets, positions and fetching, which are unused

    async def _drain_messages(self, fetcher: Any) -> None:
        await fetcher.wait(asyncio.Event())

    async def commit(self, *_args: Any, **_kwargs: Any) -> bool:
        """Do nothing: the outbox commits."""
        return True

    async def seek_to_committed(self) -> dict[TP, int]:
        """Do nothing: partitions are assigned at their committed offsets."""
        return {}

    def assignment(self) -> set[TP]:
        """Return the partitions of this worker."""
        return {TP(*tp) for tp in self.leases}

    def highwater(self, _tp: TP) -> int:
        """Return 0: Faust does not know the ends of partitions."""
        return 0

    async def _unused(self, *_args: Any, **_kwargs: Any) -> Any:
        raise NotImplementedError

    _getmany = _seek = _commit = seek_wait = position = earliest_offsets = highwaters = _unused

    def _to_message(self, tp: TP, record: Any) -> Any:
        raise NotImplementedError

    def topic_partitions(self, _topic: str) -> int | None:
        """Return None: Faust does not know the topics' partitions."""
        return None

    def key_partition(self, _topic: str, _key: bytes, partition: int | None = None) -> int | None:
        """Return `partition` unchanged."""
        return partition

    def _new_topicpartition(self, topic: str, partition: int) -> TP:
        return TP(topic, partition)

    async def create_topic(self, *_args: Any, **_kwargs: Any) -> None:
        """Do nothing: `headwater topics apply` creates topics."""

    def verify_event_path(self, _now: float, _tp: TP) -> None:
        """Do nothing: the worker watches its progress itself."""


class Transport(BaseTransport):
    """Consumes over librdkafka. The outbox produces, so Faust's own producer stays its empty base class."""

    Consumer = Consumer
    default_port = 9092
    driver_version = f"librdkafka={ck.libversion()[0]}"
