"""Compares values of records and rows inside ClickHouse: undecoded records go into a twin table, then hashes are compared.

Equal values have equal hashes, because the twin has the types of the table's columns and ClickHouse reads the same bytes into
both. The hash of a NULL would be NULL, which a sum ignores, so a nullable column is hashed as two values.
"""

import secrets
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from consumers.warehouse.errors import RowsRejected
from consumers.warehouse.loader.container import Container
from consumers.warehouse.schema import ddl
from consumers.warehouse.schema.tables import TABLES, Table
from consumers.warehouse.store import Store
from consumers.warehouse.topic_partition import TopicPartition
from consumers.warehouse.verification.record_source import Slice
from infra.errors import Retryable
from infra.telemetry.logs import get_logger
from schemas.codec import Undecodable, decode, schema_id
from schemas.registry import Contract, Registry, UnknownContract

PREFIX = "verification_twin_"
LEFT_BEHIND_MS = 600_000
"""A twin exists for one slice: older ones were left by a process that was killed."""
REWRITTEN: Mapping[str, frozenset[str]] = {"events": frozenset({"profile_id", "identifiers"})}
"""Table -> columns that are not compared: a squash, a split or an erasure may rewrite them."""

Comparable = Mapping[Contract, Sequence[int]]
"""Contract -> positions in a slice."""


class Contents:
    """Compares values of the rows of one table."""

    def __init__(self, store: Store, registry: Registry, table: Table) -> None:
        self._store = store
        self._registry = registry
        self._table = table
        self._name = f"{ddl.quoted(store.database)}.{ddl.quoted(table.name)}"
        self._containers: dict[int, Container] = {}

    def by_contract(self, piece: Slice, without: Collection[int]) -> Comparable:
        """Positions of comparable records by contract, `without` the offsets that have no row."""
        numbers: defaultdict[int, list[int]] = defaultdict(list)
        for at, value in enumerate(piece.values):
            if piece.offsets[at] not in without:
                with suppress(Undecodable):
                    numbers[schema_id(value)].append(at)
        comparable = {}
        for number, positions in numbers.items():
            with suppress(UnknownContract):
                contract = self._registry.by_id(number)
                if contract.topic == self._table.topic:
                    comparable[contract] = positions
        return comparable

    def equal(self, source: TopicPartition, piece: Slice, contract: Contract, positions: Sequence[int]) -> bool:
        """Whether each of these records has exactly one row with equal values. Retryable."""
        with self._twin(source, piece, contract, positions) as (twin, digest):
            if not twin:
                return False
            query = (
                f"SELECT (SELECT (count(), sum({digest})) FROM {twin}) = (count(), sum({digest})) "  # noqa: S608 - ours
                f"FROM {self._name} WHERE {_range(source, piece)} AND _offset IN (SELECT _offset FROM {twin})"
            )
            return bool(self._store.rows(query)[0][0])

    def different(
        self, source: TopicPartition, piece: Slice, contract: Contract, positions: Sequence[int]
    ) -> tuple[set[int], set[int]]:
        """(offsets with a row that differs from the record, offsets that cannot be compared). Retryable."""
        with self._twin(source, piece, contract, positions) as (twin, digest):
            offsets = {piece.offsets[at] for at in positions}
            if not twin:
                return set(), offsets
            query = (
                f"SELECT t._offset FROM (SELECT _offset, {digest} AS digest FROM {self._name} "  # noqa: S608 - ours
                f"WHERE {_range(source, piece)}) AS t "
                f"INNER JOIN (SELECT _offset, {digest} AS digest FROM {twin}) AS r ON t._offset = r._offset "
                "WHERE t.digest != r.digest GROUP BY t._offset"
            )
            return {int(offset) for (offset,) in self._store.rows(query)}, set()

    def matching_rows(
        self, source: TopicPartition, piece: Slice, contract: Contract, positions: Sequence[int]
    ) -> set[tuple[str, int]]:
        """(part, row number within it) of the rows that equal their records. Retryable."""
        with self._twin(source, piece, contract, positions) as (twin, digest):
            if not twin:
                return set()
            query = (
                f"SELECT _part, _part_offset FROM {self._name} WHERE {_range(source, piece)} "  # noqa: S608 - ours
                f"AND (_offset, {digest}) IN (SELECT _offset, {digest} FROM {twin})"
            )
            return {(str(part), int(row)) for part, row in self._store.rows(query)}

    def digest_of_columns(self) -> str:
        """SQL of a hash over the columns of the newest contract. Retryable."""
        kinds = self._kinds()
        names = [name for name in self._registry.latest(self._table.topic).names if self._compared(name, kinds)]
        return _digest({name: kinds[name] for name in names})

    @contextmanager
    def _twin(
        self, source: TopicPartition, piece: Slice, contract: Contract, positions: Sequence[int]
    ) -> Iterator[tuple[str, str]]:
        """(name of a table with the records, SQL of a row's hash); the name is empty where they cannot be read."""
        container = self._container(contract)
        kinds = self._kinds()
        contract_types = {name: definition.split(" ", 1)[1] for name, definition in ddl.columns(contract).items()}
        typed = {name: kinds.get(name, kind) for name, kind in {**ddl.PLACE, **contract_types}.items()}
        hashed = {name: typed[name] for name in contract_types if self._compared(name, kinds)}
        bare = f"{PREFIX}{int(time.time() * 1000)}_{secrets.token_hex(6)}"
        name = f"{ddl.quoted(self._store.database)}.{bare}"
        definitions = ", ".join(f"{ddl.quoted(column)} {kind}" for column, kind in typed.items())
        self._store.command(f"CREATE TABLE {name} ({definitions}) ENGINE = Memory")
        try:
            loaded = self._load(name, container, source, piece, positions)
            yield (name if loaded else ""), _digest(hashed)
        finally:
            with suppress(Retryable):  # dropped by the next run
                self._store.command(f"DROP TABLE IF EXISTS {name}")

    def _compared(self, column: str, kinds: Mapping[str, str]) -> bool:
        return column in kinds and column not in REWRITTEN.get(self._table.name, ())

    def _load(self, name: str, container: Container, source: TopicPartition, piece: Slice, positions: Sequence[int]) -> bool:
        rows = [(piece.offsets[at], piece.values[at]) for at in positions]
        with suppress(RowsRejected):
            self._store.load_container(name, container.columns, container.pack(source, 0, rows))
            return True
        readable = [row for row in rows if self._readable(row[1])]
        with suppress(RowsRejected):
            self._store.load_container(name, container.columns, container.pack(source, 0, readable))
            return True
        get_logger().warning("values of records cannot be compared", table=self._table.name, records=len(positions))
        return False

    def _readable(self, value: bytes) -> bool:
        try:
            decode(self._registry, value)
        except Undecodable:
            return False
        return True

    def _container(self, contract: Contract) -> Container:
        return self._containers.setdefault(contract.id, Container(contract))

    def _kinds(self) -> dict[str, str]:
        """Column of the table -> its present type."""
        query = (
            "SELECT name, type FROM system.columns "  # noqa: S608 - ours
            f"WHERE database = '{self._store.database}' AND table = '{self._table.name}' AND default_kind IN ('', 'DEFAULT')"
        )
        return {str(name): str(kind) for name, kind in self._store.rows(query)}


def drop_leftovers(store: Store) -> None:
    """Drop twins of runs that were killed. Retryable."""
    query = (
        "SELECT name FROM system.tables "  # noqa: S608 - ours
        f"WHERE database = '{store.database}' AND startsWith(name, '{PREFIX}')"
    )
    for (name,) in store.rows(query):
        if int(name.removeprefix(PREFIX).split("_")[0]) < time.time() * 1000 - LEFT_BEHIND_MS:
            store.command(f"DROP TABLE IF EXISTS {ddl.quoted(store.database)}.{ddl.quoted(name)}")


def contents_by_topic(store: Store, registry: Registry) -> dict[str, Contents]:
    """Topic -> comparer of its rows."""
    return {table.topic: Contents(store, registry, table) for table in TABLES.values()}


def _digest(kinds: Mapping[str, str]) -> str:
    return f"sipHash64({', '.join(['_offset', *(_hashable(name, kind) for name, kind in kinds.items())])})"


def _hashable(column: str, kind: str) -> str:
    name = ddl.quoted(column)
    return f"isNull({name}), ifNull(toString({name}), '')" if "Nullable(" in kind else name


def _range(source: TopicPartition, piece: Slice) -> str:
    return f"{source.condition} AND _offset BETWEEN {piece.first} AND {piece.end - 1}"
