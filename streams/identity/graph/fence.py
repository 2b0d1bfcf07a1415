"""Fences a Redis that may have lost data: it is used only after the graph's log was read back into it.

Each shard stores the run id of the Redis process in which the graph is known to be complete. A restarted process has another
run id, an emptied one has no mark, and a failover leads to a process whose run id differs from the mark.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis

from infra.clients.redis import run_of
from streams.identity.graph.redis_store import CONNECTION_ERRORS, TAGS, RedisGraphStore
from streams.identity.graph.store import StoreUnavailable

LOCK_S = 60
"""Seconds that a rebuilding worker may be silent before another one takes over."""
REBUILD_LOCK = "g:mending:{00}"


class StaleStore(StoreUnavailable):
    """This Redis is not known to hold the complete graph."""


class RebuiltStore(RedisGraphStore):
    """The graph whatever its Redis holds, with the marks that declare it complete."""

    def shard_marks(self) -> list[tuple[int, str, str]]:
        """Return (tag, key of the mark, run id) of each shard. StoreUnavailable."""
        self._connected()
        try:
            return self._marks()
        except CONNECTION_ERRORS as error:
            raise self._unavailable(error) from error

    def _marks(self) -> list[tuple[int, str, str]]:
        first: dict[int, int] = {}
        for tag in range(TAGS):
            first.setdefault(id(self._shards[tag]), tag)
        runs = ((tag, self._shards[tag].info("server")["run_id"]) for tag in first.values())
        return [(tag, f"g:{{{tag:02x}}}:whole", run) for tag, run in runs]

    def is_whole(self) -> bool:
        """Return whether every shard is marked as complete. StoreUnavailable."""
        return self._marked(self.shard_marks())

    def _marked(self, shard_marks: Sequence[tuple[int, str, str]]) -> bool:
        return self._mget([(tag, key) for tag, key, _ in shard_marks]) == [run.encode() for _, _, run in shard_marks]

    def mark_whole(self) -> None:
        """Mark every shard as complete. StoreUnavailable."""
        self._run([(tag, ("SET", key, run)) for tag, key, run in self.shard_marks()])

    @contextmanager
    def rebuild_lock(self, worker: str) -> Iterator[Callable[[], None]]:
        """Hold the lock of the only rebuilding worker; yields a function that renews it. StoreUnavailable while it is taken.

        A worker that was interrupted finds itself as the holder and starts over.
        """

        def renew() -> None:
            (holder,) = self._run([(0, ("GET", REBUILD_LOCK))])
            if holder != worker.encode():
                raise StoreUnavailable("another worker reads the log back into it, or this one was silent for too long")
            self._run([(0, ("EXPIRE", REBUILD_LOCK, LOCK_S))])

        self._run([(0, ("SET", REBUILD_LOCK, worker, "NX", "EX", LOCK_S))])
        renew()
        try:
            yield renew
        finally:
            renew()
            self._run([(0, ("DEL", REBUILD_LOCK))])


class FencedStore(RebuiltStore):
    """The graph while it is known to be complete; raises StaleStore otherwise."""

    def __init__(self, connect: Callable[[], redis.Redis | redis.RedisCluster]) -> None:
        super().__init__(connect)
        self._runs: set[str] = set()
        self._whole: list[tuple[int, str]] = []

    def _open(self) -> None:
        super()._open()
        shard_marks = self._marks()
        if not self._marked(shard_marks):
            self.close()
            raise StaleStore("the identity graph's Redis was started anew, or emptied: its log must be read back first")
        self._runs = {run for _, _, run in shard_marks}
        self._whole = [(tag, key) for tag, key, _ in shard_marks]

    def close(self) -> None:
        """See `RedisGraphStore`."""
        super().close()
        self._runs, self._whole = set(), []

    def check_connection(self, connection: Any) -> None:
        """Check each new connection: a client reconnects silently, possibly to another process."""
        run = run_of(connection)
        if self._runs and run not in self._runs:
            raise redis.ConnectionError("another process than before")

    def _mget(self, keys: Sequence[tuple[int, str]]) -> list[bytes | None]:
        shard_marks = self._whole
        answers = super()._mget([*keys, *shard_marks])
        values, marked = answers[: len(keys)], answers[len(keys) :]
        if None in marked:
            self.close()
            raise StaleStore("the identity graph's Redis was emptied: its log must be read back first")
        return values
