"""ClickHouse as the loader sees it: insert under a token, ask which offsets are there, wait for an insert that still runs."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import clickhouse_connect
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError

from consumers.warehouse import ddl
from consumers.warehouse.tables import Table
from infra.errors import ConfigError, Halted, Retryable
from infra.settings import Settings
from schemas.registry import Contract

T = TypeVar("T")

INSERT_S = 60
SEARCH_S = 3_600
"""For questions and removals that read whole tables."""
# The data's fault: 1001 std::exception (the Avro library), 8 THERE_IS_NO_COLUMN, 33 CANNOT_READ_ALL_DATA, and conversions.
REJECTED = frozenset({6, 8, 26, 27, 32, 33, 34, 41, 53, 69, 70, 72, 117, 131, 321, 349, 1001})
# ClickHouse's own trouble, which may pass: timeouts, network, memory, too many parts or queries, read only, Keeper.
PASSING = frozenset({159, 164, 202, 203, 209, 210, 225, 236, 241, 242, 243, 252, 319, 394, 415, 439, 999})

LONG = {"max_query_size": 16 * 1024 * 1024}


class Rejected(Exception):
    """The engine could not read or convert the rows; nothing of them was written."""


class Store:
    """One connection to the warehouse database; an answer that takes longer than `patience_s` is none."""

    def __init__(self, settings: Settings, patience_s: float = INSERT_S) -> None:
        # Its own words about a refused connection say no more than our exception does.
        logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)
        self.database = settings.clickhouse_database
        self._address = settings.clickhouse
        self._patience_s = patience_s
        self._client: Any = None
        self._columns: dict[str, set[str]] = {}
        self._ready: set[tuple[str, int]] = set()

    def insert(self, table: Table, columns: Sequence[str], data: bytes, token: str) -> int:
        """Insert an Avro container; rows written. Rejected, Retryable, or Halted for an error that nobody foresaw."""
        settings = {
            "insert_deduplication_token": token,
            "insert_deduplicate": "1",
            "async_insert": "0",
            "max_partitions_per_insert_block": "1000",
        }
        summary = self._ask(
            lambda client: client.raw_insert(self._name(table), list(columns), data, settings=settings, fmt="Avro")
        )
        return int(summary.written_rows)

    def present(self, table: Table, partition: int, first: int, last: int) -> set[int]:
        """Which offsets of a range are in the table."""
        query = (
            f"SELECT _offset FROM {self._name(table)} "  # noqa: S608 - names and numbers of our own
            f"WHERE _partition = {partition} AND _offset BETWEEN {first} AND {last}"
        )
        return {row[0] for row in self.rows(query)}

    def erased(self, table: Table, partition: int, first: int, last: int) -> set[int]:
        """Which offsets of a range had a row that was erased."""
        query = (
            f"SELECT _offset FROM {ddl.quoted(self.database)}.erased_rows WHERE table_name = '{table.name}' "  # noqa: S608 - ours
            f"AND _partition = {partition} AND _offset BETWEEN {first} AND {last}"
        )
        return {row[0] for row in self.rows(query)}

    def highest(self, table: Table, partition: int) -> int:
        """The highest offset of a partition that has a row, or had one that was erased; -1 for none."""
        query = (
            f"SELECT max(_offset), count() FROM {self._name(table)} WHERE _partition = {partition} UNION ALL "  # noqa: S608 - ours
            f"SELECT max(_offset), count() FROM {ddl.quoted(self.database)}.erased_rows "
            f"WHERE table_name = '{table.name}' AND _partition = {partition}"
        )
        return max((int(found) for found, n in self.rows(query) if n), default=-1)

    def wait_for(self, token_start: str) -> None:
        """Wait until no insert whose token begins so runs any more: a predecessor's may still be on its way."""
        query = (
            f"SELECT count() FROM system.processes WHERE startsWith(Settings['insert_deduplication_token'], '{token_start}')"  # noqa: S608 - a token of our own
        )
        deadline = time.monotonic() + INSERT_S
        while self.rows(query)[0][0]:
            if time.monotonic() > deadline:
                raise Retryable("an earlier insert of the same rows still runs")
            time.sleep(0.2)

    def fit(self, table: Table, contract: Contract) -> None:
        """Add the columns that this version of the contract has and the table lacks."""
        if (table.name, contract.id) in self._ready:
            return
        missing = ddl.missing_columns(contract, self._existing(table))
        if missing:
            self.command(ddl.add_columns(table, missing, self.database))
        self._ready.add((table.name, contract.id))

    def _existing(self, table: Table) -> set[str]:
        query = f"SELECT name FROM system.columns WHERE database = '{self.database}' AND table = '{table.name}'"  # noqa: S608
        found = {row[0] for row in self.rows(query)}
        if not found:
            raise Halted(f"no table {self.database}.{table.name}: run `headwater warehouse migrate`")
        return found

    def rows(self, query: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        found: list[tuple[Any, ...]] = self._ask(lambda client: client.query(query, parameters=parameters)).result_rows
        return found

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
        found: list[tuple[Any, ...]] = self._ask(lambda client: client.query(query, settings=LONG)).result_rows
        return found

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

    def _ask(self, question: Any) -> Any:
        try:
            if self._client is None:
                self._client = clickhouse_connect.get_client(
                    dsn=self._address, autogenerate_session_id=False, send_receive_timeout=self._patience_s, query_retries=0
                )
            return question(self._client)
        except DatabaseError as error:
            raise _meaning(error) from error
        except (ClickHouseError, OSError) as error:
            raise Retryable(f"ClickHouse does not answer: {type(error).__name__}") from error


def _meaning(error: DatabaseError) -> Exception:
    code = getattr(error, "code", None)
    if code in REJECTED:
        return Rejected(f"ClickHouse code {code}")
    if code is None or code in PASSING:
        return Retryable("ClickHouse does not answer" if code is None else f"ClickHouse is in trouble: code {code}")
    if code in (192, 193, 194, 516):
        return ConfigError(
            "ClickHouse refuses user or password: set them in HEADWATER_CLICKHOUSE, http://user:password@host:8123"
        )
    return Halted(f"ClickHouse: {str(error)[:500]}")
