"""`headwater identity`: the graph looked at, compared with its log, built again from it, split and tidied."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from infra.clients.kafka import settings_with_kafka
from infra.errors import ConfigError, Retryable, no_house
from infra.settings import Settings, load_settings
from streams.identity.app import open_store
from streams.identity.commands.identifier_args import HELP, nodes_of
from streams.identity.graph.redis_store import RedisGraphStore
from streams.identity.graph.union_find import ERASED, SHARED, USER
from streams.identity.nodes import alias
from streams.identity.refusals.revocation import MOST_NODES, climb, component
from streams.identity.repair.log import LogIndex, diff, read_log, rebuild, recall_refusals, why
from streams.identity.repair.splitting import SplitJournal, log_to, prepare, said_on, split
from streams.identity.repair.tidying import TopicEvidence, demoted, over_limits, planned, tidy

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Look at the identity graph, ask why ids are one person's, take one out; compare it with its log, rebuild it.",
)

NAMES = {"0": "user", "1": "device", "2": "cookie", "3": "e-mail or phone"}
"""Tier digit -> what such a node is."""
WHAT = {SHARED: "  shared: nobody's, because several persons had it", ERASED: "  erased"}
"""State of a slot -> what that means."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback(epilog="Example: headwater identity show user=jo@shop.example")
def identity() -> None:
    """Look at the identity graph, ask why ids are one person's, take one out; compare it with its log, rebuild it."""


@contextmanager
def opened(
    what: str, quiet: bool, settings: Settings | None = None
) -> Iterator[tuple[Settings, RedisGraphStore, Callable[[int], None]]]:
    """Settings, the graph, and how to tell progress (standard error). ConfigError where Redis is away, or Kafka, unless
    `settings` are given."""
    settings = settings or settings_with_kafka()
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TextColumn("{task.completed:,.0f} records"),
        TimeElapsedColumn(),
    )
    try:
        with Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet) as bar:
            task = bar.add_task(what, total=None)
            yield settings, open_store(settings), lambda n: bar.advance(task, n)
    except Retryable as error:
        raise ConfigError(no_house(error)) from error


def known(store: RedisGraphStore, names: Sequence[str]) -> list[str]:
    """Those of an identifier's nodes that are linked and not erased; the first where none is. Retryable."""
    linked = [found for found in zip(names, store.read(names), store.children(names), strict=True) if found[1] or found[2]]
    alive = [name for name, slot, _ in linked if slot is None or slot.state != ERASED]
    return alive or [name for name, *_ in linked] or [*names[:1]]


@app.command("rebuild", epilog="Example: headwater identity rebuild")
def rebuild_command(as_json: AsJson = False) -> None:
    """Write every slot of `identity.merges` that is missing or older in Redis, and the refusals of `consent.revocations`.

    For a Redis that was lost or restored from a backup. Stop the identity workers before: one that meets an id whose slot was
    lost links it anew, and the newer link would stand.
    """
    read = 0
    with opened("rebuilding the graph from its log", as_json) as (settings, store, advance):

        def count(n: int) -> None:
            nonlocal read
            read += n
            advance(n)

        written = rebuild(read_log(settings), store, count)
        recall_refusals(settings, store, advance)
    typer.echo(
        json.dumps({"records": read, "written": written}) if as_json else f"{read:,} records read, {written:,} slots written"
    )


@app.command("diff", epilog="Example: headwater identity diff --json")
def diff_command(as_json: AsJson = False) -> None:
    """Compare the graph in Redis with its log; exits 1 where they differ.

    Stop the identity workers for an exact answer: what they write meanwhile may show up. Slots that are not known to be logged
    yet are counted apart, and are no difference.
    """
    with opened("comparing the graph with its log", as_json) as (settings, store, advance):
        found = diff(read_log(settings), store, advance)
    if as_json:
        typer.echo(json.dumps({**found._asdict(), "same": found.same}))
    else:
        typer.echo(
            f"{found.logged:,} slots in the log: {found.missing:,} missing in Redis, {found.other:,} others there, "
            f"{found.unlogged:,} there that the log does not have, {found.pending:,} not yet logged"
        )
        for example in found.examples:
            typer.echo(f"  {example}")
        typer.echo("the same" if found.same else "NOT the same: `headwater identity rebuild` writes what is missing or older")
    if not found.same:
        raise typer.Exit(1)


@app.command("show", epilog="Example: headwater identity show user=jo@shop.example")
def show_command(
    who: Annotated[str, typer.Argument(help=HELP)],
    as_json: AsJson = False,
) -> None:
    """What is linked to an id: its root, what its events are stamped with, and every other node; whether it is anybody's."""
    with opened("looking", quiet=True, settings=load_settings()) as (settings, store, _):
        asked = known(store, nodes_of(settings, who))[0]
        linked = component(store, asked)
        root, slot = asked, store.read([asked])[0]
        state = slot.state if slot is not None else ""
        if slot is not None and state:  # nobody's, whatever it hangs under
            profile = alias(settings.master)(asked, slot.epoch)
        else:
            root, slot = climb(store, asked, slot)
            profile = slot.parent if root[0] == USER and slot is not None else root
    if as_json:
        told = {"node": asked, "state": state, "root": root, "profile": profile, "nodes": linked.nodes}
        typer.echo(json.dumps({**told, "whole": linked.whole}))
        return
    typer.echo(f"node     {asked}  {NAMES.get(asked[0], '')}{WHAT.get(state, '')}")
    typer.echo(f"profile  {profile}{'  what events that have nothing else are stamped with' if state else ''}")
    if not state and linked.nodes == (asked,):
        typer.echo("nothing is linked to it: it always came alone, or never")
    for one in linked.nodes:
        typer.echo(f"linked   {one}  {NAMES.get(one[0], '')}{'  root' if one == root else ''}")
    if not linked.whole:
        typer.echo(f"more than {MOST_NODES:,} nodes, which is no person: the rest is not shown")


@app.command("why", epilog="Example: headwater identity why user=jo@shop.example cookie=1234567890.1234567890")
def why_command(
    one: Annotated[str, typer.Argument(help="A node, or KIND=VALUE.")],
    other: Annotated[str, typer.Argument(help="Another.")],
    as_json: AsJson = False,
) -> None:
    """The chain of evidence that links two ids, by the log: each link with the event it was made for; exits 1 without one."""
    with (
        opened("reading the log", as_json) as (settings, _, advance),
        TemporaryDirectory() as folder,
        LogIndex(Path(folder)) as index,
    ):
        ends = [nodes_of(settings, who) for who in (one, other)]
        for records in read_log(settings):
            index.add(records)
            advance(len(records))
        ways = (why(index, first, second) for first, second in product(*ends))
        chain = next((way for way in ways if way is not None), None)
    if as_json:
        links = [
            {"node": link.node, "parent": link.parent, "event_id": link.event_id, "evidence_ts": link.evidence_ts}
            for link in chain or ()
        ]
        typer.echo(json.dumps({"linked": chain is not None, "links": links}))
    elif chain is None:
        typer.echo("nothing in the log links them")
    elif not chain:
        typer.echo("they are the same node")
    for link in () if as_json else chain or ():
        when = datetime.fromtimestamp(link.evidence_ts / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        event = f"event {link.event_id}" if link.event_id else "an event that a later record no longer names"
        typer.echo(f"{link.node} -> {link.parent}  by {event}, {when}")
    if chain is None:
        raise typer.Exit(1)


@app.command("split", epilog="Example: headwater identity split cookie=1234567890.1234567890 --dry-run")
def split_command(
    who: Annotated[str, typer.Argument(help="The node that links what does not belong together, or KIND=VALUE.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written, and write nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take an id out of its component: it neither links nor attributes any more, and the rest is what other events link.

    For a tester's cookie or a shared device found by hand. Past rows in ClickHouse are rewritten; exits 1 where that has to be
    done by a second run, which also completes one that was cut short.
    """
    with opened("reading the evidence", as_json) as (settings, store, _):
        names = known(store, nodes_of(settings, who))
        done = {asked: _split(settings, store, asked, dry_run) for asked in names}
    rows = None if dry_run else _restamp(settings, done)
    written = {write.node: write.slot._asdict() for journal in done.values() for write in journal.writes}
    restamps = [restamp for journal in done.values() for restamp in journal.restamps]
    if as_json:
        profiles = [{"profile": profile, "nodes": nodes} for profile, nodes in restamps]
        once = sorted({node for journal in done.values() for node in journal.once})
        told = {"node": names[0], "dry_run": dry_run, "slots": written, "profiles": profiles, "once": once, "rows": rows}
        typer.echo(json.dumps(told))
    else:
        for asked in names:
            typer.echo(f"{asked}  {'would be' if dry_run else 'is'} nobody's")
        typer.echo(f"{len(written):,} slots {_rewritten(dry_run)}")
        for profile, nodes in restamps:
            typer.echo(f"profile  {profile}  {len(nodes):,} ids, {nodes[0]} first")
        if rows is not None:
            typer.echo(f"{rows:,} past rows rewritten")
    if rows is None and not dry_run:
        typer.echo("past rows are NOT rewritten, ClickHouse does not answer: run the same command again", err=True)
        raise typer.Exit(1)


def _split(settings: Settings, store: RedisGraphStore, node: str, dry_run: bool) -> SplitJournal:
    """All that is written for one node, or would be."""
    said, stamp = said_on(settings), alias(settings.master)
    if dry_run:
        return SplitJournal.read(store.noted(node)).add(prepare(store, node, said, stamp))
    return split(store, node, said, stamp, log_to(settings, node, int(time.time() * 1000)))


@app.command("tidy", epilog="Example: headwater identity tidy --hours 48")
def tidy_command(
    hours: Annotated[float, typer.Option(min=1, max=720, help="Of ids that were demoted in so many hours.")] = 168,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written, and write nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take every id that was demoted lately, or is over a limit, out of its component, as `split` does with one.

    `headwater upkeep` does so once a day: a conflict or a limit demotes an id at once, and this sets free what nothing but
    that id had linked; an id that joins strangers slowly is found by the log and demoted too. Past rows in ClickHouse are
    rewritten; exits 1 where the next run has to do that.
    """
    now_ms, left, done = int(time.time() * 1000), list[str](), dict[str, SplitJournal]()
    with opened("reading the evidence", as_json) as (settings, store, advance):
        lately, stamp = demoted(settings, now_ms - int(hours * 3_600_000)), alias(settings.master)
        evidence = TopicEvidence(settings, advance)
        over = over_limits(settings, store, evidence, advance)
        nodes = list(dict.fromkeys([*lately, *over]))
        if dry_run:
            done = {node: SplitJournal().add(plan) for node, plan in planned(store, nodes, evidence, stamp)}
        else:
            # All of them first: rewriting rows may take long, and what was read would be old.
            for node, journal in tidy(store, nodes, evidence, stamp, lambda node: log_to(settings, node, now_ms)):
                if journal is None:
                    left.append(node)
                else:
                    done[node] = journal
    written, rows = sum(len(journal.writes) for journal in done.values()), None if dry_run else _restamp(settings, done)
    if as_json:
        told = {
            "demoted": len(lately),
            "over_limits": len(over),
            "dry_run": dry_run,
            "slots": written,
            "rows": rows,
            "left": left,
        }
        typer.echo(json.dumps(told))
    else:
        typer.echo(f"{len(lately):>10,}  ids were demoted in the last {hours:g} hours")
        typer.echo(f"{len(over):>10,}  others join more than one person has")
        typer.echo(f"{written:>10,}  slots {_rewritten(dry_run)}, those of earlier runs among them")
        if rows is not None:
            typer.echo(f"{rows:>10,}  past rows rewritten")
    if left:
        typer.echo(f"{len(left):,} of them are left for the next run: workers link them all the time", err=True)
    if rows is None and not dry_run:
        typer.echo("past rows are NOT rewritten, ClickHouse does not answer: run the same command again", err=True)
    if left or (rows is None and not dry_run):
        raise typer.Exit(1)


def _rewritten(dry_run: bool) -> str:
    return "would be rewritten" if dry_run else "rewritten"


def _restamp(settings: Settings, done: Mapping[str, SplitJournal]) -> int | None:
    """Past rows, rewritten; how many, None where ClickHouse is away."""
    from consumers.warehouse.history.restamping import group_by_component, restamp
    from consumers.warehouse.store import Store

    warehouse = Store(settings)
    taken = group_by_component(done)
    try:
        return sum(restamp(warehouse, taken[node], journal) for node, journal in done.items())
    except Retryable:
        return None
    finally:
        warehouse.close()
