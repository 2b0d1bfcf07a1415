"""One published version of one topic's contract, and the shapes of it that readers and writers work with."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import fastavro

Schema = dict[str, Any]

WIRE_MAGIC = b"\x00"  # Confluent wire format: magic byte, 4-byte big-endian schema id, datum


class UnknownContract(LookupError):
    """No version with this id or of this topic, even after reading the folder again."""


class ContractError(ValueError):
    """A contract file is wrong; the message names the file, the line where there is one, and the field."""


@dataclass(frozen=True)
class Contract:
    """One published version of one topic's contract."""

    topic: str
    version: int
    id: int
    schema: Schema = field(compare=False, repr=False)
    source_id: int | None
    """Id of the contract that this one was derived from by prepending columns; None for hand-written ones."""

    @cached_property
    def parsed(self) -> Any:
        """The schema as fastavro wants it, timestamps as plain integers (milliseconds UTC)."""
        return parse(self.schema)

    @cached_property
    def header(self) -> bytes:
        """The five bytes before each datum."""
        return WIRE_MAGIC + self.id.to_bytes(4, "big")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Field names in order."""
        return tuple(field["name"] for field in self.schema["fields"])

    def up_to(self, last_field: str) -> Any:
        """The parsed schema of the fields up to and including `last_field`."""
        end = self.names.index(last_field) + 1
        return self._subset("Head", self.schema["fields"][:end])

    def columns(self) -> Any:
        """The parsed schema of the prepended columns alone (derived contracts only)."""
        return self._subset("Columns", self.schema["fields"][: self.schema["prepended"]])

    def _subset(self, name: str, fields: list[Schema]) -> Any:
        return parse({"type": "record", "name": name, "namespace": "headwater", "fields": fields})


def parse(schema: Schema) -> Any:
    """The physical schema, parsed by fastavro. Its mark of being parsed stays on it: without, every record parses it again."""
    return fastavro.parse_schema(physical(schema))


def physical(schema: Any) -> Any:
    """The schema without logical types: the same bytes, but integers in and out, which is faster and never loses a bit."""
    if isinstance(schema, dict):
        return {key: physical(value) for key, value in schema.items() if key != "logicalType"}
    if isinstance(schema, list):
        return [physical(item) for item in schema]
    return schema
