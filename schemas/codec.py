"""The only place that knows Avro framing: Confluent's wire format, whole records, prefixes and prepended columns.

Avro records have no framing of their own (Avro 1.12, "Data serialization"): a record's bytes are its fields' bytes in
order. So a prefix of the fields can be read alone, and columns can be put before a record without touching it.
"""

from collections.abc import Callable
from io import BytesIO
from typing import Any, cast

from fastavro import schemaless_reader, schemaless_writer

from schemas.registry import WIRE_MAGIC, Contract, Registry, UnknownContract

Record = dict[str, Any]

HEADER_BYTES = 5


class Undecodable(ValueError):
    """These bytes are no record of any contract; the message says why and holds none of them."""


def schema_id(value: bytes) -> int:
    """The contract id in a framed value. Undecodable where there is no frame."""
    if len(value) < HEADER_BYTES or value[:1] != WIRE_MAGIC:
        raise Undecodable("not in Confluent wire format (a zero byte and a 4-byte schema id)")
    found = int.from_bytes(value[1:HEADER_BYTES], "big")
    if not 0 < found < 1 << 31:
        # Registries allocate positive 32-bit integers: this is no id that may still become known, but no frame at all.
        raise Undecodable("the schema id is out of range")
    return found


def encode(contract: Contract, record: Record) -> bytes:
    """Header and datum of one record. ValueError when a field is missing without a default, or of the wrong type."""
    out = BytesIO()
    out.write(contract.header)
    try:
        schemaless_writer(out, contract.parsed, record, strict_allow_default=True)
    except (TypeError, KeyError, AttributeError, IndexError, OverflowError) as error:
        raise ValueError(f"does not fit {contract.topic} v{contract.version}: {error}") from error
    return out.getvalue()


def decode(registry: Registry, value: bytes) -> tuple[Contract, Record]:
    """Contract and record of one framed value, consumed to its end. Undecodable; UnknownContract for an id nobody knows."""
    contract = registry.by_id(schema_id(value))
    stream = BytesIO(value)
    stream.seek(HEADER_BYTES)
    record = _read(stream, contract.parsed)
    if stream.tell() != len(value):
        raise Undecodable(f"{len(value) - stream.tell()} bytes left over after the last field")
    return contract, record


def _read(stream: BytesIO, schema: Any) -> Record:
    try:
        return cast(Record, schemaless_reader(stream, schema, None))
    except (EOFError, ValueError, IndexError, TypeError, OverflowError, MemoryError) as error:
        # MemoryError: a corrupt length can ask for more than there is.
        raise Undecodable(f"broken datum: {type(error).__name__}") from None


def encode_columns(contract: Contract) -> Callable[[Record], bytes]:
    """A function that encodes a derived contract's header and prepended columns: what stands before the old bytes."""
    schema, header = contract.columns(), contract.header

    def columns(record: Record) -> bytes:
        out = BytesIO()
        out.write(header)
        schemaless_writer(out, schema, record, strict_allow_default=True)
        return out.getvalue()

    return columns


def prepend(columns: bytes, value: bytes) -> bytes:
    """`columns` (from `encode_columns`) before the datum of `value`: the payload is not touched."""
    return columns + value[HEADER_BYTES:]


class HeadReader:
    """Reads the fields of a topic up to `last_field`, whatever version each record has, and stops there."""

    def __init__(self, registry: Registry, last_field: str) -> None:
        self._registry = registry
        self._last_field = last_field
        self._heads: dict[bytes, tuple[Contract, Any]] = {}

    def read(self, value: bytes) -> tuple[Contract, Record]:
        """Contract and head. Undecodable; UnknownContract for an id nobody knows."""
        header = value[:HEADER_BYTES]
        known = self._heads.get(header)
        if known is None:
            contract = self._registry.by_id(schema_id(value))
            if self._last_field not in contract.names:
                raise Undecodable(f"{contract.topic} has no field {self._last_field}")
            known = self._heads[header] = (contract, contract.up_to(self._last_field))
        contract, head = known
        stream = BytesIO(value)
        stream.seek(HEADER_BYTES)
        return contract, _read(stream, head)


__all__ = [
    "Contract",
    "HeadReader",
    "Record",
    "Registry",
    "Undecodable",
    "UnknownContract",
    "decode",
    "encode",
    "encode_columns",
    "prepend",
    "schema_id",
]
