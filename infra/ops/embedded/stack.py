"""The services of an installation, their dependencies and their programs, for the supervisor."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import SecretStr

from infra.errors import ConfigError
from infra.ops.embedded.ports import LOOPBACK, describe_owner, free_port, is_free
from infra.ops.embedded.probes import http_answers, http_get, is_served_and_answers, wait_for_external
from infra.ops.embedded.servers import kafka, redis
from infra.ops.embedded.servers.child import HEADWATER, Program
from infra.ops.embedded.servers.clickhouse import EmbeddedClickHouse
from infra.ops.embedded.servers.kafka import EmbeddedKafka
from infra.ops.embedded.servers.redis import EmbeddedRedis
from infra.ops.embedded.state import StateDir, refuse_shared, write_private
from infra.ops.embedded.supervisor import Service, Step, Supervisor
from infra.settings import load_settings

# Default ports, used where they are free.
DEFAULT_PORTS = {"kafka": 9092, "redis": 6379, "clickhouse": 8123, "collector": 8080, "decisions": 8081, "gauge": 8082}
DEMO_SOURCE, DEMO_SITE = "demo", "shop.example"

PrintLine = Callable[[str, str], None]


@dataclass(frozen=True)
class StackOptions:
    """Options of `headwater up`. An address replaces a server of our own; a port is used exactly."""

    state_dir: Path = Path(".headwater")
    kafka: str | None = None
    redis: str | None = None
    clickhouse: str | None = None
    ports: Mapping[str, int] | None = None
    consent_workers: int = 1


class EmbeddedStack:
    """One installation: claims its state folder, starts and supervises all services, stops them on exit."""

    def __init__(self, options: StackOptions, print_line: PrintLine) -> None:
        self.options = options
        self._print_line = print_line
        self.state = StateDir(options.state_dir)
        self._ports: dict[str, int] = {}
        self._cluster = ""
        self.supervisor = Supervisor((), print_line)

    def __enter__(self) -> Self:
        self.state.claim()
        try:
            self._configure()
        except BaseException:
            self.state.release()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.supervisor.stop()
        except KeyboardInterrupt:  # a second Ctrl-C: kill at once
            self.supervisor.stop(patience=0)
        finally:
            self.state.release()

    def wait_ready(self) -> None:
        """Tick until every service has answered once."""
        self.supervisor.run_until(lambda: self.supervisor.ready)

    # -- configuration, before the first process

    def _configure(self) -> None:
        remembered = self.state.remembered_ports()
        for name in self._port_names():
            self._ports[name] = self._choose_port(name, remembered.get(name, 0))
        self.state.remember_ports(self._ports)
        installation = load_settings(state_dir=self.state.path)
        if installation.secret is None and installation.secret_file is None:
            self.state.secret("secret")
        ops_token = installation.ops_token_text or self.state.secret("ops-token", nbytes=16)
        self.addresses: dict[str, Any] = {
            "kafka": self.options.kafka or f"{LOOPBACK}:{self._ports['kafka']}",
            "redis": self.options.redis or f"redis://{LOOPBACK}:{self._ports['redis']}/0",
            # The loader and the commands use ClickHouse's user of that name, whose queries have their own slots.
            "clickhouse": self.options.clickhouse or f"http://headwater@{LOOPBACK}:{self._ports['clickhouse']}",
            "collector_url": self._url("collector"),
            "decisions_url": self._url("decisions"),
            "gauge_url": self._url("gauge"),
            # Only this machine reaches the collector, so senders may name the visitor's region.
            "region_header": "X-Headwater-Region",
        }
        self.settings = load_settings(state_dir=self.state.path, ops_token=SecretStr(ops_token), **self.addresses)
        _ = self.settings.master  # a secret that is too short fails here, not in five services
        self._ensure_demo_key()
        # Written after every check: other commands rely on this file.
        self.state.write_house({**self.addresses, "ops_token": ops_token})
        self.environment = {
            "HEADWATER_STATE_DIR": str(self.state.path),
            "HEADWATER_OPS_TOKEN": ops_token,
            "TYPER_STANDARD_TRACEBACK": "1",  # logs are read line by line: no boxes
            **{f"HEADWATER_{name.upper()}": value for name, value in self.addresses.items()},
        }
        self.supervisor = Supervisor(self._build_parts(), self._print_line, self.state.write_services, self.state.disk_warning)

    def _port_names(self) -> list[str]:
        addresses = {"kafka": self.options.kafka, "redis": self.options.redis, "clickhouse": self.options.clickhouse}
        servers = [name for name in DEFAULT_PORTS if not addresses.get(name)]
        consent = (f"consent-{n}" for n in range(self.options.consent_workers))
        workers = [*consent, "identity", "bandit", "warehouse", "upkeep"]
        return [*servers, *(f"{worker} metrics" for worker in workers)]

    def _choose_port(self, name: str, remembered: int) -> int:
        requested = (self.options.ports or {}).get(name)
        if requested:
            if not is_free(requested):
                raise ConfigError(
                    f"port {requested} for {name} is taken{describe_owner(requested)}: stop that process, or give "
                    f"--{name}-port another (without it, a free one is chosen)"
                )
            return requested
        for port in (DEFAULT_PORTS.get(name, 0), remembered):
            if port and port not in self._ports.values() and is_free(port):
                return port
        # A remembered or default port may be free but reserved for another service.
        while (port := free_port()) in self._ports.values():
            pass
        return port

    def _url(self, name: str) -> str:
        return f"http://{LOOPBACK}:{self._ports[name]}"

    def _ensure_demo_key(self) -> None:
        from streams.collector.write_keys import KeyKind, create_key, read_keys

        file, keys = self.state.path / "demo-key", self.settings.write_keys_file
        # The simulator sends as browsers do, so a key file of another kind, from an older version, is replaced.
        if file.exists() and any(key.source == DEMO_SOURCE and key.kind is KeyKind.BROWSER for key in read_keys(keys)):
            refuse_shared(file)
            return
        write_private(file, create_key(keys, DEMO_SOURCE, site=DEMO_SITE, kind=KeyKind.BROWSER) + "\n")

    # -- services

    def _build_parts(self) -> list[Service | Step]:
        topics = Step("topics", self._apply_topics, ("kafka",))
        tables = Step("tables", self._migrate, ("clickhouse",))
        return [self._kafka(), self._redis(), self._clickhouse(), topics, tables, *self._http_services(), *self._workers()]

    def _kafka(self) -> Service | Step:
        if self.options.kafka:
            answers = partial(kafka.answers, self.options.kafka)
            return Step("kafka", partial(wait_for_external, "Kafka", self.options.kafka, "--kafka", answers))
        server = EmbeddedKafka(self.state.path / "kafka", self._ports["kafka"], log=self.state.log("kafka"))
        server.prepare()  # downloads at the first start; fails before any process runs
        answers = partial(is_served_and_answers, server.port, server.answers)
        return Service(
            "kafka", server.prepare, answers, server.address, server.port, start_s=server.start_s, stop_s=server.stop_s
        )

    def _redis(self) -> Service | Step:
        if self.options.redis:
            answers = partial(redis.answers, self.options.redis)
            return Step("redis", partial(wait_for_external, "Redis", self.options.redis, "--redis", answers))
        server = EmbeddedRedis(self.state.path / "redis", self._ports["redis"], log=self.state.log("redis"))
        return Service("redis", server.prepare, server.answers, server.url, server.port, tier=1)

    def _clickhouse(self) -> Service | Step:
        if self.options.clickhouse:
            answers = partial(http_answers, f"{_without_user(self.options.clickhouse).rstrip('/')}/ping", "Ok.")
            return Step(
                "clickhouse", partial(wait_for_external, "ClickHouse", self.options.clickhouse, "--clickhouse", answers)
            )
        server = EmbeddedClickHouse(self.state.path / "clickhouse", self._ports["clickhouse"], log=self.state.log("clickhouse"))
        return Service("clickhouse", server.prepare, server.answers, server.url, server.port, tier=2, stop_s=server.stop_s)

    def _http_services(self) -> list[Service]:
        return [
            self._http_service("collector", ("collect",), ("topics",)),
            self._http_service("decisions", ("decide",), ("topics", "redis")),
            self._http_service("gauge", ("gauge", "--interval", "2"), ("topics", "redis")),
        ]

    def _http_service(self, name: str, words: Sequence[str], needs: tuple[str, ...]) -> Service:
        port = self._ports[name]
        program = partial(self._program, name, [*words, "--port", str(port)], {}, port)
        answers = partial(is_served_and_answers, port, partial(http_answers, f"{self._url(name)}/health/live"))
        return Service(name, program, answers, self._url(name), port, needs, tier=4)

    def _workers(self) -> list[Service]:
        several = self.options.consent_workers > 1
        consent = [
            self._worker(f"consent-{n}" if several else "consent", "consent", n, ("topics",))
            for n in range(self.options.consent_workers)
        ]
        identity = self._worker("identity", "identity", 0, ("topics", "redis"))
        bandit = self._worker("bandit", "bandit", 0, ("topics", "redis"))
        return [*consent, identity, bandit, self._table_worker("warehouse", 3), self._table_worker("upkeep", 4)]

    def _table_worker(self, name: str, tier: int) -> Service:
        """Return the service of a command that works on tables and serves metrics only."""
        port = self._ports[f"{name} metrics"]
        program = partial(self._program, name, [name], {"HEADWATER_METRICS_PORT": str(port)}, port)
        answers = partial(http_answers, f"http://{LOOPBACK}:{port}/metrics")
        return Service(name, program, answers, "", port, ("topics", "tables"), tier=tier, stop_s=20.0)

    def _worker(self, name: str, room: str, slot: int, needs: tuple[str, ...]) -> Service:
        port = self._ports[f"{room}-{slot} metrics" if room == "consent" else f"{room} metrics"]
        answers = partial(self._has_partitions, room, f"http://{LOOPBACK}:{port}/metrics")
        return Service(
            name, partial(self._worker_program, name, room, slot, port), answers, "", port, needs, tier=3, stop_s=20.0
        )

    def _worker_program(self, name: str, room: str, slot: int, metrics_port: int) -> Program:
        words = ["worker", room]
        if not self.state.has_started(self._cluster, f"headwater.{room}"):
            words += ["--from", "earliest"]
        environment = {"HEADWATER_SLOT": str(slot), "HEADWATER_METRICS_PORT": str(metrics_port)}
        return self._program(name, words, environment, metrics_port)

    def _program(self, name: str, words: Sequence[str], environment: Mapping[str, str], port: int) -> Program:
        return Program(name, [*HEADWATER, *words], self.state.log(name), {**self.environment, **environment}, port)

    def _has_partitions(self, room: str, metrics_url: str) -> bool:
        """Whether a worker has partitions. Its group has then started, and never starts at the earliest offset again."""
        for line in http_get(metrics_url).splitlines():
            if line.startswith("headwater_assigned_partitions{") and float(line.rsplit(" ", 1)[1]) > 0:
                self.state.mark_started(self._cluster, f"headwater.{room}")
                return True
        return False

    # -- steps

    def _apply_topics(self) -> str:
        from infra.clients.kafka import admin
        from infra.ops.topics import apply

        changes = apply(self.settings)
        client = admin(self.settings)  # kept alive: its futures end with it
        self._cluster = str(client.describe_cluster().result(10).cluster_id)
        return f"{len(changes)} changes" if changes else "as they should be"

    def _migrate(self) -> str:
        from consumers.warehouse import migrate

        migrations = migrate(self.settings)
        return f"{len(migrations)} migrations" if migrations else "as they should be"


def _without_user(url: str) -> str:
    """Return an address without user and password, which `/ping` does not need."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
