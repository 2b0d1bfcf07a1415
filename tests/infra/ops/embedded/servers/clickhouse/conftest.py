"""A server, a separate database for each test, and plain HTTP requests."""

import http.client
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from infra.ops.embedded.servers.clickhouse import EmbeddedClickHouse


@dataclass(frozen=True)
class Reply:
    """Status, body and headers."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def code(self) -> int:
        """ClickHouse's code; 0 for none."""
        return int(self.headers.get("X-ClickHouse-Exception-Code", 0))


class Http:
    """Requests to one server. `database` is the current one of each."""

    def __init__(self, port: int, database: str) -> None:
        self.port = port
        self.database = database

    def __call__(
        self, query: str = "", body: bytes | None = None, *, method: str = "POST", headers: Any = None, **parameters: Any
    ) -> Reply:
        """One request; `body` follows the query, which stands in the address when there is one."""
        fields = {"database": self.database, **parameters}
        if body is not None or method != "POST":
            fields["query"] = query
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, f"/?{urlencode(fields)}", query.encode() if body is None else body, headers or {})
            response = connection.getresponse()
            return Reply(response.status, response.read(), dict(response.getheaders()))
        finally:
            connection.close()

    def value(self, query: str, **parameters: Any) -> str:
        """The single value of a query that succeeds."""
        reply = self(query, **parameters)
        assert reply.status == 200, reply.body
        return reply.body.decode().rstrip("\n")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedClickHouse]:
    """A server."""
    with EmbeddedClickHouse(tmp_path_factory.mktemp("clickhouse")) as running:
        yield running


@pytest.fixture
def ask(server: EmbeddedClickHouse) -> Iterator[Http]:
    """Requests within a separate database."""
    database = f"d{uuid.uuid4().hex[:8]}"
    http = Http(server.port, "default")
    http.value(f"CREATE DATABASE {database} ENGINE = Atomic")
    yield Http(server.port, database)
    http.value(f"DROP DATABASE {database}")


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Http]]:
    """Start a separate server with another memory limit; it ends with the test."""
    servers: list[EmbeddedClickHouse] = []

    def start(folder: Path = tmp_path / "own", memory_bytes: int = 0) -> Http:
        server = EmbeddedClickHouse(folder, memory_bytes=memory_bytes) if memory_bytes else EmbeddedClickHouse(folder)
        servers.append(server.start())
        return Http(server.port, "default")

    yield start
    for server in servers:
        server.stop()
