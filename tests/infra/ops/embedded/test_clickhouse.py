"""The embedded ClickHouse through ClickHouse's own client and through plain HTTP."""

import datetime
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from shutil import which
from typing import Any
from urllib.parse import urlencode

import clickhouse_connect
import psutil
import pytest
from fastavro import writer

from infra.ops.embedded.servers.child import StartFailed
from infra.ops.embedded.servers.clickhouse import EmbeddedClickHouse, command

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedClickHouse]:
    """A server with one table."""
    with EmbeddedClickHouse(tmp_path_factory.mktemp("clickhouse")) as running:
        client = connect(running)
        client.command("CREATE DATABASE shop ENGINE = Atomic")
        client.command(
            "CREATE TABLE shop.orders (id Int64, name LowCardinality(String) DEFAULT 'none', at DateTime64(3) DEFAULT now64(), "
            "more Map(String, String), tags Array(String)) ENGINE = MergeTree ORDER BY id "
            "SETTINGS non_replicated_deduplication_window = 100"
        )
        yield running


@pytest.fixture
def orders(server: EmbeddedClickHouse) -> Any:
    """A client; the table is empty."""
    client = connect(server)
    client.command("TRUNCATE TABLE shop.orders")
    return client


def connect(server: EmbeddedClickHouse, **options: Any) -> Any:
    """A client with ClickHouse's usual settings."""
    return clickhouse_connect.get_client(dsn=server.url, **options)


def ask(server: EmbeddedClickHouse, body: bytes | None = None, **parameters: str) -> tuple[int, bytes, Any]:
    """Status, body and headers of one plain request."""
    try:
        with DIRECT.open(f"{server.url}/?{urlencode(parameters)}", body, timeout=20) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


def test_ping_says_ok(server: EmbeddedClickHouse) -> None:
    """`/ping` answers as ClickHouse does."""
    with DIRECT.open(f"{server.url}/ping") as answer:
        assert answer.read() == b"Ok.\n"


@pytest.mark.parametrize("compress", [False, "lz4", "zstd", "gzip"])
def test_native_inserts_come_back_whatever_compresses_them(server: EmbeddedClickHouse, orders: Any, compress: Any) -> None:
    """Rows written by the client's native insert are read back as they were."""
    client = connect(server, compress=compress)
    at = datetime.datetime(2026, 11, 24, 12, 30, 0, 123_000)
    rows = [[n, f"name {n % 3}", at, {"a": "ä"}, ["x", "y"]] for n in range(500)]
    assert client.insert("shop.orders", rows).written_rows == 500
    assert [list(row) for row in client.query("SELECT * FROM shop.orders ORDER BY id").result_rows] == rows


def test_data_frames_arrow_and_streams(orders: Any) -> None:
    """query_df, query_arrow, insert_df and row streams work."""
    orders.raw_insert("shop.orders", ["id", "name"], "1,one\n2,two\n", fmt="CSV")
    frame = orders.query_df("SELECT id, name FROM shop.orders ORDER BY id")
    assert frame["name"].tolist() == ["one", "two"]
    frame["id"] += 10  # the same rows again would be taken for a repeated insert
    orders.insert_df("shop.orders", frame)
    assert orders.query_arrow("SELECT id FROM shop.orders").num_rows == 4
    with orders.query_rows_stream("SELECT number FROM numbers(100000)") as stream:
        assert sum(row[0] for row in stream) == 4_999_950_000


def test_parameters_settings_database_and_query_id(server: EmbeddedClickHouse, orders: Any) -> None:
    """Bound values arrive untouched, settings hold for one request, and the query id comes back."""
    nasty = "it's a \\ \t tab\nand a {brace}"
    result = orders.query("SELECT {a:String}, {b:Array(String)}, {c:Int32}", parameters={"a": nasty, "b": [nasty, ""], "c": -5})
    assert result.result_rows == [(nasty, [nasty, ""], -5)]
    assert orders.query("SELECT getSetting('max_threads')", settings={"max_threads": 3}).result_rows == [(3,)]
    status, body, headers = ask(server, database="shop", query="SELECT currentDatabase(), count() FROM orders", query_id="mine")
    assert (status, body, headers["X-ClickHouse-Query-Id"]) == (200, b"shop\t0\n", "mine")
    assert headers["X-ClickHouse-Format"] == "TabSeparated"
    assert '"read_rows"' in headers["X-ClickHouse-Summary"]


def test_avro_containers_are_inserted_once_under_a_token(orders: Any) -> None:
    """A second insert under the same token writes nothing."""
    from io import BytesIO

    file = BytesIO()
    schema = {"type": "record", "name": "Row", "fields": [{"name": "id", "type": "long"}]}
    writer(file, schema, ({"id": n} for n in range(1_000)))
    for _ in range(2):
        orders.raw_insert("shop.orders", ["id"], file.getvalue(), fmt="Avro", settings={"insert_deduplication_token": "t"})
    assert orders.query("SELECT count() FROM shop.orders").result_rows == [(1_000,)]


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("SELECT nosuch", 404, 47),
        ("SELECT * FROM shop.nosuch", 404, 60),
        ("SELEC 1", 400, 62),
        ("SELECT 1; DROP TABLE shop.orders", 400, 62),
        ("SELECT nosuch(1)", 404, 46),
        ("INSERT INTO shop.orders (id) FORMAT CSV\nx", 400, 117),
    ],
)
def test_errors_carry_clickhouses_code_and_status(server: EmbeddedClickHouse, query: str, status: int, code: int) -> None:
    """An error answers with ClickHouse's status, code header and text."""
    actual, body, headers = ask(server, query.encode())
    assert (actual, headers["X-ClickHouse-Exception-Code"]) == (status, str(code))
    assert body.startswith(f"Code: {code}. DB::Exception: ".encode())


def test_unknown_settings_and_databases_are_errors(server: EmbeddedClickHouse) -> None:
    """Nothing that a request asks for is ignored in silence."""
    assert ask(server, query="SELECT 1", nosuch="1")[2]["X-ClickHouse-Exception-Code"] == "115"
    assert ask(server, query="SELECT 1", database="nosuch")[2]["X-ClickHouse-Exception-Code"] == "81"


@pytest.mark.parametrize(
    "ddl",
    [
        "CREATE TABLE shop.k (a Int64) ENGINE = Kafka('127.0.0.1:1', 't', 'g', 'CSV')",
        "create table shop.k (a Int64) /* ENGINE = MergeTree */ engine/**/=\n`kAfKa`('a', 'b', 'c', 'CSV')",
        "CREATE TABLE shop.k (a Int64) -- ;\nENGINE RabbitMQ SETTINGS x = 1",
        "CREATE OR REPLACE TABLE shop.k (a Int64 COMMENT 'it\\'s ENGINE') ENGINE = \"NATS\" SETTINGS x = 1",
        "ATTACH TABLE shop.k (a Int64) ENGINE = S3Queue('x', 'CSV')",
        "CREATE MATERIALIZED VIEW shop.k ENGINE = ReplicatedMergeTree ORDER BY a AS SELECT 1 AS a",
        "CREATE DATABASE k ENGINE = MaterializedPostgreSQL('a', 'b', 'c', 'd')",
    ],
)
def test_engines_that_brick_the_data_are_refused_in_every_disguise(server: EmbeddedClickHouse, ddl: str) -> None:
    """Comments, case, quotes and missing equal signs hide nothing, and the table beside it still answers."""
    status, body, headers = ask(server, ddl.encode())
    assert (status, headers["X-ClickHouse-Exception-Code"]) == (400, "344")
    assert body.startswith(b"Code: 344. DB::Exception: Engine ")
    assert ask(server, query="SELECT count() FROM shop.orders")[0] == 200


def test_words_about_engines_are_no_engines(server: EmbeddedClickHouse) -> None:
    """A column called engine and a text that says Kafka pass."""
    assert ask(server, b"SELECT engine, 'ENGINE = Kafka' FROM system.tables LIMIT 1")[0] == 200
    assert ask(server, b"CREATE OR REPLACE VIEW shop.engines AS SELECT engine FROM system.tables")[0] == 200


def test_curl_is_enough(server: EmbeddedClickHouse, orders: Any) -> None:
    """Queries in the address, in the body and as a form, and data in the body."""

    def curl(*words: str) -> str:
        return subprocess.run([which("curl") or "curl", "-s", *words], capture_output=True, text=True, check=True).stdout

    insert = "query=INSERT+INTO+shop.orders+(id,name)"
    assert curl(f"{server.url}/?query=SELECT+1") == "1\n"
    assert curl(server.url, "--data-binary", "SELECT 1 AS a FORMAT JSONEachRow") == '{"a":1}\n'
    assert curl(f"{server.url}/?{insert}+FORMAT+JSONEachRow", "--data-binary", '{"id": 1, "name": "FORMAT CSV"}') == ""
    assert curl(f"{server.url}/?{insert}+VALUES", "--data-binary", "(2, 'two')") == ""
    assert curl(server.url, "--data-binary", "INSERT INTO shop.orders (id) SELECT 3 FORMAT Null") == ""
    assert curl(f"{server.url}/", "-F", "query=SELECT {a:UInt8} + 1", "-F", "param_a=4") == "5\n"
    assert curl(f"{server.url}/?query=SELECT+id,name+FROM+shop.orders+ORDER+BY+id") == "1\tFORMAT CSV\n2\ttwo\n3\tnone\n"


def test_ping_answers_while_all_queries_are_busy(server: EmbeddedClickHouse) -> None:
    """Four slow queries hold every thread; `/ping` and, afterwards, the queries answer."""
    answers: list[bytes] = []
    threads = [threading.Thread(target=lambda: answers.append(ask(server, query="SELECT sleep(1)")[1])) for _ in range(4)]
    for thread in threads:
        thread.start()
    with DIRECT.open(f"{server.url}/ping", timeout=5) as answer:
        assert answer.read() == b"Ok.\n"
    assert not answers
    for thread in threads:
        thread.join()
    assert answers == [b"0\n"] * 4


def test_acknowledged_inserts_survive_kill_9_and_only_one_process_opens_a_path(tmp_path: Path) -> None:
    """Rows are there after a kill, a second server is told who holds the folder, and SIGTERM ends the first cleanly."""
    server = EmbeddedClickHouse(tmp_path / "data").start()
    client = connect(server, autogenerate_session_id=False)
    client.command("CREATE DATABASE d ENGINE = Atomic")
    client.command("CREATE TABLE d.t (a Int64) ENGINE = MergeTree ORDER BY a")
    client.insert("d.t", [[n] for n in range(1_000)], column_names=["a"])
    first = psutil.Process(server.pid)
    with pytest.raises(StartFailed, match=f"is open in process {server.pid}"):
        EmbeddedClickHouse(tmp_path / "data", log=tmp_path / "second.log").start()
    first.kill()
    first.wait(10)
    server.start()
    try:
        assert client.query("SELECT count() FROM d.t").result_rows == [(1_000,)]
        listening = [
            connection.laddr.ip
            for connection in psutil.Process(server.pid).net_connections("tcp")
            if connection.status == "LISTEN"
        ]
        assert listening == ["127.0.0.1"]
    finally:
        server.stop()
    assert not server.running
    deadline = time.monotonic() + 10
    while psutil.pid_exists(server.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert command(tmp_path, 1)[-1] == "1"
