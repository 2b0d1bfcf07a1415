"""Which partitions are read and inserted while some wait. Without a broker: the client is never used."""

from pathlib import Path
from typing import Any

import pytest

from consumers.warehouse.loader.batch import MAX_BYTES, PartitionBuffer
from consumers.warehouse.loader.inserter import Insertion
from consumers.warehouse.loader.loop import TOTAL_BYTES, Warehouse
from consumers.warehouse.loader.rows import RowLoader
from consumers.warehouse.store import Store
from consumers.warehouse.topic_partition import TopicPartition
from infra.settings import load_settings
from infra.telemetry.metrics import Metrics
from schemas.registry import Registry
from tests.consumers.warehouse.plant import SECRET


class Switches:
    """Remembers what was paused and resumed."""

    def __init__(self) -> None:
        self.paused: set[tuple[str, int]] = set()

    def pause(self, partitions: list[Any]) -> None:
        """Pause as the client does."""
        self.paused |= {(partition.topic, partition.partition) for partition in partitions}

    def resume(self, partitions: list[Any]) -> None:
        """Resume as the client does."""
        self.paused -= {(partition.topic, partition.partition) for partition in partitions}


@pytest.fixture
def warehouse(tmp_path: Path, contracts_dir: Path) -> Warehouse:
    """A loader without connections."""
    settings = load_settings(kafka="127.0.0.1:1", clickhouse="http://127.0.0.1:1", state_dir=tmp_path, secret=SECRET)
    registry = Registry(contracts_dir)
    loop = Warehouse(settings, RowLoader(Store(settings), registry, Metrics()), registry, Metrics())
    loop._consumer.close()
    loop._consumer = Switches()
    return loop


def buffer(warehouse: Warehouse, topic: str, partition: int, size: int = 0) -> PartitionBuffer:
    """A buffer with one record of this size, or none."""
    partition_buffer = PartitionBuffer(TopicPartition(topic, partition, "id"), 0)
    if size:
        partition_buffer.extend([0], [None], [bytes(size)], 0.0)
    warehouse._buffers[topic, partition] = partition_buffer
    return partition_buffer


def test_a_table_that_waits_stops_no_empty_partition(warehouse: Warehouse) -> None:
    """Partitions full of records that cannot be inserted are paused, however much they hold; the others are read."""
    for partition in range(TOTAL_BYTES // MAX_BYTES):
        stuck = buffer(warehouse, "events.resolved", partition, MAX_BYTES)
        stuck.mark_failed(stuck.next_batch(), "column page_title is UInt8", 0.0)
    buffer(warehouse, "privacy.requests", 0)
    warehouse._pause(crowded=True)
    switches: Any = warehouse._consumer
    assert switches.paused == {("events.resolved", n) for n in range(TOTAL_BYTES // MAX_BYTES)}


def test_a_partition_that_waits_is_paused_and_read_again_once_it_is_done(warehouse: Warehouse) -> None:
    """A waiting partition keeps its batch and reads no further, so memory stays bounded."""
    stuck = buffer(warehouse, "events.resolved", 0, 100)
    batch = stuck.next_batch()
    stuck.mark_failed(batch, "ClickHouse: its disk is full", 0.0)
    switches: Any = warehouse._consumer
    warehouse._pause(crowded=False)
    assert switches.paused == {("events.resolved", 0)}
    stuck.mark_committed(batch, 1.0)
    warehouse._pause(crowded=False)
    assert not switches.paused


def test_one_insert_at_a_time_is_tried_again(warehouse: Warehouse) -> None:
    """A table whose inserts hang occupies one thread, and the others go on."""
    stuck = [buffer(warehouse, "events.resolved", n, 100) for n in range(3)]
    for waiting in stuck:
        waiting.mark_failed(waiting.next_batch(), "ClickHouse: it takes too long", 0.0)
    healthy = buffer(warehouse, "stream.counts", 0, 100)
    assert warehouse._limit_retries([*stuck, healthy]) == [stuck[0], healthy]
    warehouse._inserter.in_flight.append(Insertion(stuck[0], stuck[0].next_batch()))
    assert warehouse._limit_retries([*stuck[1:], healthy]) == [healthy]
