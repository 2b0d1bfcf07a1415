"""`headwater privacy`: erase a person everywhere, export what is held of her, verify that nothing is; status of requests."""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from consumers.privacy.commands.expire import expire_command
from consumers.privacy.commands.status import status_command
from consumers.privacy.commands.verify import verify_command
from consumers.privacy.erasure import Erasure, erasure_members
from consumers.privacy.export import export
from consumers.privacy.session import (
    PATIENCE_S,
    REQUEST,
    AsJson,
    Who,
    find_open_erasure,
    open_context,
    resolve_names,
    warn_if_unknown,
)
from consumers.privacy.topics import TransactionalWriter
from infra.errors import ConfigError
from streams.identity.commands import identifier_args
from streams.identity.repair.erasing import Members

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Erase a person, export what is held of her, verify it; see requests; forget who was not seen for long.",
    rich_markup_mode=None,
)
app.command("status", epilog="Example: headwater privacy status --json")(status_command)


@app.callback(epilog="Example: headwater privacy export user=jo@shop.example --output jo.json")
def privacy() -> None:
    """Erase a person, export what is held of her, verify it; see requests; forget who was not seen for long."""


@app.command("erase", epilog="Example: headwater privacy erase email=jo@shop.example --dry-run")
def erase_command(
    identifier: Who,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what would be erased, and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    patience: Annotated[float, typer.Option(min=1, help="Seconds to wait for workers and rooms.")] = PATIENCE_S,
    as_json: AsJson = False,
) -> None:
    """Erase a person everywhere: every id that is linked to this one, in the graph, the topics that are kept, and every room.

    There is no way back. A run that was cut short is completed by the same command, given the same id or the request's.
    """
    with open_context(quiet=as_json) as (context, report):
        names = resolve_names(context.settings, identifier)
        erasure = find_open_erasure(context, names)
        if erasure is None and REQUEST.fullmatch(identifier):
            raise ConfigError("no erasure with this request id is open")
        members = erasure_members(erasure) if erasure else context.members(names)
        is_known = erasure is not None or any(context.graph.read(members.nodes))
        if dry_run:
            report("counting")
            until = erasure["erased_ts"] if erasure else int(time.time() * 1000)
            counts = context.count_remaining(members, until, context.search(members, until))
            _print_counts(members, counts, as_json)
            warn_if_unknown(is_known, counts)
            return
        _confirm(yes, members)
        report("counting")
        writer = TransactionalWriter(context.settings)
        if erasure is None:
            work = Erasure.begin(context, writer, members, report, patience)
        else:
            work = Erasure(context, writer, erasure, report, patience)
        proof = work.run()
    warn_if_unknown(is_known, proof["counts"])
    if as_json:
        typer.echo(json.dumps(proof))
        return
    for place, n in proof["counts"].items():
        typer.echo(f"{n:>10,}  {place}")
    typer.echo(f"erased, nothing is left; the proof is `headwater privacy verify {proof['request_id']}`")
    typer.echo("dead letters, of which nobody can tell whose they are, become unreadable within two weeks")


def _confirm(yes: bool, members: Members) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError("nobody is there to be asked: look at it with --dry-run, then give --yes")
    typer.confirm(f"Erase a person with {len(members.nodes)} ids, for good?", abort=True, err=True)


def _print_counts(members: Members, counts: Mapping[str, int], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({**members._asdict(), "counts": counts}))
        return
    for node in members.nodes:
        typer.echo(f"linked   {node}")
    for node in members.shared:
        typer.echo(f"shared   {node}  several persons use it: it stays")
    for place, n in counts.items():
        typer.echo(f"{n:>10,}  {place}")
    typer.echo("nothing was changed")


@app.command("export", epilog="Example: headwater privacy export user=jo --output jo.json")
def export_command(
    identifier: Annotated[str, typer.Argument(metavar="WHO", help=identifier_args.HELP)],
    output: Annotated[
        Path | None, typer.Option(help="A new file, readable by its owner only; standard output without.")
    ] = None,
) -> None:
    """Write all that is held of a person as JSON: her slots, links, choices, withdrawals, and her rows of every table.

    Of who was erased, what was collected since.
    """
    with open_context(quiet=output is None) as (context, report):
        names, until = identifier_args.nodes_of(context.settings, identifier), int(time.time() * 1000)
        members = context.members(names)
        report("searching the topics that are kept")
        traces = context.search(members, until)
        report("reading tables")
        is_known = any(context.graph.read(members.nodes))
        if output is None:
            warn_if_unknown(is_known, export(context, members, until, traces, sys.stdout.write))
            return
        try:
            file = os.fdopen(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w")
        except OSError as error:
            raise ConfigError(f"{output}: {error.strerror}") from None
        with file:
            counts = export(context, members, until, traces, file.write)
    warn_if_unknown(is_known, counts)
    for place, n in counts.items():
        typer.echo(f"{n:>10,}  {place}")


app.command("verify", epilog="Example: headwater privacy verify user=jo --json")(verify_command)
app.command("expire", epilog="Example: headwater privacy expire --days 395 --dry-run")(expire_command)

__all__ = ["app"]
