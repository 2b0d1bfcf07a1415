"""One contender, in a process of its own: reads `records` records through and prints what it took as JSON.

    python -m bench.contender '{"how": "runtime", "stage": "copy", "records": 1000000, ...}'

`how`: `runtime` (ours), `loop` (a hand-written confluent-kafka loop, transaction every 100 ms), `faust` (as it comes).
Time runs from the first batch to the last commit, processor time from the process's start to its end.
"""

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import confluent_kafka as ck

from bench.stages import make_stage
from infra.settings import Settings
from infra.telemetry.metrics import Metrics
from streams.runtime.first_start import begin_at_earliest
from streams.runtime.stage import Batch, Outcome


class Clock:
    """Measures and ends the process.

    `gate`: the first batch waits until this file exists, and says so by another (`<gate>.<process id>`). A worker of a group
    does not know how much of the work is its own, so whoever opened the gate measures and ends it. Who got all partitions
    before the others came holds a batch that is not its own any more: where its file is taken away, it goes on, and waits
    with the next.
    """

    def __init__(self, records: int, gate: str = "") -> None:
        self._records = records
        self._gate = gate
        self.metrics = Metrics()
        """Of the contender's stage."""
        self._began: float | None = None
        self._done = 0

    def _hit_rate(self) -> float | None:
        """Of events, those whose signals had been read before; None where no consent stage ran."""
        name = "headwater_consent_signals_total"
        hits, misses = (self.metrics.registry.get_sample_value(name, {"cache": cache}) for cache in ("hit", "miss"))
        return None if hits is None or misses is None else hits / (hits + misses)

    def begin(self) -> None:
        """At each batch; the first one counts."""
        if self._began is None and self._gate:
            mine = Path(f"{self._gate}.{os.getpid()}")
            mine.touch()
            while not Path(self._gate).exists():
                if not mine.exists():
                    return
                time.sleep(0.005)
        if self._began is None:
            self._began = time.monotonic()

    def record_commit(self, records: int) -> None:
        """`records` more are through. The last ones end the process."""
        self._done += records
        if self._done >= self._records and self._began is not None and not self._gate:
            seconds = time.monotonic() - self._began
            measured = {"records": self._done, "seconds": seconds, "cpu_s": time.process_time()}
            print(json.dumps({**measured, "hit_rate": self._hit_rate()}), flush=True)
            os._exit(0)


def run_runtime(config: dict[str, Any], clock: Clock) -> None:
    """Our worker, with a stage that tells the clock."""
    from streams.runtime.worker import Worker, run

    settings = Settings(**config["settings"])
    stage = make_stage(config["stage"], settings, config["source"], config["sink"], clock.metrics)
    handle = stage.handle

    def timed(batch: Batch, now: float) -> Outcome:
        clock.begin()
        outcome = handle(batch, now)
        outcome.after_commit.append(lambda: clock.record_commit(len(batch)))
        return outcome

    stage.handle = timed  # type: ignore[method-assign] # measured from outside, so that the stage stays as it is
    worker = Worker(settings, stage, clock.metrics)
    if config.get("begin", True):
        begin_at_earliest(settings, worker.group, stage.inputs)
    run(worker)


def run_loop(config: dict[str, Any], clock: Clock) -> None:
    """L: poll, produce, one transaction every 100 ms; for a stage, the same `handle` as the worker's."""
    settings = Settings(**config["settings"])
    stage = make_stage(config["stage"], settings, config["source"], config["sink"], clock.metrics)
    common = {"bootstrap.servers": settings.kafka}
    consumer = ck.Consumer(
        {
            **common,
            "group.id": f"loop-{config['sink']}",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "queued.min.messages": 100_000,
            "queued.max.messages.kbytes": 32_768,
            "fetch.wait.max.ms": 50,
            "fetch.queue.backoff.ms": 5,
        }
    )
    consumer.subscribe(list(stage.inputs))
    producer = ck.Producer(
        {
            **common,
            "transactional.id": f"loop-{config['sink']}",
            "linger.ms": 5,
            "batch.size": 1_000_000,
            "compression.type": "lz4",
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    producer.init_transactions(30)
    bare = config["stage"] == "copy"
    while True:
        producer.begin_transaction()
        offsets: dict[tuple[str, int], int] = {}
        records, due = 0, time.monotonic() + 0.1
        while time.monotonic() < due:
            first = consumer.poll(0.05)
            messages = [] if first is None else [first, *consumer.consume(10_000, 0)]
            messages = [message for message in messages if message.error() is None]
            if messages:
                clock.begin()
                (_copy if bare else _through_stage)(producer, stage, config["sink"], messages)
                records += len(messages)
                offsets |= {(m.topic(), m.partition()): m.offset() + 1 for m in messages}
        if records:
            ends = [ck.TopicPartition(topic, partition, offset) for (topic, partition), offset in offsets.items()]
            producer.send_offsets_to_transaction(ends, consumer.consumer_group_metadata())
        producer.commit_transaction(30)
        clock.record_commit(records)


def _copy(producer: ck.Producer, _stage: Any, sink: str, messages: list[ck.Message]) -> None:
    for message in messages:
        producer.produce(sink, message.value(), message.key(), partition=message.partition())
    producer.poll(0)


def _through_stage(producer: ck.Producer, stage: Any, _sink: str, messages: list[ck.Message]) -> None:
    by_partition: dict[tuple[str, int], list[ck.Message]] = {}
    for message in messages:
        by_partition.setdefault((message.topic(), message.partition()), []).append(message)
    for (topic, partition), batch in by_partition.items():
        keys, values = [m.key() for m in batch], [m.value() for m in batch]
        outcome = stage.handle(Batch(topic, partition, keys, values, [m.offset() for m in batch]), time.time())
        for exit_topic, outputs in outcome.out.items():
            for key, value, to in outputs:
                producer.produce(exit_topic, value, key, partition=to)
        producer.poll(0)


def run_faust(config: dict[str, Any], clock: Clock) -> None:
    """Faust as it comes: aiokafka, one event at a time, at least once."""
    import faust

    app = faust.App(
        f"faust-{config['sink']}",
        broker=f"kafka://{config['settings']['kafka']}",
        store="memory://",
        web_enabled=False,
        topic_disable_leader=True,
        value_serializer="raw",
        consumer_auto_offset_reset="earliest",
        datadir=str(Path(config["settings"]["state_dir"]) / "faust"),
    )
    sink = app.topic(config["sink"], key_type=bytes, value_type=bytes)

    @app.agent(app.topic(config["source"], key_type=bytes, value_type=bytes))
    async def copy(stream: Any) -> None:
        async for event in stream.events():
            clock.begin()
            await sink.send(key=event.key, value=event.value)
            clock.record_commit(1)
            await asyncio.sleep(0)

    worker = faust.Worker(app, loglevel="ERROR", redirect_stdouts=False, quiet=True)
    worker.spinner = None
    worker.execute_from_commandline()


HOW = {"runtime": run_runtime, "loop": run_loop, "faust": run_faust}

if __name__ == "__main__":
    arguments = json.loads(sys.argv[1])
    HOW[arguments["how"]](arguments, Clock(arguments["records"], arguments.get("gate", "")))
