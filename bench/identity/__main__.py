"""`python -m bench.identity`: compares the identity stage with four other methods on a generated world with known truth.

The first column is the bound for every method that uses identifiers alone: two persons who do not log in at a kiosk look alike.
"""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench.identity import constants as identity_constants
from bench.identity.causes import lost_by_cause, wrong_by_cause
from bench.identity.contenders import capped_union, labels_in_sql, union_of_all, unique_only
from bench.identity.metrics import Score, bound, first_deliveries, score
from bench.identity.rates import WORLDS, Rates
from bench.identity.results import BATCH, Advance, ContenderResult
from bench.identity.stage_contender import stage
from bench.identity.world import IdentityWorld, WorldEvent, make_world

BOUND, OURS, TIDIED, ALL, CAPPED, UNIQUE, SQL = (
    "bound",
    "identity stage",
    "and tidied",
    "union of all",
    "capped union",
    "unique only",
    "labels in SQL",
)
ONLINE = {ALL: union_of_all, CAPPED: capped_union}
ANEW = {UNIQUE: unique_only, SQL: labels_in_sql}
"""Methods besides the stage: those that resolve events as they arrive, and those that recompute everything."""
COLUMNS: Mapping[str, tuple[str, str]] = {
    "wrong": ("wrong events %", "100"), "unattributed": ("events of nobody %", "100"),
    "avoidable": ("of it avoidable %", "100"),
    "given_away": ("of that given away by a conflict %", "100"),
    "wrong_known": ("of it in known profiles %", "100"),
    "canonicals": ("canonicals a person", "1"), "precision": ("pair precision", "1"), "recall": ("pair recall", "1"),
    "merged_people": ("canonicals of several persons", "n"), "merged_accounts": ("of several accounts", "n"),
    "merged_households": ("of several households", "n"), "two_users": ("with two user ids", "n"),
    "stale": ("stale stamps %", "100"), "overrides": ("override rows %", "100"), "seconds": ("seconds", "s"),
}  # fmt: skip
"""Figure -> heading, and format: percentage, number, count, seconds."""


CONSTANTS = "constants"
"""The world that has no rates: `bench/identity/constants.py`."""


def measure(world: IdentityWorld, progress: Progress, batch: int = BATCH) -> dict[str, dict[str, Any]]:
    """Return the figures and causes of every contender, and the bound."""
    events = first_deliveries(world.events)
    rows: dict[str, dict[str, Any]] = {BOUND: asdict(bound(world, events))}

    def report_progress(name: str, of: Sequence[WorldEvent]) -> Advance:
        task = progress.add_task(name, total=len(of))
        return lambda n: progress.advance(task, n)

    def keep(name: str, result: ContenderResult) -> None:
        figures: Score = score(world, events, result.canonicals, result.at_arrival, result.nobodys)
        cause_shares = {
            "wrong_by_cause": wrong_by_cause(world, events, result.canonicals, result.nobodys),
            "lost_by_cause": lost_by_cause(world, events, result.canonicals),
        }
        rows[name] = {**asdict(figures), "seconds": round(result.seconds, 2), **cause_shares}

    for name, result in zip((OURS, TIDIED), stage(world.events, report_progress(OURS, world.events), batch), strict=True):
        keep(name, result)
    for name, resolve_online in ONLINE.items():
        keep(name, resolve_online(events, report_progress(name, events), batch))
    for name, resolve in ANEW.items():
        keep(name, resolve(events, report_progress(name, events)))
    return rows


def table(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return a table with a column for each contender and a row for each figure."""
    rendered = Table("", *rows, title="identities, against the truth")
    for figure, (heading, unit) in COLUMNS.items():
        rendered.add_row(heading, *(_shown(row.get(figure), unit) for row in rows.values()))
    return rendered


def causes(rows: Mapping[str, Mapping[str, Any]], kind: str, title: str) -> Table:
    """Return a table of causes, in percent of all events or of all pairs."""
    compared = {name: row[kind] for name, row in rows.items() if kind in row}
    rendered = Table("", *compared, title=title)
    for cause in sorted({cause for row in compared.values() for cause in row}):
        rendered.add_row(cause, *(_shown(row.get(cause), "100") for row in compared.values()))
    return rendered


def _shown(figure: float | None, unit: str) -> str:
    if figure is None:
        return "-"
    return {"100": f"{100 * figure:.3f}", "1": f"{figure:.4f}", "n": f"{figure:,.0f}", "s": f"{figure:.1f}"}[unit]


def constants_table(figures: identity_constants.Figures) -> Table:
    """Return a table of the stage's figures in the world of constants."""
    rendered = Table("", "identity stage, tidied daily", title="constants, against the truth")
    rendered.add_row("wrong events %", f"{100 * figures.wrong:.4f}")
    rendered.add_row("of it after the first day, n", f"{figures.wrong_later:,}")
    rendered.add_row("stamped wrongly after the first day, n", f"{figures.stamped_wrong_later:,}")
    rendered.add_row("wrong by slow constants, n", f"{figures.wrong_slow:,}")
    rendered.add_row("events of nobody %", f"{100 * figures.unattributed:.3f}")
    for case, n in sorted(figures.merged.items()):
        rendered.add_row(f"persons merged, {case}", f"{n:,}")
    return rendered


def run_constants(events: int, seed: int, batch: int, as_json: bool) -> None:
    """Generate the world of constants, run the stage on it, report."""
    persons = max(1, events // identity_constants.EVENTS_PER_PERSON)
    figures = identity_constants.measure(identity_constants.make(persons, seed=seed), lambda _done: None, batch)
    if as_json:
        print(json.dumps({"world": CONSTANTS, "persons": persons, "seed": seed, **asdict(figures)}))
        return
    console = Console()
    console.print(f"world {CONSTANTS!r}, seed {seed}: {figures.events:,} events of {persons:,} persons", highlight=False)
    console.print(constants_table(figures))


def rates_of(name: str, events: int, changes: Sequence[str]) -> Rates:
    """Return the rates of a world with changes `NAME=NUMBER`. ValueError for an unknown rate."""
    rates = replace(WORLDS[name], events=events)
    kinds = {field.name: type(getattr(rates, field.name)) for field in fields(rates)}
    for change in changes:
        rate, _, number = change.partition("=")
        if kinds.get(rate) not in (int, float):
            raise ValueError(f"{rate!r} is none of the rates that are numbers; see bench/identity/rates.py")
        rates = replace(rates, **{rate: kinds[rate](number)})
    return rates


def main() -> None:
    """Generate a world, run all contenders on it, report."""
    parser = make_parser()
    arguments = parser.parse_args()
    if arguments.world == CONSTANTS:
        if arguments.rate:
            parser.error("the world of constants has no rates")
        run_constants(arguments.events or identity_constants.EVENTS, arguments.seed, arguments.batch, arguments.json)
        return
    try:
        rates = rates_of(arguments.world, arguments.events or Rates.events, arguments.rate)
    except ValueError as error:
        parser.error(str(error))
    bar = (TextColumn("{task.description:>16}"), BarColumn(), TextColumn("{task.completed:,.0f} events"), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*bar, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("making the world", total=None)
        world = make_world(rates, arguments.seed)
        progress.update(task, total=len(world.events), completed=len(world.events))
        rows = measure(world, progress, arguments.batch)
    if arguments.json:
        print(json.dumps({**parameters(arguments, world), "rows": rows}))
    else:
        print_report(arguments, world, rows)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.identity",
        description=__doc__,
        epilog="Example: python -m bench.identity --events 50000 --causes",
    )
    parser.add_argument(
        "--events", type=int, help=f"events of the world (default {Rates.events}; of constants {identity_constants.EVENTS})"
    )
    parser.add_argument(
        "--world", choices=[*WORLDS, CONSTANTS], default="shop", help="whose rates, or constants (default %(default)s)"
    )
    parser.add_argument("--rate", action="append", default=[], metavar="NAME=NUMBER", help="another rate; may be repeated")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=int, default=BATCH, help="events that are resolved together (default %(default)s)")
    parser.add_argument("--causes", action="store_true", help="also tell why events are wrong and why pairs are lost")
    parser.add_argument("--json", action="store_true", help="one JSON object, causes included")
    return parser


def parameters(arguments: argparse.Namespace, world: IdentityWorld) -> dict[str, Any]:
    """Return the parameters of a run as its JSON report names them."""
    return {
        "world": arguments.world,
        "changed": arguments.rate,
        "events": len(world.events),
        "persons": len(world.users),
        "seed": arguments.seed,
        "load": os.getloadavg()[0],
    }


def print_report(arguments: argparse.Namespace, world: IdentityWorld, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the tables of a run."""
    console = Console()
    size = f"{len(world.events):,} events of {len(world.users):,} persons, {world.blocked:,} values blocked"
    console.print(f"world {arguments.world!r}, seed {arguments.seed}: {size}; batches of {arguments.batch}", highlight=False)
    console.print(table(rows))
    if arguments.causes:
        console.print(causes(rows, "wrong_by_cause", "wrong events, % of all"))
        console.print(causes(rows, "lost_by_cause", "pairs of one person not brought together, % of all"))
    console.print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", highlight=False)


if __name__ == "__main__":
    main()
