"""Avro containers around undecoded datums."""

from io import BytesIO
from pathlib import Path

import pytest
from fastavro import reader
from hypothesis import given
from hypothesis import strategies as st

from consumers.warehouse.loader.container import Container
from consumers.warehouse.topic_partition import TopicPartition
from schemas.fast.primitives import long_bytes
from schemas.registry import Registry
from tests.consumers.warehouse.plant import event

SOURCE = TopicPartition("events.resolved", 3, "AAAAAAAAQACAAAAAAAAAAA")


@given(st.integers(min_value=-(2**63), max_value=2**63 - 1))
def test_varints_are_avros_longs(number: int) -> None:
    """Every 64-bit integer is encoded as fastavro encodes it."""
    from fastavro import schemaless_writer

    out = BytesIO()
    schemaless_writer(out, "long", number)
    assert long_bytes(number) == out.getvalue()


def test_a_container_holds_each_row_with_its_place(contracts_dir: Path) -> None:
    """fastavro reads back the records, the partition and the offsets."""
    contract = Registry(contracts_dir).latest("events.resolved")
    file = Container(contract).pack(
        SOURCE, 1_700_000_000_123, [(offset, event(contract, offset)) for offset in (5, 9, 10_000_000_000)]
    )
    rows = list(reader(BytesIO(file)))
    assert [(row["_partition"], row["_offset"], row["event_id"]) for row in rows] == [
        (3, 5, "event-5"),
        (3, 9, "event-9"),
        (3, 10_000_000_000, "event-10000000000"),
    ]
    assert {row["_topic_id"] for row in rows} == {SOURCE.topic_id}
    assert {round(row["_loaded_at"].timestamp() * 1000) for row in rows} == {1_700_000_000_123}


def test_each_row_is_a_block_of_its_own(contracts_dir: Path) -> None:
    """A row that ends early fails in its own block instead of running into the next."""
    contract = Registry(contracts_dir).latest("events.resolved")
    good = event(contract, 1)
    rows = Container(contract).pack(SOURCE, 0, [(0, good), (1, good[:-3]), (2, good)])
    datums = reader(BytesIO(rows))
    assert next(datums)["_offset"] == 0
    with pytest.raises((ValueError, EOFError)):
        next(datums)
