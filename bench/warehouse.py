"""`python -m bench.warehouse [rows]`: Kafka to ClickHouse by the loader, beside the engine's own insert and decode-and-insert.

All bring the same events into tables of the same columns in one embedded ClickHouse, in turns; the median counts:

- loader: `headwater warehouse` empties events.resolved, from its first insert to its last;
- engine: the same bytes as the loader sends, packed beforehand, by raw_insert, one batch of a partition after the other;
- engine-parallel: the same, as many inserts at a time as the loader has threads;
- decode: the same records, held in memory, decoded by fastavro into columns and inserted by clickhouse-connect.

CPU seconds are those of the client and of the server, a million rows. Rows are counted before a turn counts.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import clickhouse_connect
import confluent_kafka as ck
import psutil
from rich.console import Console
from rich.table import Table as Sheet

from consumers.warehouse.loader.batch import MAX_ROWS
from consumers.warehouse.loader.container import Container
from consumers.warehouse.loader.inserter import THREADS
from consumers.warehouse.schema.ddl import PLACE, create_table
from consumers.warehouse.schema.migrating import migrate
from consumers.warehouse.schema.tables import TABLES
from consumers.warehouse.topic_partition import TopicPartition
from infra.clients.kafka import producer, reader
from infra.clients.topic_ids import topic_ids
from infra.ops import topics as topics_app
from infra.ops.embedded.servers.child import HEADWATER, Child, Program
from infra.ops.embedded.servers.clickhouse import EmbeddedClickHouse
from infra.ops.embedded.servers.kafka import EmbeddedKafka
from infra.settings import Settings, load_settings
from schemas.codec import decode, encode
from schemas.registry import Registry

SECRET = "a secret of the benchmark, long enough"  # noqa: S105 - protects made-up events
TOPIC = "events.resolved"
DIFFERENT = 1_000
PATIENCE_S = 600.0
SETTINGS = {"async_insert": "0", "insert_deduplicate": "0", "max_partitions_per_insert_block": "1000"}


@dataclass(frozen=True)
class Turn:
    """Figures of one way over all rows."""

    rows: int
    seconds: float
    client_cpu_s: float
    server_cpu_s: float

    @property
    def rate(self) -> float:
        """Rows a second."""
        return self.rows / self.seconds


@dataclass
class WarehouseBench:
    """Servers with the topic filled."""

    folder: Path
    settings: Settings
    server: psutil.Process
    rows: int
    registry: Registry = field(init=False)
    client: Any = field(init=False)
    records: dict[int, list[tuple[int, bytes]]] = field(init=False)
    """(offset, value) by partition, in memory for the ways beside the loader."""

    def __post_init__(self) -> None:
        self.registry = Registry(self.settings.contracts)
        # On loopback compression only costs.
        self.client = clickhouse_connect.get_client(dsn=self.settings.clickhouse, autogenerate_session_id=False, compress=False)

    # -- what is loaded

    def fill(self) -> None:
        """Produce events and read them back, so that batches are those that Kafka delivers."""
        client, values = producer(self.settings), list(events(self.registry))
        for n in range(self.rows):
            client.produce(TOPIC, values[n % DIFFERENT], partition=n % self.settings.partitions)
            if n % 10_000 == 0:
                client.flush()
        client.flush()
        self.records = {partition: self._read(partition) for partition in range(self.settings.partitions)}

    def _read(self, partition: int) -> list[tuple[int, bytes]]:
        consumer = reader(self.settings, "headwater.bench", auto_offset_reset="earliest")
        consumer.assign([ck.TopicPartition(TOPIC, partition, 0)])
        end = consumer.get_watermark_offsets(ck.TopicPartition(TOPIC, partition), timeout=10)[1]
        records: list[tuple[int, bytes]] = []
        while len(records) < end:
            records += [(message.offset(), message.value()) for message in consumer.consume(10_000, 1.0)]
        consumer.close()
        return records

    def batches(self) -> Iterator[tuple[int, list[tuple[int, bytes]]]]:
        """(partition, records) of the loader's batch size, the partitions in turns."""
        longest = max(map(len, self.records.values()))
        for start in range(0, longest, MAX_ROWS):
            for partition, records in self.records.items():
                if batch := records[start : start + MAX_ROWS]:
                    yield partition, batch

    @contextmanager
    def table(self) -> Iterator[str]:
        """An empty table made as the loader's is, for one turn."""
        name = "bench_events"
        contract, table = self.registry.latest(TOPIC), TABLES[TOPIC]
        self.client.command(create_table(contract, table).replace("`events`", f"`{name}`", 1))
        try:
            yield f"headwater.{name}"
        finally:
            self.client.command(f"DROP TABLE headwater.{name} SYNC")

    # -- the three ways

    def loader(self) -> Turn:
        """Run a loader process; time and rows count from the first visible insert to the last."""
        self.client.command("TRUNCATE TABLE headwater.events SYNC")
        self._begin_again()
        environment = {
            "HEADWATER_KAFKA": self.settings.kafka,
            "HEADWATER_CLICKHOUSE": self.settings.clickhouse,
            "HEADWATER_STATE_DIR": str(self.folder),
            "HEADWATER_SECRET": SECRET,
            "HEADWATER_OVERRIDES_INTERVAL_S": "0",
            "HEADWATER_SQUASH_EVERY_DAYS": "0",
        }
        child = Child(Program("warehouse", (*HEADWATER, "warehouse"), self.folder / "warehouse.log", environment))
        try:
            process, deadline = psutil.Process(child.pid), time.monotonic() + PATIENCE_S
            first = 0
            while not first:
                first = self._count("headwater.events")
                self._refuse_end(child, deadline)
                time.sleep(0.01)
            with Stopwatch(process, self.server) as watch:
                while self._count("headwater.events") < self.rows:
                    self._refuse_end(child, deadline)
                    time.sleep(0.1)  # counting takes time from the server
            return watch.turn(self.rows - first)
        finally:
            child.stop()

    def _begin_again(self) -> None:
        """Reset the group, so that the loader reads from the beginning."""
        consumer = reader(self.settings, "headwater.warehouse")
        positions = [ck.TopicPartition(TOPIC, number, 0) for number in range(self.settings.partitions)]
        deadline = time.monotonic() + 30
        while True:
            try:
                consumer.commit(offsets=positions, asynchronous=False)
                break
            except ck.KafkaException:  # the stopped loader is still a member of its group
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
        consumer.close()

    def _refuse_end(self, child: Child, deadline: float) -> None:
        if child.exit_code() is not None or time.monotonic() > deadline:
            sys.exit(f"the loader does not load:\n{child.tail(20)}")

    def engine(self) -> Turn:
        """Insert the loader's bytes, packed beforehand, one insert at a time."""
        return self._insert_packed(1)

    def engine_parallel(self) -> Turn:
        """Insert the same bytes with as many inserts at a time as the loader."""
        return self._insert_packed(THREADS)

    def _insert_packed(self, threads: int) -> Turn:
        contract = self.registry.latest(TOPIC)
        container, topic_id = Container(contract), topic_ids(self.settings, [TOPIC])[TOPIC]
        now = int(time.time() * 1000)
        bodies = [container.pack(TopicPartition(TOPIC, partition, topic_id), now, batch) for partition, batch in self.batches()]
        with self.table() as name, ThreadPoolExecutor(threads) as pool:

            def insert(body: bytes) -> None:
                self.client.raw_insert(name, list(container.columns), body, settings=SETTINGS, fmt="Avro")

            with Stopwatch(psutil.Process(), self.server) as watch:
                list(pool.map(insert, bodies))
            return self._checked(name, watch)

    def decode(self) -> Turn:
        """Decode records into columns and insert these."""
        contract = self.registry.latest(TOPIC)
        times = {entry["name"] for entry in contract.schema["fields"] if _is_time(entry["type"])}
        columns, topic_id = [*PLACE, *contract.names], topic_ids(self.settings, [TOPIC])[TOPIC]
        with self.table() as name:
            with Stopwatch(psutil.Process(), self.server) as watch:
                for partition, batch in self.batches():
                    records = [decode(self.registry, value)[1] for _, value in batch]
                    now, size = datetime.now(UTC), len(batch)
                    data: list[Sequence[Any]] = [
                        [topic_id] * size, [partition] * size, [offset for offset, _ in batch], [now] * size,
                    ]  # fmt: skip
                    for column in contract.names:
                        values = [record[column] for record in records]
                        data.append([datetime.fromtimestamp(ms / 1000, UTC) for ms in values] if column in times else values)
                    self.client.insert(name, data, column_names=columns, column_oriented=True, settings=SETTINGS)
            return self._checked(name, watch)

    def _checked(self, name: str, watch: "Stopwatch") -> Turn:
        rows = self._count(name)
        if rows != self.rows:
            sys.exit(f"{rows} of {self.rows} rows are in the table: the engine lost some, the figures say nothing")
        return watch.turn(rows)

    def _count(self, name: str) -> int:
        return int(self.client.query(f"SELECT count() FROM {name}").result_rows[0][0])  # noqa: S608 - ours


class Stopwatch:
    """Wall seconds and the CPU seconds of two processes."""

    def __init__(self, client: psutil.Process, server: psutil.Process) -> None:
        self._processes = (client, server)

    def _read(self) -> tuple[float, ...]:
        return (time.perf_counter(), *(sum(process.cpu_times()[:2]) for process in self._processes))

    def __enter__(self) -> "Stopwatch":
        self._begun = self._read()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = self._read()

    def turn(self, rows: int) -> Turn:
        """Figures between enter and exit."""
        return Turn(rows, *(end - begin for begin, end in zip(self._begun, self._ended, strict=True)))


WAYS = {
    "loader": WarehouseBench.loader,
    "engine": WarehouseBench.engine,
    "engine-parallel": WarehouseBench.engine_parallel,
    "decode": WarehouseBench.decode,
}


def events(registry: Registry) -> Iterator[bytes]:
    """A thousand different events of about 400 bytes."""
    contract = registry.latest(TOPIC)
    now = int(time.time() * 1000)
    samples = {
        "string": "some text", "int": 3, "boolean": False, "double": 0.5, "long": now,
        "map": {"gcs": "G111"}, "array": ["1" * 33],
    }  # fmt: skip
    fields = contract.schema["fields"]
    record = {
        f["name"]: samples[f["type"] if isinstance(f["type"], str) else f["type"]["type"]] for f in fields if "default" not in f
    }
    record |= {
        "page_url": "https://shop.example/products/shoes?colour=blue",
        "user_agent": "Mozilla/5.0 (X11; Linux x86_64) " * 2,
    }
    for n in range(DIFFERENT):
        own = {"event_id": f"{n:032}", "event_name": f"name_{n % 20}", "properties": {"item": str(n), "list": "a" * 40}}
        yield encode(contract, record | own)


def _is_time(kind: Any) -> bool:
    return isinstance(kind, dict) and kind.get("logicalType") == "timestamp-millis"


def measure(bench: WarehouseBench, rounds: int, ways: Sequence[str]) -> dict[str, list[Turn]]:
    """Run all ways in turns; the terminal shows the present one."""
    turns: dict[str, list[Turn]] = {way: [] for way in ways}
    with Console(stderr=True).status("") as status:
        for number in range(rounds):
            for way in ways:
                status.update(f"round {number + 1} of {rounds}: {way}")
                turns[way].append(WAYS[way](bench))
    return turns


def figures(turns: dict[str, list[Turn]], rows: int, size: int) -> dict[str, Any]:
    """Medians, and the loader's rate relative to the others."""
    result: dict[str, Any] = {"rows": rows, "event_bytes": size, "load": round(os.getloadavg()[0], 1), "ways": {}}
    for way, measured in turns.items():
        millions = [turn.rows / 1e6 for turn in measured]
        result["ways"][way] = {
            "rows_per_s": round(statistics.median(turn.rate for turn in measured)),
            "client_cpu_s_per_million": round(
                statistics.median(turn.client_cpu_s / n for turn, n in zip(measured, millions, strict=True)), 2
            ),
            "server_cpu_s_per_million": round(
                statistics.median(turn.server_cpu_s / n for turn, n in zip(measured, millions, strict=True)), 2
            ),
            "rows_per_s_of_turns": [round(turn.rate) for turn in measured],
        }
    for other in WAYS:
        if other != "loader" and other in turns and "loader" in turns:
            pairs = zip(turns["loader"], turns[other], strict=True)
            result[f"loader_to_{other}"] = round(statistics.median(loader.rate / beside.rate for loader, beside in pairs), 2)
    return result


def show(result: dict[str, Any]) -> None:
    """Print a table."""
    console = Console(width=128)
    sheet = Sheet("", "rows/s", "client, CPU s a million", "server, CPU s a million", "rows/s of the turns")
    for way, row in result["ways"].items():
        turns = " ".join(f"{rate:,}" for rate in row["rows_per_s_of_turns"])
        sheet.add_row(
            way, f"{row['rows_per_s']:,}", f"{row['client_cpu_s_per_million']:.1f}",
            f"{row['server_cpu_s_per_million']:.1f}", turns,
        )  # fmt: skip
    console.print(sheet)
    ratios = ", ".join(
        f"{name.replace('_', ' ')} {value:.2f}" for name, value in result.items() if name.startswith("loader_to")
    )
    title = f"{result['rows']:,} events of {result['event_bytes']} bytes, medians; load {result['load']}"
    console.print(f"{ratios}; {title}" if ratios else title, highlight=False)


def main() -> None:
    """Fill the topic, measure, and print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.warehouse",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Example: python -m bench.warehouse 400000 --rounds 3",
    )
    parser.add_argument("rows", type=int, nargs="?", default=400_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=sorted(WAYS), action="append", help="one way, may be repeated; all when absent")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    if options.rows < DIFFERENT or options.rounds < 1:
        parser.error(f"at least {DIFFERENT} rows and one round: fewer say nothing about speed")
    ways = [way for way in WAYS if not options.only or way in options.only]
    with tempfile.TemporaryDirectory(prefix="headwater-bench-") as name:
        folder = Path(name)
        with EmbeddedKafka(folder / "kafka") as kafka, EmbeddedClickHouse(folder / "clickhouse") as clickhouse:
            settings = load_settings(kafka=kafka.address, clickhouse=clickhouse.url, state_dir=folder, secret=SECRET)
            topics_app.apply(settings)
            migrate(settings)
            bench = WarehouseBench(folder, settings, psutil.Process(clickhouse.pid), options.rows)
            bench.fill()
            result = figures(measure(bench, options.rounds, ways), options.rows, len(bench.records[0][0][1]))
            bench.client.close()
    print(json.dumps(result)) if options.json else show(result)


if __name__ == "__main__":
    main()
