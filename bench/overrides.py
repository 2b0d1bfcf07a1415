"""`python -m bench.overrides`: what it costs to read history under today's identity (`profile_now`) instead of `profile_id`.

The engine makes the events itself from numbers(): only `profile_id`, the node and the time, ten rows a profile, scattered. The
view and the projector are the warehouse's own. Plain and mapped take turns; CPU is the server process's, all threads.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from consumers.warehouse.history.overrides import OVERLAP_MS, project
from consumers.warehouse.schema import migrating, views
from consumers.warehouse.store import Store
from infra.ops.embedded.servers.clickhouse import EmbeddedClickHouse
from infra.settings import load_settings

DATABASE = "bench"
NOW_MS = time.time_ns() // 1_000_000
MIGRATION = "0005_overrides.sql"
ROWS_A_PROFILE = 10
QUERIES = {
    "number of profiles": "SELECT uniq({id}) FROM {table}",
    "events a profile, top 10": "SELECT {id}, count() AS n FROM {table} GROUP BY {id} ORDER BY n DESC, {id} LIMIT 10",
    "column read, nothing else": "SELECT max({id}) FROM {table}",
}
PROFILE = "concat(toString(1 + {n} % 3), lower(hex(sipHash128(toUInt64({n})))))"
MAKE = """
INSERT INTO bench.events SELECT {profile}, {profile}, toDateTime64('2026-11-01 00:00:00', 3, 'UTC') + intDiv(number, 100)
FROM numbers({rows})
"""
# Of the slots, so many belong to profiles that have events; as many of the rest lead to a user as lead to one of those.
SLOTS = (
    "SELECT {profile}, concat('0', lower(hex(sipHash128('user', number)))), 0, '' FROM numbers({overrides})",
    "SELECT concat('2', lower(hex(sipHash128('near', number)))), concat('0', lower(hex(sipHash128('user', number)))), 0, '' "
    "FROM numbers({others})",
    "SELECT concat('3', lower(hex(sipHash128('far', number)))), concat('2', lower(hex(sipHash128('near', number)))), 0, '' "
    "FROM numbers({others})",
)


def fill(store: Store, rows: int, overrides: int, slots: int) -> None:
    """Create events and slots of the identity graph; `overrides` of the slots are of profiles with events."""
    profiles = rows // ROWS_A_PROFILE
    store.command(f"CREATE DATABASE {DATABASE} ENGINE = Atomic")
    store.command(
        f"CREATE TABLE {DATABASE}.events (profile_id String, node String, collector_ts DateTime64(3, 'UTC')) "
        "ENGINE = MergeTree PARTITION BY toYYYYMM(collector_ts) ORDER BY (toStartOfHour(collector_ts), node)"
    )
    store.command(
        f"CREATE TABLE {DATABASE}.identity_merges (node String, parent String, epoch Int32, state String) "
        "ENGINE = MergeTree ORDER BY node"
    )
    for statement in views.statements(migrating.FOLDER / MIGRATION, DATABASE):
        store.command(statement)
    store.command(MAKE.format(profile=PROFILE.format(n=f"(number % {profiles})"), rows=rows))
    linked = PROFILE.format(n=f"(number * {profiles // overrides})")
    for select in SLOTS:
        rows_of_slots = select.format(profile=linked, overrides=overrides, others=(slots - overrides) // 2)
        store.command(f"INSERT INTO {DATABASE}.identity_merges {rows_of_slots}")


def projected(store: Store, process: psutil.Process, overrides: int) -> dict[str, float]:
    """Measure the first run, which reads every event, and later ones, which find nothing new."""
    figures: dict[str, float] = {}
    for number, run in enumerate(("first", "second", "later")):
        cpu, wall = timed(process, lambda at=number: project(store, NOW_MS + at * OVERLAP_MS))  # type: ignore[misc] # as below
        figures |= {f"{run}_cpu_s": round(cpu, 2), f"{run}_wall_s": round(wall, 2)}
    ((mapped, rows),) = store.rows(
        "SELECT uniqExactIf(profile_id, profile_id != profile_now), countIf(profile_id != profile_now) FROM bench.events_now"
    )
    assert mapped == overrides, f"{mapped} profiles are mapped"
    return figures | {"rows_mapped": rows}


def timed(process: psutil.Process, ask: Callable[[], Any]) -> tuple[float, float]:
    """(CPU seconds of the server, wall seconds)."""
    cpu, begun = sum(process.cpu_times()[:2]), time.perf_counter()
    ask()
    wall = time.perf_counter() - begun
    return sum(process.cpu_times()[:2]) - cpu, wall


def measure(store: Store, process: psutil.Process, rounds: int) -> list[dict[str, Any]]:
    """Measure each query; the first round does not count."""
    results = []
    for name, query in QUERIES.items():
        both = {
            "plain": query.format(id="profile_id", table=f"{DATABASE}.events"),
            "mapped": query.format(id="profile_now", table=f"{DATABASE}.events_now"),
        }
        timings: dict[str, list[tuple[float, float]]] = {kind: [] for kind in both}
        for number in range(rounds + 1):
            for kind, text in both.items():
                took = timed(process, lambda text=text: store.rows(text))  # type: ignore[misc] # mypy cannot type a default
                if number:
                    timings[kind].append(took)
        results.append({"query": name, **summary(timings)})
    return results


def summary(timings: dict[str, list[tuple[float, float]]]) -> dict[str, float]:
    """Best and median of the rounds, and the ratios of the medians and of the best."""
    figures: dict[str, float] = {}
    for at, unit in enumerate(("cpu", "wall")):
        for kind, times in timings.items():
            values = [timing[at] for timing in times]
            figures[f"{kind}_{unit}_best_s"] = round(min(values), 3)
            figures[f"{kind}_{unit}_median_s"] = round(statistics.median(values), 3)
        for how in ("best", "median"):
            figures[f"{unit}_{how}_ratio"] = round(figures[f"mapped_{unit}_{how}_s"] / figures[f"plain_{unit}_{how}_s"], 2)
    return figures


def show(figures: dict[str, Any]) -> None:
    """Print a table."""
    table = Table("query", "plain, CPU s", "mapped, CPU s", "ratio", "plain, s", "mapped, s", "ratio", title=figures["what"])
    for row in figures["queries"]:
        cells = [row[f"{kind}_{unit}_median_s"] for unit in ("cpu", "wall") for kind in ("plain", "mapped")]
        table.add_row(
            row["query"], f"{cells[0]:.2f}", f"{cells[1]:.2f}", f"{row['cpu_median_ratio']:.2f}x",
            f"{cells[2]:.2f}", f"{cells[3]:.2f}", f"{row['wall_median_ratio']:.2f}x",
        )  # fmt: skip
    Console(width=128).print(table)
    runs = figures["projector"]
    took = [f"{runs[f'{run}_wall_s']} s ({runs[f'{run}_cpu_s']} CPU s)" for run in ("first", "later")]
    Console(width=128).print(f"{runs['rows_mapped']:,} rows are mapped; load {figures['load']}", highlight=False)
    Console(width=128).print(f"The projector takes {took[0]} the first time, {took[1]} later", highlight=False)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.overrides", description=__doc__, epilog="Example: python -m bench.overrides --rounds 5 --json"
    )
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--overrides", type=int, default=100_000)
    parser.add_argument("--slots", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="headwater-bench-") as folder, EmbeddedClickHouse(Path(folder)) as clickhouse:
        store = Store(load_settings(clickhouse=clickhouse.url, clickhouse_database=DATABASE, state_dir=Path(folder)), 600)
        fill(store, options.rows, options.overrides, options.slots)
        process = psutil.Process(clickhouse.pid)
        runs = projected(store, process, options.overrides)
        queries = measure(store, process, options.rounds)
        store.close()
    sizes = f"{options.rows:,} events, {options.slots:,} slots, {options.overrides:,} overrides"
    title = f"{sizes}, median of {options.rounds} rounds"
    figures = {"what": title, "queries": queries, "projector": runs, "load": round(os.getloadavg()[0], 1)}
    print(json.dumps(figures)) if options.json else show(figures)


if __name__ == "__main__":
    main()
