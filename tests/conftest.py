"""Real components for tests: Redis and ClickHouse for each test file, on free ports, in temporary folders.

Kafka, which takes seconds to start, is started once and emptied for each file; a Redis Cluster is started once for all.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from infra.settings import PACKAGED_CONTRACTS
from tests.support.scale import examples

if TYPE_CHECKING:
    from tests.support.redis_cluster import LocalCluster
    from tests.support.shared_kafka import SharedKafka


# No deadline for an example: on a machine that is busy one takes longer, whatever is tested.
hypothesis.settings.register_profile("headwater", deadline=None, max_examples=examples(100))
hypothesis.settings.load_profile("headwater")

SERVERS = re.compile(
    r"Embedded(?:Kafka|Redis|ClickHouse)|LocalCluster|SharedKafka|StandingHouse|SmallHouse|\bplant\b|\bsubprocess\b|"
    r"\bEngine\(|\bkafka: str|\bredis_url\b|\bclickhouse_url\b|\bredis_cluster\b|"
    r"tests\.broker|tests\.house|bench\.faults|bench\.identity"
)
"""What a test file names when it starts a server or another process, or plays a long world."""


@cache
def needs_servers(file: Path) -> bool:
    """Whether a test file, or a conftest beside it, names a server."""
    return any(SERVERS.search(path.read_text()) for path in (file, file.with_name("conftest.py")) if path.exists())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make test-fast` leaves out."""
    for item in items:
        if needs_servers(item.path):
            item.add_marker("server")


@pytest.fixture(scope="session")
def shared_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator["SharedKafka"]:
    """The broker of this process's test files, for a test that needs it empty."""
    from tests.support.shared_kafka import SharedKafka

    shared = SharedKafka(tmp_path_factory.mktemp("kafka"))
    yield shared
    shared.stop()


@pytest.fixture(scope="module")
def kafka(shared_kafka: "SharedKafka") -> str:
    """Bootstrap address of a real broker, which is empty at the start of a file."""
    return shared_kafka.fresh()


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real Redis; use a fresh database number or flush it where a test needs it empty."""
    from infra.ops.embedded.servers.redis import EmbeddedRedis

    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator["LocalCluster"]:
    """A real Redis Cluster of three primaries; empty it where a test needs it empty."""
    from tests.support.redis_cluster import LocalCluster

    with LocalCluster(tmp_path_factory.mktemp("redis-cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def clickhouse_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of the embedded ClickHouse endpoint; use a database of your own in it."""
    from infra.ops.embedded.servers.clickhouse import EmbeddedClickHouse

    with EmbeddedClickHouse(tmp_path_factory.mktemp("clickhouse")) as server:
        yield server.url


@pytest.fixture(scope="session")
def contracts_dir() -> Path:
    """The packaged contracts; copy the folder before changing it."""
    return PACKAGED_CONTRACTS
