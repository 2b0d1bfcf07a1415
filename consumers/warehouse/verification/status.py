"""State of each table: rows, size, the loader's progress, what it waits for, and the last verification."""

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from consumers.warehouse.loader.intent import read_metadata
from consumers.warehouse.schema import ddl
from consumers.warehouse.schema.tables import TABLES, Table
from consumers.warehouse.store import Store
from consumers.warehouse.verification.record_source import CommittedOffset, KafkaRecords
from consumers.warehouse.verification.results import FAULTS
from infra.settings import Settings


@dataclass(frozen=True)
class PartitionStatus:
    """State of one partition. Missing offsets are -1; times are milliseconds UTC."""

    partition: int
    committed: int
    end: int
    lag: int
    verified_to: int = -1
    verified_ms: int | None = None
    waiting: str = ""
    faults: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TableState:
    """State of one table and its topic."""

    table: str
    topic: str
    rows: int
    parts: int
    bytes_on_disk: int
    newest_ms: int | None
    """When its newest row was loaded, milliseconds UTC."""
    partitions: tuple[PartitionStatus, ...]

    @property
    def lag(self) -> int:
        """Records and markers that are not loaded yet."""
        return sum(partition.lag for partition in self.partitions)

    @property
    def newest(self) -> str:
        """When the newest row was loaded, as text."""
        return (
            "-" if self.newest_ms is None else datetime.fromtimestamp(self.newest_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
        )

    @property
    def committed_offsets(self) -> int:
        """Sum of the committed offsets of all partitions."""
        return sum(max(0, partition.committed) for partition in self.partitions)

    @property
    def verified_offsets(self) -> int:
        """Sum of the verified offsets of all partitions."""
        return sum(max(0, partition.verified_to) for partition in self.partitions)

    @property
    def waiting(self) -> list[str]:
        """Reasons for which its partitions wait."""
        return sorted({partition.waiting for partition in self.partitions if partition.waiting})

    @property
    def result(self) -> str:
        """Result of the last verification, as text."""
        wrong = {kind: sum(partition.faults.get(kind, 0) for partition in self.partitions) for kind in FAULTS}
        if any(wrong.values()):
            return ", ".join(f"{n:,} {kind}" for kind, n in wrong.items() if n)
        times = [partition.verified_ms for partition in self.partitions if partition.verified_ms is not None]
        if not times:
            return "never verified"
        return f"ok, {datetime.fromtimestamp(min(times) / 1000, UTC):%Y-%m-%d %H:%M}"

    def as_json(self) -> dict[str, Any]:
        """Plain values, with the computed ones."""
        return {**asdict(self), "lag": self.lag, "waiting": self.waiting, "result": self.result}


def table_states(settings: Settings, store: Store) -> list[TableState]:
    """State of every table. Retryable, ConfigError."""
    records = KafkaRecords(settings)
    try:
        positions = records.committed()
        ends = {position.source: records.high(position.source) for position in positions}
        lows = {position.source: records.low(position.source) for position in positions}
    finally:
        records.close()
    verified = _verified(store)
    sizes = _sizes(store)
    states = []
    for table in TABLES.values():
        partitions = []
        for position in positions:
            if position.source.topic == table.topic:
                facts = verified.get(position.source[:2], {})
                lag = max(0, ends[position.source] - max(position.offset, lows[position.source]))
                partitions.append(_partition(position, ends[position.source], lag, facts))
        states.append(_table(store, table, sizes, tuple(partitions)))
    return states


def _partition(position: CommittedOffset, end: int, lag: int, facts: dict[str, Any]) -> PartitionStatus:
    waiting = read_metadata(position.offset, position.metadata).waiting
    return PartitionStatus(position.source.partition, position.offset, end, lag, waiting=waiting, **facts)


def _table(
    store: Store, table: Table, sizes: dict[str, tuple[int, int]], partitions: tuple[PartitionStatus, ...]
) -> TableState:
    name = f"{ddl.quoted(store.database)}.{ddl.quoted(table.name)}"
    # Only the part with the newest block is read.
    part = (
        "SELECT name FROM system.parts "  # noqa: S608 - ours
        f"WHERE database = '{store.database}' AND table = '{table.name}' AND active ORDER BY max_block_number DESC LIMIT 1"
    )
    ((rows,),) = store.rows(f"SELECT count() FROM {name}")  # noqa: S608 - ours
    newest = store.rows(f"SELECT toUnixTimestamp64Milli(max(_loaded_at)) FROM {name} WHERE _part IN ({part})")[0][0]  # noqa: S608 - ours
    parts, size = sizes.get(table.name, (0, 0))
    return TableState(table.name, table.topic, int(rows), parts, size, int(newest) or None, partitions)


def _sizes(store: Store) -> dict[str, tuple[int, int]]:
    query = (
        "SELECT table, count(), sum(bytes_on_disk) FROM system.parts "  # noqa: S608 - ours
        f"WHERE database = '{store.database}' AND active GROUP BY table"
    )
    return {str(table): (int(parts), int(size)) for table, parts, size in store.rows(query)}


def _verified(store: Store) -> dict[tuple[str, int], dict[str, Any]]:
    faults = ", ".join(FAULTS)
    query = (
        f"SELECT topic, partition, verified_to, toUnixTimestamp64Milli(last_verified_at), {faults} "  # noqa: S608 - ours
        f"FROM {ddl.quoted(store.database)}.verification_status"
    )
    return {
        (str(topic), int(partition)): {
            "verified_to": int(to),
            "verified_ms": int(ms),
            "faults": {kind: int(n) for kind, n in zip(FAULTS, counts, strict=True) if n},
        }
        for topic, partition, to, ms, *counts in store.rows(query)
    }
