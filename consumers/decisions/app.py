"""`headwater decide`: serves the bandit's decisions over HTTP."""

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from consumers.decisions.consent import ConsentGate, consent_policy, consent_rules
from consumers.decisions.ledger_view import LedgerView, redis_connector
from consumers.decisions.log import DecisionLog
from consumers.decisions.server import AccessPolicy, DecisionApi
from consumers.decisions.service import DecisionService, Dependencies, Visitor
from consumers.decisions.sites import SiteGroups
from consumers.decisions.snapshots import Snapshots
from infra.errors import Retryable
from infra.http.listening import build_runner, listen
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
POLL_S = 0.02
FLUSH_S = 5.0
QUEUE = 20_000
"""Decisions that may wait for Kafka; beyond it the default arm is served."""

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@dataclass
class ServiceContext:
    """The clients and background tasks of one process."""

    settings: Settings
    metrics: Metrics = field(default_factory=Metrics)
    experiments_known: bool = False
    closing: threading.Event = field(default_factory=threading.Event)

    def open(self) -> "ServiceContext":
        """Create the clients; no request is sent yet."""
        import redis.asyncio

        from infra.clients.kafka import producer

        registry = Registry(self.settings.contracts)
        self.catalogue = Catalogue(registry)
        self.view = LedgerView(redis_connector(self.settings.redis), self.metrics)
        policy = consent_policy(self.settings)
        sites = SiteGroups(policy, self.settings.write_keys_file, self.settings.decision_origins)
        gate = ConsentGate(consent_rules(self.settings, policy), sites, self.view)
        client: Any = redis.asyncio.Redis.from_url(self.settings.redis, socket_timeout=REDIS_S, socket_connect_timeout=REDIS_S)
        self.redis = client
        self.snapshots = Snapshots(client, registry)
        kafka = producer(self.settings, queue_buffering_max_messages=QUEUE, queue_buffering_max_kbytes=32_768)
        self.log = DecisionLog(kafka, registry, self.metrics)
        self.service = DecisionService(
            self.catalogue, self.snapshots, self.log, build_dependencies(self.settings, gate), self.metrics
        )
        return self

    def build_api(self) -> DecisionApi:
        """Build the HTTP API."""
        rate = self.settings.decision_rate
        origins, limit = frozenset(self.settings.decision_origins), RateLimit(rate, 2 * rate)
        policy = AccessPolicy(origins, limit, self.settings.region_header, self.settings.trusted_proxies)
        return DecisionApi(self.service, policy, self.metrics, self.readiness)

    def readiness(self) -> dict[str, bool]:
        """Return the parts of `/health/ready`."""
        return {"experiments": self.experiments_known, "redis": self.snapshots.reachable, "consent": self.view.is_complete}

    # -- background tasks

    def start(self) -> list[asyncio.Task[None]]:
        """Start to follow experiments, snapshots and the consent ledger."""
        threading.Thread(target=self.load_partitions, name="consent-partitions", daemon=True).start()
        coroutines = (
            self.follow_topics(),
            self.follow_snapshots(),
            self.poll_reports(),
            self.view.answer_lookups(),
            self.view.watch_marks(),
        )
        return [asyncio.create_task(coroutine) for coroutine in coroutines]

    async def close(self, tasks: list[asyncio.Task[None]]) -> None:
        """Cancel the tasks and flush the decision log."""
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        undelivered = await asyncio.get_running_loop().run_in_executor(None, self.log.close, FLUSH_S)
        self.closing.set()
        await self.view.close()
        await self.redis.aclose()
        get_logger().info("stopped", decisions_undelivered=undelivered)

    async def follow_topics(self) -> None:
        """Keep the catalogue current; restart the follower after an error of Kafka."""
        while True:
            follower = Follower(self.settings, (EXPERIMENTS,))
            follower.start()
            try:
                while True:
                    # Read before the queue: records read by then are in it.
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
                await stop_follower(follower)
            await asyncio.sleep(RESTART_S)

    def load_partitions(self) -> None:
        """Learn the partitions of the consent ledger from Kafka; runs in a thread of its own."""
        partition_of = partitioner(self.settings)
        while not self.closing.is_set():
            try:
                partitions = topic_partitions(self.settings, SIGNALS)
                partition_of(b"")  # loads its metadata now instead of during a request
            except Retryable:
                self.closing.wait(RESTART_S)
            else:
                self.view.set_partitions(partition_of, partitions)
                return

    async def follow_snapshots(self) -> None:
        """Refresh the snapshots from Redis every second."""
        while True:
            await self.snapshots.refresh([experiment.key for experiment in self.catalogue])
            await asyncio.sleep(SNAPSHOTS_S if self.catalogue else EXPERIMENTS_S)

    async def poll_reports(self) -> None:
        """Poll the delivery reports of the decision log."""
        while True:
            self.log.poll()
            await asyncio.sleep(REPORTS_S)


async def stop_follower(follower: Follower) -> None:
    """Stop a follower. One that still waits for an unreachable broker after `STOP_S` ends with the process."""
    thread = threading.Thread(target=follower.stop, name="follower-stop", daemon=True)
    thread.start()
    for _ in range(int(STOP_S / POLL_S)):
        if not thread.is_alive():
            return
        await asyncio.sleep(POLL_S)


def build_dependencies(settings: Settings, gate: ConsentGate) -> Dependencies:
    """Build the dependencies: pseudonyms as in the collector, consent as in the consent stage."""
    keys = NodeKeys.of(settings)

    def visitor(value: str) -> Visitor:
        nodes = versions(keys, "cookie", value)
        return Visitor(next(iter(nodes[keys.since - 1 :]), None), nodes)

    return Dependencies(visitor, gate.grants_personalization, settings.master.derive("decision-token"))


def handle_withdrawal(request: Mapping[str, Any]) -> str:
    """Handle a withdrawal: nothing to do, because each decision reads the consent ledger, which has it earlier."""
    return f"no decision for these {len(request['nodes'])} ids is personal or logged with an id any more"


def handle_erasure(_erasure: Mapping[str, Any]) -> str:
    """Handle an erasure: nothing to do, because no data of a visitor is stored."""
    return "nothing is kept by person"


async def serve(settings: Settings, host: str, port: int, on_listening: Callable[[int], None] = lambda _port: None) -> None:
    """Serve until SIGTERM or SIGINT. `on_listening` is called with the port."""
    context = ServiceContext(settings).open()
    privacy_requests = PrivacyRequestConsumer(settings, "decisions", handle_withdrawal, handle_erasure, context.metrics)
    privacy_requests.start()
    tasks = context.start()
    runner = build_runner(context.build_api().app())
    await runner.setup()
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    try:
        bound = await listen(runner, host, port)
        get_logger().info("serving decisions", host=host, port=bound)
        on_listening(bound)
        await wait_for_stop(stop, tasks)
    finally:
        await runner.cleanup()
        await asyncio.get_running_loop().run_in_executor(None, privacy_requests.stop)
        await context.close(tasks)


async def wait_for_stop(stop: asyncio.Event, tasks: list[asyncio.Task[None]]) -> None:
    """Wait for the signal. An exception of a task is a bug and is raised at once."""
    waiting = asyncio.create_task(stop.wait())
    finished, _ = await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in finished - {waiting}:
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
