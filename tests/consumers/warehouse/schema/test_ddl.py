"""Tables of contracts."""

from pathlib import Path

import pytest

from consumers.warehouse.schema import ddl
from consumers.warehouse.schema.tables import TABLES
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
        ({"type": "array", "items": {"type": "map", "values": "string"}}, "Array(Map(LowCardinality(String), String))"),
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
    """Types that ClickHouse's reader cannot fill are refused before a table exists."""
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
    """A full table lacks nothing; a field without a column is missing."""
    contract, table = Registry(contracts_dir).latest("stream.counts"), TABLES["stream.counts"]
    assert ddl.missing_columns(contract, [*contract.names, "_offset"]) == []
    assert ddl.missing_columns(contract, set(contract.names) - {"n"}) == ["`n` Int64"]
    assert ddl.add_columns(table, ["`n` Int64"], "d`b") == (
        "ALTER TABLE `d\\`b`.`volume_1m` ADD COLUMN IF NOT EXISTS `n` Int64"
    )


def column(kind: str, default_kind: str = "") -> dict[str, ddl.TableColumn]:
    """A table with this type in the column `n`."""
    return {"n": ddl.TableColumn(kind, default_kind)}


@pytest.mark.parametrize("kind", ["Int64", "LowCardinality(Int64)", "Nullable(Int64)", "LowCardinality(Nullable(Int64))"])
def test_columns_that_hold_a_contracts_values_fit(kind: str, contracts_dir: Path) -> None:
    """A column may be wider or stored differently."""
    contract = Registry(contracts_dir).latest("stream.counts")
    assert ddl.unfit_columns(contract, column(kind)) == []


@pytest.mark.parametrize("kind", ["String", "Int32", "UInt64", "Float64", "DateTime64(3, 'UTC')", "Array(Int64)"])
def test_a_column_of_another_type_is_named_with_both_types(kind: str, contracts_dir: Path) -> None:
    """The message includes the statement that repairs it."""
    contract = Registry(contracts_dir).latest("stream.counts")
    (wrong,) = ddl.unfit_columns(contract, column(kind))
    assert f"column n is {kind}, the contract needs Int64" in wrong
    assert "MODIFY COLUMN n Int64" in wrong


def test_a_computed_column_cannot_take_a_contracts_values(contracts_dir: Path) -> None:
    """An ALIAS or MATERIALIZED column of that name is reported."""
    contract = Registry(contracts_dir).latest("stream.counts")
    (wrong,) = ddl.unfit_columns(contract, column("Int64", "MATERIALIZED"))
    assert "column n is MATERIALIZED" in wrong


def test_place_columns_of_an_older_table_say_which_topic_its_rows_are_of() -> None:
    """Rows of an older table get the id of the present topic."""
    assert ddl.missing_place_columns(ddl.PLACE, "abc") == []
    assert ddl.missing_place_columns({"_partition", "_offset"}, "abc") == [
        "`_topic_id` LowCardinality(String) DEFAULT 'abc'",
        "`_loaded_at` DateTime64(3, 'UTC')",
    ]
    with pytest.raises(ValueError, match="topic id"):
        ddl.missing_place_columns((), "a'b")
