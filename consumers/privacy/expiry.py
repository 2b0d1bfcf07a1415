"""Forgets components without an active id: in the graph, in its log, in the evidence, and in ClickHouse.

A component is forgotten as a whole, or its other ids would lose their root. Components with a demoted, split or erased id stay:
these ids protect whoever comes with them, and they are few.
"""

import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from consumers.privacy import topics
from consumers.privacy.context import PrivacyContext
from consumers.privacy.erasure import CONSENTED, IDENTITY, Report, await_progress
from consumers.privacy.topics import LINKS, TransactionalWriter, WriterRecord
from consumers.warehouse.history import inactive as warehouse
from consumers.warehouse.loader.loop import GROUP
from streams.identity.graph.redis_shards import CHUNK
from streams.identity.graph.slots import MERGES, log_key, slot_record
from streams.identity.graph.union_find import Slot
from streams.identity.reading import RESOLVED
from streams.identity.repair import erasing as graph
from streams.identity.repair.log import LogIndex, read_log
from streams.runtime.privacy.group_progress import GroupProgress

CONSENT, RAW = "headwater.consent", "events.raw"
PIPELINE = ((CONSENT, (RAW,)), (IDENTITY, (CONSENTED,)), (GROUP, (RESOLVED, MERGES)))
"""(group, topics) in the order of the stream: each must reach the present ends before ids count as inactive."""
ROWS_CHUNK = 500_000
"""Nodes whose rows one statement removes: ClickHouse keeps them in memory."""


class ExpiryResult(NamedTuple):
    """Figures of an expiry, or of a dry run."""

    slots: int
    links: int
    """Records of `identity.links`."""
    rows: int
    """Rows of `identity_merges`."""
    changed: int
    """Slots that stay because they were changed meanwhile."""

    def as_json(self) -> dict[str, int]:
        """Plain values; `changed` is called `kept`."""
        return {"slots": self.slots, "links": self.links, "rows": self.rows, "kept": self.changed}


class InactiveNodes:
    """The nodes of a log that are to be forgotten, computed in its SQLite index."""

    def __init__(self, index: LogIndex) -> None:
        self._db = index.db
        for table in ("active", "inactive"):
            self._db.execute(f"CREATE TABLE {table} (node TEXT PRIMARY KEY) WITHOUT ROWID")

    def has_older_links(self, since_ms: int) -> bool:
        """Whether any link is older than `since_ms`: otherwise there is nothing to forget."""
        return self._db.execute("SELECT 1 FROM slots WHERE evidence_ts < ? LIMIT 1", (since_ms,)).fetchone() is not None

    def collect(self, active: Iterable[Sequence[str]], since_ms: int) -> None:
        """Collect the nodes of components that were neither active nor linked since `since_ms`."""
        execute = self._db.execute
        for ids in active:
            execute("BEGIN")
            self._db.executemany("INSERT OR IGNORE INTO active VALUES (?)", ((node,) for node in ids))
            execute("COMMIT")
        # A user points to its label, unless to another user. Pointers are then moved up until all lead to roots.
        execute(
            "CREATE TABLE tops AS SELECT node, iif(node LIKE '0%' AND parent NOT LIKE '0%', node, parent) AS top FROM slots"
        )
        execute("CREATE UNIQUE INDEX tops_by_node ON tops (node)")
        further = "UPDATE tops SET top = above.top FROM tops AS above WHERE above.node = tops.top AND above.top != tops.top"
        while execute(further).rowcount:
            pass
        execute(
            "CREATE TABLE retained AS SELECT DISTINCT top FROM tops JOIN slots USING (node) WHERE epoch > 0 OR state != '' "
            "OR evidence_ts >= ? OR node IN active OR parent IN active OR top IN active",
            (since_ms,),
        )
        for column in ("node", "top"):  # a root that is no user has no slot and is collected here
            execute(f"INSERT OR IGNORE INTO inactive SELECT {column} FROM tops WHERE top NOT IN retained")  # noqa: S608 - ours

    def slots(self) -> Iterator[list[tuple[str, Slot]]]:
        """Slots of the inactive nodes, in chunks."""
        rows = self._db.execute("SELECT node, parent FROM slots JOIN inactive USING (node)")
        while chunk := rows.fetchmany(CHUNK):
            yield [(node, Slot(parent, logged=True)) for node, parent in chunk]

    def collect_links(self, records: Iterable[tuple[bytes | None, Mapping[str, Any] | None]]) -> int:
        """Collect evidence that names an inactive node; return the number of records."""
        self._db.execute("CREATE TABLE links (key BLOB PRIMARY KEY, record TEXT) WITHOUT ROWID")
        self._db.execute("BEGIN")
        for key, record in records:
            # The newest record of a key counts, and none after a tombstone.
            if record is not None and self.select(record["nodes"]):
                self._db.execute("INSERT OR REPLACE INTO links VALUES (?, ?)", (key, json.dumps(record)))
            else:
                self._db.execute("DELETE FROM links WHERE key = ?", (key,))
        self._db.execute("COMMIT")
        ((n,),) = self._db.execute("SELECT count(*) FROM links")
        return int(n)

    def links(self) -> Iterator[list[tuple[bytes, dict[str, Any]]]]:
        """Keys and records of the collected evidence, in chunks."""
        rows = self._db.execute("SELECT key, record FROM links")
        while chunk := rows.fetchmany(CHUNK):
            yield [(key, json.loads(record)) for key, record in chunk]

    def nodes(self, n: int) -> Iterator[list[str]]:
        """All inactive nodes, also those without slots, `n` at a time."""
        rows = self._db.execute("SELECT node FROM inactive")
        while chunk := rows.fetchmany(n):
            yield [node for (node,) in chunk]

    def select(self, nodes: Iterable[str]) -> frozenset[str]:
        """Those of these nodes that are inactive."""
        query = "SELECT 1 FROM inactive WHERE node = ?"
        return frozenset(node for node in nodes if self._db.execute(query, (node,)).fetchone())


def find_inactive(
    context: PrivacyContext, index: LogIndex, since_ms: int, report: Report, patience_s: float
) -> tuple[InactiveNodes, ExpiryResult]:
    """Find what to forget. ConfigError where the warehouse lacks old events, ErasurePending where a group stays behind."""
    deadline = time.monotonic() + patience_s
    # In order, because what the first groups process now goes on to the last.
    for group, of_group in PIPELINE:
        report(f"waiting for {group}")
        await_progress(GroupProgress(context.settings, group, of_group), group, deadline)
    report("reading the log")
    for records in read_log(context.settings):
        index.add(records)
    inactive = InactiveNodes(index)
    evidence: Iterable[tuple[bytes | None, Mapping[str, Any] | None]] = ()
    if inactive.has_older_links(since_ms):
        report("looking for who was seen")
        inactive.collect(warehouse.active_ids(context.warehouse, since_ms), since_ms)
        evidence = topics.read_records(context.settings, LINKS)
    report("looking for how they were linked")
    links = inactive.collect_links(evidence)
    slots = sum(map(len, inactive.slots()))
    return inactive, ExpiryResult(slots, links, slots, 0)


def expire(
    context: PrivacyContext, writer: TransactionalWriter, inactive: InactiveNodes, since_ms: int, report: Report
) -> ExpiryResult:
    """Forget the inactive nodes. Retryable: the next run completes it, because the log is changed last."""
    report("removing how they were linked")
    links = 0
    for batch in inactive.links():
        writer.write(output for key, record in batch for output in _rewrite_link(writer, inactive, key, record))
        links += len(batch)
    report("removing rows from ClickHouse")
    rows = sum(
        warehouse.forget_links(context.warehouse, uuid.uuid4().hex, nodes, since_ms) for nodes in inactive.nodes(ROWS_CHUNK)
    )
    report("removing what was counted of them")
    for nodes in inactive.nodes(CHUNK):
        context.graph.reset_limits(nodes)
    report("removing slots from Redis, and striking them out of the log")
    slots = changed = 0
    for pairs in inactive.slots():
        removed = context.graph.expire(pairs)
        struck = [pair for pair, is_removed in zip(pairs, removed, strict=True) if is_removed]
        writer.write(
            (WriterRecord(MERGES, log_key(*pair), None) for pair in struck), partial(_relinked_records, context, writer, struck)
        )
        slots, changed = slots + len(struck), changed + len(pairs) - len(struck)
    return ExpiryResult(slots, links, rows, changed)


def _relinked_records(
    context: PrivacyContext, writer: TransactionalWriter, struck: Sequence[tuple[str, Slot]]
) -> Iterator[WriterRecord]:
    """Log records of nodes that workers have linked again.

    Workers write a slot before they log it, so a log record that the tombstone hid is among these.
    """
    now_ms = int(time.time() * 1000)
    nodes = [node for node, _ in struck]
    for node, slot in zip(nodes, context.graph.read(nodes), strict=True):
        if slot is not None:
            yield writer.encode(MERGES, log_key(node, slot), slot_record(node, slot, "", now_ms))


def _rewrite_link(
    writer: TransactionalWriter, inactive: InactiveNodes, key: bytes, record: Mapping[str, Any]
) -> Iterator[WriterRecord]:
    """A tombstone for the evidence, and new evidence where it concerns other nodes too."""
    yield WriterRecord(LINKS, key, None)
    others = graph.strip_nodes(record, inactive.select(record["nodes"]))
    if others is not None:
        yield writer.encode(LINKS, others["link_id"].encode(), others)


__all__ = ["ExpiryResult", "InactiveNodes", "expire", "find_inactive"]
