"""`headwater reconcile`: compares every layer with a ledger."""

import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Column, Table

from infra.ops.simulator.ledger import LedgerIndex, read_ledger
from infra.ops.simulator.reconcile import drain
from infra.ops.simulator.reconcile.compare import LayerVerdict, RefusalRow, total
from infra.ops.simulator.reconcile.survey import Survey
from infra.settings import Settings, load_settings

EXIT_UNACCOUNTED = 1
EVERY_S = 5.0
WIDTH = 140
FAULTS = ("lost", "doubled", "forbidden", "unexplained")
REFUSAL_FIELDS = ("played", "effective", "consented_again", "granted_again", "events")
FIELDS = ("expected", "observed", *FAULTS)
REPORT_NAMES = {"observed": "found", "effective": "kept"}
"""Field -> its name in the report, where they differ."""

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(epilog="Example: headwater reconcile --ledger ledger.jsonl --timeout 120")
def reconcile(
    ledger: Annotated[Path, typer.Option("--ledger", help="The ledger that `headwater simulate` wrote.")] = Path(
        "ledger.jsonl"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait for the stream to drain.")] = 120,
) -> None:
    """Compare every layer with the ledger; exits 0 only if everything is accounted for."""
    settings = load_settings()
    expected = read_ledger(ledger)
    console = Console(stderr=True, highlight=False)
    if expected.ended is None:
        console.print(f"the run of {ledger} was cut short: events that were on their way are not in it")
    drained = _wait(settings, timeout, console)
    rows = []
    survey = Survey(settings, expected)
    for row in survey.rows():
        console.print(f"{row.layer}: {'as it should be' if row.good else 'NOT as it should be'}")
        rows.append(row)
    refusals = survey.refusals()
    if as_json:
        typer.echo(orjson.dumps(report(expected, rows, refusals, drained)).decode())
    else:
        show_refusals(refusals)
        show(rows)
    if not drained or not all(row.good for row in rows):
        raise typer.Exit(EXIT_UNACCOUNTED)


def _wait(settings: Settings, timeout: float, console: Console) -> bool:
    """Wait for the stream to drain; return False where it does not, in which case the exit code reports it."""
    with console.status("waiting for the stream to drain") as status:
        last = [time.monotonic()]

        def report_lags(lags: drain.Lags) -> None:
            text = "draining: " + ", ".join(f"{group.removeprefix('headwater.')} {lag}" for group, lag in lags.items())
            status.update(text)
            if not console.is_terminal and time.monotonic() - last[0] >= EVERY_S:
                last[0] = time.monotonic()
                console.print(text)

        try:
            drain.wait_drained(settings, timeout, report_lags)
        except drain.NotDrained as error:
            console.print(f"[red]{error}[/red]")
            return False
    return True


def report(expected: LedgerIndex, rows: list[LayerVerdict], refusals: list[RefusalRow], drained: bool) -> dict[str, Any]:
    """Return the report as JSON."""
    lost, doubled, forbidden, unexplained = total(rows)
    return {
        "run": expected.run.run,
        "complete": expected.ended is not None,
        "drained": drained,
        "lost": lost,
        "doubled": doubled,
        "forbidden": forbidden,
        "unexplained": unexplained,
        "layers": [_report_fields(row) for row in rows],
        "refusals": [_report_fields(row) for row in refusals],
    }


def _report_fields(row: LayerVerdict | RefusalRow) -> dict[str, Any]:
    return {REPORT_NAMES.get(name, name): value for name, value in asdict(row).items()}


def _columns(fields: tuple[str, ...]) -> Iterator[Column]:
    return (Column(REPORT_NAMES.get(name, name).replace("_", " "), justify="right") for name in fields)


def show_refusals(rows: list[RefusalRow]) -> None:
    """Print refusals by channel, and whether they were effective."""
    if not rows:
        return
    table = Table("refusals by", *_columns(REFUSAL_FIELDS))
    for row in rows:
        table.add_row(row.channel, *(str(getattr(row, name)) for name in REFUSAL_FIELDS))
    Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH).print(table)


def show(rows: list[LayerVerdict]) -> None:
    """Print the layers as a table, and a summary line."""
    table = Table("layer", *_columns(FIELDS), "notes")
    for row in rows:
        numbers = [getattr(row, name) for name in FIELDS]
        cells = [f"[red]{n}[/red]" if n and name in FAULTS else str(n) for name, n in zip(FIELDS, numbers, strict=True)]
        table.add_row(row.layer, *cells, "\n".join(row.notes))
    # Output to a file is not truncated to a terminal's width.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    console.print(table)
    lost, doubled, forbidden, unexplained = total(rows)
    console.print(
        f"{lost} lost, {doubled} doubled, {forbidden} forbidden" + (f", {unexplained} unexplained" if unexplained else "")
    )
