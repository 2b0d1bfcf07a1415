"""`headwater privacy`: erase a person everywhere, export what is held of her, verify that nothing is; status of requests."""

import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import clickhouse_connect
import typer
from clickhouse_connect.driver.exceptions import ClickHouseError
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from consumers.privacy import expiry
from consumers.privacy.audit import HASHED, ChainBreak, ChainHead, broken
from consumers.privacy.commands.status import status_command
from consumers.privacy.context import SLOTS, PrivacyContext
from consumers.privacy.erasure import Erasure, ErasurePending, Tell, opened, proofs, who
from consumers.privacy.export import export
from consumers.privacy.topics import TransactionalWriter
from consumers.warehouse.schema.tables import TABLES
from consumers.warehouse.store import SEARCH_S, Store
from infra.clients.kafka import settings_with_kafka
from infra.errors import ConfigError, Retryable, no_house
from infra.settings import Settings
from schemas.registry import Registry
from streams.consent.app import open_states
from streams.consent.policy import PACKAGED, load_policy
from streams.identity.app import open_store
from streams.identity.commands import identifier_args
from streams.identity.graph.union_find import ERASED
from streams.identity.nodes import alias
from streams.identity.reading import RESOLVED
from streams.identity.repair.erasing import Members, NotErasable, members_of
from streams.identity.repair.log import LogIndex

REQUEST = re.compile(r"[0-9a-f]{32}")
PATIENCE_S = 120.0
LOADED_S, LOOK_S = 5.0, 0.5
"""In which the warehouse loads a proof; how often it is looked for."""
TIMES = ("requested_ts", "erased_ts", "done_ts")

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Erase a person, export what is held of her, verify it; see requests; forget who was not seen for long.",
)
app.command("status", epilog="Example: headwater privacy status --json")(status_command)

Who = Annotated[str, typer.Argument(metavar="WHO", help=f"{identifier_args.HELP} Or the id of a request.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback(epilog="Example: headwater privacy export user=jo@shop.example --output jo.json")
def privacy() -> None:
    """Erase a person, export what is held of her, verify it; see requests; forget who was not seen for long."""


@contextmanager
def office(quiet: bool) -> Iterator[tuple[PrivacyContext, Tell]]:
    """What the desk reaches, and how to tell what is done (standard error). ConfigError where something is away."""
    settings = settings_with_kafka()
    keep_days = load_policy(settings.policy or PACKAGED).memory.max_age_days
    states = open_states(settings, Registry(settings.contracts), keep_days)
    context = PrivacyContext(settings, open_store(settings), states, Store(settings, SEARCH_S), alias(settings.master))
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    try:
        with Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet) as bar:
            task = bar.add_task("looking", total=None)
            yield context, lambda step: bar.update(task, description=step)
    except ErasurePending as error:
        raise ConfigError(f"not done yet: {error}") from error
    except NotErasable as error:
        raise ConfigError(str(error)) from error
    except Retryable as error:
        raise ConfigError(no_house(error)) from error
    finally:
        context.warehouse.close()
        context.graph.close()


def open_erasure(context: PrivacyContext, names: Sequence[str]) -> dict[str, Any] | None:
    """The erasure that is not done yet of this request, or that has one of these nodes."""
    requested = set(names)
    return next(
        (erasure for name, erasure in opened(context.settings).items() if requested.intersection([name, *erasure["nodes"]])),
        None,
    )


def warn_if_unknown(is_known: bool, counts: Mapping[str, int]) -> None:
    """A slip of the pen names somebody too, of whom nothing is held: say so, or it would look like a person who is erased."""
    if not is_known and not any(n for place, n in counts.items() if place != SLOTS):
        typer.echo("nothing is held of this id: it is spelt otherwise, was forgotten already, or came a moment ago", err=True)


def named(settings: Settings, text: str) -> list[str]:
    """A request id as it is, or the nodes."""
    return [text] if REQUEST.fullmatch(text) else identifier_args.nodes_of(settings, text)


def person(context: PrivacyContext, names: Sequence[str]) -> list[tuple[Members, int]]:
    """Whose data somebody asks for, and until when it was collected: of who was erased, until then; who was not comes first."""
    slots = list(zip(names, context.graph.read(names), strict=True))
    erased = any(slot is not None and slot.state == ERASED for _, slot in slots)
    # A name that nobody has met, of somebody who was erased, is no one to look for.
    alive = [name for name, slot in slots if (slot is None and not erased) or (slot is not None and slot.state != ERASED)]
    targets = []
    if alive:
        members = members_of(context.graph, alive, context.alias, context.keys.later_nodes)
        targets.append((members, int(time.time() * 1000)))
    for name, slot in slots:
        if slot is not None and slot.state == ERASED:
            # What came later is stamped with the alias of this epoch, and is somebody's who came anew.
            before = [context.alias(name, epoch) for epoch in range(1, slot.epoch)]
            targets.append((Members((name,), tuple(sorted([name, *before])), ()), slot.since))
    return targets


@app.command("erase", epilog="Example: headwater privacy erase email=jo@shop.example --dry-run")
def erase_command(
    who_: Who,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what would be erased, and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    patience: Annotated[float, typer.Option(min=1, help="Seconds to wait for workers and rooms.")] = PATIENCE_S,
    as_json: AsJson = False,
) -> None:
    """Erase a person everywhere: every id that is linked to this one, in the graph, the topics that are kept, and every room.

    There is no way back. A run that was cut short is completed by the same command, given the same id or the request's.
    """
    with office(quiet=as_json) as (context, tell):
        names = named(context.settings, who_)
        going_on = open_erasure(context, names)
        if going_on is None and REQUEST.fullmatch(who_):
            raise ConfigError("no erasure with this request id is open")
        people = who(going_on) if going_on else members_of(context.graph, names, context.alias, context.keys.later_nodes)
        is_known = going_on is not None or any(context.graph.read(people.nodes))
        if dry_run:
            tell("counting")
            until = going_on["erased_ts"] if going_on else int(time.time() * 1000)
            counts = context.left(people, until, context.search(people, until))
            _print_counts(people, counts, as_json)
            warn_if_unknown(is_known, counts)
            return
        _confirm(yes, people)
        tell("counting")
        pen = TransactionalWriter(context.settings)
        if going_on is None:
            work = Erasure.begin(context, pen, people, tell, patience)
        else:
            work = Erasure(context, pen, going_on, tell, patience)
        proof = work.run()
    warn_if_unknown(is_known, proof["counts"])
    if as_json:
        typer.echo(json.dumps(proof))
        return
    for place, n in proof["counts"].items():
        typer.echo(f"{n:>10,}  {place}")
    typer.echo(f"erased, nothing is left; the proof is `headwater privacy verify {proof['request_id']}`")
    typer.echo("dead letters, of which nobody can tell whose they are, become unreadable within two weeks")


def _confirm(yes: bool, people: Members) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError("nobody is there to be asked: look at it with --dry-run, then give --yes")
    typer.confirm(f"Erase a person with {len(people.nodes)} ids, for good?", abort=True, err=True)


def _print_counts(people: Members, counts: Mapping[str, int], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({**people._asdict(), "counts": counts}))
        return
    for node in people.nodes:
        typer.echo(f"linked   {node}")
    for node in people.shared:
        typer.echo(f"shared   {node}  several persons use it: it stays")
    for place, n in counts.items():
        typer.echo(f"{n:>10,}  {place}")
    typer.echo("nothing was changed")


@app.command("export", epilog="Example: headwater privacy export user=jo --output jo.json")
def export_command(
    who_: Annotated[str, typer.Argument(metavar="WHO", help=identifier_args.HELP)],
    output: Annotated[
        Path | None, typer.Option(help="A new file, readable by its owner only; standard output without.")
    ] = None,
) -> None:
    """Write all that is held of a person as JSON: her slots, links, choices, withdrawals, and her rows of every table.

    Of who was erased, what was collected since.
    """
    with office(quiet=output is None) as (context, tell):
        names, until = identifier_args.nodes_of(context.settings, who_), int(time.time() * 1000)
        people = members_of(context.graph, names, context.alias, context.keys.later_nodes)
        tell("searching the topics that are kept")
        traces = context.search(people, until)
        tell("reading tables")
        is_known = any(context.graph.read(people.nodes))
        if output is None:
            warn_if_unknown(is_known, export(context, people, until, traces, sys.stdout.write))
            return
        try:
            file = os.fdopen(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w")
        except OSError as error:
            raise ConfigError(f"{output}: {error.strerror}") from None
        with file:
            counts = export(context, people, until, traces, file.write)
    warn_if_unknown(is_known, counts)
    for place, n in counts.items():
        typer.echo(f"{n:>10,}  {place}")


@app.command("verify", epilog="Example: headwater privacy verify user=jo --json")
def verify_command(who_: Who, as_json: AsJson = False) -> None:
    """Count what is left of a person anywhere, and recompute the chain of erasures; exits 1 unless both are as they should be.

    Of a request that is done the ids are gone: its proof is looked up. Give an id of the person to look for her again; what was
    collected since she was erased is told apart, and is no fault.
    """
    with office(quiet=as_json) as (context, tell):
        tell("recomputing the chain")
        wrong = chain_faults(context)
        names = named(context.settings, who_)
        going_on, proof, remaining, newer = open_erasure(context, names), None, Counter[str](), Counter[str]()
        if going_on is None and REQUEST.fullmatch(who_):
            proof = next((record for record in proofs(context) if record["request_id"] == who_), None)
            if proof is None:
                raise ConfigError("no such request")
        else:
            tell("counting what is left")
            now = int(time.time() * 1000)
            targets = [(who(going_on), going_on["erased_ts"])] if going_on else person(context, names)
            for people, until in targets:
                remaining.update(_left(context, people, until))
            if not going_on and any(until < now for _, until in targets):
                people = members_of(context.graph, names, context.alias, context.keys.later_nodes)
                newer = Counter(context.left(people, now, context.search(people, now))) - remaining
    clean = not wrong and not any(remaining.values())
    if as_json:
        summary = {"left": remaining, "since": newer, "proof": proof, "open": going_on is not None, "clean": clean}
        typer.echo(json.dumps({**summary, "broken": [fault._asdict() for fault in wrong]}))
    else:
        for place, n in remaining.items():
            typer.echo(f"{n:>10,}  {place}")
        for place, n in newer.items():
            typer.echo(f"{n:>10,}  {place}, collected since she was erased")
        if proof is not None:
            typer.echo(f"done: {sum(proof['counts'].values()):,} records, keys and rows were removed")
        for fault in wrong:
            typer.echo(f"erasure {fault.seq} of the chain: {fault.problem}")
        typer.echo("nothing is left, and the chain holds" if clean else "NOT clean")
    if not clean:
        raise typer.Exit(1)


def _left(context: PrivacyContext, people: Members, until: int) -> dict[str, int]:
    traces = context.search(people, until)
    counts = context.left(people, until, traces)
    if not traces.logged and not any(context.graph.read(people.nodes)):
        counts[SLOTS] = 0  # she was never linked and never erased: there is no slot that would have to say so
        warn_if_unknown(False, counts)
    return counts


@app.command("expire", epilog="Example: headwater privacy expire --days 395 --dry-run")
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
    since_ms = int(time.time() * 1000) - days * 86_400_000
    with office(quiet=as_json) as (context, tell), TemporaryDirectory() as folder, LogIndex(Path(folder)) as index:
        if opened(context.settings):
            # Only one of them can write at a time, and a person who asked to be erased does not wait.
            raise ConfigError("an erasure is not done: `headwater privacy erase` with its id completes it, then run this again")
        unseen, result = expiry.find(context, index, since_ms, tell, patience)
        if not dry_run:
            result = expiry.expire(context, TransactionalWriter(context.settings), unseen, since_ms, tell)
    if as_json:
        typer.echo(json.dumps({"days": days, "dry_run": dry_run, **result.as_json()}))
        return
    typer.echo(f"{result.slots:>10,}  linked ids {'would be forgotten' if dry_run else 'forgotten'}")
    typer.echo(f"{result.links:>10,}  records of how they were linked")
    if result.changed:
        typer.echo(f"{result.changed:>10,}  were changed meanwhile, and stay")


def chain_faults(context: PrivacyContext) -> list[ChainBreak]:
    """What is wrong with the chain of erasures, in Kafka and in ClickHouse."""
    records = proofs(context)
    head = ChainHead(records[-1]["seq"], records[-1]["hash"]) if records else ChainHead()
    deadline = time.monotonic() + LOADED_S
    # The last proof may have been written a moment ago.
    while max((record["seq"] for record in loaded(context.settings)), default=0) < head.seq and time.monotonic() < deadline:
        time.sleep(LOOK_S)
    return [*broken(records, head), *broken(loaded(context.settings), head)]


def loaded(settings: Settings) -> Iterator[dict[str, Any]]:
    """The chain as ClickHouse has it. ConfigError where it is away."""
    names = (*HASHED, "hash")
    columns = ", ".join(f"toUnixTimestamp64Milli({name})" if name in TIMES else name for name in names)
    query = f"SELECT {columns} FROM {settings.clickhouse_database}.privacy_audit ORDER BY chain, seq"  # noqa: S608 - ours
    try:
        client = clickhouse_connect.get_client(dsn=settings.clickhouse, autogenerate_session_id=False)
        with client.query_rows_stream(query) as rows:
            for row in rows:
                yield dict(zip(names, row, strict=True))
    except (ClickHouseError, OSError) as error:
        raise ConfigError(f"ClickHouse at {settings.clickhouse} does not answer: {type(error).__name__}") from None


__all__ = ["app", "office"]
