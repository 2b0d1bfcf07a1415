"""`headwater identity rebuild` and `diff`: the graph against its log."""

import json

import typer

from streams.identity.commands.access import AsJson, open_graph
from streams.identity.repair.log import compare_with_log, read_log, rebuild, restore_refusals


def rebuild_command(as_json: AsJson = False) -> None:
    """Write every slot of `identity.merges` that is missing or older in Redis, and the refusals of `consent.revocations`.

    For a Redis that was lost or restored from a backup. Stop the identity workers first: a worker that reads an id whose slot
    was lost links it anew, and the newer link would stay.
    """
    records_read = 0
    with open_graph("rebuilding the graph from its log", as_json) as (settings, store, advance):

        def count(n: int) -> None:
            nonlocal records_read
            records_read += n
            advance(n)

        written = rebuild(read_log(settings), store, count)
        restore_refusals(settings, store, advance)
    typer.echo(
        json.dumps({"records": records_read, "written": written})
        if as_json
        else f"{records_read:,} records read, {written:,} slots written"
    )


def diff_command(as_json: AsJson = False) -> None:
    """Compare the graph in Redis with its log; exit 1 where they differ.

    Stop the identity workers for an exact answer: slots that they write meanwhile may count as differences. Slots that are not
    confirmed as logged yet are counted apart, and are no difference.
    """
    with open_graph("comparing the graph with its log", as_json) as (settings, store, advance):
        difference = compare_with_log(read_log(settings), store, advance)
    if as_json:
        typer.echo(json.dumps({**difference._asdict(), "same": difference.same}))
    else:
        typer.echo(
            f"{difference.logged:,} slots in the log: {difference.missing:,} missing in Redis, "
            f"{difference.other:,} others there, {difference.unlogged:,} there that the log does not have, "
            f"{difference.pending:,} not yet logged"
        )
        for example in difference.examples:
            typer.echo(f"  {example}")
        typer.echo(
            "the same" if difference.same else "NOT the same: `headwater identity rebuild` writes what is missing or older"
        )
    if not difference.same:
        raise typer.Exit(1)


__all__ = ["diff_command", "rebuild_command"]
