"""`python -m bench`: measures the runtime and the stages beside their peers, on one broker, in one run.

Machines are noisy, so the unit is L: events/s of a hand-written confluent-kafka loop in the same run.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import confluent_kafka as ck
import psutil
import redis
from rich.console import Console
from rich.table import Table

from bench.events import raw_events, tc_events
from bench.visits import draw_visitors, visits
from infra.ops.embedded.servers.kafka import EmbeddedKafka
from infra.ops.embedded.servers.redis import EmbeddedRedis
from infra.ops.topics import apply
from infra.settings import PACKAGED_CONTRACTS, Settings
from schemas.registry import Registry
from tests.support.redis_cluster import LocalCluster

SECRET = "a benchmark has nothing to hide, but forty characters"  # noqa: S105 - protects generated data only
L, COPY, FAUST = "L: hand-written loop", "runtime, exactly once", "plain Faust, at least once"
LOOP, OURS = "consent in a loop", "consent in the runtime"
TC = ", TC strings"
"""50,000 different strings, drawn from a Zipf law (exponent 1.1)."""
KNOWN = ", known visitors"
"""Visitors whose states are already in the ledger, or whose ids are in the graph; otherwise all visitors are new."""
TWO = ", two workers"
IDENTITY = "identity in the runtime"
STRANGERS = ", strangers only"
"""Each visitor comes once."""
CLUSTER = ", Redis Cluster"
"""A cluster of three nodes."""
LEDGER = ["consent.state", "consent.heads"]
GRAPH = ["identity.merges", "identity.links", "identity.conflicts"]


class Benchmarks:
    """One broker and the figures measured on it."""

    def __init__(self, settings: dict[str, Any], cluster: LocalCluster, console: Console) -> None:
        self.settings = settings
        self.cluster = cluster
        self._console = console
        self.rows: dict[str, dict[str, float]] = {}

    def topics(self, *names: str) -> None:
        """Create topics with 4 partitions."""
        from confluent_kafka.admin import AdminClient, NewTopic

        admin = AdminClient({"bootstrap.servers": self.settings["kafka"]})
        for future in admin.create_topics([NewTopic(name, 4, 1) for name in names]).values():
            future.result()

    def fill(self, topic: str, records: Any, n: int, compression: str = "lz4") -> None:
        """Produce (key, value) records to the four partitions, by key."""
        producer = ck.Producer(
            {
                "bootstrap.servers": self.settings["kafka"],
                "enable.idempotence": True,
                "linger.ms": 20,
                "compression.type": compression,
                "partitioner": "murmur2_random",
                "queue.buffering.max.messages": 2_000_000,
            }
        )
        for i, (key, value) in enumerate(records):
            while True:
                try:
                    producer.produce(topic, value, key)
                    break
                except BufferError:
                    producer.poll(0.1)
            if i % 50_000 == 0:
                producer.poll(0)
            if i % 50_000 == 0 and self._console.is_terminal:
                self._console.print(f"  filling {topic}: {i:,} of {n:,}", end="\r", highlight=False)
        producer.flush()
        self._console.print(f"  {topic}: {n:,} records" + " " * 30, highlight=False)

    def reset(self, topics: list[str]) -> None:
        """Empty Redis and these topics, so that no contender uses what another has learned."""
        from confluent_kafka.admin import AdminClient

        redis.Redis.from_url(self.settings["redis"]).flushdb()
        self.cluster.empty()
        admin = AdminClient({"bootstrap.servers": self.settings["kafka"]})
        for future in admin.delete_topics(topics).values():
            future.result()
        while set(topics) & admin.list_topics(timeout=20).topics.keys():
            time.sleep(0.05)
        apply(Settings(**self.settings))

    def run(self, label: str, **options: Any) -> None:
        """Run one contender and print its figures; the best of a label's runs is kept."""
        options["settings"] = {**self.settings, "slot": label.replace(" ", "-"), **options.get("settings", {})}
        command = [sys.executable, "-m", "bench.contender", json.dumps(options)]
        completed = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        if completed.returncode:
            raise SystemExit(f"{label} failed:\n{completed.stdout}\n{completed.stderr}")
        measured = json.loads(completed.stdout.strip().splitlines()[-1])
        rate = measured["records"] / measured["seconds"]
        cpu_us = 1e6 * measured["cpu_s"] / measured["records"]
        hits = "" if measured["hit_rate"] is None else f", signals kept: {measured['hit_rate']:.1%}"
        self._console.print(f"  {label}: {rate:,.0f} records/s, {cpu_us:.2f} us CPU a record{hits}", highlight=False)
        self._keep(label, rate, cpu_us)

    def run_group(self, label: str, workers: int, **options: Any) -> None:
        """Run several workers of one group, measured from when each has a first batch of its own to the last commit."""
        gate = Path(self.settings["state_dir"]) / f"gate-{options['sink']}"
        processes: list[psutil.Popen] = []

        def ready() -> bool:
            return len(list(gate.parent.glob(f"{gate.name}.*"))) == len(processes)

        try:
            for n in range(workers):
                settings = {**self.settings, "slot": f"{options['sink']}-{n}"}
                more = {"how": "runtime", "settings": settings, "gate": str(gate), "begin": n == 0}
                command = [sys.executable, "-m", "bench.contender", json.dumps({**options, **more})]
                processes.append(psutil.Popen(command, stdout=subprocess.DEVNULL))
                self._wait(ready, processes)
                # The workers that joined earlier hold a batch of the previous assignment.
                for process in processes[:-1]:
                    gate.with_name(f"{gate.name}.{process.pid}").unlink()
            self._wait(ready, processes)
            group, source = f"headwater.bench-{options['sink']}", options["source"]
            consumer = ck.Consumer({"bootstrap.servers": self.settings["kafka"], "group.id": group})
            places = [ck.TopicPartition(source, partition) for partition in range(4)]
            ends = [consumer.get_watermark_offsets(place, 20)[1] for place in places]
            cpu = [process.cpu_times() for process in processes]
            began = time.monotonic()
            gate.touch()
            self._wait(lambda: [place.offset for place in consumer.committed(places, 20)] == ends, processes)
            seconds = time.monotonic() - began
            used = [(process.cpu_times(), before) for process, before in zip(processes, cpu, strict=True)]
            consumer.close()
        finally:
            for process in processes:
                process.kill()
                process.wait()
        rate = options["records"] / seconds
        cpu_us = 1e6 * sum(now.user + now.system - before.user - before.system for now, before in used) / options["records"]
        self._console.print(f"  {label}: {rate:,.0f} records/s, {cpu_us:.2f} us CPU a record", highlight=False)
        self._keep(label, rate, cpu_us)

    def _keep(self, label: str, rate: float, cpu_us: float) -> None:
        if rate > self.rows.get(label, {"rate": 0.0})["rate"]:
            self.rows[label] = {"rate": rate, "cpu_us": cpu_us}

    @staticmethod
    def _wait(condition: Callable[[], bool], processes: list[psutil.Popen]) -> None:
        deadline = time.monotonic() + 240
        while not condition():
            if time.monotonic() > deadline or any(process.poll() is not None for process in processes):
                raise SystemExit("a worker ended, or took too long")
            time.sleep(0.02)


def measure(bench: Benchmarks, records: int, events: int, rounds: int, only: str | None) -> None:
    """Run all contenders interleaved, so that a slow minute affects them all. The ledger is empty at each one's start."""
    few = max(2_000, records // 50)
    registry = Registry(PACKAGED_CONTRACTS)
    bench.topics("copy.in")
    # Events instead of equal records, which compress to almost nothing, so that a loop copies a fifth more of them.
    bench.fill("copy.in", raw_events(registry, records), records)
    if only in (None, "copy"):
        bench.topics("slow.in")
        # aiokafka does not read lz4 without a further package
        bench.fill("slow.in", raw_events(registry, few), few, "none")
    if only in (None, "events"):
        bench.fill("events.raw", raw_events(registry, events), events)
    if only in (None, "tc"):
        bench.topics("tc.in")
        bench.fill("tc.in", tc_events(registry, events), events)
    if only in (None, "identity"):
        fill_visits(bench, registry, events)
    for n in range(rounds):
        sinks = [f"{name}-{n}" for name in ("loop", "ours", "faust")]
        bench.topics(*sinks)
        bench.run(L, how="loop", stage="copy", source="copy.in", sink=sinks[0], records=records)
        if only in (None, "copy"):
            bench.run(COPY, how="runtime", stage="copy", source="copy.in", sink=sinks[1], records=records)
            bench.run(FAUST, how="faust", stage="copy", source="slow.in", sink=sinks[2], records=few)
        if only in (None, "events"):
            measure_consent(bench, "events.raw", "", events, n)
        if only in (None, "tc"):
            # The upper bound for records of this size, without a stage.
            bench.topics(f"bare-{n}")
            bench.run(f"{L}{TC}", how="loop", stage="copy", source="tc.in", sink=f"bare-{n}", records=events)
            measure_consent(bench, "tc.in", TC, events, n)
        if only in (None, "identity"):
            measure_identity(bench, events, n)


def measure_consent(bench: Benchmarks, source: str, suffix: str, events: int, n: int) -> None:
    """Run the stage in a loop and in the runtime, each with an empty ledger, then again over known visitors."""
    options = {"stage": "consent", "source": source, "records": events}
    bench.reset(LEDGER)
    bench.run(f"{LOOP}{suffix}", how="loop", sink=f"loop-{source}-{n}", **options)
    bench.reset(LEDGER)
    bench.run(f"{OURS}{suffix}", how="runtime", sink=f"cold-{source}-{n}", **options)
    bench.run(f"{OURS}{suffix}{KNOWN}", how="runtime", sink=f"warm-{source}-{n}", **options)
    bench.reset(LEDGER)
    bench.run_group(f"{OURS}{suffix}{TWO}", 2, sink=f"two-{source}-{n}", **options)


def fill_visits(bench: Benchmarks, registry: Registry, events: int) -> None:
    """Produce two days of the same visitors, and a day of visitors who come once."""
    days = [draw_visitors(events), draw_visitors(events), range(events)]
    for day, visitors in enumerate(days):
        bench.topics(f"visits-{day}.in")
        bench.fill(f"visits-{day}.in", visits(registry, visitors, day), events)


def measure_identity(bench: Benchmarks, events: int, n: int) -> None:
    """Run the stage over an empty graph, a day later over the resulting graph, and over an empty one with strangers."""
    runs = [("visits-0.in", "", True), ("visits-1.in", KNOWN, False), ("visits-2.in", STRANGERS, True)]
    for source, suffix, empty in runs:
        if empty:
            bench.reset(GRAPH)
        sink = f"identity-{source}-{n}"
        bench.run(f"{IDENTITY}{suffix}", how="runtime", stage="identity", source=source, sink=sink, records=events)
    bench.reset(GRAPH)
    for source, suffix, _ in runs[:2]:
        sink = f"two-{source}-{n}"
        bench.run_group(f"{IDENTITY}{suffix}{TWO}", 2, stage="identity", source=source, sink=sink, records=events)
    bench.reset(GRAPH)
    settings = {"identity_redis": bench.cluster.address}
    for source, suffix, _ in runs[:2]:
        options = {"stage": "identity", "source": source, "sink": f"cluster-{source}-{n}", "records": events}
        bench.run(f"{IDENTITY}{CLUSTER}{suffix}", how="runtime", settings=settings, **options)


def report(bench: Benchmarks, console: Console, as_json: bool) -> None:
    """Print the best figures and their ratios."""
    rows = bench.rows
    rates = {label: row["rate"] for label, row in rows.items()}
    ell = rates[L]
    ratios = {f"{label} / L": rate / ell for label, rate in rates.items() if label != L}
    if COPY in rates:
        ratios[f"{COPY} / {FAUST}"] = rates[COPY] / rates[FAUST]
    for suffix in ("", TC):
        if f"{OURS}{suffix}" in rates:
            ratios[f"{OURS}{suffix} / its loop"] = rates[f"{OURS}{suffix}"] / rates[f"{LOOP}{suffix}"]
    if f"{L}{TC}" in rates:
        ratios[f"{OURS}{TC}{TWO} / {L}{TC}"] = rates[f"{OURS}{TC}{TWO}"] / rates[f"{L}{TC}"]
    if as_json:
        print(json.dumps({"rows": rows, "ratios": ratios, "load": os.getloadavg()}))
        return
    table = Table("", "records/s", "us CPU a record", "of L", title="best of the rounds")
    for label, row in rows.items():
        table.add_row(label, f"{row['rate']:,.0f}", f"{row['cpu_us']:.2f}", f"{row['rate'] / ell:.3f}")
    console.print(table)
    for label, ratio in ratios.items():
        console.print(f"{label:>58}: {ratio:.2f}", highlight=False)
    console.print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", highlight=False)


def main() -> None:
    """Parse the arguments, measure and report."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__, epilog="Example: python -m bench --rounds 3")
    parser.add_argument("--records", type=int, default=1_500_000, help="events that are copied")
    parser.add_argument("--events", type=int, default=400_000, help="events that pass a stage")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", choices=("copy", "events", "tc", "identity"), help="beside L, which is always measured")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args()
    console = Console(stderr=arguments.json)
    with tempfile.TemporaryDirectory(prefix="headwater-bench-") as folder:
        console.print("starting Kafka and Redis", highlight=False)
        with (
            EmbeddedKafka(Path(folder) / "kafka") as broker,
            EmbeddedRedis(Path(folder) / "redis") as memory,
            LocalCluster(Path(folder) / "cluster") as cluster,
        ):
            settings = {"kafka": broker.address, "redis": memory.url, "state_dir": folder, "secret": SECRET}
            bench = Benchmarks(settings, cluster, console)
            apply(Settings(**bench.settings))
            measure(bench, arguments.records, arguments.events, arguments.rounds, arguments.only)
            report(bench, console, arguments.json)


if __name__ == "__main__":
    main()
