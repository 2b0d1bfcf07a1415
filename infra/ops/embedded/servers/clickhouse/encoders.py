"""Compression of results: for `Accept-Encoding`, and ClickHouse's own compressed blocks (`compress=1`)."""

import zlib
from collections.abc import Callable
from typing import Any, Protocol

from infra.ops.embedded.servers.clickhouse.bodies import HEADER, METHOD_LZ4, METHOD_ZSTD, checksum

BLOCK_BYTES = 1024 * 1024
ZSTD_LEVEL = GZIP_LEVEL = BROTLI_QUALITY = 1


class Encoder(Protocol):
    """Compresses a stream given in pieces."""

    def encode(self, data: bytes) -> bytes:
        """Return the compressed bytes available now."""
        ...

    def finish(self) -> bytes:
        """Return the remaining bytes."""
        ...


class IdentityEncoder:
    """No compression."""

    def encode(self, data: bytes) -> bytes:
        """Return the data unchanged."""
        return data

    def finish(self) -> bytes:
        """Return no bytes."""
        return b""


class StreamEncoder:
    """Wraps a library's compressor with `compress` and `flush` (brotli: `process` and `finish`)."""

    def __init__(self, compressor: Any, head: bytes = b"") -> None:
        self._compress: Callable[[bytes], bytes] = getattr(compressor, "compress", None) or compressor.process
        self._finish: Callable[[], bytes] = getattr(compressor, "finish", None) or compressor.flush
        self._head = head

    def encode(self, data: bytes) -> bytes:
        """Return the compressed bytes available now."""
        head, self._head = self._head, b""
        return head + self._compress(data)

    def finish(self) -> bytes:
        """Return the remaining bytes."""
        head, self._head = self._head, b""
        return head + self._finish()


class NativeBlockEncoder:
    """ClickHouse's compressed blocks, LZ4 or ZSTD, each of at most BLOCK_BYTES of data."""

    def __init__(self, method: str) -> None:
        self._method = METHOD_ZSTD if method.upper() == "ZSTD" else METHOD_LZ4

    def encode(self, data: bytes) -> bytes:
        """Return the data in compressed blocks."""
        return b"".join(self._block(data[at : at + BLOCK_BYTES]) for at in range(0, len(data), BLOCK_BYTES))

    def finish(self) -> bytes:
        """Return no bytes: every block is complete."""
        return b""

    def _block(self, data: bytes) -> bytes:
        import lz4.block  # type: ignore[import-untyped] # publishes no types
        from backports import zstd

        if self._method == METHOD_ZSTD:
            packed = zstd.compress(data, ZSTD_LEVEL)
        else:
            packed = bytes(lz4.block.compress(data, store_size=False))
        block = HEADER.pack(self._method, len(packed) + HEADER.size, len(data)) + packed
        return checksum(block) + block


def encoder(accept: str) -> tuple[str, Encoder]:
    """Return (Content-Encoding, encoder) for an Accept-Encoding, cheapest first; ("", IdentityEncoder) for unknown ones."""
    offered = {name.split(";")[0].strip().lower() for name in accept.split(",") if not _is_refused(name)}
    for name, make in ENCODERS.items():
        if name in offered:
            return name, make()
    return "", IdentityEncoder()


def _is_refused(offer: str) -> bool:
    return offer.replace(" ", "").lower().endswith((";q=0", ";q=0.0"))


def _lz4() -> Encoder:
    import lz4.frame  # type: ignore[import-untyped] # publishes no types

    compressor = lz4.frame.LZ4FrameCompressor()
    return StreamEncoder(compressor, bytes(compressor.begin()))


def _zstd() -> Encoder:
    from backports import zstd

    return StreamEncoder(zstd.ZstdCompressor(ZSTD_LEVEL))


def _brotli() -> Encoder:
    import brotli  # type: ignore[import-untyped] # publishes no types

    return StreamEncoder(brotli.Compressor(quality=BROTLI_QUALITY))


ENCODERS: dict[str, Callable[[], Encoder]] = {
    "lz4": _lz4,
    "zstd": _zstd,
    "gzip": lambda: StreamEncoder(zlib.compressobj(GZIP_LEVEL, wbits=31)),
    "deflate": lambda: StreamEncoder(zlib.compressobj(GZIP_LEVEL)),
    "br": _brotli,
}
