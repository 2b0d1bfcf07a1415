"""The registry client against a registry server, and that server against Confluent's own client."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.serialization import MessageField, SerializationContext

from infra.clients.schema_registry import SchemaRegistry, subject_of
from infra.errors import ConfigError
from schemas.codec import decode, encode
from schemas.contract import Contract
from schemas.registry import Registry
from tests.infra.clients.registry_server import EmbeddedSchemaRegistry

EXPERIMENT = {"experiment": "button", "config_version": "a1", "config": "{}"}
SMALL = {"type": "record", "name": "Small", "namespace": "headwater", "fields": [{"name": "x", "type": "string"}]}


@pytest.fixture
def house(contracts_dir: Path) -> Iterator[EmbeddedSchemaRegistry]:
    """A registry that serves the packaged contracts."""
    with EmbeddedSchemaRegistry(contracts_dir) as server:
        yield server


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[EmbeddedSchemaRegistry]:
    """An empty registry."""
    with EmbeddedSchemaRegistry(tmp_path) as server:
        yield server


def test_confluents_serializer_makes_our_bytes(house: EmbeddedSchemaRegistry, contracts_dir: Path) -> None:
    """Confluent's AvroSerializer, looking the schema up in our registry, writes byte for byte what our codec writes."""
    registry = Registry(contracts_dir)
    contract = registry.latest("bandit.experiments")
    client = SchemaRegistryClient({"url": house.url})
    options = {"auto.register.schemas": False, "use.latest.version": True}
    serializer = AvroSerializer(client, None, conf=options)
    context = SerializationContext(contract.topic, MessageField.VALUE)
    value = serializer(EXPERIMENT, context)
    assert value == encode(contract, EXPERIMENT)
    assert AvroDeserializer(client)(encode(contract, EXPERIMENT), context) == EXPERIMENT
    assert decode(registry, value) == (contract, EXPERIMENT)


def test_confluents_client_reads_every_contract(house: EmbeddedSchemaRegistry, contracts_dir: Path) -> None:
    """By id, by subject and version, latest, and by looking the schema up."""
    client = SchemaRegistryClient({"url": house.url})
    contracts = Registry(contracts_dir).all()
    assert client.get_subjects() == sorted({subject_of(contract) for contract in contracts})
    for contract in contracts:
        subject = subject_of(contract)
        assert json.loads(client.get_schema(contract.id).schema_str) == contract.schema
        assert client.get_version(subject, contract.version).schema_id == contract.id
        assert client.lookup_schema(subject, Schema(json.dumps(contract.schema), "AVRO")).schema_id == contract.id
    raw = Registry(contracts_dir).latest("events.raw")
    assert client.get_latest_version("events.raw-value").schema_id == raw.id
    assert raw.version in client.get_versions("events.raw-value")


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda client: client.get_schema(9_999), 40403),
        (lambda client: client.get_latest_version("nothing-value"), 40401),
        (lambda client: client.get_version("events.raw-value", 999), 40402),
        (lambda client: client.lookup_schema("events.raw-value", Schema(json.dumps(SMALL), "AVRO")), 40403),
        (lambda client: client.register_schema("events.raw-value", Schema('{"type": "nonsense"}', "AVRO")), 42201),
        (lambda client: client.register_schema("events.raw-value", Schema(json.dumps(SMALL), "AVRO")), 409),
    ],
)
def test_errors_carry_confluents_codes(house: EmbeddedSchemaRegistry, call: Any, code: int) -> None:
    """Errors have Confluent's codes, by which clients distinguish them."""
    with pytest.raises(SchemaRegistryError) as caught:
        call(SchemaRegistryClient({"url": house.url}))
    assert caught.value.error_code == code


def test_confluents_client_registers_and_its_serializer_writes(empty: EmbeddedSchemaRegistry, tmp_path: Path) -> None:
    """A schema that another producer registers gets an id in the lock file."""
    client = SchemaRegistryClient({"url": empty.url})
    value = AvroSerializer(client, json.dumps(SMALL))({"x": "y"}, SerializationContext("small", MessageField.VALUE))
    contract, record = decode(Registry(tmp_path), value)
    assert (contract.topic, contract.version, record) == ("small", 1, {"x": "y"})
    assert client.register_schema("small-value", Schema(json.dumps(SMALL), "AVRO")) == contract.id


def test_pushing_puts_every_contract_under_its_own_id(empty: EmbeddedSchemaRegistry, contracts_dir: Path) -> None:
    """Our client registers all versions under the lock's ids; a second time it finds them there."""
    contracts = Registry(contracts_dir).all()
    registry = SchemaRegistry(empty.url)
    assert registry.register_all(contracts) == contracts
    assert registry.register_all(contracts) == []
    oracle = SchemaRegistryClient({"url": empty.url})
    for contract in contracts:
        assert json.loads(oracle.get_schema(contract.id).schema_str) == contract.schema
        assert registry.schema(contract.id) == contract.schema
    raw = Registry(contracts_dir).latest("events.raw")
    assert registry.compatible("events.raw-value", raw.schema)
    assert not registry.compatible("events.raw-value", SMALL)
    assert registry.compatible("never-seen-value", SMALL)


def test_an_id_that_is_taken_is_refused_with_advice(empty: EmbeddedSchemaRegistry, contracts_dir: Path) -> None:
    """Registering under an id that has another schema there raises ConfigError."""
    client = SchemaRegistryClient({"url": empty.url})
    client.register_schema("small-value", Schema(json.dumps(SMALL), "AVRO"))
    first = Registry(contracts_dir).all()[0]
    with pytest.raises(ConfigError, match="another schema has that id there"):
        SchemaRegistry(empty.url).register(first)
    with pytest.raises(ConfigError, match="it has the same schema under id 1"):
        SchemaRegistry(empty.url).register(Contract("small", 1, 7, SMALL, None))


def test_a_registry_that_is_away_or_none_is_said_so() -> None:
    """The message names the setting and never the password."""
    with pytest.raises(ConfigError, match="HEADWATER_SCHEMA_REGISTRY") as caught:
        SchemaRegistry("http://ada:hunter2@127.0.0.1:9", timeout_s=1).schema(1)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigError, match="must be http"):
        SchemaRegistry("registry:8081")
