"""Pointers of the identity graph followed to their ends, inside ClickHouse, by pointer doubling.

A chain of n pointers needs log2(n) rounds, however long it is, and Python sees none of them: each round replaces what a node
points to by what that points to (Wyllie's list ranking; JaJa, "An Introduction to Parallel Algorithms", 1992, ch. 2). Work
tables lie on disk, and joins go bucket by bucket, so memory stays bounded whatever the graph's size.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from consumers.warehouse.schema import ddl
from consumers.warehouse.store import Store
from infra.errors import Halted, Retryable

BUCKET_NODES = 1_000_000
"""Nodes that one join holds in memory."""
MAX_ROUNDS = 64
LEFT_BEHIND_MS = 6 * 3_600_000
PREFIX = "identity_work_"

WORK = "CREATE TABLE {table} ({columns}) ENGINE = MergeTree ORDER BY node SETTINGS fsync_after_insert = 0"
# The newest record of a node is its slot: by epoch, and by time where it was forgotten and linked anew. `settled`: not
# followed further. That is a user (what it points to is its label, unless it is another user, who is the same person under
# other keys) and an erased node, whose end is '': nobody. A pointer of another node that leads to no smaller one is none, so a
# circle cannot come in.
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
    """Work tables of one run; those of other runs have other names."""

    def __init__(self, store: Store, version: int) -> None:
        self.store = store
        self.database = ddl.quoted(store.database)
        self._version = version

    def bare(self, suffix: str) -> str:
        """The name of a work table in its database."""
        return f"{PREFIX}{self._version}_{suffix}"

    def name(self, suffix: str) -> str:
        """Its full name."""
        return f"{self.database}.{self.bare(suffix)}"

    def say(self, statement: str, **names: object) -> None:
        """Run a statement of ours with its names filled in."""
        self.store.command(statement.format(database=self.database, **names))

    def count(self, table: str) -> int:
        """Rows of a table."""
        return int(self.store.rows(f"SELECT count() FROM {table}")[0][0])  # noqa: S608 - a name of our own

    def drop(self, table: str) -> None:
        """Remove a table."""
        self.say("DROP TABLE IF EXISTS {table}", table=table)

    def clear(self) -> None:
        """Remove this run's tables, and what runs of hours ago left behind when they were killed.

        Not those that a mutation still reads: without them it would never end.
        """
        query = f"SELECT name FROM system.tables WHERE database = '{self.store.database}' AND startsWith(name, '{PREFIX}')"  # noqa: S608
        running = [command for _, command, _ in unfinished(self.store)]
        for (name,) in self.store.rows(query):
            version = int(name.removeprefix(PREFIX).split("_")[0])
            old = version == self._version or version < self._version - LEFT_BEHIND_MS
            if old and not any(name in command for command in running):
                self.drop(f"{self.database}.{name}")


def unfinished(store: Store) -> list[tuple[str, str, str]]:
    """(id, command, last failure) of each mutation of events that reads a work table and has not ended."""
    query = (
        "SELECT mutation_id, command, latest_fail_reason FROM system.mutations "  # noqa: S608 - names of our own
        f"WHERE database = '{store.database}' AND table = 'events' AND NOT is_done AND position(command, '{PREFIX}') > 0"
    )
    return [(str(name), str(command), str(reason)) for name, command, reason in store.rows(query)]


@contextmanager
def workbench(store: Store, version: int) -> Iterator[Workbench]:
    """A workbench that is cleared in the end."""
    bench = Workbench(store, version)
    try:
        yield bench
    finally:
        with suppress(Retryable, Halted):  # the next run clears it
            bench.clear()


def flatten(bench: Workbench, bucket_nodes: int = BUCKET_NODES) -> tuple[str, int]:
    """(table of node, at: where each node with a slot ends, '' for an erased person's; the number of its buckets)."""
    slots, ends, before = bench.name("slots"), bench.name("ends"), bench.name("way_0")
    bench.say(WORK, table=slots, columns="node String, at String, settled Bool")
    bench.say(WORK, table=ends, columns="node String, at String, round UInt8")
    bench.say(WORK, table=before, columns="node String, at String")
    bench.say(SLOTS, slots=slots)
    buckets = max(1, -(-bench.count(slots) // bucket_nodes))
    bench.say(SETTLED, ends=ends, slots=slots)
    for bucket in range(buckets):
        bench.say(SHORT, ends=ends, slots=slots, buckets=buckets, bucket=bucket)
        bench.say(LONG, after=before, slots=slots, buckets=buckets, bucket=bucket)
    bench.drop(slots)
    number = 0
    while bench.count(before):
        number += 1
        if number > MAX_ROUNDS:
            raise Halted("pointers of identity_merges do not end: their order is broken")
        before = _round(bench, number, before, buckets)
    return ends, buckets


def _round(bench: Workbench, number: int, before: str, buckets: int) -> str:
    """One doubling: ways that have met an end move to the ends, the others are twice as far; the table of those."""
    ends, after = bench.name("ends"), bench.name(f"way_{number}")
    bench.say(WORK, table=after, columns="node String, at String")
    for bucket in range(buckets):
        bench.say(DOUBLE, after=after, before=before, buckets=buckets, bucket=bucket)
        bench.say(ARRIVE, ends=ends, before=before, round=number, buckets=buckets, bucket=bucket)
    bench.drop(before)
    return after
