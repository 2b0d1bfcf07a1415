"""Delivers accepted records to Kafka, or to the spool where Kafka does not answer in time."""

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

import confluent_kafka as ck

from infra.clients.kafka import producer
from infra.settings import Settings
from infra.telemetry.logs import get_logger
from infra.telemetry.metrics import Metrics
from streams.collector.delivery.spool import Spool, SpoolFull, SpoolRecord

POLL_S = 0.05
DRAIN_EVERY_S = 0.5
DRAIN_RECORDS = 500
DELIVERY_TIMEOUT_S = 30.0
MAX_RECORD = 1_048_576
"""Bytes of a record: the largest dead letter fits. A larger one would block the spool for ever."""
MAX_EVENT = 900_000
"""Bytes of a record that stages read: they add columns, and their producers take 1,000,000 bytes."""


class Ack:
    """Counts down the delivery reports of one request. Once produced, only the poll thread uses it."""

    __slots__ = ("failed", "future", "outstanding")

    def __init__(self, records: int, future: "asyncio.Future[bool]") -> None:
        self.outstanding = records
        self.failed = False
        self.future = future


class SpoolRequest(NamedTuple):
    """Records of one request that wait for the spool."""

    records: Sequence[SpoolRecord]
    written: "asyncio.Future[None]"


class Sink:
    """One producer and one spool, used on one event loop."""

    def __init__(self, settings: Settings, spool: Spool, metrics: Metrics, budget_s: float) -> None:
        self._spool = spool
        self._metrics = metrics
        self._budget_s = budget_s
        self._producer = producer(
            settings,
            linger_ms=2,
            queue_buffering_max_messages=200_000,
            message_timeout_ms=int(DELIVERY_TIMEOUT_S * 1000),
            message_max_bytes=MAX_RECORD,
        )
        self._resolved: deque[Ack] = deque()
        self._stop = threading.Event()
        self._poller = threading.Thread(target=self._poll_reports, name="delivery", daemon=True)
        self._disk = ThreadPoolExecutor(1, "spool")
        self._waiting: list[SpoolRequest] = []
        self._flushing = False
        self.last_ack = time.monotonic()

    async def start(self) -> None:
        """Start to poll for delivery reports and to drain the spool."""
        self._loop = asyncio.get_running_loop()
        self._poller.start()
        self._drainer = asyncio.create_task(self._drain())

    async def stop(self) -> None:
        """Flush and close. Unacknowledged records are in the spool or were never acknowledged to the client."""
        self._drainer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._drainer
        await self._loop.run_in_executor(None, self._producer.flush, 5)
        self._stop.set()
        self._poller.join(2)
        self._disk.shutdown()
        self._spool.close()

    @property
    def has_room(self) -> bool:
        """Whether the spool has room for a request of the largest allowed size."""
        return self._spool.has_room

    async def send(self, records: Sequence[SpoolRecord]) -> None:
        """Return once all records are acknowledged by Kafka or fsynced in the spool. SpoolFull where neither succeeds."""
        # While the spool holds records, new ones go behind them, so that a subject's events stay in order.
        if self._spool.empty and await self._send_in_time(records):
            return
        await self._append_to_spool(records)

    async def _send_in_time(self, records: Sequence[SpoolRecord]) -> bool:
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(self._produce(records), self._budget_s)
        return False

    def _produce(self, records: Sequence[SpoolRecord]) -> "asyncio.Future[bool]":
        future: asyncio.Future[bool] = self._loop.create_future()
        ack = Ack(len(records), future)

        def report(error: Any, _message: Any) -> None:
            ack.failed |= error is not None
            ack.outstanding -= 1
            if not ack.outstanding:
                self._resolved.append(ack)

        for i, record in enumerate(records):
            try:
                self._producer.produce(record.topic, record.value, record.key, on_delivery=report)
            except (BufferError, ck.KafkaException):
                # The queue is full: the rest is not produced. All records go to the spool; identity drops duplicates.
                missing = len(records) - i
                future.set_result(False)
                ack.outstanding += missing  # never reaches 0: the future has its result
                break
        return future

    def _poll_reports(self) -> None:
        while not self._stop.is_set():
            self._producer.poll(POLL_S)
            if self._resolved:
                # One wake-up of the loop for all reports of a poll, instead of one per record.
                acks = [self._resolved.popleft() for _ in range(len(self._resolved))]
                self._loop.call_soon_threadsafe(self._resolve, acks)

    def _resolve(self, acks: list[Ack]) -> None:
        for ack in acks:
            if not ack.failed:
                self.last_ack = time.monotonic()
            if not ack.future.done():
                ack.future.set_result(not ack.failed)

    # -- the spool

    async def _append_to_spool(self, records: Sequence[SpoolRecord]) -> None:
        """Append with group commit: requests that arrive during one fsync share the next."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(SpoolRequest(records, future))
        if not self._flushing:
            self._flushing = True
            asyncio.ensure_future(self._flush())  # noqa: RUF006 - each waiter holds a future that this one resolves
        await future

    async def _flush(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            for group in _group_requests(waiting):
                records = [record for request in group for record in request.records]
                try:
                    await self._loop.run_in_executor(self._disk, self._spool.append, records, time.time())
                    failure: Exception | None = None
                except (SpoolFull, OSError):
                    failure = SpoolFull()
                except Exception as error:  # each waiter must hear of it, or it would wait for ever
                    failure = error
                for request in group:
                    _settle(request.written, failure)
            self._metrics.set("headwater_spool_bytes", self._spool.bytes)
        self._flushing = False

    async def _drain(self) -> None:
        while True:
            if self._spool.empty or self._flushing or not await self._try_to_drain():
                await asyncio.sleep(DRAIN_EVERY_S)

    async def _try_to_drain(self) -> bool:
        """Drain the oldest segment. Where that fails the segment stays, and is tried again."""
        try:
            return await self._drain_oldest()
        except (TimeoutError, OSError) as error:
            get_logger().error("the spool could not be drained", error=type(error).__name__)
            return False

    async def _drain_oldest(self) -> bool:
        """Send the oldest segment and return True once Kafka has all of it. After a crash it is sent again."""
        file, records = self._spool.open_oldest()
        while batch := list(islice(records, DRAIN_RECORDS)):
            if not await asyncio.wait_for(self._produce(batch), DELIVERY_TIMEOUT_S + 5):
                return False
        await self._loop.run_in_executor(self._disk, self._spool.drop, file)
        self._metrics.set("headwater_spool_bytes", self._spool.bytes)
        get_logger().info("spool drained", left_bytes=self._spool.bytes)
        return True


def _settle(written: "asyncio.Future[None]", failure: Exception | None) -> None:
    """Resolve a waiter that has not gone away: its client may have closed the connection."""
    if written.done():
        return
    if failure is None:
        written.set_result(None)
    else:
        written.set_exception(failure)


def _group_requests(waiting: list[SpoolRequest]) -> list[list[SpoolRequest]]:
    """Group requests for one fsync each. A large batch stands alone: where it does not fit, the small ones still do."""
    large = [request for request in waiting if len(request.records) > DRAIN_RECORDS]
    small = [request for request in waiting if len(request.records) <= DRAIN_RECORDS]
    return ([small] if small else []) + [[request] for request in large]
