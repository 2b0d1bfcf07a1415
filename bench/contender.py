"""One contender in a process of its own: processes `records` records and prints the time that this took as JSON.

    python -m bench.contender '{"how": "runtime", "stage": "copy", "records": 1000000, ...}'

`how`: `runtime` (Headwater's), `loop` (a hand-written confluent-kafka loop with a
transaction every 100 ms) or `faust` (its defaults).
Time runs from the first batch to the last commit, processor time from the process's start to its end.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import confluent_kafka as ck

from bench.passthrough import PassThrough
from infra.settings import Settings
from infra.telemetry.metrics import Metrics
from streams.runtime.first_start import begin_at_earliest
from streams.runtime.stage import Batch, Outcome, Stage


def make_stage(name: str, settings: Settings, source: str, sink: str, metrics: Metrics) -> Stage:
    """Build `copy` from `source` to `sink`, or a stage that reads events from `source` and keeps its own exits."""
    if name == "copy":
        return PassThrough(f"bench-{sink}", source, sink)
    stage = STAGES[name](settings, metrics)
    stage.name = f"bench-{sink}"  # a consumer group of its own for each contender
    stage.inputs = (source, *stage.inputs[1:])
    return stage


def _consent(settings: Settings, metrics: Metrics) -> Stage:
    from streams.consent.app import build

    return build(settings, metrics)


def _identity(settings: Settings, metrics: Metrics) -> Stage:
    from streams.identity.app import build

    return build(settings, metrics)


STAGES: dict[str, Callable[[Settings, Metrics], Stage]] = {"consent": _consent, "identity": _identity}


class Clock:
    """Measures the run and ends the process after its last record.

    With a `gate` (a path), the first batch creates `<gate>.<process id>` and waits until the file `gate` exists. A worker of a
    group does not know its share of the records, so the parent process measures and ends it. A worker that held all partitions
    before the others joined waits with a batch it no longer owns: when the parent deletes its file, it goes on and waits
    with the next batch.
    """

    def __init__(self, records: int, gate: str = "") -> None:
        self._records = records
        self._gate = gate
        self.metrics = Metrics()
        """Metrics of the contender's stage."""
        self._began: float | None = None
        self._committed = 0

    def _hit_rate(self) -> float | None:
        """Share of events whose signals were in the cache; None where no consent stage ran."""
        name = "headwater_consent_signals_total"
        hits, misses = (self.metrics.registry.get_sample_value(name, {"cache": cache}) for cache in ("hit", "miss"))
        return None if hits is None or misses is None else hits / (hits + misses)

    def begin(self) -> None:
        """Start the clock. Called at each batch; the first call counts."""
        if self._began is None and self._gate:
            ready = Path(f"{self._gate}.{os.getpid()}")
            ready.touch()
            while not Path(self._gate).exists():
                if not ready.exists():
                    return
                time.sleep(0.005)
        if self._began is None:
            self._began = time.monotonic()

    def record_commit(self, records: int) -> None:
        """Add committed records; print the figures and end the process once all are committed."""
        self._committed += records
        if self._committed >= self._records and self._began is not None and not self._gate:
            seconds = time.monotonic() - self._began
            measured = {"records": self._committed, "seconds": seconds, "cpu_s": time.process_time()}
            print(json.dumps({**measured, "hit_rate": self._hit_rate()}), flush=True)
            os._exit(0)


def run_runtime(config: dict[str, Any], clock: Clock) -> None:
    """Run Headwater's worker with a stage that drives the clock."""
    from streams.runtime.faust_app import run
    from streams.runtime.worker import Worker

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
    """Run L: poll, produce, one transaction every 100 ms; for a stage, with the same `handle` as the worker's."""
    settings = Settings(**config["settings"])
    stage = make_stage(config["stage"], settings, config["source"], config["sink"], clock.metrics)
    process = _copy if config["stage"] == "copy" else _through_stage
    consumer, producer = _loop_clients(settings, f"loop-{config['sink']}")
    consumer.subscribe(list(stage.inputs))
    producer.init_transactions(30)
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
                process(producer, stage, config["sink"], messages)
                records += len(messages)
                offsets |= {(m.topic(), m.partition()): m.offset() + 1 for m in messages}
        if records:
            ends = [ck.TopicPartition(topic, partition, offset) for (topic, partition), offset in offsets.items()]
            producer.send_offsets_to_transaction(ends, consumer.consumer_group_metadata())
        producer.commit_transaction(30)
        clock.record_commit(records)


def _loop_clients(settings: Settings, name: str) -> tuple[ck.Consumer, ck.Producer]:
    """Clients with the same queues and batches as the worker's; `name` is their group and transactional id."""
    consumer = ck.Consumer(
        {
            "bootstrap.servers": settings.kafka,
            "group.id": name,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "queued.min.messages": 100_000,
            "queued.max.messages.kbytes": 32_768,
            "fetch.wait.max.ms": 50,
            "fetch.queue.backoff.ms": 5,
        }
    )
    producer = ck.Producer(
        {
            "bootstrap.servers": settings.kafka,
            "transactional.id": name,
            "linger.ms": 5,
            "batch.size": 1_000_000,
            "compression.type": "lz4",
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    return consumer, producer


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
    """Run Faust with its defaults: aiokafka, one event at a time, at least once."""
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
