"""Avro framing: Confluent's wire format, whole records, and the leading fields of a record.

Avro records have no framing of their own (Avro 1.12, "Data serialization"): a record's bytes are its fields' bytes in
order. So the leading fields can be read alone, and columns can be prepended without touching the record. `schemas.fast`
holds faster readers and writers for stages that handle every event; they give the same values and bytes.
"""

from io import BytesIO
from typing import Any, cast

from fastavro import schemaless_reader, schemaless_writer

from schemas.registry import WIRE_MAGIC, Contract, Registry, UnknownContract

Record = dict[str, Any]

HEADER_BYTES = 5


class Undecodable(ValueError):
    """These bytes are no record of any contract. The message gives the reason and quotes none of the bytes."""


def schema_id(value: bytes) -> int:
    """Return the contract id of a framed value. Raises Undecodable where there is no frame."""
    if len(value) < HEADER_BYTES or value[:1] != WIRE_MAGIC:
        raise Undecodable("not in Confluent wire format (a zero byte and a 4-byte schema id)")
    identifier = int.from_bytes(value[1:HEADER_BYTES], "big")
    if not 0 < identifier < 1 << 31:
        # Registries allocate positive 32-bit integers, so this id can never become known: it is not a frame.
        raise Undecodable("the schema id is out of range")
    return identifier


def encode(contract: Contract, record: Record) -> bytes:
    """Return header and datum of a record. ValueError for a missing field without a default, or a value of another type."""
    out = BytesIO()
    out.write(contract.header)
    try:
        schemaless_writer(out, contract.parsed, record, strict_allow_default=True)
    except (TypeError, KeyError, AttributeError, IndexError, OverflowError) as error:
        raise ValueError(f"does not fit {contract.topic} v{contract.version}: {error}") from error
    return out.getvalue()


def decode(registry: Registry, value: bytes) -> tuple[Contract, Record]:
    """Return contract and record of a framed value, read to its end. Raises Undecodable; UnknownContract for an unknown id."""
    contract = registry.by_id(schema_id(value))
    stream = BytesIO(value)
    stream.seek(HEADER_BYTES)
    record: Record = read_datum(stream, contract.parsed)
    if stream.tell() != len(value):
        raise Undecodable(f"{len(value) - stream.tell()} bytes left over after the last field")
    return contract, record


def read_datum(stream: BytesIO, schema: Any) -> Any:
    """Read one value of a parsed schema from the stream's position. Raises Undecodable."""
    try:
        return schemaless_reader(stream, schema, None)
    except (EOFError, ValueError, IndexError, TypeError, OverflowError, MemoryError) as error:
        # MemoryError: a corrupt length can ask for more memory than there is.
        raise Undecodable(f"broken datum: {type(error).__name__}") from None


class HeadReader:
    """Decodes the fields of a record up to `last_field`, in whatever version of its contract the record is written."""

    def __init__(self, registry: Registry, last_field: str) -> None:
        self._registry = registry
        self._last_field = last_field
        self._heads: dict[bytes, tuple[Contract, Any]] = {}

    def read(self, value: bytes) -> tuple[Contract, Record]:
        """Return contract and leading fields. Raises Undecodable; UnknownContract for an unknown id."""
        header = value[:HEADER_BYTES]
        cached = self._heads.get(header)
        if cached is None:
            contract = self._registry.by_id(schema_id(value))
            if self._last_field not in contract.names:
                raise Undecodable(f"{contract.topic} has no field {self._last_field}")
            cached = self._heads[header] = (contract, contract.up_to(self._last_field))
        contract, head = cached
        stream = BytesIO(value)
        stream.seek(HEADER_BYTES)
        return contract, cast(Record, read_datum(stream, head))


__all__ = [
    "HEADER_BYTES",
    "Contract",
    "HeadReader",
    "Record",
    "Registry",
    "Undecodable",
    "UnknownContract",
    "decode",
    "encode",
    "read_datum",
    "schema_id",
]
