"""Servers for the warehouse's tests: a broker, a ClickHouse, topics, events and a loader process."""

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import confluent_kafka as ck
import psutil
from confluent_kafka import IsolationLevel
from confluent_kafka.admin import OffsetSpec

from consumers.warehouse.loader.loop import GROUP
from consumers.warehouse.schema.tables import TABLES
from consumers.warehouse.store import Store
from infra.clients.kafka import admin, producer, reader
from infra.ops import topics as topics_app
from infra.ops.embedded.servers.clickhouse import EmbeddedClickHouse
from infra.settings import PACKAGED_CONTRACTS, load_settings
from schemas.codec import encode
from schemas.registry import Contract, Registry
from tests.support.headwater_process import HeadwaterProcess

SECRET = "a secret of the tests, long enough to pass"
NOW_MS = int(time.time() * 1000)


def event(contract: Contract, number: int, **more: Any) -> bytes:
    """A resolved event; fields without a default have made-up values."""
    record: dict[str, Any] = {}
    for field in contract.schema["fields"]:
        if "default" not in field:
            record[field["name"]] = value_for(field["type"])
    record |= {"event_id": f"event-{number}", "event_name": f"name_{number % 7}", "collector_ts": NOW_MS + number}
    return encode(
        contract, record | {"consent_purposes": 5, "properties": {"n": str(number), "text": "x" * (number % 50)}} | more
    )


def value_for(kind: Any) -> Any:
    """Some value of an Avro type."""
    if isinstance(kind, dict) and kind["type"] == "array":
        return ["1" + "a" * 32 if kind["items"] == "string" else value_for(kind["items"])]
    if isinstance(kind, dict):
        return {"map": {"gcs": "G111"}, "long": NOW_MS}[kind["type"]]
    return {"string": "text", "int": 3, "long": 3, "boolean": False, "double": 0.5, "bytes": b"bytes"}[kind]


class Plant:
    """Addresses of the servers, and a loader process."""

    def __init__(self, kafka: str, server: EmbeddedClickHouse, folder: Path) -> None:
        self.server, clickhouse = server, server.loader_url
        self.contracts = folder / "contracts"
        self.contracts.mkdir()
        for file in [*PACKAGED_CONTRACTS.glob("*.avsc"), *PACKAGED_CONTRACTS.glob("*.json")]:
            shutil.copy(file, self.contracts)
        self.environment = {
            "HEADWATER_KAFKA": kafka,
            "HEADWATER_CLICKHOUSE": clickhouse,
            "HEADWATER_CONTRACTS": str(self.contracts),
            "HEADWATER_STATE_DIR": str(folder),
            "HEADWATER_SECRET": SECRET,
            "HEADWATER_SESSION_TIMEOUT_S": "3",
            "HEADWATER_OVERRIDES_INTERVAL_S": "1",
        }
        self.settings = load_settings(
            kafka=kafka, clickhouse=clickhouse, contracts=self.contracts, state_dir=folder, secret=SECRET, session_timeout_s=3
        )
        self.started: list[HeadwaterProcess] = []
        self.log = folder / "warehouse.log"
        self.registry = Registry(self.contracts)
        self.store = Store(self.settings)
        self._reader, self._admin = reader(self.settings, GROUP), admin(self.settings)
        topics_app.apply(self.settings)

    def start(self) -> HeadwaterProcess:
        """Start a loader process."""
        process = HeadwaterProcess(["warehouse"], self.environment, self.log)
        self.started.append(process)
        return process

    def close(self) -> None:
        """Kill the processes that a failed test left running."""
        self.store.close()
        self._reader.close()
        for process in self.started:
            process.kill()
            process.wait()

    @contextmanager
    def loading(self) -> Iterator[HeadwaterProcess]:
        """Run a loader, and stop it at the end."""
        process = self.start()
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, self.log.read_text()[-3000:]

    def send(self, records: list[bytes], topic: str = "events.resolved", partition: int = -1) -> None:
        """Write records in one committed transaction."""
        client = producer(self.settings, transactional_id="plant")
        client.init_transactions(30)
        client.begin_transaction()
        for number, record in enumerate(records):
            client.produce(topic, record, key=str(number).encode(), **({} if partition < 0 else {"partition": partition}))
        client.commit_transaction(30)

    def kill_clickhouse(self) -> None:
        """Kill the server with SIGKILL, and start one over its folder."""
        server = psutil.Process(self.server.pid)
        server.kill()
        server.wait(10)
        self.server.start()

    def caught_up(self) -> bool:
        """Whether the group has committed up to the end of every topic."""
        try:
            listed = self._reader.list_topics(timeout=10).topics
            partitions = [ck.TopicPartition(topic, number) for topic in TABLES for number in listed[topic].partitions]
            positions = self._reader.committed(partitions, timeout=10)
        except ck.KafkaException:
            return False  # the coordinator is not found yet
        # With records of open transactions: a producer is told of its commit before the partitions have the marker.
        ends = self._admin.list_offsets(
            dict.fromkeys(partitions, OffsetSpec.latest()), isolation_level=IsolationLevel.READ_UNCOMMITTED
        )
        return all(position.offset >= ends[position].result(10).offset for position in positions)

    def wait_caught_up(self) -> None:
        """Wait until everything is loaded."""
        wait(self.caught_up, 60, self.log)

    def count(self, expression: str, table: str = "events") -> Any:
        """The value of an expression over a table."""
        return self.store.rows(f"SELECT {expression} FROM headwater.{table}")[0][0]


def wait(condition: Callable[[], bool], seconds: float, log: Path | None = None) -> None:
    """Poll until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, log.read_text()[-3000:] if log else "timed out"
        time.sleep(0.1)
