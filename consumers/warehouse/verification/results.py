"""Results of verifications, and the table `verifications` that keeps them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from consumers.warehouse.schema import ddl
from consumers.warehouse.store import Store
from consumers.warehouse.topic_partition import TopicPartition

MAX_EXAMPLES = 20
FAULTS = ("missing", "duplicates", "unexpected", "different")
HOURLY, BY_HAND, FULL, REPLAY, DEDUPE = "hourly", "by hand", "full", "replay", "dedupe"
"""Kinds of verifications."""


class OffsetRange(NamedTuple):
    """Offsets `first` (included) to `end` (excluded) of one partition."""

    first: int
    end: int


@dataclass(frozen=True)
class Verification:
    """Result of comparing offsets `from_offset` (included) to `to_offset` (excluded) of one partition with Kafka's records."""

    topic: str
    partition: int
    records: int = 0
    rows: int = 0
    missing: int = 0
    """Records that have neither a row nor a dead letter."""
    duplicates: int = 0
    """Rows beyond the first of an offset."""
    unexpected: int = 0
    """Rows at offsets that Kafka does not deliver (aborted; not searched in compacted topics) or that were erased."""
    dead: int = 0
    erased: int = 0
    """Records whose row was erased together with its person."""
    different: int = 0
    """Records whose row holds other values."""
    unverifiable: int = 0
    """Offsets that Kafka no longer has, and records whose values cannot be compared."""
    topic_id: str = ""
    from_offset: int = 0
    to_offset: int = 0
    examples: tuple[int, ...] = ()
    """Some of the offsets that are wrong, lowest first."""

    @property
    def exact(self) -> bool:
        """Whether each record has its one row."""
        return not (self.missing or self.duplicates or self.unexpected or self.different)

    @property
    def text(self) -> str:
        """One line for a terminal or log."""
        examples = f", e.g. offsets {', '.join(map(str, self.examples[:5]))}" if self.examples else ""
        unverifiable = f", {self.unverifiable} unverifiable" if self.unverifiable else ""
        return (
            f"{'ok  ' if self.exact else 'WRONG'} {self.topic}:{self.partition}  {self.from_offset}-{self.to_offset}  "
            f"{self.records} records, {self.rows} rows, {self.dead} dead, {self.erased} erased, {self.missing} missing, "
            f"{self.duplicates} duplicates, {self.unexpected} unexpected, {self.different} different{unverifiable}{examples}"
        )

    def __add__(self, other: "Verification") -> "Verification":
        """Combine the results of two ranges of one partition."""
        sums = {name: getattr(self, name) + getattr(other, name) for name in _COUNTS}
        return Verification(
            self.topic,
            self.partition,
            topic_id=self.topic_id,
            from_offset=min(self.from_offset, other.from_offset),
            to_offset=max(self.to_offset, other.to_offset),
            examples=tuple(sorted({*self.examples, *other.examples})[:MAX_EXAMPLES]),
            **sums,
        )


_COUNTS = ("records", "rows", "missing", "duplicates", "unexpected", "dead", "erased", "different", "unverifiable")
_COLUMNS = ("topic", "topic_id", "partition", "from_offset", "to_offset", *_COUNTS)


def write_results(store: Store, results: Iterable[Verification], kind: str) -> None:
    """Insert results. Retryable."""
    at = "now64(3, 'UTC')"
    rows = ", ".join(
        f"({', '.join(_literal(getattr(result, name)) for name in _COLUMNS)}, {list(result.examples)}, {at}, '{kind}')"
        for result in results
    )
    if rows:
        names = ", ".join((*_COLUMNS, "examples", "verified_at", "kind"))
        store.long_command(
            f"INSERT INTO {ddl.quoted(store.database)}.verifications ({names}) SETTINGS async_insert = 0 VALUES {rows}"  # noqa: S608 - ours
        )


def verified_ends(store: Store) -> dict[TopicPartition, int]:
    """The offset up to which each partition was compared; partitions that never were are left out. Retryable.

    Repairs do not count: they verify only their own range, and offsets before it may never have been compared.
    """
    query = (
        f"SELECT topic, partition, topic_id, max(to_offset) FROM {ddl.quoted(store.database)}.verifications "  # noqa: S608 - ours
        f"WHERE kind NOT IN ('{REPLAY}', '{DEDUPE}') GROUP BY ALL"
    )
    return {_source(*key): int(end) for *key, end in store.rows(query)}


def fault_ranges(store: Store) -> dict[TopicPartition, list[OffsetRange]]:
    """Ranges of each partition that were wrong when they were last compared, in order. Retryable."""
    query = (
        f"SELECT topic, partition, topic_id, from_offset, to_offset FROM {ddl.quoted(store.database)}.verification_faults "  # noqa: S608 - ours
        "ORDER BY from_offset, to_offset"
    )
    ranges: dict[TopicPartition, list[OffsetRange]] = {}
    for *key, first, end in store.rows(query):
        ranges.setdefault(_source(*key), []).append(OffsetRange(int(first), int(end)))
    return ranges


def fault_ranges_of_records(store: Store, source: TopicPartition) -> list[OffsetRange]:
    """Fault ranges that can only be verified with Kafka's records: those with more than duplicates. Retryable."""
    query = (
        f"SELECT from_offset, to_offset FROM {ddl.quoted(store.database)}.verification_faults "  # noqa: S608 - ours
        f"WHERE {_partition_condition(source)} AND missing + unexpected + different > 0 ORDER BY from_offset, to_offset"
    )
    return [OffsetRange(int(first), int(end)) for first, end in store.rows(query)]


def _source(topic: str, number: int, topic_id: str) -> TopicPartition:
    return TopicPartition(str(topic), int(number), str(topic_id))


def _partition_condition(source: TopicPartition) -> str:
    source.condition  # noqa: B018 - raises ValueError for a malformed topic id
    return f"topic = '{source.topic}' AND topic_id = '{source.topic_id}' AND partition = {source.partition}"


def _literal(value: int | str) -> str:
    return str(value) if isinstance(value, int) else f"'{value}'"
