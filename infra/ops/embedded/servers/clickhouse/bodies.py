"""Request bodies, decompressed within a bound into a memory file that the engine can open."""

import bz2
import lzma
import os
import struct
import tempfile
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Protocol

from infra.ops.embedded.servers.clickhouse.errors import EngineError, clickhouse_error

BODY_BYTES = 256 * 1024 * 1024
PIECE_BYTES = 1024 * 1024
BROTLI_BYTES = 4096
HEADER = struct.Struct("<BII")
"""Header of ClickHouse's compressed block: method, size with this header, size of the data. A 16-byte checksum precedes it."""
CHECKSUM_BYTES = 16
METHOD_NONE, METHOD_LZ4, METHOD_ZSTD = 0x02, 0x82, 0x90


class Decoder(Protocol):
    """Decompresses a stream given in pieces, into bounded pieces."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decompress more of the stream."""
        ...

    def finish(self) -> None:
        """Raise EngineError when the stream ends within a frame."""
        ...


class BodyFile:
    """A memory file of at most BODY_BYTES; on systems other than Linux an unlinked temporary file."""

    def __init__(self) -> None:
        self.size = 0
        self.fd = os.memfd_create("body") if hasattr(os, "memfd_create") else _nameless_file()

    def write(self, data: bytes) -> None:
        """Append. EngineError above BODY_BYTES."""
        self.size += len(data)
        if self.size > BODY_BYTES:
            text = f"The request is larger than {BODY_BYTES} bytes: send the rows in several INSERTs."
            raise clickhouse_error(396, text, "TOO_MANY_BYTES")
        view = memoryview(data)
        while view:
            view = view[os.write(self.fd, view) :]

    def head(self, size: int) -> bytes:
        """Return the first `size` bytes."""
        return os.pread(self.fd, size, 0)

    def drop_head(self, position: int) -> None:
        """Remove the bytes before a position."""
        if position == 0:
            return
        rest = BodyFile()
        while piece := os.pread(self.fd, PIECE_BYTES, position + rest.size):
            rest.write(piece)
        self.fd, rest.fd, self.size = rest.fd, self.fd, rest.size
        rest.close()

    def close(self) -> None:
        """Release the memory."""
        os.close(self.fd)


def _nameless_file() -> int:
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def decoders(encoding: str, native_blocks: bool) -> list[Decoder]:
    """Return the decoders for Content-Encoding (a list, in the order of application) and `decompress=1`, in order of use."""
    names = [name.strip().lower() for name in encoding.split(",")]
    chain: list[Decoder] = []
    for name in reversed([name for name in names if name not in ("", "identity")]):
        if name not in ENCODINGS:
            supported = ", ".join(sorted(ENCODINGS))
            raise clickhouse_error(48, f"Unknown Content-Encoding '{name}': use one of {supported}.", "NOT_IMPLEMENTED")
        chain.append(ENCODINGS[name]())
    return [*chain, NativeBlockDecoder()] if native_blocks else chain


def unpack(chain: list[Decoder], data: bytes) -> Iterator[bytes]:
    """Pass a piece through all decoders."""
    if not chain:
        yield data
        return
    for piece in chain[0].feed(data):
        yield from unpack(chain[1:], piece)


def finish(chain: Iterable[Decoder]) -> None:
    """End the stream. EngineError where a decoder expects more data."""
    for decoder in chain:
        decoder.finish()


def broken(reason: str) -> EngineError:
    """Return the error for a body that cannot be decompressed."""
    return clickhouse_error(354, f"Cannot decompress the body: {reason}.", "ZLIB_INFLATE_FAILED")


class FrameDecoder:
    """A decoder of consecutive frames: gzip members, zlib streams, lz4, zstd, bzip2 and xz frames.

    `start` returns a decompressor for a frame, given its first bytes. EngineError for invalid frames.
    """

    def __init__(self, start: Callable[[bytes], Any], errors: tuple[type[Exception], ...]) -> None:
        self._start = start
        self._errors = errors
        self._frame: Any = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decompress more of the stream."""
        full = False  # after a piece of maximum size, more output may follow without more input
        try:
            while data or full:
                if self._frame is None:
                    self._frame = self._start(data)
                piece = self._frame.decompress(data, PIECE_BYTES)
                if piece:
                    yield piece
                full = len(piece) >= PIECE_BYTES or (bool(piece) and not getattr(self._frame, "needs_input", True))
                if self._frame.eof:
                    data, full, self._frame = self._frame.unused_data or b"", False, None
                else:
                    data = getattr(self._frame, "unconsumed_tail", b"")
        except self._errors as error:
            raise broken(f"{type(error).__name__} in its frames") from None

    def finish(self) -> None:
        """Raise EngineError when the last frame is not whole."""
        if self._frame is not None:
            raise broken("it ends in the middle of a frame; was it cut short?")


class BrotliDecoder:
    """A decoder of consecutive brotli streams.

    The library does not report where in its input a stream ended, and fails on the bytes after it. So the stream is then
    decoded again, its last part byte by byte.
    """

    def __init__(self) -> None:
        import brotli  # type: ignore[import-untyped] # publishes no types

        self._error: type[Exception] = brotli.error
        self._start: Callable[[], Any] = brotli.Decompressor
        self._stream: Any = None
        self._packed = bytearray()
        self._unpacked = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decompress more of the stream."""
        for at in range(0, len(data), BROTLI_BYTES):
            rest = data[at : at + BROTLI_BYTES]
            while rest:
                try:
                    yield from self._process(rest)
                    rest = b""
                except self._error:
                    rest = yield from self._reread(rest)

    def finish(self) -> None:
        """Raise EngineError when the last stream is not whole."""
        if self._stream is not None:
            raise broken("it ends in the middle of its brotli stream; was it cut short?")

    def _process(self, data: bytes) -> Iterator[bytes]:
        if self._stream is None:
            self._stream, self._unpacked = self._start(), 0
            self._packed.clear()
        pending = data
        while True:
            piece = self._stream.process(pending, output_buffer_limit=PIECE_BYTES)
            pending = b""
            self._unpacked += len(piece)
            if piece:
                yield piece
            if self._stream.is_finished():
                self._stream = None
                return
            if self._stream.can_accept_more_data():
                self._packed += data
                return

    def _reread(self, data: bytes) -> Generator[bytes, None, bytes]:
        """Decode the stream that ends within `data` again; return the bytes after it."""
        skip, packed = self._unpacked, bytes(self._packed)
        self._stream = None
        try:
            for piece in self._process(packed) if packed else ():
                skip -= len(piece)
            for at in range(len(data)):
                for piece in self._process(data[at : at + 1]):
                    yield piece[max(skip, 0) :]
                    skip -= len(piece)
                if self._stream is None:
                    return data[at + 1 :]
        except self._error:
            pass
        raise broken("error in its brotli stream")


class NativeBlockDecoder:
    """A decoder of ClickHouse's own compressed blocks (`decompress=1`): each with the CityHash128 of what follows it."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decompress the complete blocks."""
        self._rest += data
        while len(self._rest) >= CHECKSUM_BYTES + HEADER.size:
            method, packed, size = HEADER.unpack_from(self._rest, CHECKSUM_BYTES)
            if not HEADER.size <= packed <= BODY_BYTES or size > BODY_BYTES:
                raise broken("error in the header of a compressed block")
            if len(self._rest) < CHECKSUM_BYTES + packed:
                return
            block = bytes(self._rest[: CHECKSUM_BYTES + packed])
            del self._rest[: CHECKSUM_BYTES + packed]
            if checksum(block[CHECKSUM_BYTES:]) != block[:CHECKSUM_BYTES]:
                raise broken("a compressed block does not match its checksum")
            yield _block_data(method, block[CHECKSUM_BYTES + HEADER.size :], size)

    def finish(self) -> None:
        """Raise EngineError when the last block is not whole."""
        if self._rest:
            raise broken("it ends in the middle of a compressed block; was it cut short?")


def checksum(block: bytes) -> bytes:
    """Return ClickHouse's checksum of a compressed block with its header."""
    from clickhouse_cityhash.cityhash import CityHash128  # type: ignore[import-untyped] # publishes no types

    value = int(CityHash128(block))
    return struct.pack("<QQ", value >> 64, value & 0xFFFFFFFFFFFFFFFF)


def _block_data(method: int, packed: bytes, size: int) -> bytes:
    import lz4.block  # type: ignore[import-untyped] # publishes no types
    from backports import zstd

    try:
        if method == METHOD_LZ4:
            data = bytes(lz4.block.decompress(packed, uncompressed_size=size))
        elif method == METHOD_ZSTD:
            data = bytes(zstd.ZstdDecompressor().decompress(packed, size + 1))
        elif method == METHOD_NONE:
            data = packed
        else:
            raise broken(f"compressed blocks of method {method:#x} are not supported: use LZ4, ZSTD or NONE")
    except (lz4.block.LZ4BlockError, zstd.ZstdError, ValueError, MemoryError):
        raise broken("error in a compressed block") from None
    if len(data) != size:
        raise broken("a compressed block has another size than its header says")
    return data


def _gzip() -> Decoder:
    return FrameDecoder(lambda _head: zlib.decompressobj(wbits=31), (zlib.error,))


def _deflate() -> Decoder:
    # `deflate` means a zlib stream (RFC 9110), but some clients send raw streams. The two bytes of a zlib header, as a number,
    # are divisible by 31; a stream of which only one byte is known counts as zlib.
    def start(head: bytes) -> Any:
        raw = len(head) > 1 and (head[0] & 0x0F != 8 or (head[0] * 256 + head[1]) % 31 != 0)
        return zlib.decompressobj(wbits=-15 if raw else 15)

    return FrameDecoder(start, (zlib.error,))


def _lz4() -> Decoder:
    import lz4.frame  # type: ignore[import-untyped] # publishes no types

    return FrameDecoder(lambda _head: lz4.frame.LZ4FrameDecompressor(), (RuntimeError, EOFError, ValueError))


def _zstd() -> Decoder:
    from backports import zstd

    return FrameDecoder(lambda _head: zstd.ZstdDecompressor(), (zstd.ZstdError, EOFError))


def _bz2() -> Decoder:
    return FrameDecoder(lambda _head: bz2.BZ2Decompressor(), (OSError, EOFError))


def _xz() -> Decoder:
    return FrameDecoder(lambda _head: lzma.LZMADecompressor(memlimit=BODY_BYTES), (lzma.LZMAError, EOFError))


ENCODINGS: dict[str, Callable[[], Decoder]] = {
    "br": BrotliDecoder,
    "bz2": _bz2,
    "deflate": _deflate,
    "gzip": _gzip,
    "x-gzip": _gzip,
    "lz4": _lz4,
    "xz": _xz,
    "zstd": _zstd,
}
