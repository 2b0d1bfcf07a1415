"""The processes that faults are played on: Apache Kafka, ClickHouse and loaders, started again when they end by themselves."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

import confluent_kafka as ck

from consumers.warehouse.loader.intent import read_metadata
from consumers.warehouse.loader.loop import GROUP
from consumers.warehouse.schema.migrating import migrate
from consumers.warehouse.store import Store
from infra.clients.kafka import reader
from infra.clients.topic_ids import topic_ids
from infra.errors import EXIT_CONFIG, EXIT_HALTED
from infra.ops import topics as topics_app
from infra.ops.doctor.check_result import CheckResult
from infra.ops.doctor.services import check_house
from infra.ops.embedded.ports import LOOPBACK, free_port
from infra.ops.embedded.probes import http_answers, http_get
from infra.ops.embedded.servers.child import HEADWATER, Child, Program, StartFailed
from infra.ops.embedded.servers.clickhouse import command as clickhouse_command
from infra.ops.embedded.servers.kafka import EmbeddedKafka
from infra.ops.embedded.state import write_private
from infra.settings import Settings, load_settings
from schemas.registry import Registry

TOPIC = "events.resolved"
PARTITIONS = 6
MEMORY_BYTES = 1_000_000_000
START_S = 60.0
STOP_S = 10.0
RESTART_PAUSE_S = 0.3
QUICK_ENDS = 40
"""The bench gives up after so many ends of a loader in a row that ran for less than `STEADY_S`."""
STEADY_S = 15.0
SECRET = "a secret of the benchmark, long enough"  # noqa: S105 - protects made-up events


class WorldError(Exception):
    """A process keeps the run from continuing; the message contains the end of a log."""


ServerCommand = Callable[[Path, int, int], Sequence[str]]
"""Command line of a ClickHouse endpoint by data folder, port and bytes of memory."""


def embedded_clickhouse(folder: Path, port: int, memory_bytes: int) -> Sequence[str]:
    """The product's embedded endpoint."""
    return [*clickhouse_command(folder, port), "--memory", str(memory_bytes)]


@dataclass
class FaultService:
    """One program. `enabled` is False while a fault keeps it from running."""

    name: str
    program: Callable[[], Program]
    port: int
    child: Child | None = None
    enabled: bool = False
    restarts: int = 0
    """Starts after an unordered end."""
    own_ends: int = 0
    """Ends that the bench did not cause."""
    quick_ends: int = 0
    started: float = 0.0
    ended: float = 0.0

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self.child is not None and self.child.exit_code() is None

    @property
    def pid(self) -> int:
        """Its process id; 0 where it does not run."""
        return self.child.pid if self.child is not None and self.running else 0

    def start(self) -> None:
        """Start it and do not wait."""
        self.child, self.enabled, self.started = Child(self.program()), True, time.monotonic()

    def kill(self) -> None:
        """Kill with SIGKILL; it stays down until it is started."""
        assert self.child is not None
        self.enabled = False
        self.restarts += 1
        self.child.kill()


@dataclass
class FaultWorld:
    """One Kafka, one ClickHouse and loaders in a folder. Use it as a context manager, from one thread."""

    folder: Path
    loader: Sequence[str] = (*HEADWATER, "warehouse", "run")
    server: ServerCommand = embedded_clickhouse
    disk_bytes: int = 0
    """Size of a tmpfs for ClickHouse's data; 0 = a plain folder."""
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.memory_bytes = MEMORY_BYTES
        self.kafka_number = 0
        self.kafka = EmbeddedKafka(self.folder / "kafka-0")
        self.data = self.folder / "clickhouse"
        port = free_port()
        self.clickhouse = FaultService("clickhouse", partial(self._clickhouse_program, port), port)
        self.url = f"http://{LOOPBACK}:{port}"
        # The loader's own user: where the endpoint tells users apart, it is not an analyst.
        self.loader_url = f"http://headwater@{LOOPBACK}:{port}"
        self.settings: Settings = load_settings(
            kafka=self.kafka.address, clickhouse=self.loader_url, state_dir=self.folder, secret=SECRET, partitions=PARTITIONS
        )
        self.registry = Registry(self.settings.contracts)
        self.store = Store(self.settings, 600)
        self.loaders = [self._loader_service(slot) for slot in range(2)]
        self._services_text = ""
        self._doctor = ThreadPoolExecutor(1, "doctor")

    def __enter__(self) -> Self:
        self.data.mkdir(parents=True)
        if self.disk_bytes:
            mount(self.data, self.disk_bytes)
        try:
            self.kafka.start()
            topics_app.apply(self.settings)
            self.start_clickhouse()
            migrate(self.settings)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process and unmount the disk."""
        self._doctor.shutdown(cancel_futures=True)
        self.store.close()
        for service in self.loaders:
            if service.child is not None:
                service.child.stop(STOP_S)
        if self.clickhouse.child is not None:
            self.clickhouse.child.stop(STOP_S)
        self.kafka.stop()
        if self.disk_bytes:
            subprocess.run(["umount", str(self.data)], check=False)  # noqa: S607 - of the system

    # -- ClickHouse

    def _clickhouse_program(self, port: int) -> Program:
        command = self.server(self.data, port, self.memory_bytes)
        return Program("clickhouse", command, self.folder / "clickhouse.log", port=port)

    def start_clickhouse(self) -> None:
        """Start it and return once it answers."""
        self.clickhouse.start()
        assert self.clickhouse.child is not None
        self.clickhouse.child.wait_ready(partial(http_answers, f"{self.url}/ping", "Ok."), START_S)

    def kill_clickhouse(self) -> None:
        """Kill with SIGKILL, and start one over its data."""
        self.clickhouse.kill()
        self.start_clickhouse()

    def restart_clickhouse(self, memory_bytes: int) -> None:
        """An orderly restart with another bound on the memory."""
        assert self.clickhouse.child is not None
        self.clickhouse.child.stop(STOP_S)
        self.memory_bytes = memory_bytes
        self.start_clickhouse()

    def ensure_clickhouse(self, memory_bytes: int, attempts: int = 3) -> None:
        """`restart_clickhouse`, repeated where a start fails for lack of memory."""
        for attempt in range(attempts):
            try:
                return self.restart_clickhouse(memory_bytes)
            except StartFailed:
                if attempt == attempts - 1:
                    raise
        return None

    # -- loaders

    def _loader_service(self, slot: int) -> FaultService:
        port = free_port()
        environment = {
            "HEADWATER_KAFKA": self.kafka.address,
            "HEADWATER_CLICKHOUSE": self.loader_url,
            "HEADWATER_STATE_DIR": str(self.folder),
            "HEADWATER_SECRET": SECRET,
            "HEADWATER_PARTITIONS": str(PARTITIONS),
            "HEADWATER_SLOT": str(slot),
            "HEADWATER_METRICS_PORT": str(port),
            **self.environment,
        }
        name = f"warehouse-{slot}"
        log = self.folder / f"{name}.log"
        return FaultService(name, lambda: Program(name, self.loader, log, environment), port)

    def set_loaders(self, count: int) -> None:
        """Run so many loaders; surplus ones are stopped in order."""
        for service in self.loaders[:count]:
            if not service.running:
                service.start()
        for service in self.loaders[count:]:
            service.enabled = False
            if service.child is not None:
                service.child.stop(STOP_S)
                service.child = None
        self.tick()

    def tick(self) -> None:
        """Start again what ended by itself, as `headwater up` does. WorldError where a loader halts or ends again and again."""
        now = time.monotonic()
        for service in self.loaders:
            if service.enabled and not service.running:
                self._restart(service, now)
        self.write_services()

    def _restart(self, service: FaultService, now: float) -> None:
        assert service.child is not None
        if not service.ended:
            code = service.child.exit_code()
            service.ended, service.restarts, service.own_ends = now, service.restarts + 1, service.own_ends + 1
            service.quick_ends = 0 if now - service.started > STEADY_S else service.quick_ends + 1
            if code in (EXIT_HALTED, EXIT_CONFIG) or service.quick_ends > QUICK_ENDS:
                raise WorldError(f"{service.name} ended with exit code {code}:\n{service.child.tail(30)}")
        elif now - service.ended > RESTART_PAUSE_S:
            service.ended = 0.0
            service.start()

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        deadline = time.monotonic() + seconds
        while (rest := deadline - time.monotonic()) > 0:
            self.tick()
            time.sleep(min(0.1, rest))

    def wait(self, condition: Callable[[], bool], seconds: float, purpose: str) -> float:
        """Let time pass until a condition holds; the seconds it took. WorldError when it does not in time."""
        begun = time.monotonic()
        while not condition():
            self.tick()
            if time.monotonic() - begun > seconds:
                logs = "\n".join(service.child.tail(12) for service in self.loaders if service.child is not None)
                raise WorldError(f"{purpose}: not within {seconds:.0f} s\n{logs}")
            time.sleep(0.1)
        return time.monotonic() - begun

    # -- Kafka

    def topic_id(self, topic: str) -> str:
        """Kafka's id of a topic; empty where there is none."""
        return topic_ids(self.settings, [topic]).get(topic, "")

    def renew_kafka(self) -> None:
        """Another cluster at the same address, with the same topics. Kafka is stopped already."""
        shutil.rmtree(self.folder / f"kafka-{self.kafka_number}", ignore_errors=True)
        self.kafka_number += 1
        self.kafka = EmbeddedKafka(self.folder / f"kafka-{self.kafka_number}", self.kafka.port).start()
        topics_app.apply(self.settings)

    def caught_up(self) -> bool:
        """Whether the group has committed up to the end of events.resolved as it is now, with no insert under way."""
        # Uncommitted: a producer is told of its commit before the partitions have the marker.
        consumer = reader(self.settings, GROUP, isolation_level="read_uncommitted")
        try:
            topic_id = self.topic_id(TOPIC)
            partitions = [ck.TopicPartition(TOPIC, number) for number in range(PARTITIONS)]
            return all(self._at_end(consumer, position, topic_id) for position in consumer.committed(partitions, timeout=10))
        except ck.KafkaException:
            return False  # the coordinator is not known yet
        finally:
            consumer.close()

    def _at_end(self, consumer: Any, position: ck.TopicPartition, topic_id: str) -> bool:
        end = consumer.get_watermark_offsets(ck.TopicPartition(position.topic, position.partition), timeout=10)[1]
        metadata = read_metadata(position.offset, position.metadata)
        return bool(position.offset >= end and metadata.topic_id == topic_id and metadata.intent is None)

    def wait_caught_up(self, seconds: float = 300.0) -> float:
        """Until everything is loaded."""
        return self.wait(self.caught_up, seconds, "the loader has not caught up")

    # -- what the operator sees

    def metrics(self) -> dict[str, str]:
        """/metrics of each loader that should run, by name; empty for one that does not answer."""
        return {
            service.name: http_get(f"http://{LOOPBACK}:{service.port}/metrics")
            for service in self.loaders
            if service.child is not None
        }

    def write_services(self) -> None:
        """Write the process list as `headwater up` does, so that `headwater doctor` checks these processes."""
        kafka = ("kafka", self.kafka.pid if self.kafka.running else 0, self.kafka.port, 0)
        others = (service for service in (self.clickhouse, *self.loaders) if service.child is not None)
        rows = [kafka, *((service.name, service.pid, service.port, service.restarts) for service in others)]
        services = [
            {
                "name": name,
                "state": "ready" if pid else "pausing",
                "pid": pid,
                "port": port,
                "url": f"http://{LOOPBACK}:{port}",
                "restarts": restarts,
                "log": str(self.folder / f"{name}.log"),
            }
            for name, pid, port, restarts in rows
        ]
        text = json.dumps({"up": os.getpid(), "services": services})
        if text != self._services_text:
            write_private(self.folder / "services.json", text)
            self._services_text = text

    def doctor(self) -> Future[list[CheckResult]]:
        """What `headwater doctor` says of these processes; in a thread, because a service that hangs takes it seconds."""
        settings = load_settings(kafka=self.kafka.address, clickhouse=self.url, state_dir=self.folder, secret=SECRET)
        return self._doctor.submit(lambda: list(check_house(settings)))


def mountable() -> str:
    """Why no small disk can be mounted here; empty where one can."""
    if sys.platform != "linux":
        return "a small disk is mounted on Linux only"
    if os.geteuid():
        return "only root mounts a small disk"
    if shutil.which("mount") is None or shutil.which("umount") is None:
        return "there is no `mount` here"
    return ""


def mount(folder: Path, size_bytes: int) -> None:
    """A tmpfs of a size. WorldError where the system refuses it."""
    _mount("-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder))


def resize(folder: Path, size_bytes: int) -> None:
    """Another size for a mounted tmpfs; not smaller than what is in it."""
    _mount("-o", f"remount,size={size_bytes}", str(folder))


def _mount(*arguments: str) -> None:
    run = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)  # noqa: S607 - of the system
    if run.returncode:
        raise WorldError(f"mount refuses a small disk: {run.stderr.strip()}. Leave the fault disk-full out with --only")


@contextmanager
def stopped_process(pid: int) -> Iterator[None]:
    """SIGSTOP now, SIGCONT in the end."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
