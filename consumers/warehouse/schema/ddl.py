"""ClickHouse DDL of Avro contracts: the table of a contract, and the columns that an existing table lacks. Pure."""

import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from consumers.warehouse.schema.tables import Table
from infra.errors import ConfigError
from schemas.registry import Contract

PLAIN = {
    "string": "String",
    "bytes": "String",
    "int": "Int32",
    "long": "Int64",
    "boolean": "Bool",
    "float": "Float32",
    "double": "Float64",
}
LOGICAL = {"timestamp-millis": "DateTime64(3, 'UTC')", "timestamp-micros": "DateTime64(6, 'UTC')", "date": "Date32"}

# Where a row came from, and when it was loaded. The minmax index lets a presence check of a range skip most granules.
PLACE = {
    "_topic_id": "LowCardinality(String)",
    "_partition": "Int32",
    "_offset": "Int64",
    "_loaded_at": "DateTime64(3, 'UTC')",
}
PLACE_TYPES = tuple(f"`{name}` {kind}" for name, kind in PLACE.items())
PLACE_CODECS = {"_partition": " CODEC(Delta, ZSTD)", "_offset": " CODEC(Delta, ZSTD)", "_loaded_at": " CODEC(Delta, ZSTD)"}
DEDUPLICATION_WINDOW = 100_000
"""Inserts whose tokens a table remembers."""


class TableColumn(NamedTuple):
    """A column of a table as ClickHouse describes it."""

    kind: str
    default_kind: str
    """Empty, DEFAULT, MATERIALIZED, EPHEMERAL or ALIAS."""


def column_type(avro: Any) -> str:
    """The ClickHouse type of an Avro type. ConfigError for a type that ClickHouse's Avro reader cannot fill."""
    if isinstance(avro, str) and avro in PLAIN:
        return PLAIN[avro]
    if isinstance(avro, list):
        others = [branch for branch in avro if branch != "null"]
        if len(others) == 1 and isinstance(others[0], str | dict) and "null" in avro:
            inner = column_type(others[0])
            if not inner.startswith(("Map", "Array")):
                return f"Nullable({inner})"
    if isinstance(avro, dict):
        if avro.get("logicalType") in LOGICAL:
            return LOGICAL[avro["logicalType"]]
        if avro["type"] == "map":
            return f"Map(LowCardinality(String), {column_type(avro['values'])})"
        if avro["type"] == "array":
            return f"Array({column_type(avro['items'])})"
        if avro["type"] == "enum":
            return "LowCardinality(String)"
        if isinstance(avro["type"], str) and avro["type"] in PLAIN:
            return PLAIN[avro["type"]]
    raise ConfigError(
        f"no ClickHouse column for the Avro type {str(avro)[:100]}: use a plain type, a map, an array or [null, x]"
    )


def columns(contract: Contract, few_values: Collection[str] = ()) -> dict[str, str]:
    """Column definitions (`name` type) of a contract's fields, by name."""
    defined = {}
    for field in contract.schema["fields"]:
        kind = column_type(field["type"])
        if kind == "String" and field["name"] in few_values:
            kind = "LowCardinality(String)"
        defined[field["name"]] = f"{quoted(field['name'])} {kind}"
    return defined


def create_table(contract: Contract, table: Table, database: str = "headwater") -> str:
    """The statement that creates a table for this version of the contract."""
    lines = ",\n    ".join(
        [
            *_place(),
            *columns(contract, table.few_values).values(),
            "INDEX place (_partition, _offset) TYPE minmax GRANULARITY 1",
        ]
    )
    return (
        f"CREATE TABLE IF NOT EXISTS {quoted(database)}.{quoted(table.name)} (\n    {lines}\n)\n"
        f"ENGINE = MergeTree\nPARTITION BY toYYYYMM({table.time})\nORDER BY ({table.order_by})\n"
        f"TTL toDateTime({table.time}) + INTERVAL {table.keep_days} DAY\n"
        f"SETTINGS non_replicated_deduplication_window = {DEDUPLICATION_WINDOW}, fsync_after_insert = 1, "
        # Small parts have one file instead of two a column, so there are fewer files to sync.
        "min_bytes_for_wide_part = 67108864"
    )


def _place() -> list[str]:
    return [f"`{name}` {kind}{PLACE_CODECS.get(name, '')}" for name, kind in PLACE.items()]


def missing_place_columns(existing: Collection[str], topic_id: str) -> list[str]:
    """Definitions of the place columns that a table of an older version lacks; its rows get `topic_id`. ValueError."""
    if not re.fullmatch(r"[^'\\]+", topic_id):
        raise ValueError(f"not a topic id: {topic_id!r}")
    defaults = {"_topic_id": f" DEFAULT '{topic_id}'"}
    return [f"`{name}` {kind}{defaults.get(name, '')}" for name, kind in PLACE.items() if name not in existing]


def unfit_columns(contract: Contract, existing: Mapping[str, TableColumn]) -> list[str]:
    """Messages about columns that cannot hold the values of the contract's fields, each with the statement that repairs it."""
    wrong = []
    for field in contract.schema["fields"]:
        column, needed = existing.get(field["name"]), column_type(field["type"])
        if column is None:
            continue
        if column.default_kind not in ("", "DEFAULT"):
            wrong.append(f"column {field['name']} is {column.default_kind}, so nothing can be inserted into it: rename it")
        elif not _holds(column.kind, needed):
            wrong.append(
                f"column {field['name']} is {column.kind}, the contract needs {needed}: "
                f"ALTER TABLE ... MODIFY COLUMN {field['name']} {needed}"
            )
    return wrong


WIDER = {"Int32": {"Int64", "Float64"}, "Float32": {"Float64"}}
_TIME = re.compile(r"DateTime64\((\d)")


def _holds(kind: str, needed: str) -> bool:
    """Whether every value of a type can be stored in a column of another without loss."""
    kind, needed = _plain(kind), _plain(needed)
    if needed.startswith("Nullable("):
        return kind.startswith("Nullable(") and _holds(kind[9:-1], needed[9:-1])
    if kind.startswith("Nullable("):
        return _holds(kind[9:-1], needed)
    times = _TIME.match(kind), _TIME.match(needed)
    if times[0] and times[1]:
        return times[0].group(1) >= times[1].group(1)
    return kind == needed or kind in WIDER.get(needed, ())


def _plain(kind: str) -> str:
    """A type without LowCardinality, which changes only how values are stored."""
    while "LowCardinality(" in kind:
        start = kind.index("LowCardinality(")
        depth, at = 1, start + len("LowCardinality(")
        while depth:
            depth += {"(": 1, ")": -1}.get(kind[at], 0)
            at += 1
        kind = kind[:start] + kind[start + len("LowCardinality(") : at - 1] + kind[at:]
    return kind


def missing_columns(contract: Contract, existing: Collection[str]) -> list[str]:
    """Definitions of the contract's fields that have no column yet."""
    return [definition for name, definition in columns(contract).items() if name not in existing]


def add_columns(table: Table, definitions: Collection[str], database: str = "headwater") -> str:
    """The statement that adds columns; columns that exist by then are skipped."""
    added = ", ".join(f"ADD COLUMN IF NOT EXISTS {definition}" for definition in definitions)
    return f"ALTER TABLE {quoted(database)}.{quoted(table.name)} {added}"


def quoted(name: str) -> str:
    """An identifier in backticks."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"
