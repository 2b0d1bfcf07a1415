"""The view of `consent.state` in which the stage looks states up: in Redis, or in memory. It can be rebuilt from the topic.

It is written after the commit, by merging: times only grow, so writing twice or late changes nothing.
"""

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import orjson
import redis

from infra.clients.redis import server_run_id
from infra.errors import ConfigError, Retryable
from infra.telemetry.logs import get_logger
from streams.consent.ledger.ledger import ERASED, Times, merge

States = Mapping[str, Times]
"""Key of a state (see `state_key`) -> its times."""


class LedgerSlice(NamedTuple):
    """Consecutive records of the topic, merged."""

    erased: Mapping[str, int]
    """Keys with a tombstone, and its time, milliseconds UTC; their older records do not count."""
    states: States
    """States, without what was written before a tombstone."""


Changed = Callable[[int, int], Iterator[LedgerSlice]]
"""(partition, milliseconds UTC) -> what was written to a partition of the topic since then, in its order."""

CHUNK = 1_000
"""Keys of one command, so that no command blocks the server for long."""
BUILDING = "building"
"""In place of a run id: the view is incomplete."""
CHECK_S = 1.0
"""How often Redis is asked for its eviction policy, which can change at any time."""
MARKED_S = 8 * 86_400
"""How long the mark of an erasure stays: `events.raw` can be replayed for 7 days."""
MARGIN_MS = 300_000
"""Longer than a transaction may last: how much older than the mark a committed state may be that is not in the view."""

# Keys of one partition share a hash tag, and so a node. Each time becomes the larger of the stored and the new one.
MERGE = """
for at, key in ipairs(KEYS) do
  local text = ARGV[at + 1]
  local found = redis.call('GET', key)
  if found and found ~= text then
    local new = cjson.decode(text)
    for name, time in pairs(cjson.decode(found)) do
      if not new[name] or new[name] < time then new[name] = time end
    end
    text = cjson.encode(new)
  end
  redis.call('SET', key, text, 'EX', ARGV[1])
end
return #KEYS
"""


# Sets the mark to the second argument if it begins with the first. An emptied or restarted server has no such mark.
MOVE = """
local found = redis.call('GET', KEYS[1])
if found and string.sub(found, 1, #ARGV[1]) == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[2])
  return 1
end
return 0
"""


class StateStore(Protocol):
    """Where states are looked up. Every method raises Retryable while it is unavailable."""

    def open(self, partition: int) -> None:
        """Make sure that the view has every committed state of a partition."""
        ...

    def incomplete(self, partitions: Sequence[int]) -> list[int]:
        """The partitions among these whose view is not open, or has been lost."""
        ...

    def read(self, partition: int, keys: Sequence[str]) -> list[Times | None]:
        """The states of these keys, None where there is none."""
        ...

    def read_elsewhere(self, keys: Mapping[int, Sequence[str]]) -> dict[str, Times | None]:
        """States by key, of keys of any partition, whose view another worker may write."""
        ...

    def write(self, partition: int, states: States, at: int) -> None:
        """Merge committed states into the view, which has all older ones of the partition. `at`: milliseconds UTC."""
        ...


def state_key(regulation: str, site: str, subject: str) -> str:
    """The key of a state."""
    return f"{regulation}|{site}|{subject}"


class MemoryStateStore:
    """A view in memory, for tests and runs without Redis."""

    def __init__(self) -> None:
        self.states: dict[str, Times] = {}

    def open(self, partition: int) -> None:
        """See `StateStore`."""

    def incomplete(self, partitions: Sequence[int]) -> list[int]:  # noqa: ARG002 - nothing is ever lost here
        """See `StateStore`."""
        return []

    def read(self, partition: int, keys: Sequence[str]) -> list[Times | None]:  # noqa: ARG002 - one view for all
        """See `StateStore`."""
        return [self.states.get(key) for key in keys]

    def read_elsewhere(self, keys: Mapping[int, Sequence[str]]) -> dict[str, Times | None]:
        """See `StateStore`."""
        return {key: self.states.get(key) for some in keys.values() for key in some}

    def write(self, partition: int, states: States, at: int) -> None:  # noqa: ARG002 - one view for all
        """See `StateStore`."""
        for key, times in states.items():
            self.states[key] = merge(self.states.get(key, {}), times)


class RedisStateStore:
    """The view in Redis.

    `cs:{<partition>}:<key>` holds the times as JSON. `cv:{<partition>}` is the mark of a complete view: the run id of the
    server, the time until which the view is complete, and the id of the topic. A restarted server may have lost data, so a mark
    with another run id means: rebuild. The run id is read once for each connection: only a new one can lead to another server.
    A recreated topic, or one of another cluster, is read whole; states of the old topic stay, so that no refusal is lost.
    """

    def __init__(
        self, connect: Callable[..., Any], changed: Changed, keep_s: int, topic_id: Callable[[], str] = lambda: ""
    ) -> None:
        """`connect` makes a client; `keep_s`: expiry of states; `topic_id` asks Kafka, and raises Retryable."""
        self._redis = connect(redis_connect_func=self._on_connect)
        self._changed = changed
        self._keep_s = keep_s
        self._topic_id = topic_id
        self._merge = self._redis.register_script(MERGE)
        self._move = self._redis.register_script(MOVE)
        self._server = ""
        """Run id of the server of the newest connection."""
        self._complete_on: dict[int, str] = {}
        """Partition -> run id of the server on which its view was complete."""
        self._built_of: dict[int, str] = {}
        """Partition -> id of the topic from which its view was built."""
        self._checked = 0.0

    def open(self, partition: int) -> None:
        """See `StateStore`. What the mark does not cover is read from the topic. Retryable if Redis is emptied meanwhile."""
        topic_id = self._topic_id()  # before the topic is read: one recreated in between is read whole by the next opening
        try:
            self._check()
            server, building = self._server, f"{BUILDING}|{secrets.token_hex(8)}"
            mark = (self._redis.set(mark_key(partition), building, get=True) or b"").decode().split("|")
            since = int(mark[1]) - MARGIN_MS if len(mark) == 3 and (mark[0], mark[2]) == (server, topic_id) else 0
            began, written = int(time.time() * 1000), 0
            for ledger_slice in self._changed(partition, max(0, since)):
                self._apply_erasures(partition, ledger_slice.erased)
                self._merge_states(partition, ledger_slice.states)
                written += len(ledger_slice.states)
            is_marked = self._move_mark(partition, building, f"{server}|{began}|{topic_id}")
        except redis.RedisError as error:
            raise _unavailable(error) from error
        if not is_marked or self._server != server:
            raise Retryable("the consent ledger's Redis was emptied, or started again, while its view was built")
        self._complete_on[partition], self._built_of[partition] = server, topic_id
        if written:
            get_logger().info("consent view", partition=partition, states=written, whole=since <= 0)

    def incomplete(self, partitions: Sequence[int]) -> list[int]:
        """See `StateStore`. Retryable."""
        if not partitions:
            return []
        try:
            marks = self._redis.mget([mark_key(partition) for partition in partitions])
        except redis.RedisError as error:
            raise _unavailable(error) from error
        return [
            partition
            for partition, mark in zip(partitions, marks, strict=True)
            if self._complete_on.get(partition) != self._server or not marks_complete(mark, self._server)
        ]

    def read(self, partition: int, keys: Sequence[str]) -> list[Times | None]:
        """See `StateStore`. A lost view is rebuilt first."""
        try:
            if time.monotonic() > self._checked + CHECK_S:
                self._check()
            texts = self._look_up(partition, keys)
            if texts is None:
                self.open(partition)
                texts = self._look_up(partition, keys)
        except redis.RedisError as error:
            raise _unavailable(error) from error
        if texts is None:
            raise Retryable("the consent ledger's Redis was emptied while it was read")
        return [None if text is None else orjson.loads(text) for text in texts]

    def read_elsewhere(self, keys: Mapping[int, Sequence[str]]) -> dict[str, Times | None]:
        """See `StateStore`. A view that no worker has built on this server is built first. Retryable."""
        try:
            texts = self._look_elsewhere(keys)
            missing = [partition for partition in keys if partition not in texts]
            for partition in missing:
                self.open(partition)
            if missing:
                texts |= self._look_elsewhere({partition: keys[partition] for partition in missing})
        except redis.RedisError as error:
            raise _unavailable(error) from error
        if texts.keys() != keys.keys():
            raise Retryable("the consent ledger's Redis was emptied while it was read")
        return {
            key: None if state_text is None else orjson.loads(state_text)
            for partition, some in keys.items()
            for key, state_text in zip(some, texts[partition], strict=True)
        }

    def _look_elsewhere(self, keys: Mapping[int, Sequence[str]]) -> dict[int, list[bytes | None]]:
        """Texts by partition, in one round trip; partitions with an incomplete view are left out."""
        pieces = [(partition, some[at : at + CHUNK]) for partition, some in keys.items() for at in range(0, len(some), CHUNK)]
        with self._redis.pipeline(transaction=False) as pipeline:
            for partition, some in pieces:
                pipeline.mget([mark_key(partition), *(view_key(partition, key) for key in some)])
            answers = pipeline.execute()
        texts: dict[int, list[bytes | None]] = {partition: [] for partition in keys}
        for (partition, _), (mark, *values) in zip(pieces, answers, strict=True):
            if not marks_complete(mark, self._server):
                texts.pop(partition, None)
            elif partition in texts:
                texts[partition] += values
        return texts

    def _look_up(self, partition: int, keys: Sequence[str]) -> list[bytes | None] | None:
        """The texts of these keys; None where the view is not complete any more."""
        values: list[bytes | None] = []
        for start in range(0, len(keys), CHUNK):
            # The mark is read in the same command, so that states of a view that was just lost are never used.
            names = [mark_key(partition), *(view_key(partition, key) for key in keys[start : start + CHUNK])]
            mark, *chunk = self._redis.mget(names)
            if self._complete_on.get(partition) != self._server or not marks_complete(mark, self._server):
                return None
            values += chunk
        return values

    def write(self, partition: int, states: States, at: int) -> None:
        """See `StateStore`. A view that is not complete any more is not marked: the next look-up rebuilds it."""
        try:
            self._merge_states(partition, states)
            server = self._complete_on.get(partition)
            if server is not None:
                self._move_mark(partition, f"{server}|", f"{server}|{at}|{self._built_of[partition]}")
        except redis.RedisError as error:
            raise _unavailable(error) from error

    def erase(self, partition: int, keys: Sequence[str], at: int) -> None:
        """Replace states by the mark of an erasure, which keeps a replay from storing them again. Retryable.

        Their tombstones must be on the topic. The mark stays as long as `events.raw` can be replayed.
        """
        try:
            self._set_erased(partition, dict.fromkeys(keys, at))
        except redis.RedisError as error:
            raise _unavailable(error) from error

    def keys_until(self, partition: int, keys: Sequence[str], until: int) -> list[str]:
        """The keys among these whose state has a time not after `until`, milliseconds UTC. Retryable."""
        matching: list[str] = []
        try:
            for start in range(0, len(keys), CHUNK):
                some = keys[start : start + CHUNK]
                for key, text in zip(some, self._redis.mget([view_key(partition, key) for key in some]), strict=True):
                    times = {} if text is None else orjson.loads(text)
                    matching += [key] * any(time <= until for name, time in times.items() if name != ERASED)
        except redis.RedisError as error:
            raise _unavailable(error) from error
        return matching

    def _apply_erasures(self, partition: int, erased: Mapping[str, int]) -> None:
        """Replace states that have a tombstone. An existing mark of an erasure is kept, because it is exact."""
        items = list(erased.items())
        for start in range(0, len(items), CHUNK):
            some = items[start : start + CHUNK]
            texts = self._redis.mget([view_key(partition, key) for key, _ in some])
            states = [{} if text is None else orjson.loads(text) for text in texts]
            self._set_erased(partition, {key: times.get(ERASED, at) for (key, at), times in zip(some, states, strict=True)})

    def _set_erased(self, partition: int, erased: Mapping[str, int]) -> None:
        with self._redis.pipeline(transaction=False) as pipeline:
            for key, at in erased.items():
                pipeline.set(view_key(partition, key), orjson.dumps({ERASED: at}), ex=MARKED_S)
            pipeline.execute()

    def _merge_states(self, partition: int, states: States) -> None:
        items = list(states.items())
        for start in range(0, len(items), CHUNK):
            some = items[start : start + CHUNK]
            texts = [orjson.dumps(times) for _, times in some]
            self._merge(keys=[view_key(partition, key) for key, _ in some], args=[self._keep_s, *texts])

    def _move_mark(self, partition: int, before: str, mark: str) -> bool:
        """Set the mark if it begins with `before`; whether it did."""
        return bool(self._move(keys=[mark_key(partition)], args=[before, mark]))

    def _check(self) -> None:
        """ConfigError where Redis may evict states."""
        policy = self._redis.info("memory").get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            raise ConfigError(
                f"Redis has maxmemory-policy {policy}: it would forget withdrawals of consent in silence. Set "
                "`maxmemory-policy noeviction` there, or use a Redis of its own (HEADWATER_REDIS)"
            )
        self._checked = time.monotonic()

    def _on_connect(self, connection: Any) -> None:
        connection.on_connect()
        self._server = server_run_id(connection)


def merge_records(records: Iterable[tuple[str, Times | None, int]]) -> LedgerSlice:
    """Merge (key, times, written at in milliseconds UTC) in their order; times of None are a tombstone."""
    erased: dict[str, int] = {}
    states: dict[str, Times] = {}
    for key, times, at in records:
        if times is None:
            erased[key] = at
            states.pop(key, None)
        else:
            states[key] = merge(states.get(key, {}), times)
    return LedgerSlice(erased, states)


def marks_complete(mark: bytes | None, server: str) -> bool:
    """Whether a partition's mark says that its view is complete on the server of this run id."""
    return mark is not None and server != "" and mark.decode().partition("|")[0] == server


def _unavailable(error: redis.RedisError) -> Retryable:
    return Retryable(f"the consent ledger's Redis: {type(error).__name__}")


def view_key(partition: int, key: str) -> str:
    """The Redis key of a state."""
    return f"cs:{{{partition}}}:{key}"


def mark_key(partition: int) -> str:
    """The Redis key of a partition's mark."""
    return f"cv:{{{partition}}}"


__all__ = [
    "LedgerSlice",
    "MemoryStateStore",
    "RedisStateStore",
    "StateStore",
    "mark_key",
    "marks_complete",
    "merge_records",
    "state_key",
    "view_key",
]
