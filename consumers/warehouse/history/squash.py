"""Rewrites the profile ids of old events by the overrides, so that the number of overrides stays small.

Only `profile_id` changes; sorting keys and offsets stay, so a replay still finds the rows. Months without such rows are not
rewritten. An override is forgotten once no row carries its id, unless it or its id changed after the squash began.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from consumers.warehouse.history.flatten import Workbench, unfinished_mutations, workbench
from consumers.warehouse.history.overrides import next_version, project
from consumers.warehouse.schema import ddl
from consumers.warehouse.store import Store
from infra.errors import Halted, Retryable

DAY_MS = 86_400_000
POLL_S = 0.2

# An unchanging copy: the mutation reads it while it runs, after a restart too.
FREEZE = (
    "CREATE TABLE {database}.{frozen} AS {database}.identity_overrides",
    "INSERT INTO {database}.{frozen} SELECT profile_id, canonical, version FROM {database}.identity_overrides",
)
OLD_ROWS = (
    "collector_ts < fromUnixTimestamp64Milli({limit_ms}) AND joinGet('{database_name}.{frozen}', 'canonical', profile_id) != ''"
)
MONTHS = "SELECT _partition_id, count() FROM {database}.events WHERE {old} GROUP BY 1 ORDER BY 1"
# A mutation keeps the block numbers, so a run would not notice the new ids of the rows: they are added here.
STAMP = """
INSERT INTO {database}.identity_stamped (profile_id, version)
SELECT DISTINCT joinGet('{database_name}.{frozen}', 'canonical', profile_id), {version} FROM {database}.events WHERE {old}
"""
REWRITE = """
ALTER TABLE {database}.events UPDATE profile_id = joinGet('{database_name}.{frozen}', 'canonical', profile_id)
IN PARTITION ID '{month}' WHERE {old} SETTINGS mutations_sync = 0
"""
NEEDLESS = """
INSERT INTO {needless}
SELECT f.profile_id FROM {database}.{frozen} AS f
WHERE joinGet('{database_name}.identity_overrides', 'version', f.profile_id) = f.version
    AND f.profile_id NOT IN (
        SELECT profile_id FROM {database}.events
        WHERE joinGet('{database_name}.{frozen}', 'canonical', profile_id) != '' GROUP BY profile_id
    )
"""
FORGET = "DELETE FROM {database}.identity_stamped WHERE version < {version} AND profile_id IN (SELECT node FROM {needless})"
RUN = (
    "INSERT INTO {database}.identity_runs (version, kind, overrides, rewritten) SELECT {version}, 'squash', {overrides}, {rows}"
)


@dataclass(frozen=True)
class SquashResult:
    """Figures of one squash."""

    months: dict[str, int] = field(default_factory=dict)
    """Partition -> rows that were rewritten."""
    forgotten: int = 0
    """Overrides that no row needs any longer."""
    overrides: int = 0
    """Overrides that remain."""

    @property
    def rows(self) -> int:
        """Rows that were rewritten."""
        return sum(self.months.values())


def squash(store: Store, now_ms: int, after_days: float, stopping: Callable[[], bool]) -> SquashResult:
    """Rewrite the rows that are older than `after_days`, and forget overrides that are no longer needed.

    Retryable where ClickHouse is away or `stopping` returns True: running mutations go on, the rest follows with the next
    squash. Halted where ClickHouse cannot rewrite the rows.
    """
    _wait_for_mutations(store, stopping)
    version = next_version(store, now_ms)
    limit_ms = now_ms - int(after_days * DAY_MS)
    with workbench(store, version) as bench:
        names: dict[str, object] = {"database_name": store.database, "frozen": bench.table_name("frozen"), "version": version}
        names["old"] = OLD_ROWS.format(limit_ms=limit_ms, **names)
        for statement in FREEZE:
            bench.execute(statement, **names)
        months = _rewrite_rows(bench, names, stopping)
        forgotten = _forget_overrides(bench, names)
        remaining = project(store, now_ms).overrides if forgotten else bench.count_rows(f"{bench.database}.identity_overrides")
        bench.execute(RUN, version=next_version(store, now_ms), overrides=remaining, rows=sum(months.values()))
    return SquashResult(months, forgotten, remaining)


def last_squash(store: Store) -> int:
    """When the last squash was, milliseconds UTC; before the first one, when the first run was. 0 without any. Retryable."""
    query = f"SELECT maxIf(version, kind = 'squash'), min(version) FROM {ddl.quoted(store.database)}.identity_runs"  # noqa: S608 - ours
    ((last, first),) = store.rows(query)
    return int(last or first)


def _rewrite_rows(bench: Workbench, names: Mapping[str, object], stopping: Callable[[], bool]) -> dict[str, int]:
    """Rewrite old rows month by month; return the number of rows by partition id."""
    counts = bench.store.rows(MONTHS.format(database=bench.database, **names))
    months = {str(month): int(rows) for month, rows in counts}
    if months:
        bench.execute(STAMP, **names)
    for month in months:
        bench.execute(REWRITE, month=month, **names)
        _wait_for_mutations(bench.store, stopping)
    return months


def _forget_overrides(bench: Workbench, names: Mapping[str, object]) -> int:
    """Remove ids that no row carries from `identity_stamped`; return their number. The next run drops their overrides."""
    needless = bench.full_name("needless")
    bench.execute("CREATE TABLE {table} (node String) ENGINE = MergeTree ORDER BY node", table=needless)
    bench.execute(NEEDLESS, needless=needless, **names)
    forgotten = bench.count_rows(needless)
    if forgotten:
        bench.execute(FORGET, needless=needless, **names)
    return forgotten


def _wait_for_mutations(store: Store, stopping: Callable[[], bool]) -> None:
    """Wait until no mutation of a squash runs, earlier ones included. Halted where one fails, Retryable when stopped."""
    while running := unfinished_mutations(store):
        name, _, reason = running[0]
        if reason:
            raise Halted(
                f"ClickHouse cannot rewrite events: {reason[:300]}. It goes on trying; "
                f"to give up: KILL MUTATION WHERE mutation_id = '{name}'"
            )
        if stopping():
            raise Retryable("a squash was left to ClickHouse")
        time.sleep(POLL_S)
