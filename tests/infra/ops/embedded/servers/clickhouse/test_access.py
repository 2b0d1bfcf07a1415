"""Access control: statements, users, web pages, and slots."""

import threading
import time
from pathlib import Path
from typing import Any

import clickhouse_connect
import pytest

from infra.ops.embedded.servers.clickhouse.gate import refusal
from infra.ops.embedded.servers.clickhouse.sql import output_clause, tokens

from .conftest import Http, Reply

OUTSIDE = [
    "SELECT * FROM file('/etc/passwd', 'LineAsString')",
    "SELECT * FROM \"file\"('/etc/passwd', LineAsString)",
    "SELECT * FROM `fi\\x6ce` /* comment */ ('/etc/passwd', LineAsString)",
    "SELECT `fi\\Nle`('/etc/passwd')",
    "SELECT \"\\x66ile\"('/etc/passwd')",
    "SELECT * FROM FILE\u00a0('/etc/passwd', LineAsString)",
    "SELECT * FROM \u201cfile\u201d('/etc/passwd', LineAsString)",
    "SELECT \u2018 ' \u2019, file('/etc/passwd'), ' '",
    "SELECT $tag$ ' $tag$, file('/etc/passwd')",
    "SELECT '\\'', file('/etc/passwd'), '\\''",
    "SELECT file('/etc/passwd')",
    "SELECT arrayMap(path -> file(path), ['/etc/passwd'])",
    "WITH (SELECT file('/etc/passwd')) AS content SELECT content",
    "EXPLAIN SELECT * FROM file('/etc/passwd', LineAsString)",
    "DESCRIBE TABLE file('/etc/passwd', LineAsString)",
    "DESCRIBE executable('script', TSV, 'a Int8')",
    "SELECT * FROM executable('script', TSV, 'a Int8')",
    "SELECT * FROM python(table)",
    "SELECT * FROM Python(os)",
    "SELECT * FROM url('http://127.0.0.1:1/', LineAsString)",
    "SELECT * FROM s3('http://127.0.0.1:1/x')",
    "SELECT * FROM remote('127.0.0.1', system.one)",
    "SELECT * FROM clusterAllReplicas('default', system.one)",
    "SELECT * FROM mysql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
    "SELECT * FROM sqlite('/tmp/x.db', 't')",
    "SELECT * FROM loop(file('/etc/passwd'))",
    "SELECT * FROM view(SELECT * FROM file('/etc/passwd'))",
    "SELECT * FROM _engine.`/etc/passwd`",
    "SELECT 1 INTO OUTFILE '/tmp/headwater-outfile'",
    "SELECT 1 INTO OUTFILE /**/ $$/tmp/headwater-outfile$$ FORMAT CSV",
    "INSERT INTO t FROM INFILE '/etc/passwd' FORMAT LineAsString",
    "INSERT INTO FUNCTION file('/tmp/headwater-outfile', CSV, 'a String') VALUES ('x')",
    "INSERT INTO TABLE FUNCTION file('/tmp/headwater-outfile', CSV, 'a String') SELECT 'x'",
    "INSERT INTO t SELECT * FROM file('/etc/passwd', LineAsString)",
    "CREATE TABLE f (a String) ENGINE = File(LineAsString, '/etc/passwd')",
    "CREATE TEMPORARY TABLE f (a String) ENGINE File(LineAsString, '/etc/passwd')",
    "CREATE TABLE f (a String) ENGINE = Executable('script', TSV)",
    "CREATE TABLE f (a String) ENGINE = URL('http://127.0.0.1:1/', CSV)",
    "CREATE TABLE f AS file('/etc/passwd', LineAsString)",
    "CREATE VIEW f AS SELECT * FROM file('/etc/passwd', LineAsString)",
    "CREATE MATERIALIZED VIEW f TO t AS SELECT file('/etc/passwd') AS a FROM t",
    "CREATE FUNCTION f AS path -> file(path)",
    "CREATE DATABASE f ENGINE = Filesystem('/etc')",
    "ALTER TABLE t ADD COLUMN b String DEFAULT file('/etc/passwd')",
    "CREATE DICTIONARY f (a String) PRIMARY KEY a SOURCE(FILE(path '/etc/passwd' format LineAsString)) "
    "LAYOUT(complex_key_hashed()) LIFETIME(0)",
    "CREATE DICTIONARY f (a String) PRIMARY KEY a SOURCE(EXECUTABLE(command 'id' format CSV)) "
    "LAYOUT(complex_key_hashed()) LIFETIME(0)",
    "CREATE DICTIONARY f (a String) PRIMARY KEY a SOURCE(HTTP(url 'http://127.0.0.1:1' format CSV)) "
    "LAYOUT(complex_key_hashed()) LIFETIME(0)",
    "CREATE DICTIONARY f (a String) PRIMARY KEY a SOURCE(CLICKHOUSE(QUERY 'SELECT \\x66ile(''/etc/passwd'') AS a')) "
    "LAYOUT(complex_key_hashed()) LIFETIME(0)",
    "CREATE DICTIONARY f (a String) PRIMARY KEY a SOURCE(CLICKHOUSE(HOST '192.0.2.1' TABLE 't')) "
    "LAYOUT(complex_key_hashed()) LIFETIME(0)",
    "CREATE TABLE f (a Int8) ENGINE = MergeTree ORDER BY a SETTINGS disk = disk(type = 'local', path = '/tmp/headwater-outfile')",  # noqa: E501 - one statement
    "BACKUP TABLE t TO File('/tmp/headwater-outfile')",
    "RESTORE TABLE t FROM File('/tmp/headwater-outfile')",
    "ATTACH TABLE f FROM '/etc' (a Int8) ENGINE = MergeTree ORDER BY a",
    "CREATE NAMED COLLECTION f AS url = 'http://127.0.0.1:1/'",
    "SYSTEM SHUTDOWN",
    "SYSTEM KILL",
    "CREATE USER f",
    "GRANT ALL ON *.* TO default",
    "SELECT 1 SETTINGS profile = 'default'",
    "SELECT 1 SETTINGS dialect = 'prql'",
    "SELECT 1 FORMAT Protobuf SETTINGS format_schema = '/etc/passwd:x'",
    "SELECT 1 FORMAT Template SETTINGS format_template_row = '/etc/passwd'",
    "SELECT 1 SETTINGS max_memory_usage = 0",
    "SELECT 1 SETTINGS max_memory_usage = 100000000000",
    "SELECT 1 SETTINGS max_execution_time = 0",
]


@pytest.mark.parametrize("statement", OUTSIDE)
@pytest.mark.parametrize("user", ["default", "headwater"])
def test_nothing_outside_of_the_engine_is_reached(ask: Http, statement: str, user: str) -> None:
    """Files, addresses, programs and limits are refused in every disguise, whoever asks; the server goes on."""
    if user == "headwater" and ("max_memory" in statement or "max_execution" in statement):
        pytest.skip("the loader has no such limit")
    ask.value("CREATE TABLE t (a String) ENGINE = MergeTree ORDER BY a")
    reply = ask(statement, user=user)
    assert reply.status >= 400, reply.body
    assert reply.code in (81, 344, 452, 497, 62), reply.body
    assert b"root:" not in reply.body
    assert not Path("/tmp/headwater-outfile").exists()  # noqa: S108 - the name that the statements use
    assert ask.value("SELECT 1") == "1"


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT file, url FROM (SELECT 1 AS file, 2 AS url)",
        "SELECT 'file(''/etc/passwd'')' -- file('/etc/passwd')",
        "CREATE TABLE url (url String, file String) ENGINE = MergeTree ORDER BY url",
        "CREATE TABLE IF NOT EXISTS remote (a Int8) ENGINE = Memory",
        "SELECT format FROM (SELECT 1 AS format)",
        "SELECT profile FROM (SELECT 'a' AS profile) WHERE profile = 'a' SETTINGS max_threads = 1",
        "SELECT * FROM numbers(3) UNION ALL SELECT * FROM generateSeries(1, 2)",
        "SELECT * FROM merge(currentDatabase(), '^t$')",
        "SELECT * FROM values('a Int8', 1, 2) AS a, view(SELECT 1) AS b, null('a Int8') AS c",
        "CREATE DICTIONARY d (a String, b String) PRIMARY KEY a SOURCE(CLICKHOUSE(TABLE 't')) "
        "LAYOUT(complex_key_hashed()) LIFETIME(0)",
        "CREATE TABLE e ENGINE = Memory AS SELECT engine, name FROM system.tables LIMIT 1",
        "CREATE FUNCTION IF NOT EXISTS plus_one AS x -> x + 1",
        "CREATE MATERIALIZED VIEW m ENGINE = SummingMergeTree ORDER BY a AS SELECT a FROM t",
        "CREATE TABLE j (a Int8) ENGINE = Join(ANY, LEFT, a)",
        "ALTER TABLE t ADD COLUMN c String DEFAULT upper(a)",
        "OPTIMIZE TABLE t FINAL",
        "EXPLAIN PIPELINE SELECT 1",
        "SHOW CREATE TABLE t",
    ],
)  # fmt: skip
def test_everyday_statements_pass(ask: Http, statement: str) -> None:
    """Tables and columns named like refused functions, and statements that stay within the engine, are allowed."""
    ask.value("CREATE TABLE t (a String, b String) ENGINE = MergeTree ORDER BY a")
    reply = ask(statement)
    assert reply.status == 200, reply.body


def test_views_made_before_read_no_files(ask: Http) -> None:
    """The engine itself refuses sources to the role that every query has, not only the gate before it."""
    assert ask.value("SELECT currentRoles()") == "['writer']"
    assert ask.value("SELECT currentRoles()", user="reader") == "['reader']"
    grants = ask.value("SHOW GRANTS")
    assert "FILE" not in grants.replace("PROFILE", "")


def test_get_and_head_are_read_only(ask: Http) -> None:
    """Reads pass with their settings; writes and lifting the lock are refused with code 164, and change nothing."""
    ask.value("CREATE TABLE t (a Int8) ENGINE = MergeTree ORDER BY a")
    assert ask("SELECT getSetting('max_threads')", method="GET", max_threads=3).body == b"3\n"
    assert ask("SELECT 1", method="HEAD").status == 200
    for statement in (
        "INSERT INTO t VALUES (1)",
        "DROP TABLE t",
        "CREATE TABLE u (a Int8) ENGINE = Memory",
        "TRUNCATE TABLE t",
    ):
        for reply in (ask(statement, method="GET"), ask(statement, method="GET", readonly=0)):
            assert (reply.status, reply.code) == (500, 164), (statement, reply.body)
    assert ask("INSERT INTO t SETTINGS readonly = 0 VALUES (1)", method="GET").status >= 400
    assert ask.value("SELECT count() FROM t") == "0"


def test_readers_read_only(ask: Http) -> None:
    """The BI user selects, changes formats and limits, and nothing else, by POST too."""
    ask.value("CREATE TABLE t (a Int8) ENGINE = MergeTree ORDER BY a")
    ask.value("INSERT INTO t VALUES (1)")
    assert ask.value("SELECT a FROM t", user="reader", max_threads=1, output_format_json_quote_64bit_integers=1) == "1"
    assert ask.value("SHOW TABLES", user="reader") == "t"
    for statement in ("INSERT INTO t VALUES (1)", "DROP TABLE t", "CREATE VIEW v AS SELECT 1", "ALTER TABLE t DELETE WHERE 1",
                      "SYSTEM FLUSH LOGS", "KILL QUERY WHERE 1", "SELECT 1 SETTINGS readonly = 0"):  # fmt: skip
        reply = ask(statement, user="reader")
        assert reply.code in (164, 497), (statement, reply.body)
    client = clickhouse_connect.get_client(host="127.0.0.1", port=ask.port, username="reader", database=ask.database)
    assert client.query("SELECT a FROM t").result_rows == [(1,)]
    client.close()


def test_users_are_named_in_every_way_and_unknown_ones_refused(ask: Http) -> None:
    """Parameter, header and basic authorization; code 516 with the users there are."""
    role = "SELECT currentRoles()[1]"
    assert ask.value(role, user="reader") == "reader"
    assert ask(role, headers={"X-ClickHouse-User": "reader"}).body == b"reader\n"
    assert ask(role, headers={"Authorization": "Basic cmVhZGVyOg=="}).body == b"reader\n"
    for reply in (ask(role, user="root"), ask(role, headers={"Authorization": "Bearer x"})):
        assert (reply.status, reply.code) == (403, 516)
    assert b"default, headwater, reader" in ask(role, user="root").body


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:1"}, 200),
        ({"Host": "[::1]:8123"}, 200),
        ({"Host": "127.0.0.1"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:8123"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "localhost@evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:3000"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 200),
    ],
)
def test_pages_in_a_browser_do_not_get_in(ask: Http, headers: dict[str, str], status: int) -> None:
    """Another Host (DNS rebinding) and another origin are refused, for POST as for GET; no answer invites them."""
    for method in ("GET", "POST"):
        reply = ask("SELECT 1", method=method, headers=headers)
        assert reply.status == status, reply.body
        assert not [name for name in reply.headers if name.lower().startswith("access-control")]
    assert ask("SELECT 1", method="GET", headers={"Origin": f"http://127.0.0.1:{ask.port}"}).status == 200


class Crowd:
    """Parallel queries; `wait` joins them."""

    def __init__(self, ask: Http) -> None:
        self._ask = ask
        self.replies: list[Reply] = []
        self._threads: list[threading.Thread] = []

    def start(self, number: int, statement: str, **parameters: Any) -> None:
        """Start queries."""
        for _ in range(number):
            thread = threading.Thread(target=lambda: self.replies.append(self._ask(statement, **parameters)))
            thread.start()
            self._threads.append(thread)

    def wait(self) -> None:
        """Wait for their answers."""
        for thread in self._threads:
            thread.join()


def test_analysts_take_no_slot_of_the_loader(ask: Http) -> None:
    """Four analysts' queries run, 64 wait, further ones get 202 with status 503; an insert of the loader passes by them all."""
    ask.value("CREATE TABLE t (a Int8) ENGINE = MergeTree ORDER BY a")
    crowd = Crowd(ask)
    crowd.start(90, "SELECT sleep(0.4)")
    deadline = time.monotonic() + 20
    while not any(reply.code == 202 for reply in crowd.replies):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert ask("INSERT INTO t FORMAT CSV", b"1\n", user="headwater").status == 200
    waiting = 90 - len(crowd.replies)
    assert ask.value("SELECT count() FROM t", user="headwater") == "1"
    assert waiting > 4, "the loader waited for the analysts"
    crowd.wait()
    codes = [reply.code for reply in crowd.replies]
    assert set(codes) == {0, 202}
    assert codes.count(202) >= 90 - 64 - 8
    assert {reply.status for reply in crowd.replies if reply.code} == {503}
    assert any(b"Too many simultaneous queries of analysts: 4 run, 64 wait" in reply.body for reply in crowd.replies)


def test_query_with_more_memory_takes_the_slots_of_others(ask: Http) -> None:
    """A query that requests all of the analysts' memory takes all their slots."""
    share = int(ask.value("SELECT getSetting('max_memory_usage')"))
    assert share == 150_000_000
    assert ask.value("SELECT getSetting('max_memory_usage')", max_memory_usage=2 * share) == str(2 * share)
    reply = ask("SELECT 1", max_memory_usage=5 * share)
    assert reply.code == 452
    crowd = Crowd(ask)
    crowd.start(2, "SELECT sleep(1)", max_memory_usage=4 * share)
    running = "SELECT countIf(query LIKE 'SELECT sleep%') FROM system.processes"
    most = 0
    deadline = time.monotonic() + 20
    while len(crowd.replies) < 2 and time.monotonic() < deadline:
        most = max(most, int(ask.value(running, user="headwater")))
    crowd.wait()
    assert most == 1


def test_analysts_out_of_memory_leave_the_loader_its_own(ask: Http) -> None:
    """Heavy queries end with code 241 or spill to disk, and inserts land meanwhile."""
    ask.value("CREATE TABLE t (id Int64, text String) ENGINE = MergeTree ORDER BY id")
    crowd = Crowd(ask)
    crowd.start(4, "SELECT length(groupArray(repeat(toString(number), 50))) FROM numbers(20000000)")
    crowd.start(2, "SELECT count() FROM (SELECT number % 3000000 AS k, count() FROM numbers(6000000) GROUP BY k)")
    body = b"".join(b"%d,%s\n" % (n, b"x" * 200) for n in range(20_000))
    for number in range(5):
        reply = ask("INSERT INTO t FORMAT CSV", body, user="headwater", insert_deduplication_token=number)
        assert reply.status == 200, reply.body
    crowd.wait()
    assert ask.value("SELECT count() FROM t", user="headwater") == "100000"
    assert sorted(reply.code for reply in crowd.replies) == [0, 0, 241, 241, 241, 241]


def test_format_clause_is_recognised_beside_columns_of_that_name() -> None:
    """`FORMAT` at the end is the clause; in front of anything else it is a column, a table or an alias."""
    formats = {"json", "csv"}
    for query, name in (
        (b"SELECT 1 FORMAT JSON", "JSON"),
        (b"SELECT 1 FORMAT Json SETTINGS max_threads = 1;", "Json"),
        (b"SELECT format FROM csv", None),
        (b"SELECT 1 AS format", None),
        (b"SELECT format json FROM t", None),
        (b"SELECT * FROM format WHERE a", None),
        (b"SELECT 1 FORMAT Nosuch", "Nosuch"),
    ):
        assert output_clause(query, formats).format == name, query


def test_statements_with_many_literals_are_read_quickly_and_hide_nothing(ask: Http) -> None:
    """50,000 ids in an IN list are read in a few tokens, and what stands behind or between them is still seen."""
    ids = b",".join(b"'%032d'" % n for n in range(50_000))
    query = b"SELECT count() FROM t WHERE a IN (" + ids + b") AND b IN (1, 2, -3, 4) FORMAT JSON"
    assert sum(1 for _ in tokens(query)) < 40
    assert output_clause(query, {"json"}).format == "JSON"
    for hidden in (b"'a', 'b', file('/etc/passwd')", b"1, 2, 3, `file`('x'), 'a'", b"'a', 'it''s', 'x\\'', file('y'), '', ''"):
        error = refusal(b"SELECT [" + hidden + b"]", frozenset())
        assert error is not None
        assert error.code == 497
    error = refusal(b"INSERT INTO t FROM INFILE '/etc/passwd', '/etc/group', '' FORMAT CSV", frozenset())
    assert error is not None
    ask.value("CREATE TABLE t (a String) ENGINE = MergeTree ORDER BY a")
    counted = ask(f"SELECT count() FROM t WHERE a IN ({ids.decode()})", user="headwater", max_query_size=16 * 1024 * 1024)
    assert counted.body == b"0\n"


def test_default_format_is_a_format_and_nothing_more(ask: Http) -> None:
    """What the address calls the default format goes into the statement: it must not bring another one along."""
    for name in ("TSV; SELECT 1", "TSV SETTINGS profile = 'default'", "TSV\nINTO OUTFILE '/tmp/x'", ""):
        reply = ask("SELECT 1", default_format=name)
        assert (reply.code, reply.body) in ((73, reply.body), (0, b"1\n"))
        assert name == "" or reply.code == 73
    assert ask("SELECT 1 AS n", default_format="JSONEachRow").body == b'{"n":1}\n'
