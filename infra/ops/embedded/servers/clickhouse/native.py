"""Format Native for clients that send `client_protocol_version`, as clickhouse-go does.

The engine writes blocks without a version. Such a client expects block info before each block and a serialization byte
before each column, so blocks are parsed column by column and both are inserted.
"""

from collections.abc import Callable, Iterable, Iterator

from infra.ops.embedded.servers.clickhouse.errors import EngineError, clickhouse_error

CUSTOM_SERIALIZATION = 54_454
"""DBMS_MIN_REVISION_WITH_CUSTOM_SERIALIZATION; older clients expect blocks without it."""
# Fields of BlockInfo: 1 is_overflows = 0, 2 bucket_num = -1, end.
BLOCK_INFO = b"\x01\x00\x02\xff\xff\xff\xff\x00"
WIDTHS = {
    **dict.fromkeys(("UInt8", "Int8", "Bool", "Enum8", "Nothing"), 1),
    **dict.fromkeys(("UInt16", "Int16", "Date", "Enum16", "BFloat16"), 2),
    **dict.fromkeys(("UInt32", "Int32", "Float32", "DateTime", "Date32", "Decimal32", "IPv4", "Time"), 4),
    **dict.fromkeys(("UInt64", "Int64", "Float64", "DateTime64", "Decimal64", "Time64"), 8),
    **dict.fromkeys(("UInt128", "Int128", "UUID", "IPv6", "Decimal128"), 16),
    **dict.fromkeys(("UInt256", "Int256", "Decimal256"), 32),
}
INDEX_WIDTHS = (1, 2, 4, 8)
# (maximum precision, bytes) of Decimal(P, S).
DECIMAL_WIDTHS = ((9, 4), (18, 8), (38, 16), (76, 32))
ALIASES = {
    "Point": "Tuple(Float64, Float64)",
    "Ring": "Array(Tuple(Float64, Float64))",
    "LineString": "Array(Tuple(Float64, Float64))",
    "MultiLineString": "Array(Array(Tuple(Float64, Float64)))",
    "Polygon": "Array(Array(Tuple(Float64, Float64)))",
    "MultiPolygon": "Array(Array(Array(Tuple(Float64, Float64))))",
}


class ByteSource:
    """A byte stream given in pieces. Consumed bytes are kept until `collect`."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._buffer = bytearray()
        self._at = 0

    def at_end(self) -> bool:
        """Whether the stream has ended."""
        return not self._fill(1)

    def read(self, size: int) -> memoryview:
        """Return the next bytes. EOFError where there are fewer."""
        if not self._fill(size):
            raise EOFError
        start, self._at = self._at, self._at + size
        return memoryview(bytes(self._buffer[start : self._at]))

    def skip(self, size: int) -> None:
        """Skip bytes. EOFError where there are fewer."""
        if not self._fill(size):
            raise EOFError
        self._at += size

    def read_varuint(self) -> int:
        """Return the next VarUInt."""
        value = shift = 0
        while True:
            if self._at >= len(self._buffer) and not self._fill(1):
                raise EOFError
            byte = self._buffer[self._at]
            self._at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def read_text(self) -> str:
        """Return the next length-prefixed string."""
        return bytes(self.read(self.read_varuint())).decode()

    def skip_texts(self, count: int) -> None:
        """Skip strings. This loop runs for every value, so strings of one-byte lengths are handled inline."""
        buffer = self._buffer
        for _ in range(count):
            at = self._at
            if at < len(buffer) and buffer[at] < 0x80:
                self._at = at + 1 + buffer[at]
            else:
                self.skip(self.read_varuint())
        self.skip(0)

    def collect(self) -> bytes:
        """Return the bytes consumed since the last call."""
        data = bytes(self._buffer[: self._at])
        del self._buffer[: self._at]
        self._at = 0
        return data

    def remaining_pieces(self) -> Iterator[bytes]:
        """Yield everything that was not collected."""
        yield bytes(self._buffer)
        yield from self._pieces

    def _fill(self, size: int) -> bool:
        while len(self._buffer) < self._at + size:
            piece = next(self._pieces, None)
            if piece is None:
                return False
            self._buffer += piece
        return True


def with_protocol(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield blocks of Native in protocol version CUSTOM_SERIALIZATION.

    A result that ends within a block is passed on up to its end. EngineError for an unsupported type.
    """
    source = ByteSource(pieces)
    try:
        while not source.at_end():
            columns, rows = source.read_varuint(), source.read_varuint()
            block = [BLOCK_INFO, source.collect()]
            for _ in range(columns):
                source.read_text()
                kind = source.read_text()
                block += [source.collect(), b"\x00"]
                if rows:
                    column = ColumnWalker(kind)
                    column.skip_prefix(source)
                    column.skip(source, rows)
                block.append(source.collect())
            yield b"".join(block)
    except EOFError:
        yield from source.remaining_pieces()


class ColumnWalker:
    """Skips the values of a column of one type."""

    def __init__(self, kind: str) -> None:
        kind = ALIASES.get(kind, kind)
        self._kind = kind
        name, _, inside = kind.partition("(")
        self._name = name
        arguments = arguments_of(inside[:-1]) if inside else []
        self._inner = [ColumnWalker(inner) for inner in _inner_types(name, arguments)]
        self._skip = self._walker(name, arguments)

    def skip_prefix(self, source: ByteSource) -> None:
        """Skip the bytes before the first value: the version of LowCardinality's serialization."""
        if self._name == "LowCardinality":
            source.skip(8)
        else:
            for inner in self._inner:
                inner.skip_prefix(source)

    def skip(self, source: ByteSource, rows: int) -> None:
        """Skip values."""
        self._skip(source, rows)

    def _walker(self, name: str, arguments: list[str]) -> Callable[[ByteSource, int], None]:
        width = _width(name, arguments)
        if width:
            return lambda source, rows: source.skip(width * rows)
        walkers: dict[str, Callable[[ByteSource, int], None]] = {
            "String": lambda source, rows: source.skip_texts(rows),
            "Nullable": self._skip_nullable,
            "Array": self._skip_array,
            "Map": self._skip_array,
            "Nested": self._skip_array,
            "Tuple": self._skip_tuple,
            "LowCardinality": self._skip_low_cardinality,
            "SimpleAggregateFunction": self._skip_tuple,
        }
        if name not in walkers:
            raise unsupported_type(self._kind)
        return walkers[name]

    def _skip_nullable(self, source: ByteSource, rows: int) -> None:
        source.skip(rows)
        self._inner[0].skip(source, rows)

    def _skip_array(self, source: ByteSource, rows: int) -> None:
        offsets = source.read(8 * rows)
        total = int.from_bytes(offsets[-8:], "little") if rows else 0
        for inner in self._inner:
            inner.skip(source, total)

    def _skip_tuple(self, source: ByteSource, rows: int) -> None:
        for inner in self._inner:
            inner.skip(source, rows)

    def _skip_low_cardinality(self, source: ByteSource, rows: int) -> None:
        if rows == 0:
            return
        flags = int.from_bytes(source.read(8), "little")
        for _ in range(2 if flags & 0x100 else 1):  # bit 8: a shared dictionary before the additional keys
            self._inner[0].skip(source, int.from_bytes(source.read(8), "little"))
        source.skip(INDEX_WIDTHS[flags & 0xFF] * int.from_bytes(source.read(8), "little"))


def unsupported_type(kind: str) -> EngineError:
    """Return the error for a type whose encoding is not implemented."""
    return clickhouse_error(
        48,
        f"A result of type {kind[:200]} cannot be sent to this client: convert it with toString() or CAST.",
        "NOT_IMPLEMENTED",
    )


def arguments_of(text: str) -> list[str]:
    """Return the arguments of a type, split at commas outside of parentheses and quotes."""
    arguments, depth, quote, start, at = [], 0, "", 0, 0
    while at < len(text):
        char = text[at]
        if quote:
            at += char == "\\"
            quote = "" if char == quote else quote
        elif char in "'`\"":
            quote = char
        elif char == ",":
            if depth == 0:
                arguments.append(text[start:at].strip())
                start = at + 1
        else:
            depth += (char == "(") - (char == ")")
        at += 1
    return [*arguments, text[start:].strip()] if text.strip() else []


def _inner_types(name: str, arguments: list[str]) -> list[str]:
    if name == "LowCardinality":
        inner = arguments[0]
        # The dictionary of a nullable column holds plain values; its key 0 is NULL.
        return [inner[len("Nullable(") : -1] if inner.startswith("Nullable(") else inner]
    if name in ("Array", "Nullable", "Map"):
        return arguments
    if name in ("Tuple", "Nested"):
        return [_without_name(argument) for argument in arguments]
    return [arguments[1]] if name == "SimpleAggregateFunction" else []


def _without_name(element: str) -> str:
    """Return the type of an element of a Tuple: `name Type`, `quoted name` Type, or Type alone."""
    if element.startswith("`"):
        end = 1
        while element[end] != "`":
            end += 2 if element[end] == "\\" else 1
        return element[end + 1 :].strip()
    head, space, rest = element.partition(" ")
    return rest if space and "(" not in head else element


def _width(name: str, arguments: list[str]) -> int:
    if name == "FixedString":
        return int(arguments[0])
    if name == "Decimal":
        return next(width for digits, width in DECIMAL_WIDTHS if int(arguments[0]) <= digits)
    return 8 if name.startswith("Interval") else WIDTHS.get(name, 0)
