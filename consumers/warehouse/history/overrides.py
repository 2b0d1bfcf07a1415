"""Computes `identity_overrides` from `identity_merges`: stamped profile ids that belong to another profile today.

A run collects the profile ids of new rows, follows the graph's pointers to their ends, and exchanges the table for a new one in
one step. A run is correct without the results of earlier ones, which only save reading.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from consumers.warehouse.history.flatten import BUCKET_NODES, Workbench, flatten, workbench
from consumers.warehouse.schema import ddl
from consumers.warehouse.store import Store

OVERLAP_MS = 60_000
"""A block gets its number before it becomes visible, so only blocks of a run this much older count as processed."""

Blocks = Mapping[str, int]
"""Partition of a table -> number of its newest block."""

# A part's name contains its block numbers, so excluded parts are not read. Groups spill to disk.
STAMP = """
INSERT INTO {database}.identity_stamped (profile_id, version)
SELECT profile_id, {version} FROM {database}.events
WHERE profile_id != '' AND toInt64(splitByChar('_', _part)[3]) > {processed}[_partition_id]
GROUP BY profile_id
SETTINGS max_bytes_before_external_group_by = 200000000
"""
OVERRIDES = """
INSERT INTO {fresh}
SELECT s.profile_id, any(b.at) AS canonical,
    if(joinGet('{database_name}.identity_overrides', 'canonical', s.profile_id) = canonical,
        joinGet('{database_name}.identity_overrides', 'version', s.profile_id), {version})
FROM {database}.identity_stamped AS s
INNER JOIN (
    SELECT node, at FROM {ends} WHERE at NOT IN ('', node) AND cityHash64(node) % {buckets} = {bucket}
) AS b ON s.profile_id = b.node
WHERE cityHash64(s.profile_id) % {buckets} = {bucket}
GROUP BY s.profile_id
"""
RUN = """
INSERT INTO {database}.identity_runs (version, kind, events, event_blocks, merge_blocks, overrides)
SELECT {version}, 'project', '{events}', {event_blocks}, {merge_blocks}, {overrides}
"""
LAST_RUN = """
SELECT event_blocks, merge_blocks FROM {database}.identity_runs
WHERE kind = 'project' AND events = '{events}' AND version <= (
    SELECT max(version) FROM {database}.identity_runs WHERE kind = 'project' AND events = '{events}'
) - {overlap}
ORDER BY version DESC LIMIT 1
"""


@dataclass(frozen=True)
class ProjectionResult:
    """Figures of one run."""

    overrides: int
    """Stamped ids that belong to another profile now."""
    changed: int
    """Overrides that are new or lead to another profile than before."""
    removed: int
    """Overrides that no longer exist."""
    seconds: float

    def as_json(self) -> dict[str, float]:
        """Plain values; `removed` is called `gone`."""
        return {"overrides": self.overrides, "changed": self.changed, "gone": self.removed, "seconds": self.seconds}


@dataclass(frozen=True)
class OverridesInput:
    """State of the source tables at the beginning of a run."""

    events: str
    """UUID of the table of events: block numbers are only comparable within one table."""
    event_blocks: Blocks
    merge_blocks: Blocks


def project(store: Store, now_ms: int, bucket_nodes: int = BUCKET_NODES) -> ProjectionResult:
    """Update `identity_overrides`. Retryable or Halted as the store raises them, and the old table remains."""
    return _project(store, now_ms, read_input(store), bucket_nodes)


def project_if_changed(store: Store, now_ms: int) -> ProjectionResult | None:
    """Update `identity_overrides` if rows came since the last run; otherwise return None."""
    current = read_input(store)
    processed = _processed_blocks(store, current.events)
    if processed == (current.event_blocks, current.merge_blocks):
        return None
    return _project(store, now_ms, current, BUCKET_NODES)


def read_input(store: Store) -> OverridesInput:
    """Read the newest blocks of the source tables. Retryable."""
    query = f"SELECT toString(uuid) FROM system.tables WHERE database = '{store.database}' AND name = 'events'"  # noqa: S608 - ours
    return OverridesInput(store.rows(query)[0][0], _blocks(store, "events"), _blocks(store, "identity_merges"))


def next_version(store: Store, now_ms: int) -> int:
    """`now_ms`, or one more than the last version where the clock went back."""
    query = f"SELECT max(version) FROM {ddl.quoted(store.database)}.identity_runs"  # noqa: S608 - a name of our own
    return max(now_ms, int(store.rows(query)[0][0]) + 1)


def last_run(store: Store) -> int:
    """When the last run was, milliseconds UTC; 0 before the first. Retryable."""
    query = f"SELECT maxIf(version, kind = 'project') FROM {ddl.quoted(store.database)}.identity_runs"  # noqa: S608 - ours
    return int(store.rows(query)[0][0])


def count_stamped_ids(store: Store) -> int:
    """Approximate number of profile ids that events carry or carried. Retryable."""
    query = f"SELECT uniq(profile_id) FROM {ddl.quoted(store.database)}.identity_stamped"  # noqa: S608 - a name of our own
    return int(store.rows(query)[0][0])


def _project(store: Store, now_ms: int, current: OverridesInput, bucket_nodes: int) -> ProjectionResult:
    begun = time.monotonic()
    version = next_version(store, now_ms)
    with workbench(store, version) as bench:
        processed, _ = _processed_blocks(store, current.events)
        bench.execute(STAMP, version=version, processed=_literal(processed))
        fresh = _build_overrides(bench, version, bucket_nodes)
        overrides, changed, removed = _count_changes(bench, fresh, version)
        if changed or removed:
            bench.execute("EXCHANGE TABLES {database}.identity_overrides AND {fresh}", fresh=fresh)
        blocks = {"event_blocks": _literal(current.event_blocks), "merge_blocks": _literal(current.merge_blocks)}
        bench.execute(RUN, version=version, events=current.events, overrides=overrides, **blocks)
    return ProjectionResult(overrides, changed, removed, round(time.monotonic() - begun, 3))


def _build_overrides(bench: Workbench, version: int, bucket_nodes: int) -> str:
    """Build the new overrides; return the full name of their table."""
    fresh = bench.full_name("fresh")
    ends, buckets = flatten(bench, bucket_nodes)
    bench.execute("CREATE TABLE {fresh} AS {database}.identity_overrides", fresh=fresh)
    for bucket in range(buckets):
        bench.execute(
            OVERRIDES, fresh=fresh, ends=ends, version=version, database_name=bench.store.database,
            buckets=buckets, bucket=bucket,
        )  # fmt: skip
    return fresh


def _count_changes(bench: Workbench, fresh: str, version: int) -> tuple[int, int, int]:
    """(overrides, new or changed ones, removed ones)."""
    ((overrides, changed),) = bench.store.rows(f"SELECT count(), countIf(version = {version}) FROM {fresh}")  # noqa: S608 - ours
    old = f"{bench.database}.identity_overrides"
    query = f"SELECT count() FROM {old} WHERE profile_id NOT IN (SELECT profile_id FROM {fresh})"  # noqa: S608 - names of ours
    return int(overrides), int(changed), int(bench.store.rows(query)[0][0])


def _processed_blocks(store: Store, events: str) -> tuple[Blocks, Blocks]:
    """Newest blocks (of events, of merges) that need not be read again; empty where no run is old enough."""
    query = LAST_RUN.format(database=ddl.quoted(store.database), events=events, overlap=OVERLAP_MS)
    blocks = store.rows(query)
    return blocks[0] if blocks else ({}, {})


def _blocks(store: Store, table: str) -> dict[str, int]:
    query = (
        "SELECT partition_id, max(max_block_number) FROM system.parts "  # noqa: S608 - names of our own
        f"WHERE database = '{store.database}' AND table = '{table}' AND active GROUP BY partition_id"
    )
    return {partition: int(block) for partition, block in store.rows(query)}


def _literal(blocks: Blocks) -> str:
    names = ", ".join(f"'{name}'" for name in blocks)
    numbers = ", ".join(str(number) for number in blocks.values())
    return f"CAST((CAST([{names}], 'Array(String)'), CAST([{numbers}], 'Array(Int64)')), 'Map(String, Int64)')"
