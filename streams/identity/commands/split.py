"""`headwater identity split` and `tidy`: take ids out of their components, and rewrite past rows."""

import json
import time
from collections.abc import Callable, Mapping
from typing import Annotated, NamedTuple

import typer

from infra.errors import Retryable
from infra.settings import Settings
from streams.identity.commands.access import AsJson, linked_names, open_graph
from streams.identity.commands.identifier_args import nodes_of
from streams.identity.graph.redis_store import RedisGraphStore
from streams.identity.nodes import alias
from streams.identity.repair.splitting import SplitJournal, evidence_reader, plan_next_split, slot_logger, split_node
from streams.identity.repair.tidying import TopicEvidence, find_over_limits, plan_tidy, read_demoted, tidy


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


__all__ = ["split_command", "tidy_command"]
