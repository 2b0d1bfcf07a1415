"""`python -m bench.collector`: what an event costs the collector, beside a loop that only parses and produces.

Starts Kafka, one `headwater collect` and the reference loop, and sends each protocol to both in batches and as single events.
CPU time is the server process's, from the kernel. Latencies count from when a request was due until its answer, which comes
after Kafka's acknowledgement. At last the collector gets four times as many events as it can take.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import confluent_kafka as ck
from confluent_kafka.admin import AdminClient, NewTopic
from rich.console import Console
from rich.table import Table

from bench.collector.load import send_for
from bench.collector.payloads import WORKLOADS, build_requests
from bench.collector.processes import SECRET, MeasuredServer, run_collector, run_reference
from bench.collector.reference import TOPIC
from infra.ops import topics
from infra.ops.embedded.servers.kafka import EmbeddedKafka
from infra.settings import Settings, load_settings
from streams.collector.write_keys import create_key

BATCH = 100
EVENTS = 20_000
"""Different events that are sent in turn."""
BUDGET_S = 10.0
"""Seconds that Kafka may take, so that no disk is measured: the first records wait for the topics' leaders."""
NO_LIMIT = 1e9
"""Events a second of a write key: the benchmark wants the process's limit, not the key's."""
OVERLOAD = 4
OVERLOAD_CONNECTIONS = 800
SAMPLE_S = 0.5
SETTLE_S = 30.0
"""Seconds in which a spool must be drained after the overload."""

Row = dict[str, Any]


def measure_load(server: MeasuredServer, requests: Sequence[bytes], size: int, seconds: float, connections: int) -> Row:
    """Send requests of `size` events as fast as they are answered, and return the figures."""
    before = server.cpu_s()
    result = send_for(server.port, requests, seconds, connections)
    cpu_s = server.cpu_s() - before
    answers = result.statuses[200]
    assert set(result.statuses) == {200}, result.statuses
    return {
        "requests_per_s": round(answers / result.seconds),
        "events_per_s": round(answers * size / result.seconds),
        "cpu_us_per_event": round(cpu_s / (answers * size) * 1e6, 1),
        "requests_per_cpu_s": round(answers / cpu_s),
        "p50_ms": round(result.latency_ms(0.5), 1),
        "p99_ms": round(result.latency_ms(0.99), 1),
        "rss_mb": round(server.rss_mb()),
    }


def count_records(kafka: str, topic: str) -> int:
    """Return the number of records of a topic."""
    consumer = ck.Consumer({"bootstrap.servers": kafka, "group.id": "bench"})
    try:
        partitions = consumer.list_topics(topic, timeout=20).topics[topic].partitions
        return sum(consumer.get_watermark_offsets(ck.TopicPartition(topic, number))[1] for number in partitions)
    finally:
        consumer.close()


def create_topic(kafka: str, topic: str) -> None:
    """Create the topic of the reference loop, with as many partitions as that of the collector has."""
    client = AdminClient({"bootstrap.servers": kafka})
    partitions = len(client.list_topics("events.raw", timeout=20).topics["events.raw"].partitions)
    client.create_topics([NewTopic(topic, partitions, 1)])[topic].result()


class MemorySampler(threading.Thread):
    """Samples a server's memory until it is stopped."""

    def __init__(self, server: MeasuredServer) -> None:
        super().__init__(daemon=True)
        self._server = server
        self._stop_event = threading.Event()
        self.rss_mb: list[float] = []

    def run(self) -> None:
        """Sample."""
        while not self._stop_event.wait(SAMPLE_S):
            self.rss_mb.append(self._server.rss_mb())

    def stop(self) -> list[float]:
        """Stop, and return the samples."""
        self._stop_event.set()
        self.join()
        return self.rss_mb or [self._server.rss_mb()]


def measure_overload(server: MeasuredServer, requests: Sequence[bytes], capacity: float, seconds: float, kafka: str) -> Row:
    """Offer OVERLOAD times the requests a second that were answered, and count what of the answered ones is on Kafka."""
    before = count_records(kafka, "events.raw")
    sampler = MemorySampler(server)
    sampler.start()
    result = send_for(server.port, requests, seconds, OVERLOAD_CONNECTIONS, capacity * OVERLOAD)
    rss_mb = sampler.stop()
    promised = result.statuses[200] * BATCH
    deadline = time.monotonic() + SETTLE_S
    while (stored := count_records(kafka, "events.raw") - before) < promised and time.monotonic() < deadline:
        time.sleep(0.2)
    half = len(rss_mb) // 2
    return {
        "offered_per_s": round(capacity * OVERLOAD * BATCH),
        "events_per_s": round(promised / result.seconds),
        "statuses": {str(status): count for status, count in sorted(result.statuses.items())},
        "without_retry_after": result.without_retry_after,
        "answered_200": promised,
        "lost": max(0, promised - stored),
        "p99_ms": round(result.latency_ms(0.99), 1),
        "rss_mb_first_half": round(max(rss_mb[: half or 1])),
        "rss_mb_second_half": round(max(rss_mb[half:])),
    }


def measure(settings: Settings, arguments: argparse.Namespace, progress: Callable[[str], None]) -> dict[str, Any]:
    """Run everything and return the figures by name."""
    key = create_key(settings.write_keys_file, "web-de", site="shop.example", events_per_s=NO_LIMIT)
    rows: dict[str, Any] = {}
    create_topic(settings.kafka, TOPIC)
    options = ["--budget", str(BUDGET_S)]
    options += ["--processes", str(arguments.processes)] if arguments.processes > 1 else []
    with run_collector(settings, options) as collector, run_reference(settings) as reference:
        for name in arguments.protocols:
            for label, size in (("batches", BATCH), ("single events", 1)):
                requests = build_requests(WORKLOADS[name], key, EVENTS if size > 1 else EVENTS // 4, size)
                for kind, server in (("collector", collector), ("reference", reference)):
                    progress(f"{name}, {label}: {kind}")
                    # Until Kafka and the caches are warm.
                    send_for(server.port, requests, arguments.seconds / 4, arguments.connections)
                    figures = measure_load(server, requests, size, arguments.seconds, arguments.connections)
                    rows[f"{name}, {label}, {kind}"] = figures
        if arguments.overload_s:
            capacity = rows[f"{arguments.protocols[0]}, batches, collector"]["requests_per_s"]
            progress(f"overload for {arguments.overload_s:g} s")
            requests = build_requests(WORKLOADS[arguments.protocols[0]], key, EVENTS, BATCH)
            rows["overload"] = measure_overload(collector, requests, capacity, arguments.overload_s, settings.kafka)
    return rows


def report(rows: dict[str, Any], console: Console) -> None:
    """Print the figures, and what an event costs in events of the reference loop."""
    table = Table("", "requests/s", "us CPU an event", "of the reference", "p50 ms", "p99 ms", "MB")
    for label, row in rows.items():
        if label == "overload":
            continue
        reference = rows[f"{label.rpartition(', ')[0]}, reference"]["cpu_us_per_event"]
        cpu_us = row["cpu_us_per_event"]
        cells = (f"{cpu_us:.1f}", f"{cpu_us / reference:.2f}", f"{row['p50_ms']}", f"{row['p99_ms']}", f"{row['rss_mb']}")
        table.add_row(label, f"{row['requests_per_s']:,}", *cells)
    console.print(table)
    if "overload" in rows:
        console.print(json.dumps({"overload": rows["overload"]}, indent=1), highlight=False)
    console.print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", highlight=False)


def main() -> None:
    """Parse the arguments, measure and report."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.collector",
        description=__doc__,
        epilog="Example: python -m bench.collector --overload-s 300 --json",
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="of each run")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--protocols", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--overload-s", type=float, default=10.0, help="seconds of fourfold overload; 0 = none")
    parser.add_argument("--processes", type=int, default=1, help="processes of the collector on its port")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args()
    progress = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="headwater-bench-") as folder, EmbeddedKafka(Path(folder) / "kafka") as broker:
        settings = load_settings(kafka=broker.address, state_dir=Path(folder), secret=SECRET)
        topics.apply(settings)
        rows = measure(settings, arguments, lambda text: progress.print(text, highlight=False))
    if arguments.json:
        json.dump({"rows": rows, "load": os.getloadavg(), "cores": os.cpu_count()}, sys.stdout)
        print()
    else:
        report(rows, Console())


if __name__ == "__main__":
    main()
