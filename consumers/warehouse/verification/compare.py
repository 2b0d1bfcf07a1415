"""Compares a slice of records with the rows of its offsets: first as a whole, by counts and sums of hashes, then by offset."""

import time
from collections.abc import Callable, Collection, Mapping, Set
from dataclasses import dataclass

from consumers.warehouse.loader.loop import STAGE
from consumers.warehouse.schema import ddl
from consumers.warehouse.schema.tables import TABLES, Table
from consumers.warehouse.store import Store
from consumers.warehouse.topic_partition import TopicPartition
from consumers.warehouse.verification.contents import contents_by_topic
from consumers.warehouse.verification.record_source import Slice
from consumers.warehouse.verification.results import MAX_EXAMPLES, Verification
from schemas.codec import Undecodable, decode
from schemas.registry import Registry
from schemas.topics import TOPICS

DAY_MS = 86_400_000
DUPLICATES_WINDOW = 10_000_000
"""Offsets whose duplicates are counted by one query."""


@dataclass(frozen=True)
class Offsets:
    """The offsets of one slice, by their state."""

    records: Set[int]
    rows: Mapping[int, int]
    """Offset -> number of its rows."""
    dead: Set[int] = frozenset()
    erased: Set[int] = frozenset()
    expired: Set[int] = frozenset()
    """Records older than the table's TTL: their rows may exist or not."""
    different: Set[int] = frozenset()
    incomparable: Set[int] = frozenset()

    @property
    def missing(self) -> set[int]:
        """Offsets of records that should have a row and have none."""
        return set(self.records - self.rows.keys() - self.dead - self.erased - self.expired)

    def unexpected(self, compacted: bool) -> set[int]:
        """Offsets with a row that should have none. In a compacted topic, a row may outlive its record."""
        returned = self.rows.keys() & (self.erased | self.dead)
        return returned if compacted else returned | (self.rows.keys() - self.records)


@dataclass(frozen=True)
class Comparison:
    """Result of one slice, and its missing offsets."""

    result: Verification
    missing: Set[int] = frozenset()


class Comparer:
    """Compares slices. `await_pending(topic)` waits until written dead letters are loaded and erasures are complete."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        first_seen: Mapping[str, int],
        await_pending: Callable[[str], None] | None = None,
    ) -> None:
        self._store = store
        self._registry = registry
        self._first_seen = first_seen
        self._await_pending = await_pending
        self._contents = contents_by_topic(store, registry)

    def compare(self, source: TopicPartition, piece: Slice) -> Comparison:
        """Compare a slice that Kafka still has. Retryable."""
        table = TABLES[source.topic]
        dead = self._dead(source, piece)
        comparable = self._contents[source.topic].by_contract(piece, dead)
        n = sum(map(len, comparable.values()))
        if n == len(piece.offsets) - len(dead.intersection(piece.offsets)) == self._rows_of(table, source, piece):
            equal = (self._contents[source.topic].equal(source, piece, contract, rows) for contract, rows in comparable.items())
            if all(equal) and not self._store.erased(table, source, piece.first, piece.end - 1):
                return Comparison(_result(source, piece, len(piece.offsets), n, dead=len(piece.offsets) - n))
        return self._by_offset(source, piece)

    def unverifiable(self, source: TopicPartition, first: int, end: int) -> Verification:
        """Result of a range that Kafka no longer has: only duplicates can be found. Retryable."""
        result = Verification(source.topic, source.partition, topic_id=source.topic_id, from_offset=first, to_offset=end)
        table = f"{ddl.quoted(self._store.database)}.{ddl.quoted(TABLES[source.topic].name)}"
        for start in range(first, end, DUPLICATES_WINDOW):
            last = min(end, start + DUPLICATES_WINDOW)
            query = (
                "SELECT sum(n), sum(n - 1), groupArrayIf(20)(_offset, n > 1) FROM ("  # noqa: S608 - ours
                f"SELECT _offset, count() AS n FROM {table} WHERE {source.condition} "
                f"AND _offset BETWEEN {start} AND {last - 1} GROUP BY _offset)"
            )
            ((rows, duplicates, examples),) = self._store.rows(query)
            result += _result(
                source, Slice(start, last, [], []), 0, int(rows), duplicates=int(duplicates), unverifiable=last - start,
                examples=tuple(sorted(map(int, examples))),
            )  # fmt: skip
        return result

    def _by_offset(self, source: TopicPartition, piece: Slice) -> Comparison:
        offsets = self._read_offsets(source, piece)
        compacted = TOPICS[source.topic].compacted
        if self._await_pending is not None and (offsets.missing or offsets.unexpected(compacted)):
            self._await_pending(source.topic)
            offsets = self._read_offsets(source, piece)
        unexpected = offsets.unexpected(compacted)
        doubled = {offset for offset, n in offsets.rows.items() if n > 1}
        wrong = offsets.missing | unexpected | doubled | offsets.different
        result = _result(
            source,
            piece,
            len(offsets.records),
            sum(offsets.rows.values()),
            missing=len(offsets.missing),
            duplicates=sum(offsets.rows[offset] - 1 for offset in doubled),
            unexpected=len(unexpected),
            different=len(offsets.different),
            dead=len(offsets.records & offsets.dead),
            erased=len(offsets.records & offsets.erased),
            unverifiable=len(offsets.incomparable),
            examples=tuple(sorted(wrong)[:MAX_EXAMPLES]),
        )
        return Comparison(result, offsets.missing)

    def _read_offsets(self, source: TopicPartition, piece: Slice) -> Offsets:
        table, compared = TABLES[source.topic], self._contents[source.topic]
        name = f"{ddl.quoted(self._store.database)}.{ddl.quoted(table.name)}"
        query = (
            f"SELECT _offset, count() FROM {name} WHERE {source.condition} "  # noqa: S608 - ours
            f"AND _offset BETWEEN {piece.first} AND {piece.end - 1} GROUP BY _offset"
        )
        rows = {int(offset): int(n) for offset, n in self._store.rows(query)}
        dead = self._dead(source, piece)
        erased = self._store.erased(table, source, piece.first, piece.end - 1)
        different: set[int] = set()
        incomparable: set[int] = set()
        for contract, positions in compared.by_contract(piece, dead).items():
            changed, unreadable = compared.different(source, piece, contract, positions)
            different, incomparable = different | changed, incomparable | unreadable
        absent = [
            at for at, offset in enumerate(piece.offsets) if offset not in rows and offset not in dead and offset not in erased
        ]
        expired = {piece.offsets[at] for at in absent if self._expired(table, piece.values[at])}
        return Offsets(frozenset(piece.offsets), rows, dead, erased, expired, different, incomparable & rows.keys())

    def _expired(self, table: Table, value: bytes) -> bool:
        try:
            written: int = decode(self._registry, value)[1][table.time]
        except (Undecodable, KeyError):
            return False
        return written < time.time() * 1000 - table.keep_days * DAY_MS

    def _rows_of(self, table: Table, source: TopicPartition, piece: Slice) -> int:
        return self._store.count(table, source, piece.first, piece.end - 1)

    def _dead(self, source: TopicPartition, piece: Slice) -> set[int]:
        query = (
            f"SELECT source_offset FROM {ddl.quoted(self._store.database)}.dead_letters WHERE stage = '{STAGE}' "  # noqa: S608 - ours
            f"AND source_topic = '{source.topic}' AND source_partition = {source.partition} "
            f"AND source_offset BETWEEN {piece.first} AND {piece.end - 1} "
            f"AND dead_ts >= fromUnixTimestamp64Milli(toInt64({self._first_seen[source.topic]}))"
        )
        return {int(row[0]) for row in self._store.rows(query)}


def _result(
    source: TopicPartition, piece: Slice, records: int, rows: int, *, examples: Collection[int] = (), **counts: int
) -> Verification:
    return Verification(
        source.topic,
        source.partition,
        records,
        rows,
        topic_id=source.topic_id,
        from_offset=piece.first,
        to_offset=piece.end,
        examples=tuple(examples),
        **counts,
    )
