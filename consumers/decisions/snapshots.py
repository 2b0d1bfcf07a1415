"""The snapshots from which arms are drawn: polled from Redis, and kept in memory while Redis is unreachable."""

import asyncio
from collections.abc import Iterable
from typing import Any

from redis.exceptions import RedisError

from infra.telemetry.logs import get_logger
from schemas.codec import Undecodable, UnknownContract, decode
from schemas.registry import Registry
from streams.bandit.snapshots.kernel import InvalidDistribution
from streams.bandit.snapshots.snapshot import Snapshot, from_record
from streams.bandit.snapshots.store import blob_key, pointer_key


class Snapshots:
    """The newest snapshot of each experiment. Versions only grow: a pointer to an older one (Redis lost data) is ignored."""

    def __init__(self, client: Any, registry: Registry) -> None:
        self._redis = client
        self._registry = registry
        self._snapshots: dict[str, Snapshot] = {}
        self.reachable = False

    def get(self, experiment: str) -> Snapshot | None:
        """Return the newest snapshot; None where there is none yet."""
        return self._snapshots.get(experiment)

    async def refresh(self, experiments: Iterable[str]) -> None:
        """Load newer versions from Redis. While it does not answer, the current ones stay."""
        try:
            await asyncio.gather(self._redis.ping(), *(self._refresh(experiment) for experiment in experiments))
        except (RedisError, OSError, TimeoutError) as error:
            if self.reachable:
                get_logger().warning("Redis away, drawing from what is held", error=type(error).__name__)
            self.reachable = False
        else:
            self.reachable = True

    async def _refresh(self, experiment: str) -> None:
        pointer = await self._redis.get(pointer_key(experiment))
        version = int(pointer) if pointer and pointer.isdigit() else 0
        current = self._snapshots.get(experiment)
        if version <= (current.version if current else 0):
            return
        blob = await self._redis.get(blob_key(experiment, version))
        if blob is None:
            return  # a newer version was published meanwhile: the next round loads it
        try:
            snapshot = from_record(decode(self._registry, blob)[1])
        except (Undecodable, UnknownContract, InvalidDistribution) as error:
            get_logger().error("snapshot not taken over", experiment=experiment, version=version, error=str(error))
            return
        if snapshot.experiment == experiment:
            self._snapshots[experiment] = snapshot
