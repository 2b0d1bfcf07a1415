"""Connections and progress display of the commands."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from consumers.warehouse.store import Store
    from consumers.warehouse.verification.verifier import AfterSlice, Verifier

PATIENCE_S = 3_600
"""Timeout of a query over all of history, seconds."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Topic = Annotated[str | None, typer.Option(help="Only this topic.")]


@contextmanager
def open_warehouse() -> "Iterator[Store]":
    """Migrate, then open a connection with a long timeout. ConfigError where ClickHouse is away."""
    from consumers.warehouse.schema.migrating import migrate
    from consumers.warehouse.store import Store
    from infra.errors import ConfigError, Retryable
    from infra.settings import load_settings

    settings = load_settings()
    migrate(settings)
    store = Store(settings, PATIENCE_S)
    try:
        yield store
    except Retryable as error:
        raise ConfigError(str(error)) from error
    finally:
        store.close()


@contextmanager
def open_verifier(store: "Store", after_slice: "AfterSlice | None" = None) -> "Iterator[Verifier]":
    """Open a verifier over a store, with the settings of the command."""
    from consumers.warehouse.verification.verifier import Verifier, continue_at_once
    from infra.settings import load_settings
    from schemas.registry import Registry

    settings = load_settings()
    verifier = Verifier(settings, store, Registry(settings.contracts), after_slice or continue_at_once)
    try:
        yield verifier
    finally:
        verifier.close()


class RecordProgress:
    """Shows records and records a second on stderr; a bar where the number of offsets is known. Silent without a terminal."""

    def __init__(self, text: str, offsets: int | None = None) -> None:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            *((BarColumn(), TimeRemainingColumn()) if offsets else ()),
            TextColumn("{task.fields[records]:,} records, {task.fields[rate]:,.0f}/s"),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
        self._task = self._progress.add_task(text, total=offsets, records=0, rate=0.0)
        self._records = 0

    def __enter__(self) -> "RecordProgress":
        self._progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._progress.stop()

    def advance(self, offsets: int, records: int) -> None:
        """Count offsets, and the records among them, as processed."""
        self._records += records
        elapsed = self._progress.tasks[self._task].elapsed or 0.0
        rate = self._records / elapsed if elapsed else 0.0
        self._progress.update(self._task, advance=offsets, records=self._records, rate=rate)
