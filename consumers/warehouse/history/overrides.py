"""Which stamped profile ids belong to another profile today: `identity_overrides`, made from `identity_merges`.

A run learns which ids new rows are stamped with, follows the graph's pointers to their ends, and puts a new table in the
place of the old one in one step. It needs nothing of an earlier run to be right: what that learned only saves reading.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from consumers.warehouse.history.flatten import BUCKET_NODES, Workbench, flatten, workbench
from consumers.warehouse.schema import ddl
from consumers.warehouse.store import Store

OVERLAP_MS = 60_000
"""Blocks get their numbers a moment before they can be read: what a run saw counts once another has looked this much later."""

Blocks = Mapping[str, int]
"""Partition of a table -> number of its newest block."""

# A part's name says which blocks it holds; parts that the condition excludes are not read. Groups spill to disk.
SEEN = """
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
LAST = """
SELECT event_blocks, merge_blocks FROM {database}.identity_runs
WHERE kind = 'project' AND events = '{events}' AND version <= (
    SELECT max(version) FROM {database}.identity_runs WHERE kind = 'project' AND events = '{events}'
) - {overlap}
ORDER BY version DESC LIMIT 1
"""


@dataclass(frozen=True)
class ProjectionResult:
    """What one run found."""

    overrides: int
    """Stamped ids that belong to another profile now."""
    changed: int
    """New overrides, and those that lead elsewhere than before."""
    removed: int
    """Overrides that are no longer."""
    seconds: float

    def as_json(self) -> dict[str, float]:
        """Plain values; `removed` is called `gone`."""
        return {"overrides": self.overrides, "changed": self.changed, "gone": self.removed, "seconds": self.seconds}


@dataclass(frozen=True)
class OverridesInput:
    """What there is to read at the beginning of a run."""

    events: str
    """Identity of the table of events: another one has other blocks."""
    event_blocks: Blocks
    merge_blocks: Blocks


def project(store: Store, now_ms: int, bucket_nodes: int = BUCKET_NODES) -> ProjectionResult:
    """Bring `identity_overrides` up to date. Retryable or Halted as the store raises them; then it is as it was."""
    return _project(store, now_ms, look(store), bucket_nodes)


def project_if_changed(store: Store, now_ms: int) -> ProjectionResult | None:
    """The same, unless no row has come since; then None."""
    sight = look(store)
    processed = _seen(store, sight.events)
    if processed == (sight.event_blocks, sight.merge_blocks):
        return None
    return _project(store, now_ms, sight, BUCKET_NODES)


def look(store: Store) -> OverridesInput:
    """The blocks that the tables hold now."""
    query = f"SELECT toString(uuid) FROM system.tables WHERE database = '{store.database}' AND name = 'events'"  # noqa: S608
    return OverridesInput(store.rows(query)[0][0], _blocks(store, "events"), _blocks(store, "identity_merges"))


def next_version(store: Store, now_ms: int) -> int:
    """Milliseconds of now, or of just after the last run should the clock have gone back."""
    query = f"SELECT max(version) FROM {ddl.quoted(store.database)}.identity_runs"  # noqa: S608 - a name of our own
    return max(now_ms, int(store.rows(query)[0][0]) + 1)


def last_run(store: Store) -> int:
    """When the last run was (ms); 0 before the first."""
    query = f"SELECT maxIf(version, kind = 'project') FROM {ddl.quoted(store.database)}.identity_runs"  # noqa: S608 - ours
    return int(store.rows(query)[0][0])


def stamped(store: Store) -> int:
    """How many ids events are known to carry or to have carried, about."""
    query = f"SELECT uniq(profile_id) FROM {ddl.quoted(store.database)}.identity_stamped"  # noqa: S608 - a name of our own
    return int(store.rows(query)[0][0])


def _project(store: Store, now_ms: int, sight: OverridesInput, bucket_nodes: int) -> ProjectionResult:
    begun = time.monotonic()
    version = next_version(store, now_ms)
    with workbench(store, version) as bench:
        processed, _ = _seen(store, sight.events)
        bench.say(SEEN, version=version, processed=_literal(processed))
        fresh = _fresh(bench, version, bucket_nodes)
        overrides, changed, removed = _difference(bench, fresh, version)
        if changed or removed:
            bench.say("EXCHANGE TABLES {database}.identity_overrides AND {fresh}", fresh=fresh)
        blocks = {"event_blocks": _literal(sight.event_blocks), "merge_blocks": _literal(sight.merge_blocks)}
        bench.say(RUN, version=version, events=sight.events, overrides=overrides, **blocks)
    return ProjectionResult(overrides, changed, removed, round(time.monotonic() - begun, 3))


def _fresh(bench: Workbench, version: int, bucket_nodes: int) -> str:
    """A table as `identity_overrides` should be."""
    fresh = bench.name("fresh")
    ends, buckets = flatten(bench, bucket_nodes)
    bench.say("CREATE TABLE {fresh} AS {database}.identity_overrides", fresh=fresh)
    for bucket in range(buckets):
        bench.say(
            OVERRIDES, fresh=fresh, ends=ends, version=version, database_name=bench.store.database,
            buckets=buckets, bucket=bucket,
        )  # fmt: skip
    return fresh


def _difference(bench: Workbench, fresh: str, version: int) -> tuple[int, int, int]:
    """(overrides, new or changed ones, ones that are gone)."""
    ((overrides, changed),) = bench.store.rows(f"SELECT count(), countIf(version = {version}) FROM {fresh}")  # noqa: S608
    old = f"{bench.database}.identity_overrides"
    query = f"SELECT count() FROM {old} WHERE profile_id NOT IN (SELECT profile_id FROM {fresh})"  # noqa: S608 - names of ours
    return int(overrides), int(changed), int(bench.store.rows(query)[0][0])


def _seen(store: Store, events: str) -> tuple[Blocks, Blocks]:
    """What need not be read again: seen by a run, and looked at by another a minute later. Nothing before that."""
    query = LAST.format(database=ddl.quoted(store.database), events=events, overlap=OVERLAP_MS)
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
