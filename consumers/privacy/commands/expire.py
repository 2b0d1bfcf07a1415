"""`headwater privacy expire`: forgets ids that no event has named for long."""

import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from consumers.privacy import expiry
from consumers.privacy.erasure import open_erasures
from consumers.privacy.session import PATIENCE_S, AsJson, open_context
from consumers.privacy.topics import TransactionalWriter
from consumers.warehouse.schema.tables import TABLES
from infra.errors import ConfigError
from streams.identity.reading import RESOLVED
from streams.identity.repair.log import LogIndex

DAY_MS = 86_400_000


def expire_command(
    days: Annotated[int, typer.Option(min=31, max=TABLES[RESOLVED].keep_days, help="Not seen for so many days.")] = 395,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what would be forgotten, and forget nothing.")] = False,
    patience: Annotated[float, typer.Option(min=1, help="Seconds to wait for workers and the warehouse.")] = PATIENCE_S,
    as_json: AsJson = False,
) -> None:
    """Forget ids that were not seen for long, and how they were linked. Who comes back is somebody new.

    Seen: in an event of these days, or linked with an id that was. Whose profile any row in ClickHouse carries is kept, and so
    are ids that were demoted, split or erased, with all that is linked to them.
    """
    since_ms = int(time.time() * 1000) - days * DAY_MS
    with open_context(quiet=as_json) as (context, report), TemporaryDirectory() as folder, LogIndex(Path(folder)) as index:
        if open_erasures(context.settings):
            # Only one of both can write at a time, and an erasure comes first.
            raise ConfigError("an erasure is not done: `headwater privacy erase` with its id completes it, then run this again")
        inactive, result = expiry.find_inactive(context, index, since_ms, report, patience)
        if not dry_run:
            result = expiry.expire(context, TransactionalWriter(context.settings), inactive, since_ms, report)
    if as_json:
        typer.echo(json.dumps({"days": days, "dry_run": dry_run, **result.as_json()}))
        return
    typer.echo(f"{result.slots:>10,}  linked ids {'would be forgotten' if dry_run else 'forgotten'}")
    typer.echo(f"{result.links:>10,}  records of how they were linked")
    if result.changed:
        typer.echo(f"{result.changed:>10,}  were changed meanwhile, and stay")
