"""`headwater warehouse`: run (the default), migrate, status, verify, replay, dedupe, overrides, squash."""

import json
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from consumers.warehouse.commands.connection import PATIENCE_S, AsJson, open_warehouse
from consumers.warehouse.commands.dedupe import dedupe_command
from consumers.warehouse.commands.replay import replay_command
from consumers.warehouse.commands.status import status_command
from consumers.warehouse.commands.verify import verify_command
from infra.errors import EXIT_FENCED

if TYPE_CHECKING:
    from consumers.warehouse.store import Store
    from infra.settings import Settings
    from infra.telemetry.metrics import Metrics
    from schemas.registry import Registry

POLL_S = 0.1
STOP_S = 7.5
"""Time from a signal to the end of the process, whatever ClickHouse does, seconds."""
VERIFY_PATIENCE_S = 120
"""Timeout of a query over one slice, seconds."""
PATIENCE_TO_START_S = 15.0
"""A migration that takes longer counts as waiting for ClickHouse, seconds."""

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class BackgroundThread(Protocol):
    """A thread that runs beside the loader."""

    def start(self) -> None:
        """Start the thread."""
        ...

    def stop(self, patience_s: float) -> None:
        """Stop the thread; wait up to `patience_s` seconds."""
        ...


MetricsPort = Annotated[int | None, typer.Option(help="Port of /metrics.")]
Slot = Annotated[str | None, typer.Option(help="This loader's place in the group; one running loader a slot.")]


@app.callback(invoke_without_command=True, epilog="Example: headwater warehouse run")
def warehouse(context: typer.Context) -> None:
    """Load the stream into ClickHouse, exactly once by offsets. Without a command: run."""
    if context.invoked_subcommand is None:
        _run(None, None)


@app.command("run", epilog="Example: headwater warehouse run --slot 1 --metrics-port 9105")
def run_command(slot: Slot = None, metrics_port: MetricsPort = None) -> None:
    """Load until a signal; several loaders share the partitions, each in a slot of its own."""
    _run(slot, metrics_port)


def _run(slot: str | None, metrics_port: int | None) -> None:
    import confluent_kafka as ck

    from consumers.warehouse.loader.loop import STAGE, Warehouse
    from consumers.warehouse.loader.rows import RowLoader
    from consumers.warehouse.loader.topic_check import TopicReplaced
    from consumers.warehouse.store import Store
    from infra.settings import load_settings
    from infra.telemetry.logs import configure_logs, get_logger
    from infra.telemetry.metrics import Metrics
    from schemas.registry import Registry

    configure_logs(STAGE)
    options = {"slot": slot, "metrics_port": metrics_port}
    settings = load_settings(**{name: value for name, value in options.items() if value is not None})
    stopping: list[float] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stopping.append(time.monotonic()))
    metrics = Metrics()
    metrics.serve(settings.metrics_port, settings.metrics_host)
    registry, store = Registry(settings.contracts), Store(settings)
    threads, stores = _background_threads(settings, registry, metrics)
    try:
        if not _migrate_when_available(store, registry, metrics, lambda: bool(stopping)):
            return
        for thread in threads:
            thread.start()
        Warehouse(settings, RowLoader(store, registry, metrics), registry, metrics).run(lambda: bool(stopping))
    except TopicReplaced as error:
        get_logger().warning("ends", error=str(error))
        sys.exit(EXIT_FENCED)
    except ck.KafkaException as error:
        get_logger().error("ends", error=str(error.args[0]))
        sys.exit(EXIT_FENCED)
    finally:
        patience_s = max(0.5, STOP_S - (time.monotonic() - stopping[0] if stopping else 0.0))
        for thread in reversed(threads):
            thread.stop(patience_s / len(threads))
        for connection in (store, *stores):
            connection.close()


def _background_threads(
    settings: "Settings", registry: "Registry", metrics: "Metrics"
) -> "tuple[list[BackgroundThread], list[Store]]":
    """Threads that run beside the loader, in the order of their start, and a connection for each: their queries take long."""
    from consumers.warehouse.history.projecting import ProjectionThread
    from consumers.warehouse.loader.loop import STAGE
    from consumers.warehouse.privacy import Eraser, count_late_rows
    from consumers.warehouse.store import SEARCH_S, Store
    from consumers.warehouse.verification.schedule import VerificationThread
    from streams.runtime.privacy.request_consumer import PrivacyRequestConsumer

    search, history, verification = (Store(settings, timeout_s) for timeout_s in (SEARCH_S, PATIENCE_S, VERIFY_PATIENCE_S))
    threads: list[BackgroundThread] = [
        PrivacyRequestConsumer(
            settings, STAGE, lambda request: count_late_rows(search, request), Eraser(settings, search).erase, metrics
        ),
        ProjectionThread(settings, history, metrics),
        VerificationThread(settings, verification, registry, metrics),
    ]
    return threads, [search, history, verification]


def _migrate_when_available(store: "Store", registry: "Registry", metrics: "Metrics", stopping: Callable[[], bool]) -> bool:
    """Create tables and views as soon as ClickHouse answers; return False when stopped before.

    Runs in a daemon thread, so that the process can end while ClickHouse hangs.
    """
    from consumers.warehouse.loader.loop import STAGE
    from consumers.warehouse.schema.migrating import apply_schema
    from infra.errors import Retryable
    from infra.telemetry.logs import get_logger

    failures: queue.SimpleQueue[Exception] = queue.SimpleQueue()

    def attempt() -> None:
        try:
            apply_schema(store, registry)
        except Exception as error:  # raised again in the main thread
            failures.put(error)

    while not stopping():
        thread = threading.Thread(target=attempt, name="migrate", daemon=True)
        thread.start()
        waited = 0.0
        while thread.is_alive() and not stopping():
            thread.join(POLL_S)
            waited += POLL_S
            if waited > PATIENCE_TO_START_S:
                metrics.set("headwater_waiting", 1, stage=STAGE, service="clickhouse")
        if thread.is_alive():
            return False
        if failures.empty():
            return True
        error = failures.get()
        if not isinstance(error, Retryable):
            raise error
        metrics.set("headwater_waiting", 1, stage=STAGE, service="clickhouse")
        get_logger().warning("waiting", error=str(error))
        time.sleep(1)
    return False


@app.command("migrate", epilog="Example: headwater warehouse migrate")
def migrate_command(as_json: AsJson = False) -> None:
    """Create and extend the tables and views."""
    from consumers.warehouse.schema.migrating import migrate
    from infra.settings import load_settings

    changes = migrate(load_settings())
    if as_json:
        typer.echo(json.dumps({"done": changes}))
        return
    for line in changes or ["all tables and views are as they should be"]:
        typer.echo(line)


@app.command("overrides", epilog="Example: headwater warehouse overrides --json")
def overrides_command(as_json: AsJson = False) -> None:
    """Map history to today's identity now; the loader does it each minute. Safe at any time."""
    from consumers.warehouse.history.overrides import count_stamped_ids, project

    with open_warehouse() as store:
        result = project(store, time.time_ns() // 1_000_000)
        ids = count_stamped_ids(store)
    if as_json:
        typer.echo(json.dumps({"stamped": ids, **result.as_json()}))
        return
    typer.echo(f"{result.overrides} of about {ids} profile ids of events belong to another profile today")
    typer.echo(f"{result.changed} new or changed, {result.removed} gone; {result.seconds:.1f} s")


@app.command("squash", epilog="Example: headwater warehouse squash --older-than 30")
def squash_command(
    older_than: Annotated[float | None, typer.Option(help="Days; HEADWATER_SQUASH_AFTER_DAYS when absent.", min=0)] = None,
    as_json: AsJson = False,
) -> None:
    """Write today's identity into old rows, forget overrides that no row needs; the loader does it each week."""
    from dataclasses import asdict

    from consumers.warehouse.history.squash import squash
    from infra.settings import load_settings

    days = load_settings().squash_after_days if older_than is None else older_than
    with open_warehouse() as store:
        result = squash(store, time.time_ns() // 1_000_000, days, lambda: False)
    if as_json:
        typer.echo(json.dumps({"rows": result.rows, **asdict(result)}))
        return
    for month, rows in result.months.items():
        typer.echo(f"{month}  {rows} rows rewritten")
    typer.echo(f"{result.rows} rows rewritten, {result.forgotten} overrides forgotten, {result.overrides} left")


app.command("status", epilog="Example: headwater warehouse status --json")(status_command)
app.command("verify", epilog="Example: headwater warehouse verify --full --json")(verify_command)
app.command("replay", epilog="Example: headwater warehouse replay --from 3h --topic events.resolved")(replay_command)
app.command("dedupe", epilog="Example: headwater warehouse dedupe --dry-run")(dedupe_command)
