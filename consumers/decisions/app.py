"""`headwater decide`: serves the bandit's decisions over HTTP. The only file here that knows Kafka, Redis and settings."""

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from consumers.decisions.consent import ConsentGate, consent_policy, consent_rules
from consumers.decisions.ledger_view import LedgerView, connector
from consumers.decisions.log import DecisionLog
from consumers.decisions.server import AccessPolicy, DecisionApi
from consumers.decisions.service import DecisionService, Dependencies, Visitor
from consumers.decisions.sites import SiteGroups
from consumers.decisions.snapshots import Snapshots
from infra.errors import ConfigError, Retryable
from infra.http.rate_limit import RateLimit
from infra.settings import Settings, load_settings
from infra.telemetry.logs import configure_logs, get_logger
from infra.telemetry.metrics import Metrics
from schemas.registry import Registry
from streams.bandit.catalogue import Catalogue
from streams.consent.app import partitioner
from streams.consent.stage import SIGNALS
from streams.identity.nodes import NodeKeys, versions
from streams.runtime.follow import Follower, topic_partitions
from streams.runtime.privacy.request_consumer import PrivacyRequestConsumer

EXPERIMENTS = "bandit.experiments"
EXPERIMENTS_S = 0.2
SNAPSHOTS_S = 1.0
REPORTS_S = 0.05
REDIS_S = 1.0
RESTART_S = 1.0
STOP_S = 2.0
LOOK_S = 0.02
FLUSH_S = 5.0
QUEUE = 20_000
"""Decisions that may wait for Kafka; past it the default arm is served."""

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@dataclass
class ServiceContext:
    """What one process holds open."""

    settings: Settings
    metrics: Metrics = field(default_factory=Metrics)
    experiments_known: bool = False
    closing: threading.Event = field(default_factory=threading.Event)

    def open(self) -> "ServiceContext":
        """Make the clients; nothing is asked yet."""
        import redis.asyncio

        from infra.clients.kafka import producer

        registry = Registry(self.settings.contracts)
        self.catalogue = Catalogue(registry)
        self.view = LedgerView(connector(self.settings.redis), self.metrics)
        policy = consent_policy(self.settings)
        sites = SiteGroups(policy, self.settings.write_keys_file, self.settings.decision_origins)
        gate = ConsentGate(consent_rules(self.settings, policy), sites, self.view)
        client: Any = redis.asyncio.Redis.from_url(self.settings.redis, socket_timeout=REDIS_S, socket_connect_timeout=REDIS_S)
        self.redis = client
        self.snapshots = Snapshots(client, registry)
        kafka = producer(self.settings, queue_buffering_max_messages=QUEUE, queue_buffering_max_kbytes=32_768)
        self.log = DecisionLog(kafka, registry, self.metrics)
        self.service = DecisionService(self.catalogue, self.snapshots, self.log, doors(self.settings, gate), self.metrics)
        return self

    def door(self) -> DecisionApi:
        """The HTTP door."""
        rate = self.settings.decision_rate
        guard = AccessPolicy(frozenset(self.settings.decision_origins), RateLimit(rate, 2 * rate), self.settings.region_header)
        return DecisionApi(self.service, guard, self.metrics, self.state)

    def state(self) -> dict[str, bool]:
        """For /health/ready."""
        return {"experiments": self.experiments_known, "redis": self.snapshots.reachable, "consent": self.view.whole}

    # -- what goes on beside the requests

    def start(self) -> list[asyncio.Task[None]]:
        """Begin to follow experiments, snapshots and the consent ledger."""
        threading.Thread(target=self.learn_partitions, name="consent-partitions", daemon=True).start()
        works = (self.follow_topics(), self.follow_snapshots(), self.take_reports(), self.view.serve(), self.view.watch())
        return [asyncio.create_task(work) for work in works]

    async def close(self, tasks: list[asyncio.Task[None]]) -> None:
        """End the tasks, deliver what is queued."""
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        left = await asyncio.get_running_loop().run_in_executor(None, self.log.close, FLUSH_S)
        self.closing.set()
        await self.view.close()
        await self.redis.aclose()
        get_logger().info("stopped", decisions_undelivered=left)

    async def follow_topics(self) -> None:
        """Keep the catalogue current; start again where Kafka was away."""
        while True:
            follower = Follower(self.settings, (EXPERIMENTS,))
            follower.start()
            try:
                while True:
                    # Before taking: what was read by then lies in the queue.
                    caught_up = follower.caught_up
                    for _, records in follower.drain():
                        self.catalogue.apply(records)
                    self.experiments_known = self.experiments_known or caught_up
                    await asyncio.sleep(EXPERIMENTS_S)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                get_logger().warning("experiments cannot be read, trying again", error=str(error))
            finally:
                await stopped(follower)
            await asyncio.sleep(RESTART_S)

    def learn_partitions(self) -> None:
        """Ask Kafka, in a thread of its own, over how many partitions the consent ledger is spread."""
        partition_of = partitioner(self.settings)
        while not self.closing.is_set():
            try:
                partitions = topic_partitions(self.settings, SIGNALS)
                partition_of(b"")  # asks once, and not while a request waits
            except Retryable:
                self.closing.wait(RESTART_S)
            else:
                self.view.divide(partition_of, partitions)
                return

    async def follow_snapshots(self) -> None:
        """Ask Redis every second."""
        while True:
            await self.snapshots.refresh([experiment.key for experiment in self.catalogue])
            await asyncio.sleep(SNAPSHOTS_S if self.catalogue else EXPERIMENTS_S)

    async def take_reports(self) -> None:
        """Delivery reports of the decision log."""
        while True:
            self.log.poll()
            await asyncio.sleep(REPORTS_S)


async def stopped(follower: Follower) -> None:
    """End a follower; one that waits for a broker that is away is left to end with the process."""
    thread = threading.Thread(target=follower.stop, name="follower-stop", daemon=True)
    thread.start()
    for _ in range(int(STOP_S / LOOK_S)):
        if not thread.is_alive():
            return
        await asyncio.sleep(LOOK_S)


def doors(settings: Settings, gate: ConsentGate) -> Dependencies:
    """Pseudonyms as the collector makes them, consent as the consent room decides it."""
    keys = NodeKeys.of(settings)

    def visitor(value: str) -> Visitor:
        nodes = versions(keys, "cookie", value)
        return Visitor(next(iter(nodes[keys.since - 1 :]), None), nodes)

    return Dependencies(visitor, gate.grants_personalization, settings.master.derive("decision-token"))


def withdrawal_part(request: Mapping[str, Any]) -> str:
    """This room's part of a privacy request: each decision asks the consent ledger, which knows of it before this room does."""
    return f"no decision for these {len(request['nodes'])} ids is personal or logged with an id any more"


def erase_part(_erasure: Mapping[str, Any]) -> str:
    """This room's part of an erasure: it holds nothing of a visitor."""
    return "nothing is kept by person"


async def serve(settings: Settings, host: str, port: int, started: Callable[[int], None] = lambda _port: None) -> None:
    """Serve until a signal comes. `started` is told the port."""
    from aiohttp import web

    house = ServiceContext(settings).open()
    clerk = PrivacyRequestConsumer(settings, "decisions", withdrawal_part, erase_part, house.metrics)
    clerk.start()
    tasks = house.start()
    runner = web.AppRunner(house.door().app(), access_log=None, keepalive_timeout=75)
    await runner.setup()
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    try:
        await listen(runner, host, port, started)
        await first(stop, tasks)
    finally:
        await runner.cleanup()
        await asyncio.get_running_loop().run_in_executor(None, clerk.stop)
        await house.close(tasks)


async def listen(runner: Any, host: str, port: int, started: Callable[[int], None]) -> None:
    """Open the door; ConfigError where the port is taken."""
    from aiohttp import web

    site = web.TCPSite(runner, host, port, backlog=1_024)
    try:
        await site.start()
    except OSError as error:
        raise ConfigError(f"cannot serve on {host}:{port}: {error.strerror}; choose another with --port") from None
    bound = runner.addresses[0][1]
    get_logger().info("serving decisions", host=host, port=bound)
    started(bound)


async def first(stop: asyncio.Event, tasks: list[asyncio.Task[None]]) -> None:
    """Wait for the signal; what ends a task before it is our own fault and ends the process."""
    waiting = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in done - {waiting}:
        task.result()
    waiting.cancel()


@app.command(epilog="Example: headwater decide --port 8081 --origin https://shop.example")
def decide(
    host: Annotated[str, typer.Option(help="Address to serve on; loopback unless told otherwise.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8081,
    origin: Annotated[list[str] | None, typer.Option(help="Origin of a page that may ask; repeat it for more.")] = None,
) -> None:
    """Serve POST /v1/decide, GET /widget.js, /health/live, /health/ready and /metrics."""
    import uvloop

    configure_logs("decisions")
    settings = load_settings()
    if origin:
        settings = settings.model_copy(update={"decision_origins": [*settings.decision_origins, *origin]})
    began = time.monotonic()
    uvloop.run(
        serve(settings, host, port, lambda _port: get_logger().info("ready", after_s=round(time.monotonic() - began, 2)))
    )
