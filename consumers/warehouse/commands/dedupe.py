"""`headwater warehouse dedupe`."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from consumers.warehouse.commands.connection import AsJson, RecordProgress, Topic, patient_store, verifier_over

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
    from dataclasses import asdict

    from consumers.warehouse.schema.tables import TABLES
    from consumers.warehouse.verification.dedupe import Deduplicator
    from consumers.warehouse.verification.repair_lock import repair_lock
    from consumers.warehouse.verification.verifier import SliceDone
    from infra.errors import ConfigError
    from infra.settings import load_settings
    from schemas.registry import Registry

    if topic is not None and topic not in TABLES:
        raise ConfigError(f"--topic {topic}: no table is loaded from it; one of {', '.join(TABLES)}")
    settings = load_settings()
    with (
        patient_store() as store,
        RecordProgress("looking for doubled rows") as progress,
        verifier_over(store, SliceDone(lambda _seconds, records: progress.advance(0, records))) as verifier,
    ):
        verifier.positions()  # says so at once where Kafka is away
        with repair_lock(settings) as lock:
            work = Deduplicator(verifier, store, Registry(settings.contracts), lock)
            run = work.count if dry_run else work.dedupe
            done = [run(position) for position in work.partitions([topic] if topic else TABLES)]
    doubled = [one for one in done if one.offsets]
    left = sum(one.left for one in doubled)
    if as_json:
        typer.echo(json.dumps({"dry_run": dry_run, "left": left, "partitions": [asdict(one) for one in doubled]}))
    else:
        for one in doubled:
            _print(one)
        removed = sum(one.removed for one in doubled)
        typer.echo(f"{left} doubled rows" if dry_run else f"{removed} rows removed, {left} doubled rows left")
    if left:
        raise typer.Exit(1)


def _print(one: "DedupeResult") -> None:
    typer.echo(
        f"{one.topic}:{one.partition}  {one.offsets} offsets with several rows, {one.removed} rows removed, {one.left} left"
    )
    for label, results in (("before", one.before), ("after", one.after)):
        for result in results:
            typer.echo(f"  {label:6} {result.text}")
    if one.corrected:
        typer.echo(f"  rows of an offset differed: the one that equals Kafka's record stays, e.g. {one.corrected[:5]}")
    if one.unproven:
        typer.echo(
            f"  rows of an offset differed and Kafka no longer has the record: the first loaded stays, e.g. {one.unproven[:5]}"
        )
