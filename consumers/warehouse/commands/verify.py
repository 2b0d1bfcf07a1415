"""`headwater warehouse verify`."""

import json
from typing import Annotated

import typer

from consumers.warehouse.commands.connection import AsJson, RecordProgress


def verify_command(
    full: Annotated[bool, typer.Option("--full", help="Compare all that Kafka still has, not only what is new.")] = False,
    accept: Annotated[
        bool, typer.Option("--accept-losses", help="Stop reporting rows that were wrong and that Kafka no longer has.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compare rows with the records that Kafka delivers, by offset and content; exits 1 unless they are the same.

    Looked at are the offsets since the last verification (of all loaders, by hand or hourly), and again those that were wrong.
    """
    from dataclasses import asdict

    from consumers.warehouse.verifying import accept_losses, verify, verify_new
    from infra.settings import load_settings

    if full and accept:
        raise typer.BadParameter("--full looks at what Kafka has, --accept-losses at what it no longer has: give one of them")
    with RecordProgress("comparing") as progress:
        run = accept_losses if accept else verify if full else verify_new
        results = run(load_settings(), lambda _seconds, records: progress.advance(0, records))
    wrong = [result for result in results if not result.exact]
    if as_json:
        typer.echo(json.dumps({"exact": not wrong, "full": full, "partitions": [asdict(result) for result in results]}))
    else:
        for result in results:
            typer.echo(result.text)
        sums = {kind: sum(getattr(result, kind) for result in results) for kind in ("missing", "duplicates", "different")}
        typer.echo(f"{sums['missing']} missing, {sums['duplicates']} duplicates, {sums['different']} different")
        for kind, command in REPAIRS.items():
            if sums[kind]:
                typer.echo(f"-> {kind}: {command}")
    if wrong:
        raise typer.Exit(1)


REPAIRS = {
    "missing": "`headwater warehouse replay --from 7d` fills in what Kafka still has",
    "duplicates": "`headwater warehouse dedupe` removes them",
    "different": "remove those rows by `_topic_id`, `_partition` and `_offset`, then `headwater warehouse replay`",
}
