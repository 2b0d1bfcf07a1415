"""`headwater warehouse replay`."""

import json
import time
from typing import Annotated

import typer

from consumers.warehouse.commands.connection import AsJson, RecordProgress, Topic, open_verifier, open_warehouse


def replay_command(
    begin: Annotated[
        str, typer.Option("--from", help="An offset (with --topic), a time (ISO 8601, UTC), or an age: 90m, 2h, 3d.")
    ],
    end: Annotated[
        str | None, typer.Option("--to", help="The same; up to there, itself excluded. The loader's offset if absent.")
    ] = None,
    topic: Topic = None,
    partition: Annotated[int | None, typer.Option(help="Only this partition of the topic.", min=0)] = None,
    as_json: AsJson = False,
) -> None:
    """Fill in rows that are missing, from Kafka, while loaders run; nothing is doubled and nobody erased comes back.

    Times are those at which records were written to Kafka. What was replayed is verified in the end; exits 1 if rows are
    still missing.
    """
    from dataclasses import asdict

    from consumers.warehouse.verification.repair_lock import repair_lock
    from consumers.warehouse.verification.replay import ReplayScope, parse_bound, replay, replay_ranges
    from infra.settings import load_settings
    from schemas.registry import Registry

    now_ms = time.time_ns() // 1_000_000
    reach = ReplayScope(parse_bound(begin, now_ms), None if end is None else parse_bound(end, now_ms), topic, partition)
    settings = load_settings()
    with open_warehouse() as store, open_verifier(store) as verifier:
        covered = replay_ranges(verifier, reach)
        offsets = sum(offset_range.end - offset_range.first for _, offset_range in covered)
        with repair_lock(settings) as lock, RecordProgress("replaying", offsets) as progress:
            result = replay(verifier, store, Registry(settings.contracts), lock, covered, progress.advance)
    if as_json:
        body = {"records": result.records, "filled": result.filled, "unreadable": result.unreadable, "missing": result.missing}
        typer.echo(json.dumps({**body, "partitions": [asdict(verification) for verification in result.proof]}))
    else:
        for verification in result.proof:
            if verification.records or not verification.exact:
                typer.echo(verification.text)
        typer.echo(f"{result.records} records looked at, {result.filled} rows filled in, {result.missing} still missing")
        if result.unreadable:
            typer.echo(f"{result.unreadable} of them cannot be read and have no dead letter: see `headwater dead list`")
    if result.missing:
        raise typer.Exit(1)
