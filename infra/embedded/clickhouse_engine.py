"""The ClickHouse engine in this process (chDB): one request in, one answer or one ClickHouse exception out.

Every request gets a connection of its own (0.3 ms): chDB runs connections side by side, and settings end with them.
"""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.embedded.clickhouse_sql import data_insert, named_format, refused_engine, statements

CONFIG = "<clickhouse><merge_tree><fsync_after_insert>1</fsync_after_insert></merge_tree></clickhouse>\n"
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
CODE = re.compile(r"Code: (\d+)")


class EngineError(Exception):
    """What ClickHouse said, with its code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@dataclass(frozen=True)
class Request:
    """One query. `body` follows the text of `query` as over HTTP: the rest of the query, or the data of an INSERT."""

    query: bytes
    body: bytes = b""
    default_format: str = "TabSeparated"
    database: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """The result's bytes, its format, and what goes into X-ClickHouse-Summary."""

    data: bytes
    format: str
    summary: Mapping[str, str]


class Engine:
    """One data folder, opened. Raises RuntimeError when another process has it open."""

    def __init__(self, folder: Path, memory_bytes: int) -> None:
        import chdb

        folder.mkdir(parents=True, exist_ok=True)
        config = folder.with_name(folder.name + ".xml")
        config.write_text(CONFIG)
        self._address = f"{folder}?config-file={config}&max_server_memory_usage={memory_bytes}"
        native: Any = chdb._chdb
        self._connect = native.connect  # the wrapper around it adds progress bars only
        self._open = self._connect(self._address)  # held: the engine ends with its last connection
        self.version, self.timezone = self._open.query("SELECT version(), timezone()", "TSV").bytes().decode().split()

    def close(self) -> None:
        """Close the folder; nothing may be running any more."""
        self._open.close()

    def run(self, request: Request) -> Answer:
        """Run one request; EngineError with ClickHouse's code."""
        begun = time.perf_counter_ns()
        connection = self._connect(self._address)
        try:
            self._prepare(connection, request)
            return self._execute(connection, request, begun)
        except EngineError:
            raise
        except Exception as error:
            raise self._worded(error) from None
        finally:
            connection.close()

    def _prepare(self, connection: Any, request: Request) -> None:
        settings = {"async_insert": "0", **request.settings}
        for name in settings:
            if not NAME.fullmatch(name):
                raise self._error(115, f"Unknown setting '{name}'.", "UNKNOWN_SETTING")
        connection.query("SET " + ", ".join(f"{name} = {_text(value)}" for name, value in settings.items()), "TSV")
        for name, value in request.parameters.items():
            if not NAME.fullmatch(name):
                raise self._error(62, "Bad name of a query parameter.", "SYNTAX_ERROR")
            connection.query(f"SET param_{name} = {_text(value)}", "TSV")
        if request.database:
            quoted = request.database.replace("\\", "\\\\").replace("`", "\\`")
            connection.query(f"USE `{quoted}`", "TSV")

    def _execute(self, connection: Any, request: Request, begun: int) -> Answer:
        whole = request.query + b"\n" + request.body if request.query and request.body else request.query or request.body
        insert = data_insert(whole)
        if insert is not None:
            return self._insert(connection, insert.statement, insert.format, memoryview(whole)[insert.data_at :])
        self._refuse(whole)
        text = whole.decode(errors="surrogateescape")
        result = connection.query(text, request.default_format)
        data: bytes = result.bytes()
        summary = _summary(begun, read_rows=result.rows_read(), read_bytes=result.bytes_read(), result_bytes=len(data))
        return Answer(data, named_format(whole) or request.default_format, summary)

    def _refuse(self, query: bytes) -> None:
        if statements(query) > 1:
            raise self._error(62, "Syntax error (Multi-statements are not allowed).", "SYNTAX_ERROR")
        engine = refused_engine(query)
        if engine is not None:
            raise self._error(
                344, f"Engine {engine} is refused here: in the embedded ClickHouse it would make the data unopenable.",
                "SUPPORT_IS_DISABLED",
            )  # fmt: skip

    def _insert(self, connection: Any, statement: bytes, name: str, data: memoryview) -> Answer:
        begun = time.perf_counter_ns()
        inserter = connection.send_insert(statement.decode(), name)
        try:
            connection.insert_append(inserter, bytes(data))
            result = connection.insert_done(inserter)
        except Exception:
            connection.insert_cancel(inserter)
            raise
        written = _summary(begun, written_rows=result.rows_written(), written_bytes=result.bytes_written())
        return Answer(b"", name, written)

    def _error(self, code: int, text: str, name: str) -> EngineError:
        return EngineError(code, f"Code: {code}. DB::Exception: {text} ({name}) (version {self.version})\n")

    def _worded(self, error: Exception) -> EngineError:
        text = str(error)
        found = CODE.search(text)
        code = int(found.group(1)) if found else 1002
        start = text.find("Code: ")
        # Exceptions of libraries come as `std::exception. Code: 1001, type: ...`; ClickHouse prints its code first too.
        text = text[start:] if found and f"Code: {code}." in text else f"Code: {code}. DB::Exception: {text}"
        if "(version " not in text:
            text += f" (version {self.version})"
        return EngineError(code, text.rstrip() + "\n")


def _summary(begun: int, **figures: int) -> dict[str, str]:
    zeros = dict.fromkeys(("read_rows", "read_bytes", "written_rows", "written_bytes", "total_rows_to_read", "result_rows"), 0)
    return {k: str(v) for k, v in {**zeros, **figures, "elapsed_ns": time.perf_counter_ns() - begun}.items()}


def _text(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
