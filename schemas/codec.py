"""The only place that knows Avro framing: Confluent's wire format, whole records, prefixes and prepended columns.

Avro records have no framing of their own (Avro 1.12, "Data serialization"): a record's bytes are its fields' bytes in
order. So a prefix of the fields can be read alone, and columns can be put before a record without touching it.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from io import BytesIO
from itertools import starmap
from operator import itemgetter
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
    identifier = int.from_bytes(value[1:HEADER_BYTES], "big")
    if not 0 < identifier < 1 << 31:
        # Registries allocate positive 32-bit integers: this is no id that may still become known, but no frame at all.
        raise Undecodable("the schema id is out of range")
    return identifier


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


def flat_encoder(schema: Any, header: bytes) -> Callable[..., bytes]:
    """A function that encodes a record given its fields in order: texts, integers, booleans, arrays of texts, maps of integers.

    Two to four times as fast as `encode`, and the same bytes. Its source depends on the kinds of the fields and on nothing
    that a record holds. ValueError for a schema that holds anything else.
    """
    lines, parts = [], ["header"]
    for place, kind in enumerate(kind_of(field["type"]) for field in schema["fields"]):
        if kind == "string":
            lines += [f" t{place} = v{place}.encode()"]
            parts += [f"sizes[n] if (n := len(t{place})) < {LOOKED_UP} else long_bytes(n)", f"t{place}"]
        elif kind == "boolean":
            parts += [f"b'\\1' if v{place} else b'\\0'"]
        elif kind == "long":
            parts += [f"sizes[v{place}] if 0 <= v{place} < {LOOKED_UP} else long_bytes(v{place})"]
        elif kind == "array":
            parts += [f"array_of_texts(v{place})"]
        elif isinstance(kind, dict) and kind.get("values") == "long":
            parts += [f"map_of_longs(v{place})"]
        else:
            raise ValueError(f"{schema['name']} is not flat: it holds {kind}")
    arguments = ", ".join(f"v{place}" for place in range(len(schema["fields"])))
    source = [f"def flat({arguments}):", *lines, f" return b''.join(({', '.join(parts)},))"]
    names: dict[str, Any] = {
        "header": header, "sizes": _SIZES, "long_bytes": long_bytes,
        "array_of_texts": _array_of_texts, "map_of_longs": _map_of_longs,
    }  # fmt: skip
    exec("\n".join(source), names)  # noqa: S102 - see the docstring: no data gets into the source
    return cast(Callable[..., bytes], names["flat"])


def long_bytes(number: int) -> bytes:
    """A long in Avro's zigzag variable-length encoding."""
    number = number << 1 if number >= 0 else ~(number << 1)
    if number >> 35 and not number >> 42:  # six bytes, as in `read_long`
        six = (
            number & 0x7F | number << 1 & 0x7F00 | number << 2 & 0x7F_0000 | number << 3 & 0x7F00_0000
            | number << 4 & 0x7F_0000_0000 | number << 5 & 0x7F00_0000_0000 | 0x0080_8080_8080
        )  # fmt: skip
        return six.to_bytes(6, "little")
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


LOOKED_UP = 1_024
"""Smaller ones stand in a table: lengths, most of them."""
_SIZES = [long_bytes(n) for n in range(LOOKED_UP)]


def _array_of_texts(texts: Sequence[str]) -> bytes:
    if not texts:
        return b"\0"
    parts = [_SIZES[n] if (n := len(texts)) < LOOKED_UP else long_bytes(n)]
    parts += map(text_bytes, texts)
    parts.append(b"\0")
    return b"".join(parts)


def text_bytes(text: str) -> bytes:
    """A text in Avro's encoding."""
    encoded = text.encode()
    return (_SIZES[n] if (n := len(encoded)) < LOOKED_UP else long_bytes(n)) + encoded


def _map_of_longs(items: Mapping[str, int]) -> bytes:
    if not items:
        return b"\0"
    size = _SIZES[n] if (n := len(items)) < LOOKED_UP else long_bytes(n)
    return b"".join((size, *starmap(_item_of_longs, items.items()), b"\0"))


@lru_cache(4_096)
def _item_of_longs(name: str, number: int) -> bytes:
    """Many maps have items in common: of few names, and of times that many share."""
    return text_bytes(name) + long_bytes(number)


def flat_record_encoder(schema: Any, header: bytes) -> Callable[[Record], bytes]:
    """The same by name: a function of a record. KeyError where a field is missing without a default."""
    flat = flat_encoder(schema, header)
    pick = itemgetter(*(field["name"] for field in schema["fields"]))
    defaults = {field["name"]: field["default"] for field in schema["fields"] if "default" in field}

    def encode_flat(record: Record) -> bytes:
        try:
            return flat(*pick(record))
        except KeyError:
            return flat(*pick(defaults | record))

    return encode_flat


class HeadReader:
    """Reads the fields of a topic up to `last_field`, whatever version each record has, and stops there."""

    def __init__(self, registry: Registry, last_field: str) -> None:
        self._registry = registry
        self._last_field = last_field
        self._heads: dict[bytes, tuple[Contract, Any]] = {}

    def read(self, value: bytes) -> tuple[Contract, Record]:
        """Contract and head. Undecodable; UnknownContract for an id nobody knows."""
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
        return contract, _read(stream, head)


STEPS = tuple((first >> 1) + 1 if first < 128 and not first & 1 else 0 for first in range(256))
"""First byte of a text -> bytes to the end of the text, for texts of up to 63 bytes; 0: look closer."""


class HeadSlicer:
    """Finds where the fields of a head end, without decoding them: several times faster than reading them.

    Only offsets are looked at: text is not checked to be UTF-8, and nothing after the head is looked at, as with `HeadReader`.
    Equal bytes mean equal values, so slices of a head are keys of caches.
    """

    def __init__(self, contract: Contract, last_field: str, first_field: str | None = None) -> None:
        begin = 0 if first_field is None else contract.names.index(first_field)
        end = contract.names.index(last_field) + 1
        walk = _walk([kind_of(field["type"]) for field in contract.parsed["fields"][begin:end]])

        def ends(value: bytes, at: int = HEADER_BYTES) -> list[int]:
            try:
                offsets = walk(value, at)
            except IndexError:
                raise Undecodable("broken datum: IndexError") from None
            if offsets[-1] > len(value):
                raise Undecodable("broken datum: EOFError")
            return offsets

        self.ends: Callable[..., list[int]] = ends
        """The offset after each field from the first on, which begins at the second argument. Undecodable."""


def _walk(kinds: Sequence[Any]) -> Callable[[bytes, int], list[int]]:
    """A function made for these fields, one statement or two for each: half the time of a loop that asks for each kind.

    It walks by offsets alone. The source depends on the kinds of a contract's fields and on nothing that a record holds.
    """
    step = "at = at + step if (step := steps[value[at]]) else text_end(value, at)"
    lines = ["def walk(value, at):"]
    for place, kind in enumerate(kinds):
        if kind == "string":
            lines += [f" {step}"]
        elif kind in ("boolean", "double"):
            lines += [f" at += {1 if kind == 'boolean' else 8}"]
        elif kind == "long":
            lines += [" while value[at] > 127: at += 1", " at += 1"]
        elif kind in ("map", "array"):
            # Nearly always one block of fewer than 64 items, or none.
            texts = "count" if kind == "map" else "count >> 1"
            lines += [
                " begin, count = at, value[at]", " at += 1", " if count:",
                "  if not count & 129:", f"   for _ in range({texts}): {step}",
                f"  at = skip_blocks(value, begin, {2 if kind == 'map' else 1}) if count & 129 or value[at] else at + 1",
            ]  # fmt: skip
        else:
            lines += [f" at = by_reading(value, at, kinds[{place}])"]
        lines += [f" end_{place} = at"]
    lines += [f" return [{', '.join(f'end_{place}' for place in range(len(kinds)))}]"]
    names: dict[str, Any] = {
        "steps": STEPS, "text_end": text_end, "skip_blocks": _skip_blocks, "by_reading": _skip_by_reading, "kinds": kinds,
    }  # fmt: skip
    exec("\n".join(lines), names)  # noqa: S102 - see the docstring: no data gets into the source
    return cast(Callable[[bytes, int], list[int]], names["walk"])


def kind_of(schema: Any) -> Any:
    """How to find a field's end: one of the words above, or the schema itself, to be read."""
    if isinstance(schema, str):
        kind = {"bytes": "string", "int": "long"}.get(schema, schema)
        if kind in ("string", "boolean", "long", "double"):
            return kind
    elif isinstance(schema, dict) and "string" in (schema.get("values"), schema.get("items")):
        return str(schema["type"])
    elif isinstance(schema, dict) and schema["type"] in ("int", "long"):
        return "long"  # a logical type's integer
    return schema


def _skip_by_reading(value: bytes, at: int, schema: Any) -> int:
    stream = BytesIO(value)
    stream.seek(at)
    _read(stream, schema)
    return stream.tell()


def _varint(value: bytes, at: int) -> tuple[int, int]:
    """The zigzag-encoded number at `at`, not yet decoded from zigzag, and the offset after it."""
    number = shift = 0
    while True:
        byte = value[at]
        number |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return number, at
        shift += 7
        if shift > 63:
            raise Undecodable("broken datum: number too long")


def read_long(value: bytes, at: int) -> int:
    """The integer at `at`. Undecodable; IndexError past the end."""
    six = int.from_bytes(value[at : at + 6], "little")
    if six & 0x8080_8080_8080 == 0x0080_8080_8080:  # six bytes, as every time of these decades in milliseconds takes
        number = (
            six & 0x7F | six >> 1 & 0x3F80 | six >> 2 & 0x1F_C000
            | six >> 3 & 0xFE0_0000 | six >> 4 & 0x7_F000_0000 | six >> 5 & 0x3F8_0000_0000
        )  # fmt: skip
    else:
        number, _ = _varint(value, at)
        if number >> 64:
            raise Undecodable("broken datum: number too long")
    return (number >> 1) ^ -(number & 1)


def _skip_blocks(value: bytes, at: int, texts: int) -> int:
    """The offset after an array (`texts` = 1) or map (2) of strings."""
    while True:
        count = value[at]
        at += 1
        if count == 0:
            return at
        if count > 127:
            count, at = _varint(value, at - 1)
        if count & 1:
            _, at = _varint(value, at)  # a negative count: the block's size in bytes stands before it
            count += 1
        for _ in range((count >> 1) * texts):
            at = at + step if (step := STEPS[value[at]]) else text_end(value, at)


def text_end(value: bytes, at: int) -> int:
    """The offset after the text at `at`. Undecodable; IndexError past the end."""
    first, second = value[at], value[at + 1]
    if first & 0x81 == 0x80 and second < 128:  # of 64 bytes to 8 KiB, as nearly all of those whose size is not one byte
        return at + 2 + ((first & 127 | second << 7) >> 1)
    size, at = _varint(value, at)
    if size & 1:
        raise Undecodable("broken datum: negative length")
    return at + (size >> 1)


__all__ = [
    "Contract",
    "HeadReader",
    "HeadSlicer",
    "Record",
    "Registry",
    "Undecodable",
    "UnknownContract",
    "decode",
    "encode",
    "flat_encoder",
    "flat_record_encoder",
    "long_bytes",
    "read_long",
    "schema_id",
    "text_bytes",
    "text_end",
]
