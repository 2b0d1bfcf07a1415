"""A successful insert has written all its rows; a failed one returns an error and can be repeated."""

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from fastavro import writer

from .conftest import Http, Reply

ROWS = 50_000
TABLE = "ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 100"


def avro(rows: int, text: str = "x") -> bytes:
    """Rows of `id` and `text`."""
    file = BytesIO()
    fields = [{"name": "id", "type": "long"}, {"name": "text", "type": "string"}]
    writer(file, {"type": "record", "name": "Row", "fields": fields}, ({"id": n, "text": f"{text}{n}"} for n in range(rows)))
    return file.getvalue()


def insert(ask: Http, data: bytes, name: str = "t", **settings: Any) -> Reply:
    """Insert an Avro container under a token, as the loader does."""
    query = "INSERT INTO rows (id, text) FORMAT Avro"
    return ask(query, data, user="headwater", insert_deduplication_token=name, **settings)


def assert_exact_after_retry(ask: Http, data: bytes, rows: int = ROWS) -> None:
    """The same rows under the same token, once more and once more, are there once."""
    for _ in range(2):
        reply = insert(ask, data)
        assert reply.status == 200, reply.body
    assert ask.value("SELECT count(), uniqExact(id), max(id) FROM rows") == f"{rows}\t{rows}\t{rows - 1}"


def test_memory_limit_in_the_middle_of_an_insert_fails_it(ask: Http) -> None:
    """Code 241 instead of success; nothing of the rows is there, and the retry is exact."""
    ask.value(f"CREATE TABLE rows (id Int64, text String) {TABLE}")
    data = avro(ROWS, "a" * 100)
    reply = insert(ask, data, max_memory_usage=6_000_000)
    assert (reply.status, reply.code) == (500, 241)
    assert ask.value("SELECT count() FROM rows") == "0"
    assert_exact_after_retry(ask, data)


def test_violated_constraint_fails_the_insert(ask: Http) -> None:
    """Code 469; nothing of the rows is there, and once the constraint is dropped the retry is exact."""
    ask.value(f"CREATE TABLE rows (id Int64, text String, CONSTRAINT small CHECK id < 40000) {TABLE}")
    data = avro(ROWS)
    reply = insert(ask, data)
    assert (reply.status, reply.code) == (500, 469)
    assert ask.value("SELECT count() FROM rows") == "0"
    ask.value("ALTER TABLE rows DROP CONSTRAINT small")
    assert_exact_after_retry(ask, data)


def test_failing_materialized_view_fails_the_insert_unless_its_errors_are_to_be_ignored(ask: Http) -> None:
    """Code 395 with the view's name; with materialized_views_ignore_errors the rows are there, once."""
    ask.value(f"CREATE TABLE rows (id Int64, text String) {TABLE}")
    ask.value("CREATE TABLE copies (id Int64, x UInt8) ENGINE = MergeTree ORDER BY id")
    ask.value("CREATE MATERIALIZED VIEW failing TO copies AS SELECT id, throwIf(id = 49999) AS x FROM rows")
    data = avro(ROWS)
    reply = insert(ask, data, "other")
    assert (reply.status, reply.code) == (500, 395)
    assert b"failing" in reply.body
    ask.value("TRUNCATE TABLE rows")
    for _ in range(2):
        assert insert(ask, data, materialized_views_ignore_errors=1).status == 200
    assert ask.value("SELECT count() FROM rows") == str(ROWS)


@pytest.mark.parametrize(
    ("data", "name", "code"),
    [
        (b"1,one\nx,two\n", "CSV", 27),
        (b'{"id": "one"}\n', "JSONEachRow", 27),
        (avro(10)[:-20], "Avro", 1001),
        (b"no container", "Avro", 1001),
        (b"\x01\x02", "Native", 32),
    ],
)
def test_data_of_another_type_fail_the_insert(ask: Http, data: bytes, name: str, code: int) -> None:
    """An error with its code, and no row."""
    ask.value(f"CREATE TABLE rows (id Int64, text String) {TABLE}")
    reply = ask(f"INSERT INTO rows FORMAT {name}", data)
    assert reply.status in (400, 500)
    assert reply.code == code, reply.body
    assert ask.value("SELECT count() FROM rows") == "0"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("only root mounts a small file system")
    if subprocess.run([mount, "-t", "tmpfs", "-o", "size=200m", "tmpfs", str(folder)], check=False).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # noqa: S607 - beside mount


def test_full_disk_fails_inserts_until_there_is_room(small_disk: Path, serve: Callable[..., Http]) -> None:
    """Code 243 or its like while the disk is full; with room again, the refused inserts are repeated, and all is exact."""
    ask = serve(small_disk / "data")
    ask.value(f"CREATE TABLE rows (id Int64, text String CODEC(NONE)) {TABLE}")
    ballast = small_disk / "ballast"
    with ballast.open("wb") as file:
        while shutil.disk_usage(small_disk).free > 8_000_000:
            file.write(os.urandom(1_000_000))
    batches = {f"t{n}": f"{n}-" + "b" * 100 for n in range(6)}
    failed = []
    for token, text in batches.items():
        reply = insert(ask, avro(20_000, text), token)
        if reply.status != 200:
            assert reply.code in (75, 76, 243, 1001, 1002), reply.body
            failed.append(token)
    assert failed, "the disk was never full"
    for statement in ("CREATE TABLE other (n UInt8) ENGINE = Null", "ALTER TABLE rows ADD COLUMN n UInt8"):
        reply = ask(statement)
        assert (reply.code, reply.status) == (243, 500), "a definition that is written now could be empty afterwards"
    ballast.unlink()
    assert ask("ALTER TABLE rows ADD COLUMN n UInt8").status == 200
    for token in failed:
        assert insert(ask, avro(20_000, batches[token]), token).status == 200
    assert ask.value("SELECT count(), uniqExact(text) FROM rows") == "120000\t120000"


def test_engine_memory_full_fails_inserts_and_loses_none(serve: Callable[..., Http]) -> None:
    """With a cap little above the engine's own need, inserts of 20 MB fail or land whole; retries are exact."""
    ask = serve(memory_bytes=420_000_000)
    ask.value(f"CREATE TABLE rows (id Int64, text String) {TABLE}")
    batches = [avro(ROWS, f"{n}-" + "c" * 300) for n in range(6)]
    replies: dict[int, Reply] = {}

    def send(number: int) -> None:
        replies[number] = insert(ask, batches[number], f"t{number}")

    threads = [threading.Thread(target=send, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    written = [number for number, reply in replies.items() if reply.status == 200]
    assert ask.value("SELECT count() FROM rows") == str(ROWS * len(written))
    for reply in replies.values():
        assert reply.code in (0, 241), reply.body
    deadline = time.monotonic() + 60
    while len(written) < len(batches) and time.monotonic() < deadline:
        written += [n for n in range(6) if n not in written and insert(ask, batches[n], f"t{n}").status == 200]
    assert ask.value("SELECT count(), uniqExact(text) FROM rows") == f"{6 * ROWS}\t{6 * ROWS}"


def test_insert_of_several_blocks_keeps_its_token(ask: Http) -> None:
    """200,000 rows in blocks of 30,000 under one token are there once, however often they are sent."""
    ask.value(f"CREATE TABLE rows (id Int64, text String) {TABLE}")
    data = avro(200_000)
    for _ in range(2):
        blocks: dict[str, Any] = {"max_insert_block_size": 30_000, "min_insert_block_size_rows": 30_000}
        blocks["min_insert_block_size_bytes"] = 0
        reply = insert(ask, data, **blocks)
        assert reply.status == 200, reply.body
        assert '"written_rows":"200000"' in reply.headers["X-ClickHouse-Summary"]
    assert ask.value("SELECT count(), uniqExact(id) FROM rows") == "200000\t200000"


FORMATS = {
    "TabSeparated": b"1\tone\n2\ttwo\n",
    "CSV": b"1,one\n2,two\n",
    "CSVWithNames": b'"text","id"\n"one",1\n"two",2\n',
    "JSONEachRow": b'{"text": "one", "id": 1}\n{"id": 2, "text": "two"}\n',
    "Values": b"(1, 'one'), (1 + 1, lower('TWO'));",
}
BINARY = ("Native", "RowBinary", "RowBinaryWithNamesAndTypes", "Parquet", "Arrow", "ArrowStream", "Avro", "ORC", "MsgPack")


@pytest.mark.parametrize("name", [*FORMATS, *BINARY])
def test_every_format_is_inserted_with_and_without_a_column_list(ask: Http, name: str) -> None:
    """Text formats and binary ones, by position and by name; columns that are left out get their defaults."""
    ask.value("CREATE TABLE rows (id Int64, text String, twice Int64 DEFAULT id * 2, made Int64 MATERIALIZED id + 1) "
              "ENGINE = MergeTree ORDER BY id")  # fmt: skip
    data = FORMATS.get(name)
    if data is None:
        source = "SELECT toInt64(number + 1) AS id, number = 0 ? 'one' : 'two' AS text FROM numbers(2)"
        data = ask(f"{source} FORMAT {name}").body
    reply = ask(
        f"INSERT INTO rows (id, text) FORMAT {name}" if name != "Values" else "INSERT INTO rows (id, text) VALUES", data
    )
    assert (reply.status, reply.body) == (200, b"")
    assert '"written_rows":"2"' in reply.headers["X-ClickHouse-Summary"]
    assert ask.value("SELECT *, made FROM rows ORDER BY id") == "1\tone\t2\t2\n2\ttwo\t4\t3"
    ask.value("CREATE TABLE two (id Int64, text String) ENGINE = MergeTree ORDER BY id")
    assert ask(f"INSERT INTO two FORMAT {name}" if name != "Values" else "INSERT INTO two VALUES", data).status == 200
    assert ask.value("SELECT * FROM two ORDER BY id") == "1\tone\n2\ttwo"


def test_defaults_act_as_on_a_server(ask: Http) -> None:
    """Omitted fields and nulls become the default expression, unless the settings say otherwise."""
    ask.value("CREATE TABLE rows (id Int64, text String DEFAULT concat('n', toString(id))) ENGINE = MergeTree ORDER BY id")
    query = "INSERT INTO rows FORMAT JSONEachRow"
    assert ask(query, b'{"id": 1}\n{"id": 2, "text": null}').status == 200
    assert ask(query, b'{"id": 3}', input_format_defaults_for_omitted_fields=0).status == 200
    assert ask("INSERT INTO rows (id) SETTINGS input_format_allow_errors_num = 1 FORMAT CSV", b"4\nx\n5\n").status == 200
    assert ask.value("SELECT text FROM rows ORDER BY id") == "n1\nn2\n\nn4\nn5"


def test_statement_and_data_may_share_query_and_body(ask: Http) -> None:
    """Data after the statement in the body, in the address, or in both, as over ClickHouse's own interface."""
    ask.value("CREATE TABLE rows (id Int64) ENGINE = MergeTree ORDER BY id")
    ask.value("INSERT INTO rows FORMAT CSV\n1\n2\n")
    ask.value("INSERT INTO rows VALUES (3)")
    assert ask("INSERT INTO rows FORMAT CSV 4", b"5\n").status == 200
    assert ask("INSERT INTO rows VALUES ({n:Int64})", b"", param_n=6).status == 200
    assert ask("INSERT INTO rows (id)\n-- FORMAT TSV\nFORMAT", b"CSV\n7\n").status == 200
    assert ask("INSERT INTO rows SELECT 8", b"").status == 200
    assert ask.value("SELECT groupArray(id) FROM (SELECT id FROM rows ORDER BY id)") == "[1,2,3,4,5,6,7,8]"


def test_insert_from_input_is_transformed(ask: Http) -> None:
    """`input('structure')` reads the data; without a structure the error says what is missing."""
    ask.value("CREATE TABLE rows (id Int64, text String) ENGINE = MergeTree ORDER BY id")
    query = "INSERT INTO rows (id, text) SELECT n + 1, upper(word) FROM input('n Int64, word String') WHERE n > 1 FORMAT CSV"
    reply = ask(query, b"1,one\n2,two\n")
    assert reply.status == 200, reply.body
    assert ask.value("SELECT * FROM rows") == "3\tTWO"
    reply = ask("INSERT INTO rows (id, text) SELECT * FROM input() FORMAT CSV", b"1,one\n")
    assert (reply.status, reply.code) == (501, 48)
    assert b"input('name Type, ...')" in reply.body


def test_asynchronous_insert_is_answered_when_it_is_written(ask: Http) -> None:
    """A request for async_insert without waiting is written all the same, and its errors are errors."""
    ask.value("CREATE TABLE rows (id Int64) ENGINE = MergeTree ORDER BY id")
    settings: dict[str, Any] = {"async_insert": 1, "wait_for_async_insert": 0}
    assert ask("INSERT INTO rows FORMAT CSV", b"1\n", **settings).status == 200
    assert ask.value("SELECT count() FROM rows") == "1"
    assert ask("INSERT INTO rows FORMAT CSV", b"x\n", **settings).status == 400


def test_running_insert_is_seen_by_its_token_and_outlives_its_client(ask: Http) -> None:
    """system.processes shows the token until the rows are there, also after the loader's connection is gone."""
    import socket

    ask.value(f"CREATE TABLE rows (id Int64, text String) {TABLE}")
    ask.value("CREATE TABLE slow (id Int64, x UInt8) ENGINE = Null")
    ask.value("CREATE MATERIALIZED VIEW view TO slow AS SELECT id, sleepEachRow(0.001) AS x FROM rows")
    body = b"".join(b"%d,x\n" % n for n in range(2_000))
    parameters = f"database={ask.database}&user=headwater&insert_deduplication_token=zombie&max_block_size=1000"
    path = f"/?query=INSERT+INTO+rows+FORMAT+CSV&{parameters}&function_sleep_max_microseconds_per_block=60000000"
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    running = "SELECT count() FROM system.processes WHERE startsWith(Settings['insert_deduplication_token'], 'zombie')"
    with socket.create_connection(("127.0.0.1", ask.port)) as client:
        client.sendall(head.encode() + body)
        deadline = time.monotonic() + 20
        while ask.value(running, user="headwater") != "1":
            assert time.monotonic() < deadline, "the insert never ran"
    assert ask.value(running, user="headwater") == "1"
    deadline = time.monotonic() + 60
    while ask.value(running, user="headwater") != "0":
        assert time.monotonic() < deadline, "the insert never ended"
        time.sleep(0.05)
    assert ask.value("SELECT count() FROM rows") == "2000"
