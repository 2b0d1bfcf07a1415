"""The ClickHouse engine in this process (chDB): runs statements and returns results or ClickHouse exceptions.

Every statement gets its own connection (0.3 ms): chDB runs connections in parallel, and role and settings end with them. The
engine reads the data of an INSERT from a memory file (FROM INFILE), because its streaming insert reports success for errors
after parsing. Results of a SELECT go through a pipe (INTO OUTFILE), so that the client's speed limits the query.
"""

import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from infra.ops.embedded.servers.clickhouse import access, gate
from infra.ops.embedded.servers.clickhouse.access import User
from infra.ops.embedded.servers.clickhouse.errors import EngineError, clickhouse_error, engine_error
from infra.ops.embedded.servers.clickhouse.sql import DataInsert, begins_with, calls_input, count_statements, output_clause

KEEP_FREE_BYTES = 64 * 1024 * 1024
"""Free disk space that no new part may reduce: chDB 26.9 treats a part as written even if its last bytes met a full disk."""
METADATA_FREE_BYTES = 16 * 1024 * 1024
"""Free disk space below which no statement may rewrite a table's definition, which could end up empty."""
DEFINING = (b"CREATE", b"ALTER", b"ATTACH", b"DETACH", b"RENAME", b"EXCHANGE", b"REPLACE", b"UNDROP")
CONFIG = (
    "<clickhouse><merge_tree><fsync_after_insert>1</fsync_after_insert></merge_tree>"
    "<storage_configuration><disks><default><keep_free_space_bytes>{keep_free}</keep_free_space_bytes></default></disks>"
    "</storage_configuration><users_config>{users}</users_config></clickhouse>\n"
)
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
FD_FOLDER = "/proc/self/fd" if Path("/proc/self/fd").exists() else "/dev/fd"
PIPE_BYTES = 1024 * 1024
KILL_AGAIN_S = 0.2
OTHER_RESULT_BYTES = 64 * 1024 * 1024
"""Maximum size of results that are not streamed: SHOW, DESCRIBE, EXPLAIN and the like."""
# Settings that the endpoint sets itself and ignores in requests.
ENDPOINTS = frozenset({"async_insert", "log_comment"})
# Small blocks formatted one at a time bound the memory of results with wide rows: 1 GB of rows of 1 KB took 276 MB of process
# memory instead of 1,070, at the price of a fifth of the speed of parallel formatting.
STREAM = {
    "max_block_size": "8192",
    "output_format_parallel_formatting": "0",
    "output_format_parquet_row_group_size_bytes": "16777216",
    "output_format_parquet_row_group_size": "65536",
    "output_format_orc_row_index_stride": "10000",
}


@dataclass(frozen=True)
class UserStatement:
    """A user's statement with its settings.

    Attributes:
        text: the statement, without the data of an INSERT.
        insert: offsets within an INSERT with data; None for every other statement.
    """

    text: bytes
    user: User
    slots: int = 1
    default_format: str = "TabSeparated"
    database: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    readonly: bool = False
    insert: DataInsert | None = None


@dataclass(frozen=True)
class BufferedResult:
    """A result that was not streamed, with its format and the fields of X-ClickHouse-Summary."""

    data: bytes
    format: str
    summary: Mapping[str, str]


class Engine:
    """One data folder, opened. Raises RuntimeError when another process has it open."""

    def __init__(self, folder: Path, memory_bytes: int) -> None:
        import chdb

        folder.mkdir(parents=True, exist_ok=True)
        config, users = folder.with_name(folder.name + ".xml"), folder.with_name(folder.name + ".users.xml")
        users.write_text(access.users_xml(memory_bytes))
        config.write_text(CONFIG.format(users=escape(str(users)), keep_free=KEEP_FREE_BYTES))
        self.memory_bytes = memory_bytes
        self._folder = folder
        self._address = f"{folder}?config-file={config}&max_server_memory_usage={memory_bytes}"
        native: Any = chdb._chdb
        self._connect = native.connect  # chdb's own wrapper only adds progress bars
        self._open = self._connect(self._address)  # kept open: the engine ends with its last connection
        self._control = threading.Lock()
        self._unwrap_default()
        self.version, self.timezone = self._lines("SELECT version(), timezone()")[0]
        self.formats = {name.lower(): kind for name, kind in self._lines("SELECT name, content_type FROM system.formats")}
        self._table_functions = frozenset(name.lower() for (name,) in self._lines("SELECT name FROM system.table_functions"))

    def close(self) -> None:
        """Close the engine. No query may be running."""
        self._open.close()

    def check(self, statement: UserStatement) -> None:
        """Raise EngineError for a refused statement."""
        text = statement.text
        if statement.default_format.lower() not in self.formats:  # it becomes part of the statement
            raise clickhouse_error(73, f"Unknown format {statement.default_format[:40]}.", "UNKNOWN_FORMAT")
        if shutil.disk_usage(self._folder).free < METADATA_FREE_BYTES and any(begins_with(text, word) for word in DEFINING):
            raise clickhouse_error(243, "The disk is nearly full: tables cannot be created or altered.", "NOT_ENOUGH_SPACE")
        if count_statements(text) > 1:
            raise clickhouse_error(62, "Syntax error (Multi-statements are not allowed).", "SYNTAX_ERROR")
        error = gate.refusal(text, self._table_functions)
        if error is not None:
            raise error
        if statement.readonly and begins_with(text, b"KILL"):  # the engine has one user, to whom every query belongs
            raise clickhouse_error(164, "Cannot execute query in readonly mode.", "READONLY")
        if statement.insert is None and calls_input(text):
            raise structure_error()

    def _lines(self, query: str) -> list[list[str]]:
        return [line.split("\t") for line in self._open.query(query, "TSV").bytes().decode().splitlines()]

    def _unwrap_default(self) -> None:
        """Remove chDB's overlay from the database `default`: in it a table's name could be a file's path."""
        engine, identifier = self._lines("SELECT engine, uuid FROM system.databases WHERE name = 'default'")[0]
        if engine == "Overlay":
            self._open.query("DETACH DATABASE default", "TSV")
            self._open.query(f"ATTACH DATABASE default UUID '{identifier}' ENGINE = Atomic", "TSV")

    def connect(self) -> Any:
        """Open a connection."""
        return self._connect(self._address)

    def kill(self, mark: str) -> None:
        """Tell the engine to stop the query whose `log_comment` starts with this mark, if it runs."""
        with self._control, suppress(RuntimeError):
            self._open.query(f"KILL QUERY WHERE startsWith(Settings['log_comment'], '{mark}') ASYNC", "TSV")


class Execution:
    """One run of one statement in a thread; `cancel` may be called from any other thread."""

    def __init__(self, engine: Engine, statement: UserStatement) -> None:
        self._engine = engine
        self.statement = statement
        # chDB chooses the query's id itself, so this mark identifies its row in system.processes.
        self._mark = uuid.uuid4().hex
        self._ended = threading.Event()

    def _run_text(self, text: bytes, role: str, settings: Mapping[str, str], result_format: str = "TabSeparated") -> Any:
        """Run a statement's text; return chDB's result. EngineError."""
        connection = self._engine.connect()
        try:
            connection.query(f"SET ROLE {role}", "TSV")
            self._prepare(connection, settings)
            return connection.query(text.decode(errors="surrogateescape"), result_format)
        except EngineError:
            raise
        except Exception as error:
            raise engine_error(error, self._engine.version) from None
        finally:
            self._ended.set()
            connection.close()

    def run_insert(self, data_fd: int) -> BufferedResult:
        """Run an INSERT with its data in a memory file. EngineError."""
        insert = self.statement.insert
        assert insert is not None  # noqa: S101 - the caller's promise, for mypy
        start_ns = time.perf_counter_ns()
        text = _insert_text(self.statement.text, insert, f"{FD_FOLDER}/{data_fd}")
        result = self._run_text(text, f"{self.statement.user.role}, {access.BODY_ROLE}", {})
        written = summary(start_ns, written_rows=result.rows_written(), written_bytes=result.bytes_written())
        return BufferedResult(b"", insert.format, written)

    def run_other(self) -> BufferedResult:
        """Run a statement with a small result."""
        start_ns = time.perf_counter_ns()
        statement = self.statement
        bounds = {"max_result_bytes": str(OTHER_RESULT_BYTES), "result_overflow_mode": "throw"}
        result = self._run_text(statement.text, statement.user.role, bounds, statement.default_format)
        data: bytes = result.bytes()
        figures = summary(
            start_ns, read_rows=result.rows_read(), read_bytes=result.bytes_read(), result_bytes=len(data),
            written_rows=result.rows_written(), written_bytes=result.bytes_written(),
        )  # fmt: skip
        return BufferedResult(data, self.format, figures)

    def stream(self, pipe_fd: int) -> Mapping[str, str]:
        """Run a SELECT into the writing end of a pipe, which is closed at the end; return the summary."""
        start_ns = time.perf_counter_ns()
        try:
            result = self._run_text(self._streaming_text(pipe_fd), self.statement.user.role, STREAM)
        finally:
            self._ended.set()
            os.close(pipe_fd)
        return summary(start_ns, read_rows=result.rows_read(), read_bytes=result.bytes_read())

    def _streaming_text(self, pipe_fd: int) -> bytes:
        text = self.statement.text
        clause = output_clause(text, self._engine.formats)
        outfile = f"\nINTO OUTFILE '{FD_FOLDER}/{pipe_fd}' APPEND\n".encode()
        rest = text[clause.position :] if clause.format else f"FORMAT {self.statement.default_format}".encode()
        return text[: clause.position] + outfile + rest

    @property
    def format(self) -> str:
        """The result's format."""
        return output_clause(self.statement.text, self._engine.formats).format or self.statement.default_format

    def cancel(self) -> None:
        """Stop the run and return when it has ended. Another thread must read its pipe to the end meanwhile."""
        while not self._ended.is_set():
            self._engine.kill(self._mark)
            self._ended.wait(KILL_AGAIN_S)

    def _prepare(self, connection: Any, extra: Mapping[str, str]) -> None:
        statement, user = self.statement, self.statement.user
        mark = self._mark + statement.settings.get("log_comment", "")
        # An asynchronous insert would be acknowledged before it is written, so failures would be lost.
        connection.query(f"SET async_insert = 0, log_comment = {_quote(mark)}", "TSV")
        if user.query_class is access.QueryClass.ANALYST:
            connection.query(f"SET profile = '{access.profile_name(statement.slots)}'", "TSV")
        settings = {**extra, **access.limits(user, statement.slots, self._engine.memory_bytes), **statement.settings}
        settings = {name: value for name, value in settings.items() if name not in ENDPOINTS}
        for name in settings:
            if not NAME.fullmatch(name):
                raise clickhouse_error(115, f"Unknown setting '{name}'.", "UNKNOWN_SETTING")
            if name in gate.SETTINGS:
                raise clickhouse_error(497, f"The setting {name} is refused here: limits belong to the user.", "ACCESS_DENIED")
        if settings:
            connection.query("SET " + ", ".join(f"{name} = {_quote(value)}" for name, value in settings.items()), "TSV")
        for name, value in statement.parameters.items():
            if not NAME.fullmatch(name):
                raise clickhouse_error(62, "Bad name of a query parameter.", "SYNTAX_ERROR")
            connection.query(f"SET param_{name} = {_quote(value)}", "TSV")
        if statement.database:
            quoted = statement.database.replace("\\", "\\\\").replace("`", "\\`")
            connection.query(f"USE `{quoted}`", "TSV")
        if statement.readonly and settings.get("readonly") != "1":
            connection.query("SET readonly = 2", "TSV")


def _insert_text(text: bytes, insert: DataInsert, path: str) -> bytes:
    """Return the INSERT that reads its data from a file."""
    name = insert.format.encode()
    if insert.input is None:
        head, settings = text[: insert.head], text[insert.head : insert.format_at]
        return head + f" FROM INFILE '{path}' ".encode() + settings + b" FORMAT " + name
    if not insert.structure:
        raise structure_error()
    start, end = insert.input
    call = f"file('{path}', '{insert.format}', ".encode() + insert.structure + b")"
    return text[:start] + call + text[end : insert.format_at]


def structure_error() -> EngineError:
    """Return the error for an INSERT that reads its data in an unsupported way."""
    text = "INSERT ... SELECT ... FORMAT needs exactly one input('name Type, ...') with its structure."
    return clickhouse_error(48, text, "NOT_IMPLEMENTED")


def summary(start_ns: int, **figures: int) -> dict[str, str]:
    """Return the fields of X-ClickHouse-Summary. `start_ns`: perf_counter_ns at the start."""
    zeros = dict.fromkeys(("read_rows", "read_bytes", "written_rows", "written_bytes", "total_rows_to_read", "result_rows"), 0)
    return {k: str(v) for k, v in {**zeros, **figures, "elapsed_ns": time.perf_counter_ns() - start_ns}.items()}


def _quote(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
