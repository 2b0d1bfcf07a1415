"""One worker: a stage, its outbox, and the retries, dead letters, ticks and metrics around them.

Together with the transport this is the only place that catches exceptions: bad data never gets here, a service that does not
answer is retried, and a bug ends the process.
"""

import asyncio
import gc
import os
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

import confluent_kafka as ck

from infra.clients.kafka import reader
from infra.clients.topic_ids import TopicWatch, is_for_another_topic
from infra.errors import EXIT_CONFIG, EXIT_FENCED, EXIT_HALTED, ConfigError, Halted, Retryable
from infra.payload_keyring import PayloadKeyring
from infra.processes.back_off import BackOff
from infra.settings import Settings
from infra.telemetry.logs import get_logger
from infra.telemetry.metrics import Metrics
from schemas.registry import Registry
from streams.runtime.counts import CellCounts
from streams.runtime.dead_letters.dead_letter import DeadLetterCause, DeadLetters, RecordPosition
from streams.runtime.follow import Follower, TopicPartition, read_partition
from streams.runtime.outbox import Outbox
from streams.runtime.progress import ProgressWatch
from streams.runtime.stage import Outcome, Output, Stage
from streams.runtime.transport import LeasedBatch

TICK_S = 1.0
BACK_OFF = BackOff(0.1, 5.0)
"""First and longest pause between two tries."""
LIMIT_WINDOW = 1_000
"""Number of recent records over which the share of dead letters is computed."""


class Worker:
    """Runs one stage. It is built outside the event loop; `streams.runtime.faust_app.run` starts it."""

    def __init__(self, settings: Settings, stage: Stage, metrics: Metrics) -> None:
        self.settings = settings
        self.stage = stage
        self.metrics = metrics
        self.group = f"headwater.{stage.name}"
        registry = Registry(settings.contracts)
        self._dead_letters = DeadLetters(registry, PayloadKeyring(settings.keyring_dir, settings.master), stage.name, metrics)
        self._counts = CellCounts(registry, stage.name)
        self._follower = Follower(settings, stage.broadcast)
        self._topics: TopicWatch | None = None
        self._stage_thread = ThreadPoolExecutor(1, "stage")
        self._recent: deque[tuple[int, int]] = deque()
        self._next_tick = 0.0
        self._progress = ProgressWatch(settings.stuck_after_s)
        self._waiting_since: float | None = None
        self._waiting_for = ""
        self._tick_waits = False
        """Whether the last tick raised Retryable."""
        self._commit: asyncio.Task[None] | None = None
        self.outbox = Outbox(settings, self.group, self._counts.drain)
        self.outbox.on_committed = self._committed

    # -- start and end

    def open_consumer(self) -> ck.Consumer:
        """Take over the slot, read the broadcast topics to their ends, and build the Kafka client. Blocks."""
        self.outbox.open()
        self._topics = TopicWatch(self.settings, self.stage.inputs)
        self.outbox.topic_ids = self._topics.ids_at_start()
        self._follower.start()
        while not self._follower.caught_up:
            self._apply_broadcasts()
            time.sleep(0.01)
        self._apply_broadcasts()
        session_ms = int(self.settings.session_timeout_s * 1000)
        gc.freeze()
        gc.set_threshold(200_000, 50, 100)  # otherwise lists of 10,000 records trigger full collections
        return reader(
            self.settings,
            self.group,
            group_instance_id=f"{self.group}-{self.settings.slot}",
            partition_assignment_strategy="range",
            auto_offset_reset="error",
            enable_partition_eof="true",
            session_timeout_ms=session_ms,
            heartbeat_interval_ms=session_ms // 4,
            queued_min_messages=100_000,
            fetch_queue_backoff_ms=5,
        )

    def close(self) -> None:
        """Stop the threads."""
        self._follower.stop()
        self._stage_thread.shutdown(wait=False, cancel_futures=True)

    def terminate(self, error: BaseException) -> NoReturn:
        """End the process at once, with an exit code for the supervisor."""
        log = get_logger()
        if isinstance(error, ConfigError):
            log.error("configuration error, worker ends", error=str(error))
            os._exit(EXIT_CONFIG)
        if isinstance(error, Halted):
            self.metrics.set("headwater_halted", 1, stage=self.stage.name)
            log.error("halted", error=str(error))
            os._exit(EXIT_HALTED)
        log.error("worker ends", exc_info=error)
        os._exit(EXIT_FENCED)

    # -- partitions (called in the consumer's poll thread)

    def prepare(self, kafka: ck.Consumer, partitions: list[ck.TopicPartition]) -> list[ck.TopicPartition]:
        """Restore the stage's state for new partitions and return their committed offsets."""
        started = self._committed_offsets(kafka, partitions)
        for partition in {p.partition for p in partitions if p.topic == self.stage.inputs[0]}:
            for topic in self.stage.restore:
                self._stage_thread.submit(self.stage.on_restore, topic, partition, ()).result()  # even if it is empty
                for records in read_partition(self.settings, topic, partition):
                    self._stage_thread.submit(self.stage.on_restore, topic, partition, records).result()
        self.outbox.assign({(p.topic, p.partition): p.offset for p in started})
        self._progress.record((p.topic, p.partition) for p in started)
        self.metrics.set("headwater_assigned_partitions", len(self._progress), stage=self.stage.name)
        return started

    def _committed_offsets(self, kafka: ck.Consumer, partitions: list[ck.TopicPartition]) -> list[ck.TopicPartition]:
        deadline = time.monotonic() + self.settings.transaction_timeout_s + 30
        while True:
            # The broker answers a reader of committed records only once a predecessor's transaction has ended.
            try:
                committed: list[ck.TopicPartition] = kafka.committed(partitions, timeout=10)
                break
            except ck.KafkaException as error:
                if time.monotonic() > deadline:
                    raise Retryable(f"no committed offsets: {error.args[0].name()}") from error
        for p in committed:
            if p.error is not None:
                raise ck.KafkaException(p.error)
            if p.offset < 0:
                raise Halted(
                    f"{self.group} has no committed offset for {p.topic}:{p.partition}, and starting anywhere in silence would "
                    f"lose or repeat events: start once with `headwater worker {self.stage.name} --from earliest`"
                )
            if is_for_another_topic(p.metadata, self.outbox.topic_ids.get(p.topic, "")):
                raise self._topic_replaced(p.topic)
        return committed

    def _topic_replaced(self, topic: str) -> Halted:
        return Halted(
            f"{topic} was deleted and created again, and the offsets of {self.group} are the old topic's: to read the new one "
            f"from its first record, start once with `headwater worker {self.stage.name} --from earliest`"
        )

    def release(self, tps: list[TopicPartition]) -> None:
        """Forget partitions that this worker no longer holds."""
        self.outbox.release(tps)
        self._progress.release(tps)
        for topic, partition in tps:
            if topic == self.stage.inputs[0]:
                self._stage_thread.submit(self.stage.on_revoke, partition)
        self.metrics.set("headwater_assigned_partitions", len(self._progress), stage=self.stage.name)

    def consumer_error(self, error: ck.KafkaError) -> None:
        """Handle an error that a poll returned: a fatal one ends the worker, librdkafka recovers from the rest."""
        if error.code() == ck.KafkaError._AUTO_OFFSET_RESET or error.code() == ck.KafkaError.OFFSET_OUT_OF_RANGE:
            self.terminate(
                Halted(
                    f"the committed offset of {self.group} is no longer on its topic: records were deleted before they were "
                    f"read. Decide, then start once with `headwater worker {self.stage.name} --from earliest`"
                )
            )
        if error.fatal():
            self.terminate(ck.KafkaException(error))
        get_logger().warning("consumer", error=error.name())

    # -- batches

    async def work(self, leased: LeasedBatch, on_done: Callable[[], None]) -> None:
        """Pass one batch to the stage, retrying while a service is away, and add its outcome to the outbox."""
        try:
            outcome = await self._handle(leased)
            if outcome is not None:
                async with self.outbox.lock:
                    if leased.lease.valid:
                        self._emit(leased, outcome)
        except Exception as error:
            self.terminate(error)
        on_done()

    async def _handle(self, leased: LeasedBatch) -> Outcome | None:
        """Return the outcome, or None if the partition was revoked meanwhile."""
        loop = asyncio.get_running_loop()
        pauses = BACK_OFF.pauses()
        started = time.monotonic()
        while leased.lease.valid:
            try:
                outcome = await loop.run_in_executor(self._stage_thread, self._in_stage_thread, leased)
            except Retryable as error:
                self._begin_wait(error)
                await asyncio.sleep(next(pauses) * random.uniform(0.5, 1.0))
            else:
                self._end_wait()
                self.metrics.observe("headwater_batch_seconds", time.monotonic() - started, stage=self.stage.name)
                return outcome
        return None

    def _in_stage_thread(self, leased: LeasedBatch) -> Outcome:
        self._apply_broadcasts()
        return self.stage.handle(leased.batch, time.time())

    def _apply_broadcasts(self) -> None:
        for topic, records in self._follower.drain():
            self.stage.on_broadcast(topic, records)

    def _emit(self, leased: LeasedBatch, outcome: Outcome) -> None:
        batch, name = leased.batch, self.stage.name
        self._check_dead_letter_share(len(batch), len(outcome.dead))
        outputs: dict[str, list[Output]] = dict(outcome.out)
        if outcome.dead:
            outputs["events.dead"] = [*outputs.get("events.dead", ()), *self._build_dead_letters(leased, outcome)]
        folded = self._counts.add(outcome.counts)
        self.outbox.put((batch.topic, batch.partition), batch.offsets[-1] + 1, outputs, outcome.after_commit)
        self._progress.record([(batch.topic, batch.partition)])
        count = self.metrics.count
        count("headwater_records_total", outcome.passed, stage=name, outcome="passed")
        count("headwater_records_total", len(outcome.dead), stage=name, outcome="dead")
        count("headwater_records_total", outcome.dropped.total(), stage=name, outcome="dropped")
        for reason, n in outcome.dropped.items():
            count("headwater_dropped_total", n, stage=name, reason=reason)
        if folded:
            count("headwater_cells_folded_total", folded, stage=name)

    def _build_dead_letters(self, leased: LeasedBatch, outcome: Outcome) -> list[Output]:
        batch, now = leased.batch, time.time()
        return [
            self._dead_letters.build(
                DeadLetterCause(dead.reason, dead.detail, RecordPosition(batch.topic, batch.partition, batch.offsets[dead.at])),
                batch.keys[dead.at],
                batch.values[dead.at],
                now,
            )
            for dead in outcome.dead
        ]

    def _check_dead_letter_share(self, records: int, dead: int) -> None:
        """Raise Halted when most recent records are dead letters: then the code is more likely wrong than the data."""
        self._recent.append((records, dead))
        while len(self._recent) > 1 and sum(n for n, _ in self._recent) - self._recent[0][0] >= LIMIT_WINDOW:
            self._recent.popleft()
        window_records, window_dead = sum(n for n, _ in self._recent), sum(n for _, n in self._recent)
        if window_records >= LIMIT_WINDOW and window_dead > self.settings.dead_letter_limit * window_records:
            raise Halted(
                f"{window_dead} of the last {window_records} records were refused (limit: HEADWATER_DEAD_LETTER_LIMIT="
                f"{self.settings.dead_letter_limit:g}). See `headwater dead list`; a higher limit lets them pass to events.dead"
            )

    # -- between batches

    async def end_round(self, ends: Mapping[TopicPartition, int]) -> None:
        """Move past transaction markers, tick, and commit when due. Called after each poll."""
        now = time.monotonic()
        self._progress.record(ends)
        async with self.outbox.lock:
            for tp, end in ends.items():
                self.outbox.advance(tp, end)
        if now >= self._next_tick:
            self._next_tick = now + TICK_S
            await self._tick()
        if self.outbox.seconds_left() == 0 and (self._commit is None or self._commit.done()):
            # Runs beside the next poll and the stage's next batch, which enters the outbox only after it.
            self._commit = asyncio.create_task(self._commit_now())

    async def _commit_now(self) -> None:
        try:
            await self.outbox.commit()
        except Exception as error:
            self.terminate(error)

    async def _tick(self) -> None:
        if not self._progress:
            return
        try:
            outcome = await asyncio.get_running_loop().run_in_executor(self._stage_thread, self._tick_in_stage_thread)
        except Retryable as error:
            self._tick_waits = True
            self._begin_wait(error)
            return
        if self._tick_waits:
            # Without batches nothing else would end the wait. A batch that waits too starts it again at its next try.
            self._tick_waits = False
            self._end_wait()
        async with self.outbox.lock:
            self.outbox.add(outcome.out, outcome.after_commit)

    def _tick_in_stage_thread(self) -> Outcome:
        self._apply_broadcasts()
        return self.stage.on_tick(time.time())

    def _committed(self, seconds: float, hooks: list[Callable[[], None]]) -> None:
        self.metrics.observe("headwater_commit_seconds", seconds, stage=self.stage.name)
        if hooks:
            self._stage_thread.submit(self._run_hooks, hooks)

    def _run_hooks(self, hooks: list[Callable[[], None]]) -> None:
        for hook in hooks:
            try:
                hook()
            except Retryable as error:
                get_logger().warning("after-commit hook skipped", error=str(error))
            except Exception as error:
                self.terminate(error)

    # -- waiting and watching

    def _begin_wait(self, error: Retryable) -> None:
        self.metrics.count("headwater_retries_total", stage=self.stage.name)
        if self._waiting_since is None:
            self._waiting_since = time.monotonic()
            self._waiting_for = error.service
            self.metrics.set("headwater_waiting", 1, stage=self.stage.name, service=error.service)
            get_logger().warning("waiting", error=str(error))

    def _end_wait(self) -> None:
        if self._waiting_since is not None:
            get_logger().info("going on", waited_s=round(time.monotonic() - self._waiting_since, 1))
            self._waiting_since = None
            self.metrics.set("headwater_waiting", 0, stage=self.stage.name, service=self._waiting_for)

    def check_batch(self) -> None:
        """Terminate the worker when its batch has neither ended nor waited for a service for `stuck_after_s` seconds."""
        if self._waiting_since is None and self._progress.batch_is_stuck():
            self.terminate(RuntimeError(f"no progress for {self.settings.stuck_after_s:g} s in the middle of a batch"))

    def check_partitions(self, kafka: ck.Consumer) -> None:
        """Terminate the worker when an input topic was replaced, or a partition has records and makes no progress."""
        if self._topics is not None and (topic := self._topics.find_replaced()) is not None:
            self.terminate(self._topic_replaced(topic))
        stuck = self._progress.find_stuck(kafka, self.outbox.position)
        if stuck is not None:
            seconds = self.settings.stuck_after_s
            self.terminate(RuntimeError(f"{stuck[0]}:{stuck[1]} has records and made no progress for {seconds:g} s"))
