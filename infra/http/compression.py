"""Decompression of request bodies. The bytes count more than the header, which senders and proxies get wrong. Pure."""

import zlib
from collections.abc import Callable, Iterator
from functools import partial

import brotli  # type: ignore[import-untyped] # publishes no types

GZIP_MAGIC = b"\x1f\x8b"
MAX_LAYERS = 3
"""Compressions of one body: an SDK and a proxy may each add one."""
UNCOMPRESSED = ("", "identity")
BOM = b"\xef\xbb\xbf"

Decoder = Callable[[bytes, int], bytes]


class UndecodableBody(Exception):
    """The body is not compressed as its Content-Encoding says, or in a way that is not supported."""


class InflatedBodyTooLarge(Exception):
    """The decompressed body exceeds the limit."""


def decompress(body: bytes, encodings: str, limit: int) -> bytes:
    """Return the decompressed body, of at most `limit` bytes. `encodings`: the header Content-Encoding, which may be wrong.

    gzip, deflate (with and without zlib's header) and br are supported, gzip and deflate also without a header.
    Raises UndecodableBody and InflatedBodyTooLarge.
    """
    declared = [name.strip().lower() for name in encodings.split(",")]
    for name in reversed(declared):
        if name not in UNCOMPRESSED:
            body = _undo(body, name, limit)
    for _ in range(MAX_LAYERS):
        if (inflated := _sniff(body, limit)) is None:
            return body
        body = inflated
    raise UndecodableBody


def looks_like_json(body: bytes) -> bool:
    """Return whether a body begins as a JSON object or array does."""
    return body[:64].removeprefix(BOM).lstrip()[:1] in (b"{", b"[")


def _undo(body: bytes, name: str, limit: int) -> bytes:
    """Undo one declared compression. A body that was decompressed on the way, and kept its header, is returned as it is."""
    for decoder in DECODERS.get(name, ()):
        try:
            return decoder(body, limit)
        except UndecodableBody:
            continue
    if looks_like_json(body) or (inflated := _sniff(body, limit)) is None:
        if not looks_like_json(body):
            raise UndecodableBody
        return body
    return inflated


def _sniff(body: bytes, limit: int) -> bytes | None:
    """Return the body decompressed by what its bytes are; None where they are not compressed."""
    for decoder in _guess(body):
        try:
            inflated = decoder(body, limit)
        except UndecodableBody:
            continue
        if body.startswith(GZIP_MAGIC) or looks_like_json(inflated):
            return inflated
    return None


def _guess(body: bytes) -> Iterator[Decoder]:
    if not body or looks_like_json(body):
        return
    if body.startswith(GZIP_MAGIC):
        yield _gunzip
        return
    if len(body) > 1 and body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0:  # RFC 1950, section 2.2
        yield _inflate_zlib
    if not body[:64].isascii():
        yield from (_inflate_raw, _decode_brotli)


def _decompress_zlib(body: bytes, limit: int, window: int) -> bytes:
    inflated = b""
    while body:
        engine = zlib.decompressobj(window)
        try:
            inflated += engine.decompress(body, limit + 1 - len(inflated))
        except zlib.error:
            raise UndecodableBody from None
        if len(inflated) > limit:
            raise InflatedBodyTooLarge
        if not engine.eof:
            raise UndecodableBody  # the stream is cut off
        body = engine.unused_data if engine.unused_data.startswith(GZIP_MAGIC) else b""
    return inflated


def _decode_brotli(body: bytes, limit: int) -> bytes:
    engine = brotli.Decompressor()
    try:
        inflated = bytes(engine.process(body, output_buffer_limit=limit + 1))
    except brotli.error:
        raise UndecodableBody from None
    if len(inflated) > limit:
        raise InflatedBodyTooLarge
    if not engine.is_finished():
        raise UndecodableBody
    return inflated


_gunzip: Decoder = partial(_decompress_zlib, window=31)
_inflate_zlib: Decoder = partial(_decompress_zlib, window=15)
_inflate_raw: Decoder = partial(_decompress_zlib, window=-15)

DECODERS: dict[str, tuple[Decoder, ...]] = {
    "gzip": (_gunzip,),
    "x-gzip": (_gunzip,),
    # The name says zlib's format, but some clients send the raw stream.
    "deflate": (_inflate_zlib, _inflate_raw),
    "br": (_decode_brotli,),
}
"""Content-Encoding -> decoders, in the order in which they are tried."""

__all__ = ["BOM", "DECODERS", "InflatedBodyTooLarge", "UndecodableBody", "decompress", "looks_like_json"]
