"""Rebuilds the graph in Redis from its log, and compares both.

`identity.merges` is authoritative; Redis can be lost. Memory use does not grow with the graph.
"""

import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import NamedTuple, Self

from infra.settings import Settings
from infra.telemetry.logs import get_logger
from schemas.codec import Record, Undecodable, decode
from schemas.registry import Registry
from streams.identity.evidence import LINKS
from streams.identity.graph.fence import RebuiltStore
from streams.identity.graph.limits import LIMITS, Pair, limited_pairs
from streams.identity.graph.redis_store import RedisGraphStore
from streams.identity.graph.slots import MERGES, slot_of
from streams.identity.graph.union_find import ERASED, Slot, is_root
from streams.identity.nodes import NodeKeys
from streams.identity.reading import DAY_MS, is_node
from streams.identity.refusals.handover import expand
from streams.identity.refusals.revocation import REVOCATIONS, superseded_by_erasure
from streams.runtime.follow import read_topic

EXAMPLES = 20

Slots = Sequence[tuple[str, Slot]]


class LogRecord(NamedTuple):
    """One record of the log."""

    node: str
    slot: Slot | None
    """None: the node expired, and earlier records of it are void."""
    event_id: str
    """The event that gave the evidence; empty where another worker logged the slot again."""
    evidence_ts: int
    """Collector time of that event, or of the event with which it was logged again, milliseconds UTC."""

    @property
    def parent(self) -> str:
        """Parent of the slot; empty without a slot."""
        return "" if self.slot is None else self.slot.parent


Progress = Callable[[int], None]
"""Called with the number of further records that were processed."""


def read_log(settings: Settings) -> Iterator[Sequence[LogRecord]]:
    """Yield the whole log in chunks, each node's records in order. Retryable while Kafka is unavailable."""
    registry = Registry(settings.contracts)
    for records in read_topic(settings, MERGES):
        yield [_logged(key, None if value is None else decode(registry, value)[1]) for key, value in records]


def _logged(key: bytes | None, record: Record | None) -> LogRecord:
    if record is None:
        return LogRecord((key or b"").decode(), None, "", 0)
    return LogRecord(record["node"], slot_of(record), record["event_id"], record["evidence_ts"])


def _runs(records: Iterable[LogRecord]) -> Iterator[tuple[bool, list[LogRecord]]]:
    """Yield runs of consecutive records that hold a slot, or do not."""
    for slots, run in groupby(records, lambda record: record.slot is not None):
        yield slots, list(run)


def rebuild(log: Iterator[Sequence[LogRecord]], store: RedisGraphStore, progress: Progress) -> int:
    """Write slots that are missing or older in Redis; return how many. No slot is replaced by an older one."""
    written = 0
    for records in log:
        for slots, run in _runs(records):
            if slots:
                written += store.restore([(record.node, record.slot) for record in run if record.slot is not None])
            else:
                store.expire([(record.node, None) for record in run])
        progress(len(records))
    return written


def recount_limits(settings: Settings, store: RedisGraphStore) -> None:
    """Count the recent members of each holder again, from the evidence. Retryable."""
    registry, keys, today = Registry(settings.contracts), NodeKeys.of(settings), int(time.time() * 1_000) // DAY_MS
    longest = max(limit.days for limit in chain.from_iterable(LIMITS.values()))
    for records in read_topic(settings, LINKS, (today - longest) * DAY_MS):
        by_day: dict[int, list[Pair]] = {}
        for record in (decode(registry, value)[1] for _, value in records if value is not None):
            day = record["evidence_ts"] // DAY_MS
            pairs = limited_pairs(record["nodes"], keys.renamed([record["nodes"]]))
            by_day.setdefault(day, []).extend(pair for pair in pairs if day > today - pair.limit.days)
        nodes = sorted({node for pairs in by_day.values() for pair in pairs for node in pair[:2]})
        # Evidence may precede its tombstone where the topic is not compacted yet.
        erased = {node for node, slot in zip(nodes, store.read(nodes), strict=True) if slot and slot.state == ERASED}
        for day, pairs in sorted(by_day.items()):
            store.admit([pair for pair in pairs if erased.isdisjoint(pair[:2])], day)


def restore_refusals(settings: Settings, store: RedisGraphStore, progress: Progress) -> None:
    """Restore the refusals that nodes remember, as far back as `consent.revocations` reaches. Retryable.

    Those of linked nodes are pending: the next link signals them once more.
    """
    registry = Registry(settings.contracts)
    for records in read_topic(settings, REVOCATIONS):
        revocations = list(_revocations(registry, (value for _, value in records)))
        slots = store.read([revocation["subject"] for revocation in revocations])
        pairs = zip(revocations, slots, strict=True)
        expand(store, [revocation for revocation, slot in pairs if not superseded_by_erasure(revocation, slot)])
        progress(len(records))


def _revocations(registry: Registry, values: Iterable[bytes | None]) -> Iterator[Record]:
    """Yield the refusals that can be decoded; the stage has dead-lettered the others."""
    for value in values:
        try:
            contract, record = decode(registry, value or b"")
        except Undecodable:
            continue
        if contract.topic == REVOCATIONS and is_node(record["subject"]):
            yield record


def rebuild_if_stale(settings: Settings, store: RebuiltStore, worker: str) -> None:
    """Rebuild the graph in Redis from its log unless Redis is marked as complete. Retryable."""
    if store.is_whole():
        return
    with store.rebuild_lock(worker) as renew:
        written = rebuild(read_log(settings), store, lambda _records: renew())
        recount_limits(settings, store)
        restore_refusals(settings, store, lambda _records: renew())
        store.mark_whole()
    get_logger().info("identity graph read back from its log", slots_written=written)


class GraphDiff(NamedTuple):
    """The log compared with Redis; counts of nodes."""

    logged: int
    """In the log."""
    missing: int
    """In the log, without a slot in Redis."""
    other: int
    """With another or an older slot in Redis."""
    unlogged: int
    """With a slot in Redis that is marked as logged, or newer, and is not in the log."""
    pending: int
    """With a slot in Redis that is not confirmed yet: just written, or its worker crashed. No difference."""
    examples: tuple[str, ...]
    """Some nodes that differ."""

    @property
    def same(self) -> bool:
        """Whether Redis agrees with the log."""
        return not (self.missing or self.other or self.unlogged)


class LogIndex:
    """The newest slot of each node of the log, in a temporary SQLite file."""

    def __init__(self, folder: Path) -> None:
        self.db = sqlite3.connect(folder / "log.sqlite3", isolation_level=None)
        self.db.execute("PRAGMA journal_mode = OFF")
        self.db.execute(
            "CREATE TABLE slots (node TEXT PRIMARY KEY, parent TEXT, epoch INTEGER, event_id TEXT, "
            "evidence_ts INTEGER, state TEXT, since INTEGER) "
            "WITHOUT ROWID"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.db.close()

    def add(self, records: Sequence[LogRecord]) -> None:
        """Add a chunk of the log; the newest record of a node wins, and of equal slots the one that names its event."""
        self.db.execute("BEGIN")
        for slots, run in _runs(records):
            (self._enter if slots else self._strike_out)(run)
        self.db.execute("COMMIT")

    def _strike_out(self, records: Sequence[LogRecord]) -> None:
        self.db.executemany("DELETE FROM slots WHERE node = ? AND epoch = 0", ((record.node,) for record in records))

    def _enter(self, records: Sequence[LogRecord]) -> None:
        self.db.executemany(
            "INSERT INTO slots VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE "
            "SET (parent, epoch, event_id, evidence_ts, state, since) = (excluded.parent, excluded.epoch, "
            "excluded.event_id, excluded.evidence_ts, excluded.state, excluded.since) "
            "WHERE excluded.epoch > slots.epoch OR (excluded.epoch = slots.epoch AND excluded.event_id <> '')",
            (
                (node, slot.parent, slot.epoch, event_id, evidence_ts, slot.state, slot.since)
                for node, slot, event_id, evidence_ts in records
                if slot is not None
            ),
        )

    def chunks(self, n: int) -> Iterator[Slots]:
        """Yield all slots, ordered by node, `n` at a time."""
        rows = self.db.execute("SELECT node, parent, epoch, state, since FROM slots")
        while chunk := rows.fetchmany(n):
            yield [(node, Slot(parent, True, epoch, state, since)) for node, parent, epoch, state, since in chunk]

    def record(self, node: str) -> LogRecord | None:
        """Return the newest record of a node, or None."""
        query = "SELECT parent, epoch, state, since, event_id, evidence_ts FROM slots WHERE node = ?"
        row = self.db.execute(query, (node,)).fetchone()
        return None if row is None else LogRecord(node, Slot(row[0], True, *row[1:4]), *row[4:])


def find_link_path(index: LogIndex, first: str, second: str) -> list[LogRecord] | None:
    """Return the links from one node up to a common ancestor and down to the other; None if they are not linked."""
    up, down = _way(index, first), _way(index, second)
    above = {second, *(record.parent for record in down)}
    upward = [first, *(record.parent for record in up)]
    meeting = next((node for node in upward if node in above), None)
    if meeting is None:
        return None
    ways = [next((at for at, record in enumerate(way) if record.node == meeting), len(way)) for way in (up, down)]
    return [*up[: ways[0]], *reversed(down[: ways[1]])]


def _way(index: LogIndex, node: str) -> list[LogRecord]:
    """Return the links from a node to its root."""
    links: list[LogRecord] = []
    while (record := index.record(node)) is not None and record.slot is not None and not is_root(node, record.slot):
        links.append(record)
        node = record.parent
    return links


def compare_with_log(log: Iterator[Sequence[LogRecord]], store: RedisGraphStore, progress: Progress) -> GraphDiff:
    """Compare the log with Redis in both directions. Exact only while no identity worker runs."""
    logged = missing = other = unlogged = pending = 0
    examples: list[str] = []
    with tempfile.TemporaryDirectory() as folder, LogIndex(Path(folder)) as index:
        for records in log:
            index.add(records)
            progress(len(records))
        for slots in index.chunks(5_000):
            logged += len(slots)
            for (node, logged_slot), slot in zip(slots, store.read([node for node, _ in slots]), strict=True):
                if slot is None:
                    missing += 1
                elif slot.epoch < logged_slot.epoch or (
                    slot.epoch == logged_slot.epoch and slot._replace(logged=True) != logged_slot
                ):
                    other += 1
                else:
                    continue
                examples += [node] * (len(examples) < EXAMPLES)
        for nodes in store.scan_nodes():
            for node, slot in zip(nodes, store.read(nodes), strict=True):
                if slot is None:
                    continue
                newest = index.record(node)
                if not slot.logged:
                    pending += 1
                elif newest is None or newest.slot is None or newest.slot.epoch < slot.epoch:
                    unlogged += 1
                    examples += [node] * (len(examples) < EXAMPLES)
    return GraphDiff(logged, missing, other, unlogged, pending, tuple(examples))


__all__ = [
    "GraphDiff",
    "LogIndex",
    "LogRecord",
    "compare_with_log",
    "find_link_path",
    "read_log",
    "rebuild",
    "restore_refusals",
]
