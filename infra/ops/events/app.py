"""`headwater events why`: finds one event in every layer and tells what became of it."""

import sys
import time
from typing import TYPE_CHECKING, Annotated

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from infra.errors import ConfigError
from infra.parsing.times import parse_moment

if TYPE_CHECKING:
    from infra.ops.events.trace import EventTrace, TraceRequest

QUERY_S = 300.0
"""Time limit of the search in ClickHouse."""

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Find one event in every layer, and tell what became of it.",
)


@app.callback(epilog="Example: headwater events why 4f0c2a7e")
def events() -> None:
    """Find one event in every layer, and tell what became of it."""


class SearchProgress:
    """Shows on a terminal's standard error which topic is searched and how far. Use as a context manager."""

    def __init__(self, quiet: bool) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f} records"),
            TimeElapsedColumn(),
        )
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet or not sys.stderr.isatty())
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "SearchProgress":
        self._bar.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._bar.stop()

    def advance(self, topic: str, offsets: int, records: int) -> None:
        """Count records of a topic with so many offsets as searched."""
        if topic not in self._tasks:
            self._tasks[topic] = self._bar.add_task(topic, total=offsets)
        self._bar.advance(self._tasks[topic], records)


@app.command(epilog="Example: headwater events why 4f0c2a7e --since 3d")
def why(
    event_id: Annotated[str, typer.Argument(help="The id of the event, as it was sent or as a row has it.")],
    since: Annotated[str, typer.Option(help="Search from then on: an ISO time, or how long ago, e.g. 2h, 3d.")] = "24h",
    read_all: Annotated[
        bool, typer.Option("--all", help="Read every topic to its end, so that later copies are found too.")
    ] = False,
    decrypt: Annotated[
        bool,
        typer.Option("--decrypt", help="Open dead letters with the key at hand and search them; they may hold personal data."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell what became of an event: when it came, what consent decided and why, whose it is, and where its row is.

    Kafka's topics are read from --since on until the event is there; ClickHouse is asked first, and shortens the search.
    Exits 1 where the event is nowhere.
    """
    from infra.ops.events.data import as_data
    from infra.ops.events.story import tell
    from infra.ops.events.trace import TraceRequest

    if not event_id.strip():
        raise ConfigError("the event id is empty")
    request = TraceRequest(event_id.strip(), _past_time(since), to_end=read_all, decrypt=decrypt)
    trace = _trace(request, quiet=as_json)
    if as_json:
        typer.echo(orjson.dumps(as_data(trace)).decode())
    else:
        for label, line in tell(trace):
            typer.echo(f"{label:<13}{line}")
    if not trace.is_known:
        raise typer.Exit(1)


def _past_time(since: str) -> int:
    """Milliseconds UTC of the option. ConfigError."""
    now_ms = int(time.time() * 1000)
    moment = parse_moment(since, now_ms)
    if moment is None or moment > now_ms:
        raise ConfigError(
            f"--since {since[:40]!r} is no past time: give an ISO time (2026-11-30T14:00, UTC unless it names a zone), or how "
            "long ago it was (90s, 30m, 2h, 3d)"
        )
    return moment


def _trace(request: "TraceRequest", *, quiet: bool) -> "EventTrace":
    """Look the event up, with a display of progress. Retryable while Kafka does not answer."""
    from consumers.warehouse.store import Store
    from infra.clients.kafka import settings_with_kafka
    from infra.ops.events.search import TopicSearcher
    from infra.ops.events.trace import EventTracer

    settings = settings_with_kafka()
    store = Store(settings, QUERY_S)
    try:
        with SearchProgress(quiet) as progress:
            return EventTracer(settings, TopicSearcher(settings, progress.advance), store).trace(request)
    finally:
        store.close()
