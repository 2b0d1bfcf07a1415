"""The ledger as the stage looks it up: a view of `consent.state`, in Redis. The topic is the truth; the view can be lost.

Written after the commit, by merging: times only grow, so writing twice or late changes nothing.
"""

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import orjson
import redis

from infra.clients.redis import run_of
from infra.errors import ConfigError, Retryable
from infra.telemetry.logs import get_logger
from streams.consent.ledger.ledger import ERASED, Times, merge

States = Mapping[str, Times]
"""Key of a state (see `state_key`) -> its times."""


class LedgerSlice(NamedTuple):
    """A piece of the topic."""

    erased: Mapping[str, int]
    """Keys whose older records hold no more, and since when, milliseconds UTC."""
    states: States
    """What was written after that."""


Changed = Callable[[int, int], Iterator[LedgerSlice]]
"""(partition, time in milliseconds UTC) -> what was written to a partition of the topic since then, in its order."""

CHUNK = 1_000
"""Keys of one call, so that no call keeps the server from others for long."""
BUILDING = "building"
"""In place of a run id: nobody believes it."""
CHECK_S = 1.0
"""How often Redis is asked whether it may forget; it can be told so at any time."""
MARKED_S = 8 * 86_400
MARGIN_MS = 300_000
"""Longer than a transaction may last: what was committed and not written to the view is at most that much older."""

# Keys of one partition share a hash tag, and so a node. Every entry becomes the larger of what is there and what is given.
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


# The mark becomes the second argument where it begins with the first: a server that was emptied or started again has none such.
MOVE = """
local found = redis.call('GET', KEYS[1])
if found and string.sub(found, 1, #ARGV[1]) == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[2])
  return 1
end
return 0
"""


class StateStore(Protocol):
    """Retryable while it is away, from every call."""

    def open(self, partition: int) -> None:
        """Make sure that the view holds everything that was committed of a partition."""
        ...

    def incomplete(self, partitions: Sequence[int]) -> list[int]:
        """Those of these partitions whose view is not open, or was lost since."""
        ...

    def read(self, partition: int, keys: Sequence[str]) -> list[Times | None]:
        """The states of these keys, None where nothing is known."""
        ...

    def read_elsewhere(self, keys: Mapping[int, Sequence[str]]) -> dict[str, Times | None]:
        """States of these keys by partition, which other workers may hold."""
        ...

    def write(self, partition: int, states: States, at: int) -> None:
        """Merge states in that were committed; all older ones of the partition are in. `at`: milliseconds UTC."""
        ...


def state_key(regulation: str, site: str, subject: str) -> str:
    """The name of a state."""
    return f"{regulation}|{site}|{subject}"


class MemoryStateStore:
    """For tests and walks without Redis."""

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
    """`cs:{<partition>}:<key>` = the times as JSON; `cv:{<partition>}` = which server the view was built on, when it was last
    complete, and of which topic, by its id.

    A server that was started again may have lost what it held, so its run id is part of the mark; another means: build again.
    Each connection asks for it once: nothing but a new connection can lead to another server. `connect` makes the client.
    Of a topic made anew, or of another cluster's, everything is read, however old it says to be. What the view knew stays in
    it: no refusal is forgotten. `topic_id` asks Kafka; Retryable.
    """

    def __init__(
        self, connect: Callable[..., Any], changed: Changed, keep_s: int, topic_id: Callable[[], str] = lambda: ""
    ) -> None:
        self._redis = connect(redis_connect_func=self._meet)
        self._changed = changed
        self._keep_s = keep_s
        self._topic_id = topic_id
        self._merge = self._redis.register_script(MERGE)
        self._move = self._redis.register_script(MOVE)
        self._met = ""
        """Run id of the server that the newest connection leads to."""
        self._whole: dict[int, str] = {}
        """Partition -> run id of the server on which it was found to be whole."""
        self._built_of: dict[int, str] = {}
        """Partition -> id of the topic that its view was built of."""
        self._checked = 0.0

    def open(self, partition: int) -> None:
        """See `StateStore`. What the mark does not cover is read from the topic. Retryable where it is emptied meanwhile."""
        topic_id = self._topic_id()  # before it is read: of one made anew in between, the next opening reads everything
        try:
            self._check()
            server, building = self._met, f"{BUILDING}|{secrets.token_hex(8)}"
            mark = (self._redis.set(mark_key(partition), building, get=True) or b"").decode().split("|")
            since = int(mark[1]) - MARGIN_MS if len(mark) == 3 and (mark[0], mark[2]) == (server, topic_id) else 0
            began, written = int(time.time() * 1000), 0
            for ledger_slice in self._changed(partition, max(0, since)):
                self._struck(partition, ledger_slice.erased)
                self._merged(partition, ledger_slice.states)
                written += len(ledger_slice.states)
            moved = self._moved(partition, building, f"{server}|{began}|{topic_id}")
        except redis.RedisError as error:
            raise _away(error) from error
        if not moved or self._met != server:
            raise Retryable("the consent ledger's Redis was emptied, or started again, while its view was built")
        self._whole[partition], self._built_of[partition] = server, topic_id
        if written:
            get_logger().info("consent view", partition=partition, states=written, whole=since <= 0)

    def incomplete(self, partitions: Sequence[int]) -> list[int]:
        """See `StateStore`. Retryable."""
        if not partitions:
            return []
        try:
            marks = self._redis.mget([mark_key(partition) for partition in partitions])
        except redis.RedisError as error:
            raise _away(error) from error
        return [
            partition
            for partition, mark in zip(partitions, marks, strict=True)
            if self._whole.get(partition) != self._met or not marks_whole(mark, self._met)
        ]

    def read(self, partition: int, keys: Sequence[str]) -> list[Times | None]:
        """See `StateStore`. Retryable, after building the view again, where it turns out to be lost."""
        try:
            if time.monotonic() > self._checked + CHECK_S:
                self._check()
            texts = self._look_up(partition, keys)
            if texts is None:
                self.open(partition)
                texts = self._look_up(partition, keys)
        except redis.RedisError as error:
            raise _away(error) from error
        if texts is None:
            raise Retryable("the consent ledger's Redis was emptied while it was read")
        return [None if text is None else orjson.loads(text) for text in texts]

    def read_elsewhere(self, keys: Mapping[int, Sequence[str]]) -> dict[str, Times | None]:
        """See `StateStore`. A view that nobody has built on this server is built first. Retryable."""
        try:
            texts = self._look_elsewhere(keys)
            missing = [partition for partition in keys if partition not in texts]
            for partition in missing:
                self.open(partition)
            if missing:
                texts |= self._look_elsewhere({partition: keys[partition] for partition in missing})
        except redis.RedisError as error:
            raise _away(error) from error
        if texts.keys() != keys.keys():
            raise Retryable("the consent ledger's Redis was emptied while it was read")
        return {
            key: None if state_text is None else orjson.loads(state_text)
            for partition, some in keys.items()
            for key, state_text in zip(some, texts[partition], strict=True)
        }

    def _look_elsewhere(self, keys: Mapping[int, Sequence[str]]) -> dict[int, list[bytes | None]]:
        """The texts of those partitions whose view is whole, whoever has built it, in one round trip."""
        pieces = [(partition, some[at : at + CHUNK]) for partition, some in keys.items() for at in range(0, len(some), CHUNK)]
        with self._redis.pipeline(transaction=False) as pipeline:
            for partition, some in pieces:
                pipeline.mget([mark_key(partition), *(view_key(partition, key) for key in some)])
            answers = pipeline.execute()
        texts: dict[int, list[bytes | None]] = {partition: [] for partition in keys}
        for (partition, _), (mark, *values) in zip(pieces, answers, strict=True):
            if not marks_whole(mark, self._met):
                texts.pop(partition, None)
            elif partition in texts:
                texts[partition] += values
        return texts

    def _look_up(self, partition: int, keys: Sequence[str]) -> list[bytes | None] | None:
        """The texts of these keys, or None where the view is not whole any more."""
        values: list[bytes | None] = []
        for start in range(0, len(keys), CHUNK):
            # The mark comes along each time, so that no look-up falls between an end of the view and its being noticed.
            names = [mark_key(partition), *(view_key(partition, key) for key in keys[start : start + CHUNK])]
            mark, *chunk = self._redis.mget(names)
            if self._whole.get(partition) != self._met or not marks_whole(mark, self._met):
                return None
            values += chunk
        return values

    def write(self, partition: int, states: States, at: int) -> None:
        """See `StateStore`. A view that is not whole any more is not said to be: the next look-up builds it."""
        try:
            self._merged(partition, states)
            server = self._whole.get(partition)
            if server is not None:
                self._moved(partition, f"{server}|", f"{server}|{at}|{self._built_of[partition]}")
        except redis.RedisError as error:
            raise _away(error) from error

    def erase(self, partition: int, keys: Sequence[str], at: int) -> None:
        """Take states out of the view, whose records are tombstones by then; a mark keeps a replay from bringing them back.

        It stays for as long as `events.raw` could be read again. Retryable.
        """
        try:
            self._set_erased(partition, dict.fromkeys(keys, at))
        except redis.RedisError as error:
            raise _away(error) from error

    def known(self, partition: int, keys: Sequence[str], until: int) -> list[str]:
        """Those of these states in the view that say something of a time until then. Retryable."""
        matching: list[str] = []
        try:
            for start in range(0, len(keys), CHUNK):
                some = keys[start : start + CHUNK]
                for key, text in zip(some, self._redis.mget([view_key(partition, key) for key in some]), strict=True):
                    times = {} if text is None else orjson.loads(text)
                    matching += [key] * any(time <= until for name, time in times.items() if name != ERASED)
        except redis.RedisError as error:
            raise _away(error) from error
        return matching

    def _struck(self, partition: int, erased: Mapping[str, int]) -> None:
        """What the view says of these is from before they were erased, or comes again. A mark that it has is the better one."""
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

    def _merged(self, partition: int, states: States) -> None:
        items = list(states.items())
        for start in range(0, len(items), CHUNK):
            some = items[start : start + CHUNK]
            texts = [orjson.dumps(times) for _, times in some]
            self._merge(keys=[view_key(partition, key) for key, _ in some], args=[self._keep_s, *texts])

    def _moved(self, partition: int, before: str, mark: str) -> bool:
        """Set the mark where it begins like this; whether it did."""
        return bool(self._move(keys=[mark_key(partition)], args=[before, mark]))

    def _check(self) -> None:
        """ConfigError where Redis may forget withdrawals on its own."""
        policy = self._redis.info("memory").get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            raise ConfigError(
                f"Redis has maxmemory-policy {policy}: it would forget withdrawals of consent in silence. Set "
                "`maxmemory-policy noeviction` there, or use a Redis of its own (HEADWATER_REDIS)"
            )
        self._checked = time.monotonic()

    def _meet(self, connection: Any) -> None:
        connection.on_connect()
        self._met = run_of(connection)


def piece_of(records: Iterable[tuple[str, Times | None, int]]) -> LedgerSlice:
    """Keys, times (None: a tombstone, which is an erasure's) and when they were written, milliseconds UTC, in their order."""
    erased: dict[str, int] = {}
    states: dict[str, Times] = {}
    for key, times, at in records:
        if times is None:
            erased[key] = at
            states.pop(key, None)
        else:
            states[key] = merge(states.get(key, {}), times)
    return LedgerSlice(erased, states)


def marks_whole(mark: bytes | None, server: str) -> bool:
    """Whether a partition's mark says that its view is whole on the server of this run id."""
    return mark is not None and server != "" and mark.decode().partition("|")[0] == server


def _away(error: redis.RedisError) -> Retryable:
    return Retryable(f"the consent ledger's Redis: {type(error).__name__}")


def view_key(partition: int, key: str) -> str:
    """The name of a state in Redis."""
    return f"cs:{{{partition}}}:{key}"


def mark_key(partition: int) -> str:
    """The name of a partition's mark in Redis."""
    return f"cv:{{{partition}}}"


__all__ = [
    "LedgerSlice",
    "MemoryStateStore",
    "RedisStateStore",
    "StateStore",
    "mark_key",
    "marks_whole",
    "piece_of",
    "state_key",
    "view_key",
]
