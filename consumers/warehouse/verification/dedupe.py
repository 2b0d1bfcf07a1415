"""Removes duplicate rows of an offset, never the last one.

Rows to remove are identified by part and row number from one query. A merge or a mutation renames the part, and names are never
reused: the deletion then matches nothing, and the next round decides again. The choice depends only on the rows, so a repeated
run chooses the same.
"""

import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from consumers.warehouse.schema import ddl
from consumers.warehouse.schema.tables import TABLES
from consumers.warehouse.store import Store
from consumers.warehouse.topic_partition import TopicPartition
from consumers.warehouse.verification.contents import Contents
from consumers.warehouse.verification.record_source import MAX_RECORDS, CommittedOffset
from consumers.warehouse.verification.repair_lock import RepairLock
from consumers.warehouse.verification.results import DEDUPE, MAX_EXAMPLES, OffsetRange, Verification
from consumers.warehouse.verification.verifier import Verifier
from infra.errors import Halted, Retryable
from schemas.registry import Registry

WINDOW = 1_000_000
"""Offsets that one query searches."""
CHUNK = 50_000
"""Offsets that one statement handles."""
ROUNDS = 6
PATIENCE_S = 3_600.0
POLL_S = 0.2


class DoubledRow(NamedTuple):
    """One of several rows of an offset."""

    offset: int
    loaded_ms: int
    part: str
    row: int
    """Row number within the part."""
    digest: int

    @property
    def location(self) -> tuple[str, int]:
        """Part and row number."""
        return self.part, self.row


class DuplicateChoice(NamedTuple):
    """Decision about the rows of some offsets."""

    removed: list[DoubledRow]
    unproven: list[int]
    """Offsets whose rows differ and whose record Kafka no longer has: the row loaded first stays."""
    corrected: list[int]
    """Offsets whose rows differ: the row that equals Kafka's record stays."""


@dataclass
class DedupeResult:
    """Figures of one partition."""

    topic: str
    topic_id: str
    partition: int
    offsets: int = 0
    """Offsets that had several rows."""
    removed: int = 0
    unproven: list[int] = field(default_factory=list)
    corrected: list[int] = field(default_factory=list)
    before: list[Verification] = field(default_factory=list)
    after: list[Verification] = field(default_factory=list)
    remaining: int = 0
    """Rows beyond the first that are still there."""

    def as_json(self) -> dict[str, Any]:
        """Plain values; `remaining` is called `left`."""
        fields = asdict(self)
        fields["left"] = fields.pop("remaining")
        return fields


class Deduplicator:
    """Removes duplicates of one partition at a time. Retryable as its services raise it; Halted where the lock is lost."""

    def __init__(self, verifier: Verifier, store: Store, registry: Registry, lock: RepairLock) -> None:
        self._verifier = verifier
        self._store = store
        self._registry = registry
        self._lock = lock

    def partitions(self, topics: Iterable[str]) -> list[CommittedOffset]:
        """Every partition that has rows, with the offset below which no loader inserts.

        Includes partitions of deleted topics, which no loader reads any longer.
        """
        committed = {position.source: position.offset for position in self._verifier.prepare()}
        current = {(source.topic, source.topic_id) for source in committed}
        positions = []
        for topic in topics:
            query = (
                f"SELECT _topic_id, _partition, max(_offset) FROM {self._name(topic)} "  # noqa: S608 - ours
                "WHERE _topic_id != '' GROUP BY ALL ORDER BY ALL"
            )
            for topic_id, partition, highest in self._store.rows(query):
                source = TopicPartition(topic, int(partition), str(topic_id))
                limit = committed.get(source, -1) if (topic, source.topic_id) in current else int(highest) + 1
                positions.append(CommittedOffset(source, limit))
        return positions

    def count(self, position: CommittedOffset) -> DedupeResult:
        """Count the duplicates of a partition."""
        doubled = list(self._doubled(position))
        rows = sum(n - 1 for _, n in doubled)
        return DedupeResult(*_partition_key(position.source), offsets=len(doubled), remaining=rows)

    def dedupe(self, position: CommittedOffset) -> DedupeResult:
        """Remove the duplicates of a partition, and verify the affected ranges before and after."""
        source = position.source
        self._wait_for_removals(source)
        offsets = [offset for offset, _ in self._doubled(position)]
        result = DedupeResult(*_partition_key(source), offsets=len(offsets))
        if not offsets:
            return result
        affected = cluster_offsets(offsets)
        verifiable = source in {other.source for other in self._verifier.prepare()}
        if verifiable:
            result.before = [self._verifier.verify(position, reach, DEDUPE) for reach in affected]
        for _ in range(ROUNDS):
            self._round(source, offsets, result)
            doubled = dict(self._doubled(position))
            offsets, result.remaining = list(doubled), sum(doubled.values()) - len(doubled)
            if not offsets:
                break
        if verifiable:
            result.after = [self._verifier.verify(position, reach, DEDUPE) for reach in affected]
        return result

    def _round(self, source: TopicPartition, offsets: Sequence[int], result: DedupeResult) -> None:
        for start in range(0, len(offsets), CHUNK):
            self._lock.check()
            some = offsets[start : start + CHUNK]
            rows = self._rows(source, some)
            choice = choose_rows(rows, self._equal_to_record(source, differing_offsets(rows)))
            self._remove(source, choice.removed)
            result.removed += len(choice.removed)
            result.unproven += choice.unproven[: MAX_EXAMPLES - len(result.unproven)]
            result.corrected += choice.corrected[: MAX_EXAMPLES - len(result.corrected)]

    def _doubled(self, position: CommittedOffset) -> Iterator[tuple[int, int]]:
        """(offset, number of rows) of every offset with several rows, in order."""
        name = self._name(position.source.topic)
        bounds = f"SELECT min(_offset), max(_offset) FROM {name} WHERE {position.source.condition}"  # noqa: S608 - ours
        ((low, high),) = self._store.rows(bounds)
        for start in range(int(low), min(int(high) + 1, position.offset), WINDOW):
            last = min(start + WINDOW, position.offset) - 1
            query = (
                f"SELECT _offset, count() AS n FROM {name} WHERE {position.source.condition} "  # noqa: S608 - ours
                f"AND _offset BETWEEN {start} AND {last} GROUP BY _offset HAVING n > 1 ORDER BY _offset"
            )
            for offset, n in self._store.rows(query):
                yield int(offset), int(n)

    def _rows(self, source: TopicPartition, offsets: Sequence[int]) -> list[DoubledRow]:
        digest = Contents(self._store, self._registry, TABLES[source.topic]).digest_of_columns()
        query = (
            f"SELECT _offset, toUnixTimestamp64Milli(_loaded_at), _part, _part_offset, {digest} "  # noqa: S608 - ours
            f"FROM {self._name(source.topic)} WHERE {source.condition} AND _offset IN ({', '.join(map(str, offsets))})"
        )
        return [
            DoubledRow(int(o), int(ms), str(part), int(row), int(d)) for o, ms, part, row, d in self._store.long_rows(query)
        ]

    def _equal_to_record(self, source: TopicPartition, offsets: Collection[int]) -> set[tuple[str, int]]:
        """Locations of the rows that equal Kafka's record, for these offsets."""
        if not offsets or source not in {position.source for position in self._verifier.prepare()}:
            return set()
        low, equal = self._verifier.records.low(source), set()
        compared = Contents(self._store, self._registry, TABLES[source.topic])
        for reach in cluster_offsets([offset for offset in sorted(offsets) if offset >= low]):
            for piece in self._verifier.records.slices(source, reach.first, reach.end):
                others = set(piece.offsets) - set(offsets)
                for contract, positions in compared.by_contract(piece, others).items():
                    equal |= compared.matching_rows(source, piece, contract, positions)
        return equal

    def _remove(self, source: TopicPartition, rows: Sequence[DoubledRow]) -> None:
        if not rows:
            return
        by_part: defaultdict[str, list[int]] = defaultdict(list)
        for row in rows:
            by_part[row.part].append(row.row)
        condition = " OR ".join(
            f"(_part = '{part}' AND _part_offset IN ({', '.join(map(str, n))}))" for part, n in by_part.items()
        )
        self._lock.check()
        self._store.long_command(f"ALTER TABLE {self._name(source.topic)} DELETE WHERE {condition} SETTINGS mutations_sync = 1")

    def _wait_for_removals(self, source: TopicPartition) -> None:
        """Wait for removals of a run that was killed, which go on in the server. Halted where one fails; Retryable."""
        query = (
            "SELECT mutation_id, latest_fail_reason FROM system.mutations "  # noqa: S608 - ours
            f"WHERE database = '{self._store.database}' AND table = '{TABLES[source.topic].name}' "
            "AND NOT is_done AND position(command, '_part_offset') > 0"
        )
        deadline = time.monotonic() + PATIENCE_S
        while running := self._store.rows(query):
            if running[0][1]:
                raise Halted(f"ClickHouse cannot remove rows: {str(running[0][1])[:300]}. To give up: KILL MUTATION WHERE "
                             f"mutation_id = '{running[0][0]}'")  # fmt: skip
            if time.monotonic() > deadline:
                raise Retryable(f"rows of {TABLES[source.topic].name} are still being removed")
            time.sleep(POLL_S)

    def _name(self, topic: str) -> str:
        return f"{ddl.quoted(self._store.database)}.{ddl.quoted(TABLES[topic].name)}"


def differing_offsets(rows: Iterable[DoubledRow]) -> set[int]:
    """Offsets whose rows do not all have the same values."""
    digests: defaultdict[int, set[int]] = defaultdict(set)
    for row in rows:
        digests[row.offset].add(row.digest)
    return {offset for offset, some in digests.items() if len(some) > 1}


def choose_rows(rows: Iterable[DoubledRow], equal_to_record: Collection[tuple[str, int]]) -> DuplicateChoice:
    """Choose the rows to remove: one row of each offset stays, preferably equal to the record, then the one loaded first."""
    by_offset: defaultdict[int, list[DoubledRow]] = defaultdict(list)
    for row in rows:
        by_offset[row.offset].append(row)
    choice = DuplicateChoice([], [], [])
    for offset, some in by_offset.items():
        differ = len({row.digest for row in some}) > 1
        proven = [row for row in some if row.location in equal_to_record] if differ else some
        stays = min(proven or some, key=lambda row: (row.loaded_ms, row.part, row.row))
        choice.removed.extend(row for row in some if row is not stays)
        if differ:
            (choice.corrected if proven else choice.unproven).append(offset)
    return choice


def cluster_offsets(offsets: Sequence[int]) -> list[OffsetRange]:
    """Ranges that cover these offsets, given in order, without the large gaps between them."""
    ranges: list[OffsetRange] = []
    for offset in offsets:
        if ranges and offset - ranges[-1].end < MAX_RECORDS:
            ranges[-1] = OffsetRange(ranges[-1].first, offset + 1)
        else:
            ranges.append(OffsetRange(offset, offset + 1))
    return ranges


def _partition_key(source: TopicPartition) -> tuple[str, str, int]:
    return source.topic, source.topic_id, source.partition


__all__ = [
    "DedupeResult", "Deduplicator", "DoubledRow", "DuplicateChoice", "choose_rows", "cluster_offsets", "differing_offsets",
]  # fmt: skip
