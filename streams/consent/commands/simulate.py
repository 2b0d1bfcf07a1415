"""`headwater consent simulate`: what a new policy would change, on recorded traffic."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from infra.clients.kafka import settings_with_kafka
from infra.settings import Settings
from schemas.registry import Registry
from streams.consent.commands.policy_diff import PolicyDiff, PolicyRun, RawRecord, compare
from streams.consent.formats.gvl import GvlFolder
from streams.consent.policy import PACKAGED, load_policy
from streams.consent.stage import RAW
from streams.runtime.follow import read_messages

HOUR_MS = 3_600_000
EVERY = 20_000
ROWS = 30


def read_recorded(settings: Settings, since: int, most: int, progress: Console) -> Iterator[RawRecord]:
    """Events of all partitions since then (milliseconds UTC), an equal share of `most` from each."""
    n = 0
    for partition in range(settings.partitions):
        remaining = -(-most // settings.partitions)
        for messages in read_messages(settings, RAW, partition, since):
            for message in messages[:remaining]:
                n += 1
                if n % EVERY == 0:
                    progress.print(f"{n:,} events", highlight=False)
                yield RawRecord(partition, message.offset(), message.key(), message.value())
            remaining -= len(messages)
            if remaining <= 0:
                break


def simulate_command(
    policy: Annotated[Path, typer.Option(help="The policy to try.")],
    hours: Annotated[float, typer.Option(min=0, help="How far back recorded events are taken.")] = 24,
    events: Annotated[int, typer.Option(min=1, help="At most so many.")] = 200_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run recorded events through the gate under the policy in force and under another one, and show what differs.

    Nothing is written anywhere. Both runs remember what the events themselves tell; choices and withdrawals that came earlier
    or at the consent door are not looked up, so that a withdrawn visitor counts by what her events say.
    """
    settings = settings_with_kafka()
    registry, lists = Registry(settings.contracts), GvlFolder(settings.gvl_dir)
    before, after = load_policy(settings.policy or PACKAGED), load_policy(policy)
    now = time.time()
    since = max(1, int(now * 1000 - hours * HOUR_MS))
    diff = compare(
        registry,
        read_recorded(settings, since, events, Console(stderr=True)),
        PolicyRun(registry, before, lists),
        PolicyRun(registry, after, lists),
        now,
    )
    if as_json:
        typer.echo(json.dumps({"policy": before.rev, "tried": after.rev, **as_data(diff)}, ensure_ascii=False, indent=2))
    else:
        print_difference(diff, before.rev, after.rev)


def as_data(diff: PolicyDiff) -> dict[str, Any]:
    """The difference as JSON."""
    return {
        "events": diff.events,
        "before": dict(diff.before),
        "after": dict(diff.after),
        "changed": [{**change._asdict(), "events": n} for change, n in diff.changed.most_common()],
        "rulings": [{"before": old, "after": new, "events": n} for (old, new), n in diff.rulings.most_common()],
    }


def print_difference(diff: PolicyDiff, before: str, after: str) -> None:
    """Print outcomes under both policies, changed events, and the rulings that cause them."""
    console = Console()
    changed = diff.changed.total()
    console.print(f"{diff.events:,} events: {changed:,} fare otherwise under {after} than under {before}", highlight=False)
    outcomes = Table("outcome", f"now ({before})", f"then ({after})")
    for outcome in sorted(diff.before | diff.after):
        outcomes.add_row(outcome, f"{diff.before[outcome]:,}", f"{diff.after[outcome]:,}")
    console.print(outcomes)
    if changed:
        table = Table("event", "now", "then", "events")
        for change, n in diff.changed.most_common(ROWS):
            table.add_row(*change, f"{n:,}")
        console.print(table, markup=False)
    if diff.rulings:
        rulings = Table("ruling now", "ruling then", "events")
        for (old, new), n in diff.rulings.most_common(ROWS):
            rulings.add_row(old or "-", new or "-", f"{n:,}")
        console.print(rulings, markup=False)


__all__ = ["as_data", "print_difference", "read_recorded", "simulate_command"]
