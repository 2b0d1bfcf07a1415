"""Checked-in bytes of every contract version: the codec and an independent implementation write them unchanged."""

import hashlib
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from infra.settings import PACKAGED_CONTRACTS
from schemas.codec import HEADER_BYTES, HeadReader, decode, encode
from schemas.contract import Contract
from schemas.fast.flat_encoder import flat_record_encoder
from schemas.registry import Registry
from tests.infra.clients.registry_server import EmbeddedSchemaRegistry

HERE = Path(__file__).resolve().parent
REGISTRY = Registry(PACKAGED_CONTRACTS)
GOLDEN: dict[str, list[dict[str, Any]]] = json.loads((HERE / "contracts.json").read_text())


def regenerating() -> ModuleType:
    """The script in this folder, of which tests use the rule for bytes."""
    spec = importlib.util.spec_from_file_location("regenerate", HERE / "regenerate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


as_bytes = regenerating().as_bytes
CONTRACTS = pytest.mark.parametrize("contract", REGISTRY.all(), ids=lambda contract: f"{contract.topic}-v{contract.version}")


def cases(contract: Contract) -> list[tuple[dict[str, Any], bytes]]:
    """Records of one version, with the bytes they were written as."""
    return [(as_bytes(contract, case["record"]), bytes.fromhex(case["hex"])) for case in GOLDEN[str(contract.id)]]


def test_every_published_version_has_golden_bytes() -> None:
    """A new version is added with `python tests/golden/regenerate.py`, which changes nothing that is there."""
    assert set(GOLDEN) == {str(contract.id) for contract in REGISTRY.all()}


def test_the_oldest_golden_bytes_are_the_ones_of_the_first_day() -> None:
    """A regeneration that changed the past would have to change this line too."""
    first = json.dumps({key: GOLDEN[key] for key in sorted(GOLDEN, key=int)[:12]}, sort_keys=True)
    assert hashlib.sha256(first.encode()).hexdigest() == "d5a2e34a8123ac3c4090f8453494e607e0e13bbdc77c3d8890b55c92167ffde2"


@CONTRACTS
def test_golden_bytes_are_written_and_read(contract: Contract) -> None:
    """Both ways, for each record of each version."""
    for record, value in cases(contract):
        assert encode(contract, record) == value
        assert decode(REGISTRY, value) == (contract, record)


@CONTRACTS
def test_confluents_serializer_writes_the_same_bytes(contract: Contract) -> None:
    """An independent implementation, asking our registry for the id, writes every golden byte."""
    with EmbeddedSchemaRegistry(REGISTRY.folder) as server:
        client = SchemaRegistryClient({"url": server.url})
        options = {"auto.register.schemas": False}
        serializer = AvroSerializer(client, json.dumps(contract.schema), conf=options)
        for record, value in cases(contract):
            assert serializer(record, SerializationContext(contract.topic, MessageField.VALUE)) == value


DERIVED = [contract for contract in REGISTRY.all() if contract.source_id is not None]


@pytest.mark.parametrize("contract", DERIVED, ids=lambda contract: f"{contract.topic}-v{contract.version}")
def test_a_derived_contracts_tail_is_its_source(contract: Contract) -> None:
    """Columns before the source's untouched bytes are the record encoded whole, and the head is found behind them."""
    assert contract.source_id is not None
    source = REGISTRY.by_id(contract.source_id)
    prepended = contract.schema["prepended"]
    assert contract.schema["fields"][prepended:] == source.schema["fields"]
    for record, value in cases(contract):
        columns = {name: record[name] for name in contract.names[:prepended]}
        old = encode(source, {name: record[name] for name in source.names})
        assert flat_record_encoder(contract.columns(), contract.header)(columns) + old[HEADER_BYTES:] == value
        _, head = HeadReader(REGISTRY, "identifiers").read(value)
        assert head == {name: record[name] for name in list(head)}
