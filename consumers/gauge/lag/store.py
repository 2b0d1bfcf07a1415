"""Where time tables outlive a restart of the gauge."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import redis

from consumers.gauge.lag.reading import GaugePartition
from consumers.gauge.lag.timetable import TimeTable, unpack
from infra.errors import Retryable

PREFIX = "headwater:gauge:times:"
KEEP_S = 8 * 86_400  # a day longer than the events themselves


class TableStore(Protocol):
    """Keeps time tables by partition. Retryable where it is away."""

    def load(self, partitions: Iterable[GaugePartition]) -> dict[GaugePartition, TimeTable]:
        """The tables that are there; one that cannot be read is as good as none."""
        ...

    def save(self, tables: Mapping[GaugePartition, TimeTable]) -> None:
        """Replace the tables of these partitions."""
        ...


class MemoryTables:
    """For tests."""

    def __init__(self) -> None:
        self._kept: dict[GaugePartition, bytes] = {}

    def load(self, partitions: Iterable[GaugePartition]) -> dict[GaugePartition, TimeTable]:
        """As the protocol says."""
        return {partition: unpack(self._kept[partition]) for partition in partitions if partition in self._kept}

    def save(self, tables: Mapping[GaugePartition, TimeTable]) -> None:
        """As the protocol says."""
        self._kept.update({partition: table.pack() for partition, table in tables.items()})


class RedisTables:
    """One key a partition; keys of partitions that nobody reads any more expire."""

    def __init__(self, client: redis.Redis) -> None:
        self._client: Any = client  # its stubs mix the sync and async answers

    def load(self, partitions: Iterable[GaugePartition]) -> dict[GaugePartition, TimeTable]:
        """As the protocol says."""
        ordered = list(partitions)
        try:
            packed = [self._client.get(_key(partition)) for partition in ordered]  # single keys: a cluster may hold them apart
        except redis.RedisError as error:
            raise Retryable(f"Redis is away: {type(error).__name__}") from error
        tables = {}
        for partition, value in zip(ordered, packed, strict=True):
            try:
                if value is not None:
                    tables[partition] = unpack(value)
            except ValueError:
                continue
        return tables

    def save(self, tables: Mapping[GaugePartition, TimeTable]) -> None:
        """As the protocol says."""
        try:
            for partition, table in tables.items():
                self._client.set(_key(partition), table.pack(), ex=KEEP_S)
        except redis.RedisError as error:
            raise Retryable(f"Redis is away: {type(error).__name__}") from error


def _key(partition: GaugePartition) -> str:
    return f"{PREFIX}{partition.topic}:{partition.partition}"
