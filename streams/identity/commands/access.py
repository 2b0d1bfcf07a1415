"""What the commands share: access to the graph with a display of progress, and the nodes that an argument names."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from infra.clients.kafka import settings_with_kafka
from infra.errors import ConfigError, Retryable, unreachable_message
from infra.settings import Settings
from streams.identity.app import open_store
from streams.identity.graph.redis_store import RedisGraphStore
from streams.identity.graph.union_find import ERASED

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@contextmanager
def open_graph(
    description: str, quiet: bool, settings: Settings | None = None
) -> Iterator[tuple[Settings, RedisGraphStore, Callable[[int], None]]]:
    """Yield settings, the graph, and a function that reports progress on standard error.

    ConfigError where Redis or Kafka is unavailable; Kafka is not needed where `settings` are given.
    """
    settings = settings or settings_with_kafka()
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TextColumn("{task.completed:,.0f} records"),
        TimeElapsedColumn(),
    )
    try:
        with Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet) as bar:
            task = bar.add_task(description, total=None)
            yield settings, open_store(settings), lambda n: bar.advance(task, n)
    except Retryable as error:
        raise ConfigError(unreachable_message(error)) from error


def linked_names(store: RedisGraphStore, names: Sequence[str]) -> list[str]:
    """Return an identifier's nodes that are linked and not erased; the first node where none is. Retryable."""
    linked = [
        candidate
        for candidate in zip(names, store.read(names), store.children(names), strict=True)
        if candidate[1] or candidate[2]
    ]
    alive = [name for name, slot, _ in linked if slot is None or slot.state != ERASED]
    return alive or [name for name, *_ in linked] or [*names[:1]]


__all__ = ["AsJson", "linked_names", "open_graph"]
