"""`headwater worker`: run one worker of a stream processor."""

from enum import StrEnum
from importlib import import_module
from typing import Annotated, Any

import typer

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class StageName(StrEnum):
    """Names of the stream processors."""

    CONSENT = "consent"
    IDENTITY = "identity"
    BANDIT = "bandit"


class Start(StrEnum):
    """Where partitions without a committed offset begin."""

    COMMITTED = "committed"
    EARLIEST = "earliest"


@app.command(epilog="Example: headwater worker consent --slot 1 --metrics-port 9101")
def worker(
    room: Annotated[StageName, typer.Argument(help="Which stream processor.")],
    slot: Annotated[str | None, typer.Option(help="This worker's place in its group; one running worker a slot.")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Port of /metrics.")] = None,
    begin: Annotated[
        Start,
        typer.Option("--from", help="`earliest`: partitions without a usable committed offset begin at their first record."),
    ] = Start.COMMITTED,
) -> None:
    """Run one worker. Several workers of a room share its partitions; each needs a slot of its own."""
    from infra.settings import load_settings
    from infra.telemetry.logs import configure_logs
    from infra.telemetry.metrics import Metrics
    from streams.runtime.faust_app import run
    from streams.runtime.first_start import begin_at_earliest
    from streams.runtime.worker import Worker

    configure_logs(room.value)
    overrides: dict[str, Any] = {"slot": slot, "metrics_port": metrics_port}
    settings = load_settings(**{name: value for name, value in overrides.items() if value is not None})
    metrics = Metrics()
    metrics.serve(settings.metrics_port, settings.metrics_host)
    stage = import_module(f"streams.{room.value}.app").build(settings, metrics)
    stage_worker = Worker(settings, stage, metrics)
    if begin is Start.EARLIEST:
        begin_at_earliest(settings, stage_worker.group, stage.inputs)
    run(stage_worker)
