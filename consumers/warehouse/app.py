"""`headwater warehouse`: run (when nothing else is said), migrate, status, verify, replay, dedupe, overrides, squash."""

import json
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from consumers.warehouse.commands.connection import PATIENCE_S, AsJson, open_warehouse
from consumers.warehouse.commands.dedupe import dedupe_command
from consumers.warehouse.commands.replay import replay_command
from consumers.warehouse.commands.status import status_command
from consumers.warehouse.commands.verify import verify_command
from infra.errors import EXIT_FENCED

if TYPE_CHECKING:
    from consumers.warehouse.store import Store
    from infra.telemetry.metrics import Metrics
    from schemas.registry import Registry

POLL_S = 0.1
STOP_S = 7.5
"""After which the process ends once it was told to stop, whatever ClickHouse does."""
VERIFY_PATIENCE_S = 120
"""What a query over one slice may take."""
PATIENCE_TO_START_S = 15.0
"""Tables that take longer to be looked up count as waiting for ClickHouse."""

app = typer.Typer(add_completion=False, rich_markup_mode=None)

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

    from consumers.warehouse.history.projecting import ProjectionThread
    from consumers.warehouse.loader.loop import STAGE, TopicReplaced, Warehouse
    from consumers.warehouse.loader.rows import RowLoader
    from consumers.warehouse.privacy import Eraser, count_late_rows
    from consumers.warehouse.store import SEARCH_S, Store
    from consumers.warehouse.verification.schedule import VerificationThread
    from infra.settings import load_settings
    from infra.telemetry.logs import configure_logs, get_logger
    from infra.telemetry.metrics import Metrics
    from schemas.registry import Registry
    from streams.runtime.privacy.request_consumer import PrivacyRequestConsumer

    configure_logs(STAGE)
    options = {"slot": slot, "metrics_port": metrics_port}
    settings = load_settings(**{name: value for name, value in options.items() if value is not None})
    stopping: list[float] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stopping.append(time.monotonic()))
    metrics = Metrics()
    metrics.serve(settings.metrics_port, settings.metrics_host)
    registry = Registry(settings.contracts)
    store = Store(settings)
    beside = Store(settings, SEARCH_S)
    clerk = PrivacyRequestConsumer(
        settings, STAGE, lambda request: count_late_rows(beside, request), Eraser(settings, beside).part
    )
    patient = Store(settings, PATIENCE_S)
    projecting = ProjectionThread(settings, patient, metrics)
    proof = Store(settings, VERIFY_PATIENCE_S)
    verifying = VerificationThread(settings, proof, registry, metrics)
    try:
        if not _migrate_when_available(store, registry, metrics, lambda: bool(stopping)):
            return
        clerk.start()
        projecting.start()
        verifying.start()
        Warehouse(settings, RowLoader(store, registry, metrics), registry, metrics).run(lambda: bool(stopping))
    except TopicReplaced as error:
        get_logger().warning("ends", error=str(error))
        sys.exit(EXIT_FENCED)
    except ck.KafkaException as error:
        get_logger().error("ends", error=str(error.args[0]))
        sys.exit(EXIT_FENCED)
    finally:
        left_s = max(0.5, STOP_S - (time.monotonic() - stopping[0] if stopping else 0.0))
        for beside_loop in (verifying, projecting, clerk):
            beside_loop.stop(left_s / 3)
        for opened in (store, beside, patient, proof):
            opened.close()


def _migrate_when_available(store: "Store", registry: "Registry", metrics: "Metrics", stopping: Callable[[], bool]) -> bool:
    """Tables and views as they should be, once ClickHouse answers; False where told to stop before.

    In a thread that ends with the process: a ClickHouse that hangs must not keep a signal from being obeyed.
    """
    from consumers.warehouse.loader.loop import STAGE
    from consumers.warehouse.schema.migrating import apply
    from infra.errors import Retryable
    from infra.telemetry.logs import get_logger

    failures: queue.SimpleQueue[Exception] = queue.SimpleQueue()

    def attempt() -> None:
        try:
            apply(store, registry)
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
    from consumers.warehouse.history.overrides import project, stamped

    with open_warehouse() as store:
        result = project(store, time.time_ns() // 1_000_000)
        ids = stamped(store)
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
