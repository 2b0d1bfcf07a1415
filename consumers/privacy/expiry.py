"""Components of which no id was seen for a long time: forgotten in the graph, in its log, in the evidence, and in ClickHouse.

A component goes as a whole, or the ids that are left would lose their root. One that somebody has intervened in stays: its
demoted, split or erased ids keep protecting whoever comes with them, and there are few.
"""

import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from consumers.privacy import topics
from consumers.privacy.context import PrivacyContext
from consumers.privacy.erasure import CONSENTED, IDENTITY, Tell, await_progress
from consumers.privacy.topics import LINKS, TransactionalWriter, WriterRecord
from consumers.warehouse.history import inactive as warehouse
from consumers.warehouse.loader.loop import GROUP
from streams.identity.graph.redis_store import CHUNK
from streams.identity.graph.slots import MERGES, log_key, slot_record
from streams.identity.graph.union_find import Slot
from streams.identity.reading import RESOLVED
from streams.identity.repair import erasing as graph
from streams.identity.repair.log import LogIndex, read_log
from streams.runtime.privacy.group_progress import GroupProgress

CONSENT, RAW = "headwater.consent", "events.raw"
WAY = ((CONSENT, (RAW,)), (IDENTITY, (CONSENTED,)), (GROUP, (RESOLVED, MERGES)))
"""Who must have passed on what lies there now, before anybody counts as unseen: groups and topics, from the door on."""
ROWS_OF = 500_000
"""Nodes whose rows ClickHouse removes at once: it holds them in memory."""


class ExpiryResult(NamedTuple):
    """What was forgotten, or would be."""

    slots: int
    links: int
    """Records of `identity.links`."""
    rows: int
    """Of `identity_merges` in ClickHouse."""
    changed: int
    """Slots that were changed meanwhile, so that they stay."""

    def as_json(self) -> dict[str, int]:
        """Plain values; `changed` is called `kept`."""
        return {"slots": self.slots, "links": self.links, "rows": self.rows, "kept": self.changed}


class InactiveNodes:
    """The nodes of a log that are to be forgotten, worked out in its index."""

    def __init__(self, index: LogIndex) -> None:
        self._db = index.db
        for table in ("seen", "gone"):
            self._db.execute(f"CREATE TABLE {table} (node TEXT PRIMARY KEY) WITHOUT ROWID")

    def has_older_links(self, since_ms: int) -> bool:
        """Whether anything was linked before then: in a house that is younger there is nothing to forget."""
        return self._db.execute("SELECT 1 FROM slots WHERE evidence_ts < ? LIMIT 1", (since_ms,)).fetchone() is not None

    def find(self, active: Iterable[Sequence[str]], since_ms: int) -> None:
        """All whose whole component was neither seen nor linked since then."""
        say = self._db.execute
        for some in active:
            say("BEGIN")
            self._db.executemany("INSERT OR IGNORE INTO seen VALUES (?)", ((node,) for node in some))
            say("COMMIT")
        # What a user points to is a label, unless it is a user. Then each is pointed further up, until all point to the roots.
        say("CREATE TABLE tops AS SELECT node, iif(node LIKE '0%' AND parent NOT LIKE '0%', node, parent) AS top FROM slots")
        say("CREATE UNIQUE INDEX tops_by_node ON tops (node)")
        further = "UPDATE tops SET top = above.top FROM tops AS above WHERE above.node = tops.top AND above.top != tops.top"
        while say(further).rowcount:
            pass
        say(
            "CREATE TABLE kept AS SELECT DISTINCT top FROM tops JOIN slots USING (node) WHERE epoch > 0 OR state != '' "
            "OR evidence_ts >= ? OR node IN seen OR parent IN seen OR top IN seen",
            (since_ms,),
        )
        for column in ("node", "top"):  # a root that is no user has no slot, and goes too
            say(f"INSERT OR IGNORE INTO gone SELECT {column} FROM tops WHERE top NOT IN kept")  # noqa: S608 - ours

    def slots(self) -> Iterator[list[tuple[str, Slot]]]:
        """Theirs, some at a time."""
        rows = self._db.execute("SELECT node, parent FROM slots JOIN gone USING (node)")
        while some := rows.fetchmany(CHUNK):
            yield [(node, Slot(parent, logged=True)) for node, parent in some]

    def collect_links(self, records: Iterable[tuple[bytes | None, Mapping[str, Any] | None]]) -> int:
        """Find those of the evidence that name some of them; how many do."""
        self._db.execute("CREATE TABLE links (key BLOB PRIMARY KEY, record TEXT) WITHOUT ROWID")
        self._db.execute("BEGIN")
        for key, record in records:
            # Of a key the newest record counts, and none where that is a tombstone.
            if record is not None and self.among(record["nodes"]):
                self._db.execute("INSERT OR REPLACE INTO links VALUES (?, ?)", (key, json.dumps(record)))
            else:
                self._db.execute("DELETE FROM links WHERE key = ?", (key,))
        self._db.execute("COMMIT")
        ((n,),) = self._db.execute("SELECT count(*) FROM links")
        return int(n)

    def links(self) -> Iterator[list[tuple[bytes, dict[str, Any]]]]:
        """Keys and records of those, some at a time."""
        rows = self._db.execute("SELECT key, record FROM links")
        while some := rows.fetchmany(CHUNK):
            yield [(key, json.loads(record)) for key, record in some]

    def nodes(self, n: int) -> Iterator[list[str]]:
        """All of them, those without slots too, `n` at a time."""
        rows = self._db.execute("SELECT node FROM gone")
        while some := rows.fetchmany(n):
            yield [node for (node,) in some]

    def among(self, nodes: Iterable[str]) -> frozenset[str]:
        """Those of them that go."""
        query = "SELECT 1 FROM gone WHERE node = ?"
        return frozenset(node for node in nodes if self._db.execute(query, (node,)).fetchone())


def find(
    office: PrivacyContext, index: LogIndex, since_ms: int, tell: Tell, patience_s: float
) -> tuple[InactiveNodes, ExpiryResult]:
    """Who is to be forgotten, and how much. ConfigError where the warehouse cannot tell; Waiting where it stays behind."""
    deadline = time.monotonic() + patience_s
    # One after the other: what the first ones have in hand now goes on to the last.
    for group, of_group in WAY:
        tell(f"waiting for {group}")
        await_progress(GroupProgress(office.settings, group, of_group), group, deadline)
    tell("reading the log")
    for records in read_log(office.settings):
        index.add(records)
    unseen = InactiveNodes(index)
    evidence: Iterable[tuple[bytes | None, Mapping[str, Any] | None]] = ()
    if unseen.has_older_links(since_ms):
        tell("looking for who was seen")
        unseen.find(warehouse.active_ids(office.warehouse, since_ms), since_ms)
        evidence = topics.everything(office.settings, LINKS)
    tell("looking for how they were linked")
    links = unseen.collect_links(evidence)
    slots = sum(map(len, unseen.slots()))
    return unseen, ExpiryResult(slots, links, slots, 0)


def expire(office: PrivacyContext, pen: TransactionalWriter, unseen: InactiveNodes, since_ms: int, tell: Tell) -> ExpiryResult:
    """Forget them. Cut short, the next run completes it: the log, which tells who goes, is struck out last. Retryable."""
    tell("removing how they were linked")
    links = 0
    for batch in unseen.links():
        pen.write(output for key, record in batch for output in _without(pen, unseen, key, record))
        links += len(batch)
    tell("removing rows from ClickHouse")
    rows = sum(warehouse.forget_links(office.warehouse, uuid.uuid4().hex, nodes, since_ms) for nodes in unseen.nodes(ROWS_OF))
    tell("removing what was counted of them")
    for nodes in unseen.nodes(CHUNK):
        office.graph.uncount(nodes)
    tell("removing slots from Redis, and striking them out of the log")
    slots = changed = 0
    for pairs in unseen.slots():
        removed = office.graph.expire(pairs)
        struck = [pair for pair, is_removed in zip(pairs, removed, strict=True) if is_removed]
        pen.write((WriterRecord(MERGES, log_key(*pair), None) for pair in struck), partial(_relinked, office, pen, struck))
        slots, changed = slots + len(struck), changed + len(pairs) - len(struck)
    return ExpiryResult(slots, links, rows, changed)


def _relinked(office: PrivacyContext, pen: TransactionalWriter, struck: Sequence[tuple[str, Slot]]) -> Iterator[WriterRecord]:
    """What workers have linked anew by now. They write a slot before they log it, so what was logged before it was struck
    out is among these, and is logged again."""
    now_ms = int(time.time() * 1000)
    nodes = [node for node, _ in struck]
    for node, slot in zip(nodes, office.graph.read(nodes), strict=True):
        if slot is not None:
            yield pen.output(MERGES, log_key(node, slot), slot_record(node, slot, "", now_ms))


def _without(pen: TransactionalWriter, unseen: InactiveNodes, key: bytes, record: Mapping[str, Any]) -> Iterator[WriterRecord]:
    """Evidence struck out; what it says of others is said anew."""
    yield WriterRecord(LINKS, key, None)
    others = graph.without(record, unseen.among(record["nodes"]))
    if others is not None:
        yield pen.output(LINKS, others["link_id"].encode(), others)


__all__ = ["ExpiryResult", "InactiveNodes", "expire", "find"]
