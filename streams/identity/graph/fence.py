"""Fences a Redis that may have lost data: it is used only after the graph's log was read back into it.

Each shard stores the run id of the Redis process in which the graph is known to be complete. A restarted process has another
run id, an emptied one has no mark, and a failover leads to a process whose run id differs from the mark.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import redis

from infra.clients.redis import server_run_id
from streams.identity.graph.redis_shards import RedisShards
from streams.identity.graph.redis_store import RedisGraphStore
from streams.identity.graph.store import StoreUnavailable

LOCK_S = 60
"""Seconds that a rebuilding worker may be silent before another one takes over."""
REBUILD_LOCK = "g:mending:{00}"


class StaleStore(StoreUnavailable):
    """This Redis is not known to hold the complete graph."""


class ShardMark(NamedTuple):
    """The mark of a shard that holds its part of the complete graph."""

    tag: int
    """One of the shard's hash tags."""
    key: str
    run_id: str
    """Of the Redis process; the value of a valid mark."""


class RebuiltStore(RedisGraphStore):
    """The graph whatever its Redis holds, with the marks that declare it complete."""

    def is_whole(self) -> bool:
        """Return whether every shard is marked as complete. StoreUnavailable."""
        return _are_set(self._shards, _shard_marks(self._shards))

    def mark_whole(self) -> None:
        """Mark every shard as complete. StoreUnavailable."""
        self._shards.run([(mark.tag, ("SET", mark.key, mark.run_id)) for mark in _shard_marks(self._shards)])

    @contextmanager
    def rebuild_lock(self, worker: str) -> Iterator[Callable[[], None]]:
        """Hold the lock of the only rebuilding worker; yields a function that renews it. StoreUnavailable while it is taken.

        A worker that was interrupted finds itself as the holder and starts over.
        """
        run = self._shards.run

        def renew() -> None:
            (holder,) = run([(0, ("GET", REBUILD_LOCK))])
            if holder != worker.encode():
                raise StoreUnavailable("another worker reads the log back into it, or this one was silent for too long")
            run([(0, ("EXPIRE", REBUILD_LOCK, LOCK_S))])

        run([(0, ("SET", REBUILD_LOCK, worker, "NX", "EX", LOCK_S))])
        renew()
        try:
            yield renew
        finally:
            renew()
            run([(0, ("DEL", REBUILD_LOCK))])


class FencedShards(RedisShards):
    """Shards that are read only while all of them are marked as complete."""

    def __init__(self, new_client: Callable[[], redis.Redis | redis.RedisCluster]) -> None:
        super().__init__(new_client)
        self._run_ids: set[str] = set()
        self._marks: list[tuple[int, str]] = []

    def _open(self) -> None:
        super()._open()
        marks = _shard_marks(self)
        if not _are_set(self, marks):
            self.close()
            raise StaleStore("the identity graph's Redis was started anew, or emptied: its log must be read back first")
        self._run_ids = {mark.run_id for mark in marks}
        self._marks = [(mark.tag, mark.key) for mark in marks]

    def close(self) -> None:
        """See `RedisShards`."""
        super().close()
        self._run_ids, self._marks = set(), []

    def check_connection(self, connection: Any) -> None:
        """Check each new connection: a client reconnects silently, possibly to another process."""
        run_id = server_run_id(connection)
        if self._run_ids and run_id not in self._run_ids:
            raise redis.ConnectionError("another process than before")

    def mget(self, keys: Sequence[tuple[int, str]]) -> list[bytes | None]:
        """See `RedisShards`. StaleStore where a mark is missing."""
        marks = self._marks
        answers = super().mget([*keys, *marks])
        values, mark_values = answers[: len(keys)], answers[len(keys) :]
        if None in mark_values:
            self.close()
            raise StaleStore("the identity graph's Redis was emptied: its log must be read back first")
        return values


class FencedStore(RebuiltStore):
    """The graph while it is known to be complete; raises StaleStore otherwise."""

    def __init__(self, connect: Callable[[], redis.Redis | redis.RedisCluster]) -> None:
        super().__init__(connect)
        shards = FencedShards(connect)
        self._shards = shards
        self.check_connection = shards.check_connection
        """To be called with each new connection."""


def _shard_marks(shards: RedisShards) -> list[ShardMark]:
    return [ShardMark(tag, f"g:{{{tag:02x}}}:whole", run_id) for tag, run_id in shards.run_ids().items()]


def _are_set(shards: RedisShards, marks: Sequence[ShardMark]) -> bool:
    return shards.mget([(mark.tag, mark.key) for mark in marks]) == [mark.run_id.encode() for mark in marks]
