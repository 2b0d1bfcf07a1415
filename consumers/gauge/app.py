"""`headwater gauge`: polls Kafka every few seconds and serves the readings."""

import asyncio
import ipaddress
import json
import threading
import time
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from consumers.gauge.lag.reading import GaugePartition, LagReading, as_json
from consumers.gauge.lag.rules import LagLimits
from consumers.gauge.lag.store import RedisTables, TableStore
from consumers.gauge.lag.timetable import TimeTable
from consumers.gauge.lag.watch import LagWatch
from infra.errors import ConfigError, Retryable
from infra.settings import Settings, load_settings
from infra.telemetry.logs import configure_logs, get_logger

SAVE_S = 30.0
"""Seconds between two saves of the time tables."""

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@dataclass(frozen=True, slots=True)
class GaugeOptions:
    """Options of the command."""

    host: str
    port: int
    interval_s: float
    limits: LagLimits


class Collector:
    """Builds readings from Kafka and keeps the time tables in the store."""

    def __init__(self, settings: Settings, options: GaugeOptions, store: TableStore | None) -> None:
        from consumers.gauge.cluster import Cluster

        self.watch = LagWatch(options.limits, options.interval_s)
        self._cluster = Cluster(settings)
        self._store = store
        self._loaded: set[GaugePartition] = set()
        self._saved_at = 0.0
        # A signal may close the collector while another thread still polls.
        self._busy = threading.Lock()

    def poll(self, now: float) -> LagReading:
        """Return the reading at `now` (seconds UTC). Retryable where Kafka does not answer; without Redis it continues."""
        with self._busy:
            return self._poll_locked(now)

    def _poll_locked(self, now: float) -> LagReading:
        facts = self._cluster.fetch_facts(now)
        self._load(set(facts.ends) - self._loaded)
        record_offsets = self.watch.update_tables(facts)
        reading = self.watch.build_reading(facts, self._cluster.fetch_record_times(record_offsets, facts.ends))
        if now - self._saved_at >= SAVE_S:
            self._saved_at = now
            self._save()
        return reading

    def close(self) -> None:
        """Save the time tables and close the clients."""
        with self._busy:
            self._save()
            self._cluster.close()

    def _load(self, partitions: set[GaugePartition]) -> None:
        if not partitions or self._store is None:
            return
        self._loaded |= partitions
        try:
            stored_tables: dict[GaugePartition, TimeTable] = self._store.load(partitions)
        except Retryable as error:
            get_logger().warning("time tables not loaded", reason=str(error))
            return
        for partition, table in stored_tables.items():
            self.watch.tables.setdefault(partition, table)

    def _save(self) -> None:
        if self._store is None:
            return
        try:
            self._store.save(self.watch.tables)
        except Retryable as error:
            get_logger().warning("time tables not saved", reason=str(error))


async def collect(collector: Collector, dashboard: Any, interval_s: float) -> None:
    """Poll for ever. A failed poll leaves the previous reading on the dashboard, which shows its age."""
    unavailable = False
    while True:
        began = time.monotonic()
        try:
            dashboard.reading = await asyncio.to_thread(collector.poll, time.time())
            unavailable = False
        except Retryable as error:
            if not unavailable:
                get_logger().warning("no reading", reason=str(error))
            unavailable = True
        await asyncio.sleep(max(0.2, interval_s - (time.monotonic() - began)))


async def serve(settings: Settings, options: GaugeOptions) -> None:
    """Serve until cancelled."""
    from aiohttp import web

    from consumers.gauge.live.listeners import ListenerHub
    from consumers.gauge.live.tail import LiveTail
    from consumers.gauge.page.page import Page
    from consumers.gauge.recent import SideTopicConsumer, SideTopicState
    from consumers.gauge.row_checks import watch_row_checks
    from consumers.gauge.server import Dashboard, GaugeApi
    from schemas.registry import Registry

    side_state = SideTopicState(Registry(settings.contracts))
    side_consumer = SideTopicConsumer(settings, side_state)
    stale_s = max(30.0, 3 * options.interval_s)
    dashboard = Dashboard(stale_s, recent=lambda now: side_state.recent(now, side_consumer.complete))
    token = settings.ops_token_text
    collector = Collector(settings, options, open_table_store(settings))
    checks = asyncio.ensure_future(watch_row_checks(settings, lambda row_checks: setattr(dashboard, "row_checks", row_checks)))
    hub = ListenerHub(lambda: LiveTail(settings))
    runner = web.AppRunner(GaugeApi(dashboard, Page(options.interval_s, stale_s), token, hub=hub).app(), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, options.host, options.port).start()
        side_consumer.start()
        get_logger().info("gauge", url=f"http://{options.host}:{options.port}/", token=token is not None)
        await collect(collector, dashboard, options.interval_s)
    finally:
        checks.cancel()
        await runner.cleanup()
        await asyncio.to_thread(side_consumer.stop)
        await asyncio.to_thread(collector.close)


def open_table_store(settings: Settings) -> TableStore:
    """Build the store of the time tables; it connects when first used."""
    import redis

    return RedisTables(redis.Redis.from_url(settings.redis, socket_timeout=3, socket_connect_timeout=2))


def check_exposure(host: str, token: str | None) -> None:
    """Raise ConfigError where the page would be open to the network without a token."""
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local and not token:
        raise ConfigError(
            f"--host {host} is not loopback: set HEADWATER_OPS_TOKEN(_FILE) first, e.g. from `openssl rand -hex 24`"
        )
    if token is not None and len(token) < 16:
        raise ConfigError("HEADWATER_OPS_TOKEN needs at least 16 characters, e.g. from `openssl rand -hex 24`")


def print_lag(settings: Settings, options: GaugeOptions, as_json_text: bool) -> None:
    """Print the current lag. ConfigError where Kafka does not answer."""
    collector = Collector(settings, options, open_table_store(settings))
    try:
        reading = collector.poll(time.time())
    except Retryable as error:
        raise ConfigError(f"{error} ({settings.kafka}). Is it running, and is HEADWATER_KAFKA right?") from error
    finally:
        collector.close()
    if as_json_text:
        typer.echo(json.dumps(as_json(reading)))
        return
    from consumers.gauge.page.page import duration

    for group in reading.groups:
        for p in group.partitions:
            behind = duration(p.time_lag_s)
            typer.echo(f"{group.group:24} {p.topic:20} {p.partition:>3} {p.lag:>10,} {behind:>12}  {p.state.value}: {p.detail}")


@app.command(epilog="Example: headwater gauge --port 8082 --interval 2")
def gauge(  # noqa: PLR0913, PLR0917 - each is an option of the command line
    host: Annotated[
        str, typer.Option(help="Address to serve on; other than loopback needs HEADWATER_OPS_TOKEN.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port to serve on.")] = 8082,
    interval: Annotated[float, typer.Option(min=0.5, max=60, help="Seconds between two rounds of questions to Kafka.")] = 10.0,
    slo: Annotated[float, typer.Option(min=1, help="Time lag that is in order, seconds.")] = 60.0,
    print_once: Annotated[bool, typer.Option("--once", help="Print the lag and exit.")] = False,
    as_json_text: Annotated[bool, typer.Option("--json", help="With --once: print JSON.")] = False,
) -> None:
    """Watch how far every group is behind; serve /lag, /metrics and the ops page."""
    configure_logs("gauge")
    settings = load_settings()
    options = GaugeOptions(host, port, interval, LagLimits(slo_s=slo))
    if print_once:
        print_lag(settings, options, as_json_text)
        return
    check_exposure(host, settings.ops_token_text)
    asyncio.run(_until_signal(settings, options))


async def _until_signal(settings: Settings, options: GaugeOptions) -> None:
    import signal

    task = asyncio.ensure_future(serve(settings, options))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        get_logger().info("gauge stopped")
    except OSError as error:
        raise ConfigError(f"cannot serve on {options.host}:{options.port}: {error.strerror}; try another --port") from error
