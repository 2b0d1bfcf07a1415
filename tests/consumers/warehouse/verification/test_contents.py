"""Equal values have equal hashes: NULL, NaN, maps, arrays, arrays of maps, widened columns."""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from consumers.warehouse.loader.container import Container
from consumers.warehouse.schema import ddl
from consumers.warehouse.schema.tables import Table
from consumers.warehouse.store import Store
from consumers.warehouse.topic_partition import TopicPartition
from consumers.warehouse.verification.contents import Contents
from consumers.warehouse.verification.record_source import Slice
from infra.settings import PACKAGED_CONTRACTS
from schemas.codec import encode
from schemas.registry import Contract, Registry, lock
from tests.consumers.warehouse.merge_history import History

TABLE = Table("privacy.acks", "odd", "done_ts", "room", 400)
SOURCE = TopicPartition("privacy.acks", 0, "an-id")
ODD: tuple[dict[str, Any], ...] = (
    {"name": "maybe", "type": ["null", "long"], "default": None},
    {"name": "ratio", "type": "double", "default": 0.0},
    {"name": "pairs", "type": {"type": "map", "values": "string"}, "default": {}},
    {"name": "several", "type": {"type": "array", "items": "string"}, "default": []},
    {"name": "small", "type": "int", "default": 0},
    {"name": "lines", "type": {"type": "array", "items": {"type": "map", "values": "string"}}, "default": []},
)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A contract with one field of each kind that could hash differently."""
    folder: Path = tmp_path_factory.mktemp("contracts")
    for file in [*PACKAGED_CONTRACTS.glob("*.avsc"), *PACKAGED_CONTRACTS.glob("*.json")]:
        shutil.copy(file, folder)
    file = folder / "privacy.acks.avsc"
    schema = json.loads(file.read_text())
    schema["fields"] += [{**field, "doc": "Odd."} for field in ODD]
    file.write_text(json.dumps(schema))
    lock(folder)
    return Registry(folder)


def records(contract: Contract) -> list[bytes]:
    """Rows with the odd values."""
    base = {f["name"]: {"string": "x", "long": 1_800_000_000_000}.get(f["type"] if isinstance(f["type"], str) else "long", 0)
            for f in contract.schema["fields"] if "default" not in f}  # fmt: skip
    odd: list[dict[str, Any]] = [
        {"maybe": None, "ratio": float("nan")},
        {"maybe": 0, "ratio": float("-inf"), "pairs": {"b": "1", "a": "2"}},
        {"maybe": -5, "ratio": -0.0, "pairs": {"a": "2", "b": "1"}, "several": ["", "x"]},
        {"maybe": None, "several": ["", "", "\x00"], "small": -1, "lines": [{}, {"a": "1", "b": ""}]},
    ]
    return [encode(contract, {**base, **values}) for values in odd]


class FilledTable(NamedTuple):
    """A table with the odd rows, and what compares them."""

    store: Store
    contents: Contents
    contract: Contract
    piece: Slice


@pytest.fixture
def filled(history: History, registry: Registry) -> FilledTable:
    """A table with those rows, inserted as the loader inserts."""
    contract, store = registry.latest("privacy.acks"), history.store
    store.command("DROP TABLE IF EXISTS headwater.odd SYNC")
    store.command(ddl.create_table(contract, TABLE))
    values = records(contract)
    container = Container(contract)
    store.insert(TABLE, container.columns, container.pack(SOURCE, 1_800_000_000_000, enumerate(values)), "token")
    return FilledTable(
        store, Contents(store, registry, TABLE), contract, Slice(0, len(values), list(range(len(values))), values)
    )


def test_equal_rows_are_equal(filled: FilledTable) -> None:
    """Also after a merge, and in a column that was widened."""
    store, contents, contract, piece = filled
    positions = range(len(piece.values))
    assert contents.equal(SOURCE, piece, contract, positions)
    changes = "MODIFY COLUMN small Int64, ADD COLUMN mine String DEFAULT 'x', MODIFY COLUMN ratio Nullable(Float64)"
    store.command(f"ALTER TABLE headwater.odd {changes}")
    store.command("OPTIMIZE TABLE headwater.odd FINAL")
    assert contents.equal(SOURCE, piece, contract, positions)
    assert contents.different(SOURCE, piece, contract, positions) == (set(), set())


@pytest.mark.parametrize(
    ("change", "condition", "offsets"),
    [
        ("maybe = 0", "_offset = 0", {0}),
        ("maybe = NULL", "_offset = 1", {1}),
        ("ratio = 0", "_offset IN (0, 2)", {0, 2}),
        ("pairs = map('a', '2', 'b', '2')", "_offset = 2", {2}),
        ("several = ['', '']", "_offset = 3", {3}),
        ("several = ['x']", "_offset = 2", {2}),
        ("lines = [map(), map('a', '1', 'b', '2')]", "_offset = 3", {3}),
        ("lines = [map('a', '1', 'b', '')]", "_offset = 3", {3}),
        ("room = 'y'", "1", {0, 1, 2, 3}),
    ],
)
def test_each_changed_value_is_seen(filled: FilledTable, change: str, condition: str, offsets: set[int]) -> None:
    """NULL against 0, a zero's sign, one entry of a map, one element of an array."""
    store, contents, contract, piece = filled
    if change.startswith("room"):
        # What rows are sorted by cannot be updated: the rows are written anew.
        store.command("CREATE TABLE headwater.copy AS headwater.odd")
        store.command("INSERT INTO headwater.copy SELECT * REPLACE ('y' AS room) FROM headwater.odd")
        store.command("EXCHANGE TABLES headwater.copy AND headwater.odd")
        store.command("DROP TABLE headwater.copy SYNC")
    else:
        store.command(f"ALTER TABLE headwater.odd UPDATE {change} WHERE {condition} SETTINGS mutations_sync = 1")
    positions = range(len(piece.values))
    assert not contents.equal(SOURCE, piece, contract, positions)
    assert contents.different(SOURCE, piece, contract, positions) == (offsets, set())
