"""Contracts as tables."""

from pathlib import Path

import pytest

from consumers.warehouse import ddl
from consumers.warehouse.tables import TABLES
from infra.errors import ConfigError
from schemas.registry import Registry


@pytest.mark.parametrize(
    ("avro", "column"),
    [
        ("string", "String"),
        ("boolean", "Bool"),
        (["null", "long"], "Nullable(Int64)"),
        ({"type": "long", "logicalType": "timestamp-millis"}, "DateTime64(3, 'UTC')"),
        ({"type": "map", "values": "string"}, "Map(LowCardinality(String), String)"),
        ({"type": "array", "items": "double"}, "Array(Float64)"),
        ({"type": "enum", "name": "E", "symbols": ["A"]}, "LowCardinality(String)"),
    ],
)
def test_types(avro: object, column: str) -> None:
    """Each Avro type that a contract may use has its column type."""
    assert ddl.column_type(avro) == column


@pytest.mark.parametrize(
    "avro", [{"type": "fixed", "name": "f", "size": 16}, ["string", "long"], {"type": "record", "name": "R"}]
)
def test_types_without_a_column_are_refused(avro: object) -> None:
    """What ClickHouse's reader could not fill is said before there is a table."""
    with pytest.raises(ConfigError, match="no ClickHouse column"):
        ddl.column_type(avro)


@pytest.mark.parametrize("topic", TABLES)
def test_every_loaded_topic_has_a_table(topic: str, contracts_dir: Path) -> None:
    """The statement names the place columns, a window for de-duplication and only columns that the contract has."""
    contract, table = Registry(contracts_dir).latest(topic), TABLES[topic]
    statement = ddl.create_table(contract, table, "db")
    assert statement.startswith(f"CREATE TABLE IF NOT EXISTS `db`.`{table.name}` (")
    assert "`_partition` Int32" in statement
    assert "non_replicated_deduplication_window = 100000" in statement
    assert table.few_values <= set(contract.names)
    assert table.time in contract.names


def test_missing_columns_are_those_of_the_contract_without_a_column(contracts_dir: Path) -> None:
    """Nothing is missing of a full table; a field without a column is."""
    contract, table = Registry(contracts_dir).latest("stream.counts"), TABLES["stream.counts"]
    assert ddl.missing_columns(contract, [*contract.names, "_offset"]) == []
    assert ddl.missing_columns(contract, set(contract.names) - {"n"}) == ["`n` Int64"]
    assert ddl.add_columns(table, ["`n` Int64"], "d`b") == (
        "ALTER TABLE `d\\`b`.`volume_1m` ADD COLUMN IF NOT EXISTS `n` Int64"
    )
