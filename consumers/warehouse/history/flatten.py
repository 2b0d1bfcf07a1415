"""Follows the pointers of the identity graph to their ends inside ClickHouse, by pointer doubling.

Each round replaces the target of a pointer by the target's own target, so a chain of n pointers needs log2(n) rounds (Wyllie's
list ranking; JaJa, "An Introduction to Parallel Algorithms", 1992, ch. 2). Work tables are on disk and joins run bucket by
bucket, so memory is bounded for graphs of any size.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from consumers.warehouse.schema import ddl
from consumers.warehouse.store import Store
from infra.errors import Halted, Retryable

BUCKET_NODES = 1_000_000
"""Nodes in memory during one join."""
MAX_ROUNDS = 64
LEFT_BEHIND_MS = 6 * 3_600_000
"""Work tables that are older were left by a run that was killed."""
PREFIX = "identity_work_"

WORK = "CREATE TABLE {table} ({columns}) ENGINE = MergeTree ORDER BY node SETTINGS fsync_after_insert = 0"
# The slot of a node is its newest record: by epoch, and by time where it was forgotten and linked again. `settled` nodes are
# not followed further: users, which point to their label (a user that points to another user is the same person under other
# keys and is followed), and erased nodes, whose end is ''. Other pointers must lead to a smaller node, so there are no cycles.
SLOTS = """
INSERT INTO {slots}
SELECT node, if(erased, '', parent) AS at, erased OR (is_user AND NOT renamed) AS settled
FROM (
    SELECT node, tupleElement(slot, 1) AS parent, tupleElement(slot, 2) = 'erased' AS erased,
        length(node) = 33 AND startsWith(node, '0') AS is_user,
        is_user AND startsWith(parent, '0') AND parent != node AS renamed
    FROM (
        SELECT node, argMax((m.parent, m.state), (m.epoch, m.evidence_ts)) AS slot
        FROM {database}.identity_merges AS m GROUP BY node
    )
)
WHERE erased OR (parent != '' AND (is_user OR parent < node))
SETTINGS optimize_aggregation_in_order = 1, max_bytes_before_external_group_by = 200000000
"""
SETTLED = "INSERT INTO {ends} SELECT node, at, 0 FROM {slots} WHERE settled"
SHORT = """
INSERT INTO {ends}
SELECT node, at, 0 FROM {slots}
WHERE NOT settled AND cityHash64(at) % {buckets} = {bucket}
    AND at NOT IN (SELECT node FROM {slots} WHERE cityHash64(node) % {buckets} = {bucket})
"""
LONG = """
INSERT INTO {after}
SELECT node, at FROM {slots}
WHERE NOT settled AND cityHash64(at) % {buckets} = {bucket}
    AND at IN (SELECT node FROM {slots} WHERE cityHash64(node) % {buckets} = {bucket})
"""
DOUBLE = """
INSERT INTO {after}
SELECT a.node, b.at
FROM {before} AS a
INNER JOIN (SELECT node, at FROM {before} WHERE cityHash64(node) % {buckets} = {bucket}) AS b ON a.at = b.node
WHERE cityHash64(a.at) % {buckets} = {bucket}
"""
ARRIVE = """
INSERT INTO {ends}
SELECT a.node, b.at, {round}
FROM {before} AS a
INNER JOIN (
    SELECT node, at FROM {ends}
    WHERE round < {round} AND cityHash64(node) % {buckets} = {bucket}
        AND node IN (SELECT at FROM {before} WHERE cityHash64(at) % {buckets} = {bucket})
) AS b ON a.at = b.node
WHERE cityHash64(a.at) % {buckets} = {bucket}
"""


class Workbench:
    """Work tables of one run; `version` keeps their names apart from those of other runs."""

    def __init__(self, store: Store, version: int) -> None:
        self.store = store
        self.database = ddl.quoted(store.database)
        self._version = version

    def table_name(self, suffix: str) -> str:
        """The unquoted name of a work table, without its database."""
        return f"{PREFIX}{self._version}_{suffix}"

    def full_name(self, suffix: str) -> str:
        """The name of a work table with its database."""
        return f"{self.database}.{self.table_name(suffix)}"

    def execute(self, statement: str, **names: object) -> None:
        """Run a statement template with its names filled in. Retryable."""
        self.store.command(statement.format(database=self.database, **names))

    def count_rows(self, table: str) -> int:
        """Number of rows of a table."""
        return int(self.store.rows(f"SELECT count() FROM {table}")[0][0])  # noqa: S608 - a name of our own

    def drop_table(self, table: str) -> None:
        """Drop a table, given by its full name."""
        self.execute("DROP TABLE IF EXISTS {table}", table=table)

    def drop_tables(self) -> None:
        """Drop this run's tables and those older than `LEFT_BEHIND_MS`, except tables that a running mutation still reads."""
        query = (
            "SELECT name FROM system.tables "  # noqa: S608 - names of our own
            f"WHERE database = '{self.store.database}' AND startsWith(name, '{PREFIX}')"
        )
        running = [command for _, command, _ in unfinished_mutations(self.store)]
        for (name,) in self.store.rows(query):
            version = int(name.removeprefix(PREFIX).split("_")[0])
            old = version == self._version or version < self._version - LEFT_BEHIND_MS
            if old and not any(name in command for command in running):
                self.drop_table(f"{self.database}.{name}")


def unfinished_mutations(store: Store) -> list[tuple[str, str, str]]:
    """(id, command, last failure) of each unfinished mutation of `events` that reads a work table. Retryable."""
    query = (
        "SELECT mutation_id, command, latest_fail_reason FROM system.mutations "  # noqa: S608 - names of our own
        f"WHERE database = '{store.database}' AND table = 'events' AND NOT is_done AND position(command, '{PREFIX}') > 0"
    )
    return [(str(name), str(command), str(reason)) for name, command, reason in store.rows(query)]


@contextmanager
def workbench(store: Store, version: int) -> Iterator[Workbench]:
    """A workbench whose tables are dropped at the end."""
    bench = Workbench(store, version)
    try:
        yield bench
    finally:
        with suppress(Retryable, Halted):  # the next run drops them
            bench.drop_tables()


def flatten(bench: Workbench, bucket_nodes: int = BUCKET_NODES) -> tuple[str, int]:
    """Return (table of node and `at`, its end, '' for erased; number of buckets). Retryable; Halted for endless pointers."""
    slots, ends, before = bench.full_name("slots"), bench.full_name("ends"), bench.full_name("way_0")
    bench.execute(WORK, table=slots, columns="node String, at String, settled Bool")
    bench.execute(WORK, table=ends, columns="node String, at String, round UInt8")
    bench.execute(WORK, table=before, columns="node String, at String")
    bench.execute(SLOTS, slots=slots)
    buckets = max(1, -(-bench.count_rows(slots) // bucket_nodes))
    bench.execute(SETTLED, ends=ends, slots=slots)
    for bucket in range(buckets):
        bench.execute(SHORT, ends=ends, slots=slots, buckets=buckets, bucket=bucket)
        bench.execute(LONG, after=before, slots=slots, buckets=buckets, bucket=bucket)
    bench.drop_table(slots)
    number = 0
    while bench.count_rows(before):
        number += 1
        if number > MAX_ROUNDS:
            raise Halted("pointers of identity_merges do not end: their order is broken")
        before = _double(bench, number, before, buckets)
    return ends, buckets


def _double(bench: Workbench, number: int, before: str, buckets: int) -> str:
    """Double the length of all paths; those that reach an end move to `ends`. Return the table of the others."""
    ends, after = bench.full_name("ends"), bench.full_name(f"way_{number}")
    bench.execute(WORK, table=after, columns="node String, at String")
    for bucket in range(buckets):
        bench.execute(DOUBLE, after=after, before=before, buckets=buckets, bucket=bucket)
        bench.execute(ARRIVE, ends=ends, before=before, round=number, buckets=buckets, bucket=bucket)
    bench.drop_table(before)
    return after
