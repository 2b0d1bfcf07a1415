"""`headwater warehouse dedupe`."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from consumers.warehouse.commands.connection import AsJson, RecordProgress, Topic, open_verifier, open_warehouse

if TYPE_CHECKING:
    from consumers.warehouse.verification.dedupe import DedupeResult


def dedupe_command(
    topic: Topic = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove the rows beyond the first of an offset, while loaders run; never the last one.

    Where they differ, the one that equals Kafka's record stays, or the one that was loaded first. Exits 1 if doubled rows are
    left.
    """
    from consumers.warehouse.schema.tables import TABLES
    from consumers.warehouse.verification.dedupe import Deduplicator
    from consumers.warehouse.verification.repair_lock import repair_lock
    from infra.errors import ConfigError
    from infra.settings import load_settings
    from schemas.registry import Registry

    if topic is not None and topic not in TABLES:
        raise ConfigError(f"--topic {topic}: no table is loaded from it; one of {', '.join(TABLES)}")
    settings = load_settings()
    with (
        open_warehouse() as store,
        RecordProgress("looking for doubled rows") as progress,
        open_verifier(store, lambda _seconds, records: progress.advance(0, records)) as verifier,
    ):
        verifier.prepare()  # says so at once where Kafka is away
        with repair_lock(settings) as lock:
            work = Deduplicator(verifier, store, Registry(settings.contracts), lock)
            run = work.count if dry_run else work.dedupe
            results = [run(position) for position in work.partitions([topic] if topic else TABLES)]
    doubled = [result for result in results if result.offsets]
    remaining = sum(result.remaining for result in doubled)
    if as_json:
        typer.echo(json.dumps({"dry_run": dry_run, "left": remaining, "partitions": [result.as_json() for result in doubled]}))
    else:
        for result in doubled:
            _print(result)
        removed = sum(result.removed for result in doubled)
        typer.echo(f"{remaining} doubled rows" if dry_run else f"{removed} rows removed, {remaining} doubled rows left")
    if remaining:
        raise typer.Exit(1)


def _print(result: "DedupeResult") -> None:
    typer.echo(
        f"{result.topic}:{result.partition}  {result.offsets} offsets with several rows, "
        f"{result.removed} rows removed, {result.remaining} left"
    )
    for label, verifications in (("before", result.before), ("after", result.after)):
        for verification in verifications:
            typer.echo(f"  {label:6} {verification.text}")
    if result.corrected:
        typer.echo(f"  rows of an offset differed: the one that equals Kafka's record stays, e.g. {result.corrected[:5]}")
    if result.unproven:
        typer.echo(
            "  rows of an offset differed and Kafka no longer has the record: the first loaded stays, "
            f"e.g. {result.unproven[:5]}"
        )
