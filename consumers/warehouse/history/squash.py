"""Rewrites the profile id of old events by the overrides, so that the overrides stay few.

Only `profile_id` changes: what a row is sorted by, and the offset by which a replay finds it, stay. Months without such rows
are not touched. An override is forgotten once no row carries its id, unless it or its id was seen anew after the squash began.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from consumers.warehouse.history.flatten import Workbench, unfinished, workbench
from consumers.warehouse.history.overrides import next_version, project
from consumers.warehouse.schema import ddl
from consumers.warehouse.store import Store
from infra.errors import Halted, Retryable

DAY_MS = 86_400_000
POLL_S = 0.2

# A copy that nobody changes: what the mutation reads must stay as it is while it runs, and be there after a restart.
FREEZE = (
    "CREATE TABLE {database}.{frozen} AS {database}.identity_overrides",
    "INSERT INTO {database}.{frozen} SELECT profile_id, canonical, version FROM {database}.identity_overrides",
)
OLD_ROWS = (
    "collector_ts < fromUnixTimestamp64Milli({limit_ms}) AND joinGet('{database_name}.{frozen}', 'canonical', profile_id) != ''"
)
MONTHS = "SELECT _partition_id, count() FROM {database}.events WHERE {old} GROUP BY 1 ORDER BY 1"
# A mutation keeps the numbers of the blocks, so what the rows are stamped with from now on has to be said here.
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
    """What a squash did."""

    months: dict[str, int] = field(default_factory=dict)
    """Partition -> rows that were rewritten."""
    forgotten: int = 0
    """Overrides that no row needs any more."""
    overrides: int = 0
    """Overrides that are left."""

    @property
    def rows(self) -> int:
        """Rows that were rewritten."""
        return sum(self.months.values())


def squash(store: Store, now_ms: int, after_days: float, stopping: Callable[[], bool]) -> SquashResult:
    """Rewrite the rows that are older than `after_days`, forget what is no longer needed.

    Retryable where ClickHouse is away or `stopping` says so: what is half done goes on by itself, or at the next squash. Halted
    where ClickHouse cannot rewrite the rows.
    """
    _wait(store, stopping)
    version = next_version(store, now_ms)
    limit_ms = now_ms - int(after_days * DAY_MS)
    with workbench(store, version) as bench:
        names: dict[str, object] = {"database_name": store.database, "frozen": bench.bare("frozen"), "version": version}
        names["old"] = OLD_ROWS.format(limit_ms=limit_ms, **names)
        for statement in FREEZE:
            bench.say(statement, **names)
        months = _rewrite(bench, names, stopping)
        forgotten = _forget(bench, names)
        remaining = project(store, now_ms).overrides if forgotten else bench.count(f"{bench.database}.identity_overrides")
        bench.say(RUN, version=next_version(store, now_ms), overrides=remaining, rows=sum(months.values()))
    return SquashResult(months, forgotten, remaining)


def last_squash(store: Store) -> int:
    """When the last squash was (ms); before the first one, when the overrides were first made. 0 without any."""
    query = f"SELECT maxIf(version, kind = 'squash'), min(version) FROM {ddl.quoted(store.database)}.identity_runs"  # noqa: S608 - ours
    ((last, first),) = store.rows(query)
    return int(last or first)


def _rewrite(bench: Workbench, names: Mapping[str, object], stopping: Callable[[], bool]) -> dict[str, int]:
    """Rows rewritten by month; nothing is said to the table where there are none."""
    counts = bench.store.rows(MONTHS.format(database=bench.database, **names))
    months = {str(month): int(rows) for month, rows in counts}
    if months:
        bench.say(STAMP, **names)
    for month in months:
        bench.say(REWRITE, month=month, **names)
        _wait(bench.store, stopping)
    return months


def _forget(bench: Workbench, names: Mapping[str, object]) -> int:
    """Overrides whose ids no row carries: their ids leave `identity_stamped`, from which the next run makes the overrides."""
    needless = bench.name("needless")
    bench.say("CREATE TABLE {table} (node String) ENGINE = MergeTree ORDER BY node", table=needless)
    bench.say(NEEDLESS, needless=needless, **names)
    forgotten = bench.count(needless)
    if forgotten:
        bench.say(FORGET, needless=needless, **names)
    return forgotten


def _wait(store: Store, stopping: Callable[[], bool]) -> None:
    """Until no rewriting runs: ours, or that of a squash before us, which goes on in the server without its client."""
    while running := unfinished(store):
        name, _, reason = running[0]
        if reason:
            raise Halted(
                f"ClickHouse cannot rewrite events: {reason[:300]}. It goes on trying; "
                f"to give up: KILL MUTATION WHERE mutation_id = '{name}'"
            )
        if stopping():
            raise Retryable("a squash was left to ClickHouse")
        time.sleep(POLL_S)
