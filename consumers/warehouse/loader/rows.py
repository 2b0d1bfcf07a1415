"""Inserts the rows of a batch into their table, each once, whatever was inserted before."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from consumers.warehouse.errors import RowsRejected, ServerTrouble, TableTrouble
from consumers.warehouse.loader.batch import InsertBatch
from consumers.warehouse.loader.container import Container
from consumers.warehouse.loader.intent import token
from consumers.warehouse.schema.tables import TABLES, Table
from consumers.warehouse.schema.views import create_views
from consumers.warehouse.store import Store
from consumers.warehouse.topic_partition import TopicPartition
from infra.errors import Retryable
from infra.telemetry.logs import get_logger
from infra.telemetry.metrics import Metrics
from schemas.codec import HEADER_BYTES, Undecodable, decode, schema_id
from schemas.registry import Contract, Registry, UnknownContract

MAX_FILLS = 5
"""Inserts of one batch before its missing rows count as a fault of the table."""
DAY_S = 86_400


@dataclass(frozen=True)
class RejectedRecord:
    """A record that cannot become a row: its position in the batch, and the reason."""

    at: int
    reason: str
    detail: str


class RowLoader:
    """Turns records into rows. Uses ClickHouse only, never Kafka."""

    def __init__(self, store: Store, registry: Registry, metrics: Metrics) -> None:
        self._store = store
        self._registry = registry
        self._metrics = metrics
        self._containers: dict[int, Container] = {}
        self._views_outdated = False

    def highest(self, source: TopicPartition) -> int:
        """The highest offset of a partition that has a row; -1 for none. Retryable."""
        table = TABLES[source.topic]
        self._ensure_columns(table, self._registry.latest(source.topic), source)
        return self._store.highest(table, source)

    def load(self, batch: InsertBatch) -> list[RejectedRecord]:
        """Insert a batch that was never tried before; return the rejected records. Retryable.

        The rows are counted afterwards, because ClickHouse has been observed to answer 200 to an insert that failed.
        """
        bad: list[RejectedRecord] = []
        for contract, rows in self._by_contract(batch, bad).items():
            bad += self._insert(batch, contract, rows, token(batch.source, batch.intent, contract.id))
        table = TABLES[batch.source.topic]
        expected = len(batch.offsets) - len(bad)
        rows_there = self._store.count(table, batch.source, batch.offsets[0], batch.offsets[-1])
        if rows_there == expected:
            self._metrics.count("headwater_inserted_total", expected, table=table.name)
            return bad
        get_logger().warning(
            "rows of an insert are not as many as its records", table=table.name, rows=rows_there, records=expected
        )
        return self.reload(batch)

    def reload(self, batch: InsertBatch) -> list[RejectedRecord]:
        """Insert the missing rows of a batch that was tried before; return the rejected records. Retryable."""
        bad: list[RejectedRecord] = []
        for contract, rows in self._by_contract(batch, bad).items():
            bad += self._insert_missing(batch, contract, rows)
        return bad

    def _by_contract(self, batch: InsertBatch, bad: list[RejectedRecord]) -> dict[Contract, list[int]]:
        """Positions in the batch by contract. Retryable while a contract is unknown: it may be published soon."""
        groups: dict[int, list[int]] = {}
        if len({value[:HEADER_BYTES] for value in batch.values}) == 1 and (number := _known_id(batch.values[0])):
            # The usual case: one contract, so the values need not be read one by one.
            groups[number] = list(range(len(batch.values)))
        else:
            for at, value in enumerate(batch.values):
                try:
                    groups.setdefault(schema_id(value), []).append(at)
                except Undecodable as error:
                    bad.append(RejectedRecord(at, "UNDECODABLE", str(error)))
        contracts: dict[Contract, list[int]] = {}
        for number, rows in groups.items():
            try:
                contract = self._registry.by_id(number)
            except UnknownContract as error:
                raise Retryable(f"{error}: waiting for it, {batch.source} stands still", "contracts") from None
            if contract.topic == batch.source.topic:
                contracts[contract] = rows
            else:
                bad += [RejectedRecord(at, "WRONG_CONTRACT", f"a record of {contract.topic}") for at in rows]
        return contracts

    def _insert_missing(self, batch: InsertBatch, contract: Contract, rows: list[int]) -> list[RejectedRecord]:
        name = token(batch.source, batch.intent, contract.id)
        table = TABLES[batch.source.topic]
        self._ensure_columns(table, contract, batch.source)
        bad: list[RejectedRecord] = []
        inserted = 0
        for attempt in range(MAX_FILLS):
            self._store.refuse_running_insert(name)
            reach = (table, batch.source, batch.offsets[rows[0]], batch.offsets[rows[-1]])
            # Erased rows are not missing: they must not be inserted again.
            present = self._store.present(*reach) | self._store.erased(*reach)
            rejected_positions = {rejected.at for rejected in bad}
            missing = [at for at in rows if batch.offsets[at] not in present and at not in rejected_positions]
            if attempt == 0:
                self._metrics.count("headwater_repaired_total", len(rows) - len(missing), table=table.name, found="present")
            if not missing:
                self._metrics.count("headwater_inserted_total", inserted, table=table.name)
                return bad
            # All missing: the predecessor's token makes its insert a duplicate, should it still arrive. Otherwise that token
            # may be logged without its rows (a server killed in between), so the missing rows need another token.
            whole = attempt == 0 and len(missing) == len(rows)
            bad += self._insert(batch, contract, missing, name if whole else f"{name}:fill-{attempt}-{len(missing)}")
            inserted += len(missing)
            self._metrics.count("headwater_repaired_total", len(missing), table=table.name, found="filled")
        if all(self._expired(batch.values[at], table) for at in missing):
            get_logger().warning("rows too old to be kept", table=table.name, rows=len(missing))
            return bad
        raise TableTrouble(f"rows of {batch.source} are not in {table.name} after {MAX_FILLS} inserts without an error")

    def _expired(self, value: bytes, table: Table) -> bool:
        """Whether the row is older than the table's TTL."""
        return bool(decode(self._registry, value)[1][table.time] < (time.time() - table.keep_days * DAY_S) * 1000)

    def _insert(self, batch: InsertBatch, contract: Contract, rows: list[int], name: str) -> list[RejectedRecord]:
        """Insert rows under a token; return the records that ClickHouse rejects for their own sake."""
        try:
            self._send_rows(batch, contract, rows, name)
            return []
        except RowsRejected as error:
            bad = self._find_undecodable(batch, rows)
            if not bad:
                self._raise_if_table_at_fault(batch, contract, rows, error)
                if len(rows) == 1:
                    return [RejectedRecord(rows[0], "REJECTED", str(error))]
        rejected_positions = {rejected.at for rejected in bad}
        good = [at for at in rows if at not in rejected_positions]
        if bad:
            # A rejected insert writes nothing and frees its token.
            return bad + (self._insert(batch, contract, good, name) if good else [])
        half = len(rows) // 2
        return [
            *self._insert(batch, contract, rows[:half], f"{name}:{batch.offsets[rows[0]]}"),
            *self._insert(batch, contract, rows[half:], f"{name}:{batch.offsets[rows[half]]}"),
        ]

    def _raise_if_table_at_fault(self, batch: InsertBatch, contract: Contract, rows: list[int], error: RowsRejected) -> None:
        """Raise TableTrouble where ClickHouse can read the rejected rows by their contract: the altered table is at fault."""
        table = TABLES[batch.source.topic]
        self._store.forget_columns(table)
        self._store.ensure_columns(table, contract, batch.source.topic_id)
        container = self._container(contract)
        try:
            self._store.try_read(contract, container.columns, self._pack(batch, contract, rows))
        except RowsRejected:
            try:
                self._store.try_read(contract, container.columns, container.pack(batch.source, 0, ()))
            except RowsRejected as none_at_all:
                raise ServerTrouble(f"ClickHouse cannot even read no rows ({none_at_all})") from error
            return
        raise TableTrouble(
            f"table {table.name} rejects rows that fit their contract ({error}): "
            "look at its MATERIALIZED and DEFAULT columns, indices and projections"
        )

    def _find_undecodable(self, batch: InsertBatch, rows: list[int]) -> list[RejectedRecord]:
        bad = []
        for at in rows:
            try:
                decode(self._registry, batch.values[at])
            except Undecodable as error:
                bad.append(RejectedRecord(at, "UNDECODABLE", str(error)))
        return bad

    def _ensure_columns(self, table: Table, contract: Contract, source: TopicPartition) -> None:
        if self._store.ensure_columns(table, contract, source.topic_id):
            self._views_outdated = True
        if self._views_outdated:
            self._views_outdated = False
            try:
                create_views(self._store)
            except TableTrouble as error:  # no row depends on a view, and the next start creates them again
                get_logger().error("a view cannot be made anew", table=table.name, error=str(error))
            except Retryable:
                self._views_outdated = True
                raise

    def _container(self, contract: Contract) -> Container:
        container = self._containers.get(contract.id)
        if container is None:
            container = self._containers[contract.id] = Container(contract)
        return container

    def _pack(self, batch: InsertBatch, contract: Contract, rows: list[int]) -> bytes:
        if len(rows) == len(batch.offsets):
            records: Iterable[tuple[int, bytes]] = zip(batch.offsets, batch.values, strict=True)
        else:
            records = ((batch.offsets[at], batch.values[at]) for at in rows)
        return self._container(contract).pack(batch.source, int(time.time() * 1000), records)

    def _send_rows(self, batch: InsertBatch, contract: Contract, rows: list[int], name: str) -> None:
        table = TABLES[batch.source.topic]
        self._ensure_columns(table, contract, batch.source)
        data = self._pack(batch, contract, rows)
        begun = time.monotonic()
        try:
            self._store.insert(table, self._container(contract).columns, data, name)
        except TableTrouble:
            self._store.forget_columns(table)
            raise
        self._metrics.observe("headwater_insert_seconds", time.monotonic() - begun, table=table.name)


def _known_id(value: bytes) -> int:
    """The contract id of a framed value; 0 where there is none."""
    try:
        return schema_id(value)
    except Undecodable:
        return 0
