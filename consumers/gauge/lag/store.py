"""Stores time tables across restarts of the gauge."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import redis

from consumers.gauge.lag.reading import GaugePartition
from consumers.gauge.lag.timetable import TimeTable, unpack
from infra.errors import Retryable

PREFIX = "headwater:gauge:times:"
KEEP_S = 8 * 86_400  # a day longer than the events themselves


class TableStore(Protocol):
    """Stores time tables by partition. Retryable where it does not answer."""

    def load(self, partitions: Iterable[GaugePartition]) -> dict[GaugePartition, TimeTable]:
        """Return the stored tables; an unreadable one is left out."""
        ...

    def save(self, tables: Mapping[GaugePartition, TimeTable]) -> None:
        """Replace the tables of these partitions."""
        ...


class MemoryTables:
    """A store in memory, for tests."""

    def __init__(self) -> None:
        self._packed: dict[GaugePartition, bytes] = {}

    def load(self, partitions: Iterable[GaugePartition]) -> dict[GaugePartition, TimeTable]:
        """Return the stored tables."""
        return {partition: unpack(self._packed[partition]) for partition in partitions if partition in self._packed}

    def save(self, tables: Mapping[GaugePartition, TimeTable]) -> None:
        """Replace the tables of these partitions."""
        self._packed.update({partition: table.pack() for partition, table in tables.items()})


class RedisTables:
    """One Redis key per partition; keys of partitions that no group reads any more expire."""

    def __init__(self, client: redis.Redis) -> None:
        self._client: Any = client  # its stubs mix sync and async return types

    def load(self, partitions: Iterable[GaugePartition]) -> dict[GaugePartition, TimeTable]:
        """Return the stored tables; an unreadable one is left out."""
        ordered = list(partitions)
        try:
            packed = [
                self._client.get(_key(partition)) for partition in ordered
            ]  # single keys, because a cluster may store them on several nodes
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
        """Replace the tables of these partitions."""
        try:
            for partition, table in tables.items():
                self._client.set(_key(partition), table.pack(), ex=KEEP_S)
        except redis.RedisError as error:
            raise Retryable(f"Redis is away: {type(error).__name__}") from error


def _key(partition: GaugePartition) -> str:
    return f"{PREFIX}{partition.topic}:{partition.partition}"
