"""ClickHouse as the loader sees it: insert under a token, ask which offsets are there, wait for an insert that still runs."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import clickhouse_connect
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError

from consumers.warehouse.errors import ServerTrouble, TableTrouble, insert_error, query_error
from consumers.warehouse.schema import ddl
from consumers.warehouse.schema.tables import Table
from consumers.warehouse.topic_partition import TopicPartition
from infra.errors import ConfigError, Retryable
from infra.settings import Settings
from schemas.registry import Contract

INSERT_S = 60
FIT_S = 60
SEARCH_S = 3_600
"""For questions and removals that read whole tables."""
LONG = {"max_query_size": 16 * 1024 * 1024}


class Store:
    """One connection to the warehouse database; an answer that takes longer than `patience_s` is none."""

    def __init__(self, settings: Settings, patience_s: float = INSERT_S) -> None:
        # Its own words about a refused connection say no more than our exception does.
        logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)
        self.database = settings.clickhouse_database
        self._address = settings.clickhouse
        self._patience_s = patience_s
        self._client: Any = None
        self._checked: dict[tuple[str, int], float] = {}
        """(table, contract) -> when its columns were last seen to fit, monotonic seconds."""

    def insert(self, table: Table, columns: Sequence[str], data: bytes, token: str) -> None:
        """Insert an Avro container. Rejected, or Retryable: then some or all of it may have been written."""
        settings = {
            "insert_deduplication_token": token,
            "insert_deduplicate": "1",
            "async_insert": "0",
            "max_partitions_per_insert_block": "1000",
            # A view of somebody else's that fails must not fail the insert: `view_checks` says which do.
            "materialized_views_ignore_errors": "1",
        }
        self._insert(self._name(table), columns, data, settings)

    def try_read(self, contract: Contract, columns: Sequence[str], data: bytes) -> None:
        """Read and convert an Avro container as an insert would, into nothing. Rejected, Retryable."""
        structure = ", ".join([*ddl.PLACE_TYPES, *ddl.columns(contract).values()]).replace("\\", "\\\\").replace("'", "\\'")
        target = f"FUNCTION null('{structure}')"
        self._insert(target, columns, data, {"async_insert": "0"})

    def _insert(self, target: str, columns: Sequence[str], data: bytes, settings: Mapping[str, str]) -> None:
        self._ask(
            lambda client: client.raw_insert(target, list(columns), data, settings=dict(settings), fmt="Avro"), insert_error
        )

    def count(self, table: Table, source: TopicPartition, first: int, last: int) -> int:
        """How many rows of a range of offsets are in the table."""
        query = f"SELECT count() FROM {self._name(table)} WHERE {source.condition} AND _offset BETWEEN {first} AND {last}"  # noqa: S608 - ours
        return int(self.rows(query)[0][0])

    def present(self, table: Table, source: TopicPartition, first: int, last: int) -> set[int]:
        """Which offsets of a range are in the table."""
        query = f"SELECT _offset FROM {self._name(table)} WHERE {source.condition} AND _offset BETWEEN {first} AND {last}"  # noqa: S608 - ours
        return {row[0] for row in self.rows(query)}

    def erased(self, table: Table, source: TopicPartition, first: int, last: int) -> set[int]:
        """Which offsets of a range had a row that was erased."""
        query = (
            f"SELECT _offset FROM {ddl.quoted(self.database)}.erased_rows WHERE {_erased(table, source)} "  # noqa: S608 - ours
            f"AND _offset BETWEEN {first} AND {last}"
        )
        return {row[0] for row in self.rows(query)}

    def highest(self, table: Table, source: TopicPartition) -> int:
        """The highest offset of a partition that has a row, or had one that was erased; -1 for none."""
        query = (
            f"SELECT max(_offset), count() FROM {self._name(table)} WHERE {source.condition} UNION ALL "  # noqa: S608 - ours
            f"SELECT max(_offset), count() FROM {ddl.quoted(self.database)}.erased_rows WHERE {_erased(table, source)}"
        )
        return max((int(highest) for highest, n in self.rows(query) if n), default=-1)

    def refuse_running(self, token_start: str) -> None:
        """Retryable while an insert whose token begins so still runs: a predecessor's may be on its way."""
        query = (
            f"SELECT count() FROM system.processes WHERE startsWith(Settings['insert_deduplication_token'], '{token_start}')"  # noqa: S608 - a token of our own
        )
        if self.rows(query)[0][0]:
            raise Retryable("an earlier insert of the same rows still runs", "clickhouse")

    def fit(self, table: Table, contract: Contract, topic_id: str) -> bool:
        """Add the columns that the table lacks for this version of the contract; whether there were any.

        TableTrouble where a column cannot take the contract's values. Looked up again once a minute: somebody may alter the
        table meanwhile.
        """
        if self._checked.get((table.name, contract.id), -FIT_S) > time.monotonic() - FIT_S:
            return False
        existing = self._existing(table)
        try:
            wrong = ddl.unfit_columns(contract, existing)
        except ConfigError as error:
            raise TableTrouble(f"contract {contract.id} of {contract.topic}: {error}") from None
        if wrong:
            raise TableTrouble(f"table {table.name}: {'; '.join(wrong)}")
        missing = [*ddl.missing_place_columns(existing, topic_id), *ddl.missing_columns(contract, existing)]
        if missing:
            self.command(ddl.add_columns(table, missing, self.database))
        self._checked[table.name, contract.id] = time.monotonic()
        return bool(missing)

    def forget_fit(self, table: Table) -> None:
        """Look up the table's columns again before the next insert: one that failed may have met another table."""
        for key in list(self._checked):
            if key[0] == table.name:
                self._checked.pop(key, None)

    def _existing(self, table: Table) -> dict[str, ddl.TableColumn]:
        query = (
            "SELECT name, type, default_kind FROM system.columns "  # noqa: S608 - ours
            f"WHERE database = '{self.database}' AND table = '{table.name}'"
        )
        existing = {name: ddl.TableColumn(kind, default) for name, kind, default in self.rows(query)}
        if not existing:
            raise TableTrouble(f"there is no table {self.database}.{table.name}: run `headwater warehouse migrate`")
        return existing

    def rows(self, query: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        rows: list[tuple[Any, ...]] = self._ask(lambda client: client.query(query, parameters=parameters)).result_rows
        return rows

    def lines(self, query: str) -> Iterator[bytes]:
        """The rows of a query as JSON, a line each, as they come."""
        stream = self._ask(lambda client: client.raw_stream(query, fmt="JSONEachRow", settings=LONG))
        rest = b""
        for chunk in stream:
            *whole, rest = (rest + chunk).split(b"\n")
            yield from whole
        if rest:
            yield rest

    def long_rows(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of a query that names thousands of ids."""
        rows: list[tuple[Any, ...]] = self._ask(lambda client: client.query(query, settings=LONG)).result_rows
        return rows

    def long_command(self, statement: str) -> None:
        """Run a statement that names thousands of ids."""
        self._ask(lambda client: client.command(statement, settings=LONG))

    def command(self, statement: str) -> None:
        """Run a statement."""
        self._ask(lambda client: client.command(statement))

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()

    def _name(self, table: Table) -> str:
        return f"{ddl.quoted(self.database)}.{ddl.quoted(table.name)}"

    def _ask(self, question: Any, error_of: Callable[[DatabaseError], Exception] = query_error) -> Any:
        try:
            if self._client is None:
                self._client = clickhouse_connect.get_client(
                    dsn=self._address, autogenerate_session_id=False, send_receive_timeout=self._patience_s, query_retries=0
                )
            return question(self._client)
        except DatabaseError as error:
            raise error_of(error) from error
        except (ClickHouseError, OSError) as error:
            raise ServerTrouble(f"ClickHouse does not answer: {type(error).__name__}") from error

    def load_container(self, table: str, columns: Sequence[str], data: bytes) -> None:
        """Insert an Avro container into a work table of ours, by its full name. Rejected, Retryable."""
        self._insert(table, columns, data, {"async_insert": "0"})

    def inserts_running(self, token_start: str) -> list[str]:
        """De-duplication tokens that begin so of the inserts that run now."""
        query = (
            "SELECT Settings['insert_deduplication_token'] AS token FROM system.processes "  # noqa: S608 - a token of our own
            f"WHERE startsWith(token, '{token_start}')"
        )
        return [str(token) for (token,) in self.rows(query)]


def _erased(table: Table, source: TopicPartition) -> str:
    # Places that were taken down before topics had ids here are of the first topic: none of its rows must come back.
    return f"table_name = '{table.name}' AND _topic_id IN ('{source.topic_id}', '') AND _partition = {source.partition}"
