"""`headwater identity`: inspect the graph, compare it with its log, rebuild it, split and tidy it."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, NamedTuple

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from infra.clients.kafka import settings_with_kafka
from infra.errors import ConfigError, Retryable, unreachable_message
from infra.settings import Settings, load_settings
from streams.identity.app import open_store
from streams.identity.commands.identifier_args import HELP, nodes_of
from streams.identity.graph.limits import USER
from streams.identity.graph.redis_store import RedisGraphStore
from streams.identity.graph.union_find import ERASED, SHARED
from streams.identity.nodes import alias
from streams.identity.refusals.revocation import MOST_NODES, find_component, find_root
from streams.identity.repair.log import LogIndex, compare_with_log, find_link_path, read_log, rebuild, restore_refusals
from streams.identity.repair.splitting import SplitJournal, evidence_reader, plan_next_split, slot_logger, split_node
from streams.identity.repair.tidying import TopicEvidence, find_over_limits, plan_tidy, read_demoted, tidy

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Inspect the identity graph, explain why ids are linked, take an id out; compare the graph with its log, rebuild it.",
    rich_markup_mode=None,
)

NAMES = {"0": "user", "1": "device", "2": "cookie", "3": "e-mail or phone"}
"""Tier digit -> kind of identifier."""
STATE_TEXTS = {SHARED: "  shared: nobody's, because several persons had it", ERASED: "  erased"}
"""State of a slot -> text for the terminal."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback(epilog="Example: headwater identity show user=jo@shop.example")
def identity() -> None:
    """Inspect the identity graph, explain why ids are linked, take an id out; compare the graph with its log, rebuild it."""


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


@app.command("rebuild", epilog="Example: headwater identity rebuild")
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


@app.command("diff", epilog="Example: headwater identity diff --json")
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


@app.command("show", epilog="Example: headwater identity show user=jo@shop.example")
def show_command(
    identifier: Annotated[str, typer.Argument(help=HELP)],
    as_json: AsJson = False,
) -> None:
    """Show what is linked to an id: its root, its profile id, and every other node; whether it is shared or erased."""
    with open_graph("looking", quiet=True, settings=load_settings()) as (settings, store, _):
        node = linked_names(store, nodes_of(settings, identifier))[0]
        linked = find_component(store, node)
        root, slot = node, store.read([node])[0]
        state = slot.state if slot is not None else ""
        if slot is not None and state:  # marked: attributes nothing, whatever its root
            profile = alias(settings.master)(node, slot.epoch)
        else:
            root, slot = find_root(store, node, slot)
            profile = slot.parent if root[0] == USER and slot is not None else root
    if as_json:
        shown = {"node": node, "state": state, "root": root, "profile": profile, "nodes": linked.nodes}
        typer.echo(json.dumps({**shown, "whole": linked.whole}))
        return
    typer.echo(f"node     {node}  {NAMES.get(node[0], '')}{STATE_TEXTS.get(state, '')}")
    typer.echo(f"profile  {profile}{'  profile of events that have no other id' if state else ''}")
    if not state and linked.nodes == (node,):
        typer.echo("nothing is linked to it: it always came alone, or never")
    for linked_node in linked.nodes:
        typer.echo(f"linked   {linked_node}  {NAMES.get(linked_node[0], '')}{'  root' if linked_node == root else ''}")
    if not linked.whole:
        typer.echo(f"more than {MOST_NODES:,} nodes, which is no person: the rest is not shown")


@app.command("why", epilog="Example: headwater identity why user=jo@shop.example cookie=1234567890.1234567890")
def why_command(
    first: Annotated[str, typer.Argument(help="A node, or KIND=VALUE.")],
    second: Annotated[str, typer.Argument(help="Another.")],
    as_json: AsJson = False,
) -> None:
    """Show the chain of evidence that links two ids by the log, with the event of each link; exit 1 without one."""
    with (
        open_graph("reading the log", as_json) as (settings, _, advance),
        TemporaryDirectory() as folder,
        LogIndex(Path(folder)) as index,
    ):
        ends = [nodes_of(settings, identifier) for identifier in (first, second)]
        for records in read_log(settings):
            index.add(records)
            advance(len(records))
        ways = (find_link_path(index, from_node, to_node) for from_node, to_node in product(*ends))
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
    identifier: Annotated[str, typer.Argument(help="The node that links what does not belong together, or KIND=VALUE.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written, and write nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take an id out of its component: it no longer links or attributes, and the rest is what other events link.

    For a tester's cookie or a shared device found by hand. Past rows in ClickHouse are rewritten; exits 1 where a second run
    has to do that, which also completes one that was interrupted.
    """
    with open_graph("reading the evidence", as_json) as (settings, store, _):
        names = linked_names(store, nodes_of(settings, identifier))
        journals = {node: _split(settings, store, node, dry_run) for node in names}
    rows = None if dry_run else _restamp(settings, journals)
    written = {write.node: write.slot._asdict() for journal in journals.values() for write in journal.writes}
    rewrites = [rewrite for journal in journals.values() for rewrite in journal.rewrites]
    if as_json:
        profiles = [{"profile": profile, "nodes": nodes} for profile, nodes in rewrites]
        once = sorted({node for journal in journals.values() for node in journal.former_profiles})
        shown = {"node": names[0], "dry_run": dry_run, "slots": written, "profiles": profiles, "once": once, "rows": rows}
        typer.echo(json.dumps(shown))
    else:
        for node in names:
            typer.echo(f"{node}  {'would be' if dry_run else 'is'} nobody's")
        typer.echo(f"{len(written):,} slots {_rewritten(dry_run)}")
        for profile, nodes in rewrites:
            typer.echo(f"profile  {profile}  {len(nodes):,} ids, {nodes[0]} first")
        if rows is not None:
            typer.echo(f"{rows:,} past rows rewritten")
    _exit_unless_rewritten(rows, dry_run)


def _split(settings: Settings, store: RedisGraphStore, node: str, dry_run: bool) -> SplitJournal:
    """Split one node, or plan to; return everything that is written for it."""
    evidence, make_alias = evidence_reader(settings), alias(settings.master)
    if dry_run:
        return SplitJournal.from_text(store.load_note(node)).add(plan_next_split(store, node, evidence, make_alias))
    return split_node(store, node, evidence, make_alias, slot_logger(settings, node, int(time.time() * 1000)))


@app.command("tidy", epilog="Example: headwater identity tidy --hours 48")
def tidy_command(
    hours: Annotated[float, typer.Option(min=1, max=720, help="Of ids that were demoted in so many hours.")] = 168,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written, and write nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take every id that was demoted lately, or is over a limit, out of its component, as `split` does with one.

    `headwater upkeep` does so once a day: a conflict or a limit demotes an id at once, and this frees what only that id had
    linked; an id that links strangers slowly is found by the log and demoted too. Past rows in ClickHouse are rewritten; exits
    1 where the next run has to do that.
    """
    with open_graph("reading the evidence", as_json) as (settings, store, advance):
        tidying = _tidy(settings, store, advance, hours, dry_run)
    rows = None if dry_run else _restamp(settings, tidying.journals)
    written = sum(len(journal.writes) for journal in tidying.journals.values())
    if as_json:
        report = {
            "demoted": tidying.demoted, "over_limits": tidying.over_limits, "dry_run": dry_run, "slots": written, "rows": rows,
            "left": tidying.postponed,
        }  # fmt: skip
        typer.echo(json.dumps(report))
    else:
        typer.echo(f"{tidying.demoted:>10,}  ids were demoted in the last {hours:g} hours")
        typer.echo(f"{tidying.over_limits:>10,}  others join more than one person has")
        typer.echo(f"{written:>10,}  slots {_rewritten(dry_run)}, those of earlier runs among them")
        if rows is not None:
            typer.echo(f"{rows:>10,}  past rows rewritten")
    if tidying.postponed:
        typer.echo(f"{len(tidying.postponed):,} of them are left for the next run: workers link them all the time", err=True)
    _exit_unless_rewritten(rows, dry_run)
    if tidying.postponed:
        raise typer.Exit(1)


class Tidying(NamedTuple):
    """What `tidy` has found and split, or would split."""

    demoted: int
    """Nodes that were demoted lately."""
    over_limits: int
    """Nodes that exceed a limit by all evidence."""
    journals: dict[str, SplitJournal]
    """Split node -> what is written for it."""
    postponed: list[str]
    """Nodes that workers link all the time."""


def _tidy(settings: Settings, store: RedisGraphStore, advance: Callable[[int], None], hours: float, dry_run: bool) -> Tidying:
    now_ms = int(time.time() * 1000)
    make_alias, evidence = alias(settings.master), TopicEvidence(settings, advance)
    lately = read_demoted(settings, now_ms - int(hours * 3_600_000))
    over = find_over_limits(settings, store, evidence, advance)
    nodes = list(dict.fromkeys([*lately, *over]))
    if dry_run:
        journals = {node: SplitJournal().add(plan) for node, plan in plan_tidy(store, nodes, evidence, make_alias)}
        return Tidying(len(lately), len(over), journals, [])
    # Split all nodes before rows are rewritten: that may take long, and the evidence would be stale.
    results = list(tidy(store, nodes, evidence, make_alias, lambda node: slot_logger(settings, node, now_ms)))
    journals = {node: journal for node, journal in results if journal is not None}
    return Tidying(len(lately), len(over), journals, [node for node, journal in results if journal is None])


def _exit_unless_rewritten(rows: int | None, dry_run: bool) -> None:
    """Exit 1 where past rows have to be rewritten by another run."""
    if rows is None and not dry_run:
        typer.echo("past rows are NOT rewritten, ClickHouse does not answer: run the same command again", err=True)
        raise typer.Exit(1)


def _rewritten(dry_run: bool) -> str:
    return "would be rewritten" if dry_run else "rewritten"


def _restamp(settings: Settings, journals: Mapping[str, SplitJournal]) -> int | None:
    """Rewrite past rows in ClickHouse; return how many, None where ClickHouse is unavailable."""
    from consumers.warehouse.history.restamping import group_by_component, restamp
    from consumers.warehouse.store import Store

    warehouse = Store(settings)
    shared = group_by_component(journals)
    try:
        return sum(restamp(warehouse, shared[node], journal) for node, journal in journals.items())
    except Retryable:
        return None
    finally:
        warehouse.close()
