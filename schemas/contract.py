"""One published version of a topic's contract, with the parsed schemas that readers and writers need."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import fastavro

Schema = dict[str, Any]

WIRE_MAGIC = b"\x00"  # Confluent wire format: magic byte, 4-byte big-endian schema id, datum


class UnknownContract(LookupError):
    """No version has this id or topic, even after rereading the folder."""


class ContractError(ValueError):
    """A contract file is invalid. The message names the file, the line where known, and the field."""


@dataclass(frozen=True)
class Contract:
    """One published version of a topic's contract."""

    topic: str
    version: int
    id: int
    schema: Schema = field(compare=False, repr=False)
    source_id: int | None
    """Id of the contract from which this one is derived by prepending columns; None for hand-written ones."""

    @cached_property
    def parsed(self) -> Any:
        """The schema parsed by fastavro, timestamps as plain integers (milliseconds UTC)."""
        return parse(self.schema)

    @cached_property
    def header(self) -> bytes:
        """The five bytes before each datum (Confluent wire format)."""
        return WIRE_MAGIC + self.id.to_bytes(4, "big")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Field names in order."""
        return tuple(field["name"] for field in self.schema["fields"])

    def up_to(self, last_field: str) -> Any:
        """Return the parsed schema of the fields up to and including `last_field`."""
        end = self.names.index(last_field) + 1
        return self._subset("Head", self.schema["fields"][:end])

    def columns(self) -> Any:
        """Return the parsed schema of the prepended columns (derived contracts only)."""
        return self._subset("Columns", self.schema["fields"][: self.schema["prepended"]])

    def _subset(self, name: str, fields: list[Schema]) -> Any:
        return parse({"type": "record", "name": name, "namespace": "headwater", "fields": fields})


def parse(schema: Schema) -> Any:
    """Return the physical schema parsed by fastavro, marked as parsed so that it is not parsed for every record."""
    return fastavro.parse_schema(physical(schema))


def physical(schema: Any) -> Any:
    """Return the schema without logical types: the same bytes, with integers as values, which is faster and exact."""
    if isinstance(schema, dict):
        return {key: physical(value) for key, value in schema.items() if key != "logicalType"}
    if isinstance(schema, list):
        return [physical(item) for item in schema]
    return schema
