"""A broker and a ClickHouse of the warehouse's own: its group and its tables have fixed names."""

from collections.abc import Iterator

import pytest

from infra.ops.embedded.servers.clickhouse import EmbeddedClickHouse
from infra.ops.embedded.servers.kafka import EmbeddedKafka
from tests.consumers.warehouse.merge_history import History
from tests.consumers.warehouse.plant import Plant


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    """Servers that no other module uses."""
    folder = tmp_path_factory.mktemp("warehouse")
    with EmbeddedKafka(folder / "kafka") as kafka, EmbeddedClickHouse(folder / "clickhouse") as clickhouse:
        fresh = Plant(kafka.address, clickhouse, folder)
        try:
            yield fresh
        finally:
            fresh.close()


@pytest.fixture(scope="module")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    """A ClickHouse of the module's own, with the warehouse's tables."""
    folder = tmp_path_factory.mktemp("history")
    with EmbeddedClickHouse(folder / "clickhouse") as server:
        database = History(server, folder)
        yield database
        database.store.close()


@pytest.fixture
def history(clickhouse: History) -> History:
    """The same ClickHouse with empty tables."""
    clickhouse.empty()
    return clickhouse
