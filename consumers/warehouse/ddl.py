"""Avro contract -> ClickHouse DDL. Pure: what a table must look like, and what it still lacks."""

from collections.abc import Collection
from typing import Any

from consumers.warehouse.tables import Table
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

# Where a row came from. The minmax index lets a presence check of a range skip nearly everything.
PLACE = (
    "`_partition` Int32 CODEC(Delta, ZSTD)",
    "`_offset` Int64 CODEC(Delta, ZSTD)",
)
DEDUPLICATION_WINDOW = 100_000


def column_type(avro: Any) -> str:
    """The ClickHouse type of an Avro type. ConfigError for one that ClickHouse's Avro reader could not fill."""
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
        [*PLACE, *columns(contract, table.few_values).values(), "INDEX place (_partition, _offset) TYPE minmax GRANULARITY 1"]
    )
    return (
        f"CREATE TABLE IF NOT EXISTS {quoted(database)}.{quoted(table.name)} (\n    {lines}\n)\n"
        f"ENGINE = MergeTree\nPARTITION BY toYYYYMM({table.time})\nORDER BY ({table.order_by})\n"
        f"TTL toDateTime({table.time}) + INTERVAL {table.keep_days} DAY\n"
        f"SETTINGS non_replicated_deduplication_window = {DEDUPLICATION_WINDOW}, fsync_after_insert = 1, "
        # One file a part instead of two a column, until merges have made it large: that many fewer files to sync.
        "min_bytes_for_wide_part = 67108864"
    )


def missing_columns(contract: Contract, existing: Collection[str]) -> list[str]:
    """Definitions of the contract's fields for which there is no column yet."""
    return [definition for name, definition in columns(contract).items() if name not in existing]


def add_columns(table: Table, definitions: Collection[str], database: str = "headwater") -> str:
    """The statement that adds columns; without effect for those that somebody else has added meanwhile."""
    added = ", ".join(f"ADD COLUMN IF NOT EXISTS {definition}" for definition in definitions)
    return f"ALTER TABLE {quoted(database)}.{quoted(table.name)} {added}"


def quoted(name: str) -> str:
    """An identifier in backticks."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"
