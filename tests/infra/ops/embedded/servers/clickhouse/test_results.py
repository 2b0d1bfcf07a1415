"""Results are streamed completely, within bounded memory, and stopped when the client leaves."""

import gzip
import http.client
import json
import socket
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

import brotli  # type: ignore[import-untyped] # publishes no types
import clickhouse_connect
import lz4.frame  # type: ignore[import-untyped] # publishes no types
import psutil
import pyarrow.parquet  # type: ignore[import-untyped] # publishes no types
import pytest
from backports import zstd
from clickhouse_connect.driver.exceptions import ClickHouseError

from infra.ops.embedded.servers.clickhouse import EmbeddedClickHouse, bodies
from infra.ops.embedded.servers.clickhouse.native import with_protocol

from .conftest import Http

MANY = "SELECT number, toString(number) AS text, [number, 1] AS list FROM numbers(300000)"
FORMATS = [
    "JSON",
    "JSONCompact",
    "JSONEachRow",
    "CSV",
    "CSVWithNames",
    "TabSeparated",
    "TabSeparatedWithNamesAndTypes",
    "RowBinary",
    "Native",
    "Values",
    "XML",
    "RowBinaryWithNamesAndTypes",
    "Parquet",
    "Arrow",
    "ArrowStream",
    "ORC",
    "Avro",
    "PrettyCompact",
    "Vertical",
    "Markdown",
    "SQLInsert",
]
RUNNING = "SELECT countIf(query LIKE '%{mark}%') FROM system.processes WHERE query NOT LIKE '%system.processes%'"


def wait_until_gone(ask: Http, mark: str, limit_s: float = 15) -> None:
    """Wait until no query with this mark runs."""
    deadline = time.monotonic() + limit_s
    while ask.value(RUNNING.format(mark=mark), user="headwater") != "0":
        assert time.monotonic() < deadline, "the query still runs"
        time.sleep(0.05)


@pytest.mark.parametrize("name", FORMATS)
def test_streamed_result_is_one_document(ask: Http, name: str) -> None:
    """A streamed result equals the one that waits for its end, with its header and footer once."""
    query = f"{MANY} FORMAT {name}"
    streamed, whole = ask(query), ask(query, wait_end_of_query=1)
    assert (streamed.status, whole.status) == (200, 200)
    if name in ("JSON", "JSONCompact"):
        documents = [json.loads(reply.body) for reply in (streamed, whole)]
        assert [document.pop("statistics")["rows_read"] for document in documents] == [300_000, 300_000]
        assert documents[0] == documents[1]
        assert documents[0]["rows"] == 300_000
    elif name == "XML":
        assert streamed.body.count(b"<row>") == whole.body.count(b"<row>") == 300_000
        assert streamed.body.count(b"</result>") == 1
    elif name == "Parquet":
        tables = [pyarrow.parquet.read_table(pyarrow.BufferReader(reply.body)) for reply in (streamed, whole)]
        assert tables[0].equals(tables[1])
        assert tables[0].num_rows == 300_000
    elif name == "Avro":  # its sync marker is random
        assert len(streamed.body) == pytest.approx(len(whole.body), rel=0.01)
    else:
        assert streamed.body == whole.body
    assert streamed.headers.get("Transfer-Encoding", "") == ("chunked" if len(whole.body) > 1_100_000 else "")
    assert json.loads(whole.headers["X-ClickHouse-Summary"])["read_rows"] == "300000"


def test_small_results_have_length_summary_and_content_type(ask: Http) -> None:
    """What fits is answered at once, with its figures."""
    reply = ask("SELECT 1 AS a FORMAT JSONEachRow")
    assert (reply.status, reply.body, reply.headers["Content-Length"]) == (200, b'{"a":1}\n', "8")
    assert json.loads(reply.headers["X-ClickHouse-Summary"])["read_rows"] == "1"
    assert reply.headers["X-ClickHouse-Format"] == "JSONEachRow"
    assert ask("SELECT 1 FORMAT CSVWithNames").headers["Content-Type"].startswith("text/csv")
    assert ask("SELECT 1 FORMAT Nosuch").code == 73


def test_memory_stays_under_the_cap_whatever_is_read(server: EmbeddedClickHouse, ask: Http) -> None:
    """500,000 rows of 4 KB, 2 GB, read by a slow client: the process stays below 1 GB."""
    ask.value("CREATE TABLE wide (id Int64, text String) ENGINE = MergeTree ORDER BY id")
    fill = "INSERT INTO wide SELECT number, repeat(leftPad(toString(number), 5, '0'), 800) FROM numbers(100000)"
    ask.value(fill, user="headwater", max_block_size=4096)
    process, peak, size = psutil.Process(server.pid), 0, 0
    query = "SELECT w.* FROM wide AS w, numbers(5) AS n"
    connection = http.client.HTTPConnection("127.0.0.1", ask.port, timeout=60)
    connection.request("POST", f"/?{urlencode({'database': ask.database, 'default_format': 'JSONEachRow'})}", query.encode())
    response = connection.getresponse()
    assert response.status == 200
    while piece := response.read(4 * 1024 * 1024):
        size += len(piece)
        peak = max(peak, process.memory_info().rss)
    connection.close()
    assert size > 2_000_000_000
    assert peak < 1_000_000_000, f"{peak / 1e6:.0f} MB"


def test_failure_in_the_middle_is_a_failure_for_every_client(ask: Http) -> None:
    """The body ends with the exception, without the last chunk; clickhouse-connect raises it."""
    query = "SELECT number, throwIf(number = 2000000, 'in the middle') FROM numbers(3000000)"
    connection = http.client.HTTPConnection("127.0.0.1", ask.port, timeout=60)
    connection.request("POST", "/", query.encode())
    response = connection.getresponse()
    assert response.status == 200
    tag = response.headers["X-ClickHouse-Exception-Tag"]
    with pytest.raises(http.client.IncompleteRead) as raised:
        response.read()
    connection.close()
    body = raised.value.partial
    assert f"\r\n__exception__\r\n{tag}\r\nCode: 395. DB::Exception: in the middle".encode() in body
    assert body.endswith(f" {tag}\r\n__exception__\r\n".encode())
    assert ask(query, wait_end_of_query=1).code == 395
    for compress in (False, "lz4"):
        client = clickhouse_connect.get_client(dsn=f"http://127.0.0.1:{ask.port}", compress=compress)
        with pytest.raises(ClickHouseError, match="in the middle"):
            client.query(query)
        client.close()


@pytest.mark.parametrize("early", [True, False])
def test_query_of_a_client_that_left_is_stopped(ask: Http, early: bool) -> None:
    """Whether the result had begun or not, the query ends within seconds and its slot is free."""
    mark = "left early" if early else "left late"
    source = (
        "SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 1"
        if early
        else "SELECT number FROM numbers(1000000000000)"
    )
    with socket.create_connection(("127.0.0.1", ask.port)) as client:
        body = f"{source} AND '{mark}' != ''" if early else f"{source} WHERE '{mark}' != ''"
        client.sendall(f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        if not early:
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
        deadline = time.monotonic() + 15
        while ask.value(RUNNING.format(mark=mark), user="headwater") == "0":
            assert time.monotonic() < deadline, "the query never ran"
    wait_until_gone(ask, mark)
    for _ in range(8):
        assert ask.value("SELECT 1") == "1"


def test_statement_of_an_analyst_that_left_is_stopped(ask: Http) -> None:
    """INSERT ... SELECT too: its slot is not held for the hour that it would take."""
    ask.value("CREATE TABLE t (a UInt64) ENGINE = Null")
    body = "INSERT INTO t SELECT number FROM numbers(1000000000000) WHERE sipHash64(number) = 1"
    with socket.create_connection(("127.0.0.1", ask.port)) as client:
        head = f"POST /?database={ask.database} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall((head + body).encode())
        deadline = time.monotonic() + 15
        while ask.value(RUNNING.format(mark="INSERT INTO t SELECT"), user="headwater") == "0":
            assert time.monotonic() < deadline, "the statement never ran"
    wait_until_gone(ask, "INSERT INTO t SELECT")


def test_execution_time_is_bounded_within_limits(ask: Http) -> None:
    """Ten minutes unless a request says otherwise, an hour at the most."""
    assert ask.value("SELECT getSetting('max_execution_time')") == "600"
    reply = ask("SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 1", max_execution_time=1)
    assert (reply.status, reply.code) == (408, 159)
    assert ask("SELECT 1", max_execution_time=3601).code == 452


UNPACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
    "br": brotli.decompress,
    "zstd": zstd.decompress,
    "lz4": lz4.frame.decompress,
}


@pytest.mark.parametrize("encoding", UNPACK)
@pytest.mark.parametrize(
    "query", ["SELECT number FROM numbers(10)", "SELECT number FROM numbers(1000000)", "SHOW TABLES FROM system"]
)
def test_results_are_compressed_on_request(ask: Http, encoding: str, query: str) -> None:
    """With enable_http_compression and Accept-Encoding only, small results, streamed ones and lists alike."""
    plain = ask(query, headers={"Accept-Encoding": encoding})
    assert "Content-Encoding" not in plain.headers
    packed = ask(query, headers={"Accept-Encoding": f"identity;q=0.5, {encoding}, zz"}, enable_http_compression=1)
    assert packed.headers["Content-Encoding"] == encoding
    assert UNPACK[encoding](packed.body) == plain.body
    refused = ask(query, headers={"Accept-Encoding": f"{encoding};q=0"}, enable_http_compression=1)
    assert (refused.headers.get("Content-Encoding"), refused.body) == (None, plain.body)


@pytest.mark.parametrize("method", ["LZ4", "ZSTD"])
def test_results_come_in_clickhouses_own_blocks_on_request(ask: Http, method: str) -> None:
    """`compress=1` gives blocks with checksums, as drivers expect them."""
    plain = ask(MANY)
    packed = ask(MANY, compress=1, network_compression_method=method)
    assert len(packed.body) < len(plain.body) * 0.6
    chain = bodies.decoders("", True)
    assert b"".join(bodies.unpack(chain, packed.body)) == plain.body
    bodies.finish(chain)


def test_types_that_cannot_be_walked_through_are_refused_with_a_way_out(ask: Http) -> None:
    """A client with a protocol version gets code 48 for an aggregate's state, and the state from others."""
    query = "SELECT uniqState(number) AS state FROM numbers(10)"
    reply = ask(query, default_format="Native", client_protocol_version=54_483)
    assert (reply.status, reply.code) == (501, 48)
    assert b"CAST" in reply.body
    assert ask(query, default_format="Native").status == 200


def test_blocks_are_the_same_however_they_are_cut(ask: Http) -> None:
    """Native with block info does not depend on the pieces that the pipe gives."""
    query = "SELECT number, toString(number) AS s, [s, NULL] AS l, toLowCardinality(s) AS c, map(s, l) AS m FROM numbers(70000)"
    data = ask(query, default_format="Native").body
    whole = b"".join(with_protocol([data]))
    assert whole == b"".join(with_protocol(data[at : at + 997] for at in range(0, len(data), 997)))
    assert whole == ask(query, default_format="Native", client_protocol_version=54_483).body
    # For each block its info, and a byte for each of the five columns.
    blocks = whole.count(b"\x01\x00\x02\xff\xff\xff\xff\x00\x05")
    assert blocks > 1
    assert len(whole) == len(data) + blocks * (8 + 5)


def test_server_stops_although_nobody_reads_its_results(tmp_path: Path) -> None:
    """SIGTERM ends a server within seconds while four clients hold results of terabytes, and its data open again."""
    server = EmbeddedClickHouse(tmp_path / "data").start()
    clients = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(4)]
    body = "SELECT number, repeat('x', 1000) FROM numbers(1000000000000)"
    try:
        for client in clients:
            client.sendall(f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
        process = psutil.Process(server.pid)
        process.terminate()
        assert process.wait(15) == 0
        server.start()
        assert Http(server.port, "default").value("SELECT 1") == "1"
    finally:
        for client in clients:
            client.close()
        server.stop()
