"""The warehouse's access to ClickHouse: inserts under a token, presence of offsets, running inserts, queries and statements."""

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
from infra.clients.clickhouse import client_options
from infra.errors import ConfigError, Retryable
from infra.settings import Settings
from schemas.registry import Contract

INSERT_S = 60
"""Default timeout of a request, seconds."""
COLUMNS_S = 60
"""How long the columns of a table are trusted before they are looked up again, seconds."""
SEARCH_S = 3_600
"""Timeout of queries and deletions that read whole tables, seconds."""
LONG = {"max_query_size": 16 * 1024 * 1024}
"""Settings of statements that list thousands of ids."""


class Store:
    """One connection to the warehouse database. A request of more than `patience_s` seconds fails with ServerTrouble."""

    def __init__(self, settings: Settings, patience_s: float = INSERT_S) -> None:
        # Its log lines about a refused connection repeat what the exception says.
        logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)
        self.database = settings.clickhouse_database
        self._address = settings.clickhouse
        self._patience_s = patience_s
        self._client: Any = None
        self._checked: dict[tuple[str, int], float] = {}
        """(table, contract id) -> when its columns were last checked, monotonic seconds."""

    def insert(self, table: Table, columns: Sequence[str], data: bytes, token: str) -> None:
        """Insert an Avro container under a de-duplication token.

        RowsRejected: nothing was written. Retryable: some or all of it may have been written.
        """
        settings = {
            "insert_deduplication_token": token,
            "insert_deduplicate": "1",
            "async_insert": "0",
            "max_partitions_per_insert_block": "1000",
            # A user's view that fails must not fail the insert; `verification/view_checks.py` reports it.
            "materialized_views_ignore_errors": "1",
        }
        self._insert(self._name(table), columns, data, settings)

    def try_read(self, contract: Contract, columns: Sequence[str], data: bytes) -> None:
        """Read and convert an Avro container as an insert would, and discard it. RowsRejected, Retryable."""
        structure = ", ".join([*ddl.PLACE_TYPES, *ddl.columns(contract).values()]).replace("\\", "\\\\").replace("'", "\\'")
        target = f"FUNCTION null('{structure}')"
        self._insert(target, columns, data, {"async_insert": "0"})

    def _insert(self, target: str, columns: Sequence[str], data: bytes, settings: Mapping[str, str]) -> None:
        self._call(
            lambda client: client.raw_insert(target, list(columns), data, settings=dict(settings), fmt="Avro"), insert_error
        )

    def count(self, table: Table, source: TopicPartition, first: int, last: int) -> int:
        """Number of rows of offsets `first` to `last` (both included). Retryable."""
        query = f"SELECT count() FROM {self._name(table)} WHERE {source.condition} AND _offset BETWEEN {first} AND {last}"  # noqa: S608 - ours
        return int(self.rows(query)[0][0])

    def present(self, table: Table, source: TopicPartition, first: int, last: int) -> set[int]:
        """Offsets from `first` to `last` (both included) that have a row. Retryable."""
        query = f"SELECT _offset FROM {self._name(table)} WHERE {source.condition} AND _offset BETWEEN {first} AND {last}"  # noqa: S608 - ours
        return {row[0] for row in self.rows(query)}

    def erased(self, table: Table, source: TopicPartition, first: int, last: int) -> set[int]:
        """Offsets from `first` to `last` (both included) whose row was erased. Retryable."""
        query = (
            f"SELECT _offset FROM {ddl.quoted(self.database)}.erased_rows WHERE {_erased_condition(table, source)} "  # noqa: S608 - ours
            f"AND _offset BETWEEN {first} AND {last}"
        )
        return {row[0] for row in self.rows(query)}

    def highest(self, table: Table, source: TopicPartition) -> int:
        """The highest offset of a partition that has a row or had one that was erased; -1 for none. Retryable."""
        query = (
            f"SELECT max(_offset), count() FROM {self._name(table)} WHERE {source.condition} UNION ALL "  # noqa: S608 - ours
            f"SELECT max(_offset), count() FROM {ddl.quoted(self.database)}.erased_rows "
            f"WHERE {_erased_condition(table, source)}"
        )
        return max((int(highest) for highest, n in self.rows(query) if n), default=-1)

    def refuse_running_insert(self, token_start: str) -> None:
        """Raise Retryable while an insert whose token starts with `token_start` runs: a predecessor's may not have ended."""
        query = (
            f"SELECT count() FROM system.processes WHERE startsWith(Settings['insert_deduplication_token'], '{token_start}')"  # noqa: S608 - a token of our own
        )
        if self.rows(query)[0][0]:
            raise Retryable("an earlier insert of the same rows still runs", "clickhouse")

    def ensure_columns(self, table: Table, contract: Contract, topic_id: str) -> bool:
        """Add the columns that the table lacks for this version of the contract; return whether any were added.

        TableTrouble where a column cannot hold the contract's values. A result is trusted for `COLUMNS_S`, because somebody may
        alter the table meanwhile.
        """
        if self._checked.get((table.name, contract.id), -COLUMNS_S) > time.monotonic() - COLUMNS_S:
            return False
        existing = self._table_columns(table)
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

    def forget_columns(self, table: Table) -> None:
        """Check the table's columns again before the next insert. For a failed insert: the table may have changed."""
        for key in list(self._checked):
            if key[0] == table.name:
                self._checked.pop(key, None)

    def _table_columns(self, table: Table) -> dict[str, ddl.TableColumn]:
        query = (
            "SELECT name, type, default_kind FROM system.columns "  # noqa: S608 - ours
            f"WHERE database = '{self.database}' AND table = '{table.name}'"
        )
        existing = {name: ddl.TableColumn(kind, default) for name, kind, default in self.rows(query)}
        if not existing:
            raise TableTrouble(f"there is no table {self.database}.{table.name}: run `headwater warehouse migrate`")
        return existing

    def rows(self, query: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """The rows of a query. Retryable."""
        rows: list[tuple[Any, ...]] = self._call(lambda client: client.query(query, parameters=parameters)).result_rows
        return rows

    def stream_json(self, query: str) -> Iterator[bytes]:
        """The rows of a query as JSON, streamed, one line a row. Retryable."""
        stream = self._call(lambda client: client.raw_stream(query, fmt="JSONEachRow", settings=LONG))
        rest = b""
        for chunk in stream:
            *whole, rest = (rest + chunk).split(b"\n")
            yield from whole
        if rest:
            yield rest

    def long_rows(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of a query that lists thousands of ids. Retryable."""
        rows: list[tuple[Any, ...]] = self._call(lambda client: client.query(query, settings=LONG)).result_rows
        return rows

    def long_command(self, statement: str) -> None:
        """Run a statement that lists thousands of ids. Retryable."""
        self._call(lambda client: client.command(statement, settings=LONG))

    def command(self, statement: str) -> None:
        """Run a statement. Retryable."""
        self._call(lambda client: client.command(statement))

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()

    def _name(self, table: Table) -> str:
        return f"{ddl.quoted(self.database)}.{ddl.quoted(table.name)}"

    def _call(self, request: Any, error_of: Callable[[DatabaseError], Exception] = query_error) -> Any:
        try:
            if self._client is None:
                self._client = clickhouse_connect.get_client(
                    **client_options(self._address),
                    autogenerate_session_id=False,
                    send_receive_timeout=self._patience_s,
                    query_retries=0,
                )
            return request(self._client)
        except DatabaseError as error:
            raise error_of(error) from error
        except (ClickHouseError, OSError) as error:
            raise ServerTrouble(f"ClickHouse does not answer: {type(error).__name__}") from error

    def load_container(self, table: str, columns: Sequence[str], data: bytes) -> None:
        """Insert an Avro container into a work table, given by its full name. RowsRejected, Retryable."""
        self._insert(table, columns, data, {"async_insert": "0"})

    def inserts_running(self, token_start: str) -> list[str]:
        """De-duplication tokens of running inserts that start with `token_start`. Retryable."""
        query = (
            "SELECT Settings['insert_deduplication_token'] AS token FROM system.processes "  # noqa: S608 - a token of our own
            f"WHERE startsWith(token, '{token_start}')"
        )
        return [str(token) for (token,) in self.rows(query)]


def _erased_condition(table: Table, source: TopicPartition) -> str:
    # Positions without a topic id were written by older versions and belong to the first topic of this name.
    return f"table_name = '{table.name}' AND _topic_id IN ('{source.topic_id}', '') AND _partition = {source.partition}"
