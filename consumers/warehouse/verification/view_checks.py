"""Finds users' materialised views that fail.

The loader's inserts ignore errors of views, so a failing view misses rows silently. A check runs the view's SELECT over the
newest rows, with the types of its target, and discards the result: what fails here fails in inserts.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from clickhouse_connect.driver.exceptions import DatabaseError

from consumers.warehouse.errors import ServerTrouble
from consumers.warehouse.schema import ddl
from consumers.warehouse.schema.tables import TABLES
from consumers.warehouse.store import Store
from infra.errors import Retryable

WINDOW_MS = 60_000
OVERLAP_MS = 5_000
"""Rows become visible a moment after their `_loaded_at`."""
CHECK_S = 20
"""Timeout of one check, seconds; a slower view counts as not checked."""
_NAME = re.compile(r"\(([A-Z][A-Z0-9_]{3,60})\)")
_TARGET = re.compile(r" TO (`(?:[^`\\]|\\.)+`|[\w]+)\.(`(?:[^`\\]|\\.)+`|[\w]+)[\s(]")


class UserView(NamedTuple):
    """A materialised view that reads one of the loader's tables."""

    database: str
    name: str
    table: str
    """The loader's table."""
    select: str
    target: tuple[str, str]
    """Database and name of the table that it fills."""

    @property
    def label(self) -> str:
        """Name in messages and metrics."""
        return f"{self.database}.{self.name}"


@dataclass
class ViewChecks:
    """Checks views, and repeats the check of a failing view with the same rows until it succeeds."""

    store: Store
    _checked_to: dict[str, int] = field(default_factory=dict)
    _failing_from: dict[str, int] = field(default_factory=dict)
    _failures: dict[str, str] = field(default_factory=dict)

    def check(self, now_ms: int) -> dict[str, str]:
        """View -> why it fails, empty where it does not. Retryable while ClickHouse is away."""
        views = user_views(self.store)
        for label in self._failing_from.keys() - {view.label for view in views}:
            del self._failing_from[label]
        outcome = {}
        for view in views:
            first = self._failing_from.get(view.label, self._checked_to.get(view.label, now_ms - WINDOW_MS))
            failing = view.label in self._failing_from
            until = first + WINDOW_MS + OVERLAP_MS if failing else now_ms
            failure = self._failure(view, first - OVERLAP_MS, until)
            if failure is None:  # ClickHouse was too busy to answer
                outcome[view.label] = self._failures.get(view.label, "")
                continue
            outcome[view.label] = self._failures[view.label] = failure
            if failure and not failing:
                self._failing_from[view.label] = first
            elif not failure:
                self._failing_from.pop(view.label, None)
                self._checked_to[view.label] = now_ms
        return outcome

    def _failure(self, view: UserView, first_ms: int, until_ms: int) -> str | None:
        columns = _target_columns(self.store, view)
        if not columns:
            return "its target is gone"
        first, until = (f"fromUnixTimestamp64Milli(toInt64({ms}))" for ms in (first_ms, until_ms))
        filtered = f"_loaded_at > {first} AND _loaded_at <= {until}"
        parts = _parts_since(self.store, view.table, first_ms)
        if not parts:
            return self._failures.get(view.label, "") if view.label in self._failing_from else ""
        filtered += f" AND _part IN ({', '.join(map(_text, parts))})"
        structure = ", ".join(f"{ddl.quoted(name)} {kind}" for name, kind in columns.items())
        filters = f"{{{_text(f'{self.store.database}.{view.table}')}: {_text(filtered)}}}"
        try:
            names = self._output(view, columns)
            listed = ", ".join(map(ddl.quoted, names))
            self.store.command(
                f"INSERT INTO FUNCTION null({_text(structure)}) ({listed}) SELECT {listed} FROM ({view.select}) "  # noqa: S608 - the user's own SELECT
                f"SETTINGS additional_table_filters = {filters}, max_execution_time = {CHECK_S}, max_threads = 1"
            )
        except ServerTrouble:
            return None
        except Retryable as error:
            return _label(error)
        return ""

    def _output(self, view: UserView, columns: Mapping[str, str]) -> list[str]:
        """Columns of the SELECT that the target has too: a view fills columns by name, the others get their defaults."""
        described = self.store.rows(f"DESCRIBE ({view.select})")
        return [str(row[0]) for row in described if row[0] in columns]


def user_views(store: Store) -> list[UserView]:
    """Every materialised view that reads one of the loader's tables. Retryable."""
    names = ", ".join(_text(table.name) for table in TABLES.values())
    query = (
        "SELECT t.name, v.database, v.name, v.as_select, v.create_table_query, toString(v.uuid) "  # noqa: S608 - ours
        "FROM (SELECT name, arrayJoin(arrayZip(dependencies_database, dependencies_table)) AS dependency FROM system.tables "
        f"WHERE database = {_text(store.database)} AND name IN ({names})) AS t "
        "INNER JOIN (SELECT * FROM system.tables WHERE engine = 'MaterializedView') AS v "
        "ON v.database = t.dependency.1 AND v.name = t.dependency.2 ORDER BY v.database, v.name"
    )
    return [
        UserView(str(database), str(name), str(table), str(select), _target(str(database), str(name), str(create), str(uuid)))
        for table, database, name, select, create, uuid in store.rows(query)
    ]


def _target(database: str, name: str, create: str, uuid: str) -> tuple[str, str]:
    if to := _TARGET.search(create.split(" AS SELECT", 1)[0] + " "):
        return to[1].strip("`"), to[2].strip("`")
    inner = f".inner.{name}" if uuid == "00000000-0000-0000-0000-000000000000" else f".inner_id.{uuid}"
    return database, inner


def _target_columns(store: Store, view: UserView) -> dict[str, str]:
    database, name = view.target
    query = (
        f"SELECT name, type FROM system.columns WHERE database = {_text(database)} AND table = {_text(name)} "  # noqa: S608 - escaped
        "AND default_kind IN ('', 'DEFAULT')"
    )
    return {str(column): str(kind) for column, kind in store.rows(query)}


def _parts_since(store: Store, table: str, first_ms: int) -> list[str]:
    """Parts that were written since `first_ms`: only they can hold newer rows."""
    query = (
        "SELECT name FROM system.parts "  # noqa: S608 - ours
        f"WHERE database = {_text(store.database)} AND table = {_text(table)} AND active "
        f"AND modification_time >= toDateTime({first_ms // 1000 - 1})"
    )
    return [str(name) for (name,) in store.rows(query)]


def _label(error: Retryable) -> str:
    """Code and name of an error, without its text, which may quote values of rows."""
    cause = error.__cause__
    code = getattr(cause, "code", None) if isinstance(cause, DatabaseError) else None
    name = next(iter(_NAME.findall(str(cause))[-1:]), "")
    return f"code {code} {name}".rstrip() if code is not None else "it cannot be read"


def _text(value: str) -> str:
    """A string literal in SQL."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
