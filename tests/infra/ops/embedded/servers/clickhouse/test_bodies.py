"""Compressed bodies are decompressed to their last frame, and incomplete bodies are errors."""

import bz2
import gzip
import lzma
import random
import socket
import zlib
from collections.abc import Callable
from typing import Any

import brotli  # type: ignore[import-untyped] # publishes no types
import clickhouse_connect
import lz4.frame  # type: ignore[import-untyped] # publishes no types
import pytest
from backports import zstd

from infra.ops.embedded.servers.clickhouse import bodies
from infra.ops.embedded.servers.clickhouse.encoders import NativeBlockEncoder
from infra.ops.embedded.servers.clickhouse.errors import EngineError

from .conftest import Http

PARTS = [b"".join(b"%d\n" % n for n in range(start, start + 40_000)) for start in (0, 40_000, 80_000)]


def raw_deflate(data: bytes) -> bytes:
    """A deflate stream without zlib's header."""
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


PACKERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "zlib": ("deflate", zlib.compress),
    "raw deflate": ("deflate", raw_deflate),
    "lz4": ("lz4", lz4.frame.compress),
    "zstd": ("zstd", zstd.compress),
    "bz2": ("bz2", bz2.compress),
    "xz": ("xz", lzma.compress),
    "br": ("br", brotli.compress),
}


def decode_body(encoding: str, data: bytes, piece: int, *, native: bool = False) -> bytes:
    """The body after its decoders, fed in pieces."""
    chain = bodies.decoders(encoding, native)
    out = b"".join(p for at in range(0, len(data), piece) for p in bodies.unpack(chain, data[at : at + piece]))
    bodies.finish(chain)
    return out


@pytest.mark.parametrize("name", PACKERS)
@pytest.mark.parametrize("piece", [1009, 1 << 20])
def test_all_frames_are_unpacked(name: str, piece: int) -> None:
    """Three frames after one another are three parts."""
    encoding, pack = PACKERS[name]
    packed = b"".join(pack(part) for part in PARTS)
    assert decode_body(encoding, packed, piece) == b"".join(PARTS)


@pytest.mark.parametrize("name", PACKERS)
@pytest.mark.parametrize("damage", ["cut", "cut before the last byte", "garbage behind", "garbage"])
def test_bodies_that_are_not_whole_are_errors(name: str, damage: str) -> None:
    """Code 354 for a body that is cut short, for bytes behind its last frame, and for what is no frame at all."""
    encoding, pack = PACKERS[name]
    packed = pack(PARTS[0])
    broken = {
        "cut": packed[: len(packed) // 2],
        "cut before the last byte": packed[:-1],
        "garbage behind": packed + b"garbage behind the frame",
        "garbage": b"\xff\xfenothing of the kind" * 5,
    }[damage]
    with pytest.raises(EngineError) as raised:
        decode_body(encoding, broken, 4096)
    assert (raised.value.code, raised.value.status) == (354, 400)


@pytest.mark.parametrize("method", ["LZ4", "ZSTD"])
def test_clickhouses_own_blocks_are_unpacked_and_checked(method: str) -> None:
    """Several blocks with their checksums; a changed bit, a cut and an unknown method are errors."""
    packer = NativeBlockEncoder(method)
    packed = b"".join(packer.encode(part) for part in PARTS)
    assert decode_body("", packed, 777, native=True) == b"".join(PARTS)
    for broken in (packed[:-5], packed[:100] + bytes([packed[100] ^ 1]) + packed[101:], packed + b"\0" * 30):
        with pytest.raises(EngineError, match="Code: 354"):
            decode_body("", broken, 4096, native=True)


def test_a_list_of_encodings_is_undone_from_its_end() -> None:
    """`Content-Encoding: gzip, zstd` was packed by gzip first."""
    assert decode_body("gzip, zstd", zstd.compress(gzip.compress(PARTS[0])), 1000) == PARTS[0]
    with pytest.raises(EngineError, match=r"Unknown Content-Encoding 'snappy': use one of br, bz2, deflate, gzip"):
        decode_body("snappy", b"x", 10)


def test_a_bomb_is_refused_while_it_grows() -> None:
    """What unpacks to more than a body may have is refused after the bound, not after the memory."""
    packed = zstd.compress(b"\0" * (bodies.BODY_BYTES + 1))
    chain = bodies.decoders("zstd", False)
    body = bodies.BodyFile()

    def receive() -> None:
        for piece in bodies.unpack(chain, packed):
            assert len(piece) <= bodies.PIECE_BYTES
            body.write(piece)

    with pytest.raises(EngineError, match="Code: 396"):
        receive()
    body.close()


def test_random_cuts_never_change_what_is_unpacked() -> None:
    """A stream in pieces of any size gives the same bytes."""
    seeded = random.Random(17)
    packed = b"".join(gzip.compress(part) for part in PARTS)
    for _ in range(20):
        chain, out, at = bodies.decoders("gzip", False), b"", 0
        while at < len(packed):
            size = seeded.randrange(1, 50_000)
            out += b"".join(bodies.unpack(chain, packed[at : at + size]))
            at += size
        bodies.finish(chain)
        assert out == b"".join(PARTS)


@pytest.mark.parametrize("compress", [True, "lz4", "zstd", "gzip"])
def test_clients_insert_of_200_000_rows_lands_whole(ask: Http, compress: Any) -> None:
    """clickhouse-connect compresses each block into a frame of its own."""
    ask.value("CREATE TABLE rows (id Int64, text String) ENGINE = MergeTree ORDER BY id")
    client = clickhouse_connect.get_client(dsn=f"http://127.0.0.1:{ask.port}/{ask.database}", compress=compress)
    client.insert("rows", [[n, f"text {n}"] for n in range(200_000)])
    assert client.query("SELECT count(), uniqExact(id) FROM rows").result_rows == [(200_000, 200_000)]
    client.close()


@pytest.mark.parametrize("name", PACKERS)
def test_truncated_bodies_insert_nothing(ask: Http, name: str) -> None:
    """Over HTTP a cut body is answered 400 with code 354, and no row of its first half is there."""
    encoding, pack = PACKERS[name]
    ask.value("CREATE TABLE rows (id Int64) ENGINE = MergeTree ORDER BY id")
    packed = pack(PARTS[0])
    reply = ask("INSERT INTO rows FORMAT CSV", packed[:-7], headers={"Content-Encoding": encoding})
    assert (reply.status, reply.code) == (400, 354)
    assert ask.value("SELECT count() FROM rows") == "0"
    assert ask("INSERT INTO rows FORMAT CSV", packed, headers={"Content-Encoding": encoding}).status == 200
    assert ask.value("SELECT count() FROM rows") == "40000"


def test_a_connection_that_ends_before_its_body_inserts_nothing(ask: Http) -> None:
    """Half of the announced bytes are no INSERT of half of the rows."""
    ask.value("CREATE TABLE rows (id Int64) ENGINE = MergeTree ORDER BY id")
    head = f"POST /?database={ask.database}&query=INSERT+INTO+rows+FORMAT+CSV HTTP/1.1\r\nHost: localhost\r\n"
    for framing in ("Content-Length: 1000\r\n\r\n1\n2\n", "Transfer-Encoding: chunked\r\n\r\n4\r\n1\n2\n\r\n"):
        with socket.create_connection(("127.0.0.1", ask.port)) as client:
            client.sendall((head + framing).encode())
    assert ask("INSERT INTO rows FORMAT CSV", b"3\n").status == 200
    assert ask.value("SELECT groupArray(id) FROM rows") == "[3]"
