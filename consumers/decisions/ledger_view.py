"""Reads the consent ledger's view in Redis: many visitors in one round trip, with a short timeout.

Lookups that arrive during a command share the next one. A partition's mark is read in the same command as its states, so states
of an incomplete view are never used.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import orjson
from redis.exceptions import RedisError

from infra.clients.redis import parse_run_id
from infra.telemetry.logs import get_logger
from infra.telemetry.metrics import Metrics
from streams.consent.ledger.ledger import Times, merge
from streams.consent.ledger.store import mark_key, marks_complete, state_key, view_key

TIMEOUT_S = 0.5
"""Seconds. A slower answer counts as none, and the decision is not personal."""
CHECK_S, RETRY_S = 1.0, 0.2
KEYS_AT_ONCE = 1_000
"""Keys of one command: it blocks the server no longer than a command of the consent stage."""
ROOM = "decisions"

NO_PARTITIONS = "the partitions of consent.signals are not known yet"
REDIS_AWAY = "Redis does not answer"
INCOMPLETE = "the view is being built, or was lost"

Partitioner = Callable[[bytes], int]


class Lookup(NamedTuple):
    """The keys of one request, and the future of their values."""

    partitions: frozenset[int]
    names: Sequence[str]
    answer: "asyncio.Future[list[bytes | None] | None]"


class LedgerView:
    """Reads what the consent stage's `RedisStateStore` writes. `connect` creates an asynchronous client of Redis.

    `answer_lookups` and `watch_marks` must run as tasks; without them no lookup is answered.
    """

    def __init__(self, connect: Callable[..., Any], metrics: Metrics) -> None:
        self._redis = connect(
            redis_connect_func=self._on_connect, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=None
        )
        self._metrics = metrics
        self._partition_of: Partitioner | None = None
        self._partitions: tuple[int, ...] = ()
        self._server = ""
        """Run id of the server of the newest connection."""
        self._reachable = False
        self._problem: str | None = None
        self._pending: list[Lookup] = []
        self._has_pending = asyncio.Event()

    @property
    def is_complete(self) -> bool:
        """Whether the view of every partition was complete at the last check, so that decisions can be personal."""
        return self._problem == ""

    def set_partitions(self, partition_of: Partitioner, partitions: Sequence[int]) -> None:
        """Set the partitions, and which of them has a subject's state."""
        self._partition_of, self._partitions = partition_of, tuple(partitions)

    async def read_states(self, regulation: str, groups: Sequence[str], nodes: Sequence[str]) -> list[Times] | None:
        """Return the merged states of one identifier's nodes by group; None where the view is unreadable or incomplete."""
        if not self._reachable or self._partition_of is None:
            return None
        located_nodes = [(self._partition_of(node.encode()), node) for node in nodes]
        names = [
            view_key(partition, state_key(regulation, group, node)) for group in groups for partition, node in located_nodes
        ]
        lookup = Lookup(
            frozenset(partition for partition, _ in located_nodes), names, asyncio.get_running_loop().create_future()
        )
        self._pending.append(lookup)
        self._has_pending.set()
        texts = await lookup.answer
        if texts is None:
            return None
        return [_merge_states(texts[start : start + len(nodes)]) for start in range(0, len(texts), len(nodes))]

    async def answer_lookups(self) -> None:
        """Answer pending lookups, several in one command."""
        while True:
            await self._has_pending.wait()
            lookups = self._next_lookups()
            try:
                answers = await self._fetch_states(lookups)
            except (RedisError, OSError, TimeoutError):
                self._reachable = False
                self._report(REDIS_AWAY)
                # Lookups that arrived meanwhile must not wait for an unreachable server.
                lookups += self._pending
                self._pending.clear()
                self._has_pending.clear()
                answers = [None] * len(lookups)
            for lookup, answer in zip(lookups, answers, strict=True):
                if not lookup.answer.done():
                    lookup.answer.set_result(answer)

    def _next_lookups(self) -> list[Lookup]:
        keys = count = 0
        for lookup in self._pending:
            keys += len(lookup.names)
            if count and keys > KEYS_AT_ONCE:
                break
            count += 1
        lookups, self._pending = self._pending[:count], self._pending[count:]
        if not self._pending:
            self._has_pending.clear()
        return lookups

    async def _fetch_states(self, lookups: Sequence[Lookup]) -> list[list[bytes | None] | None]:
        partitions = sorted({partition for lookup in lookups for partition in lookup.partitions})
        names = [mark_key(partition) for partition in partitions]
        for lookup in lookups:
            names += lookup.names
        texts: list[bytes | None] = await self._redis.mget(names)
        complete = {partition for partition, mark in zip(partitions, texts, strict=False) if marks_complete(mark, self._server)}
        answers: list[list[bytes | None] | None] = []
        start = len(partitions)
        for lookup in lookups:
            end = start + len(lookup.names)
            answers.append(texts[start:end] if lookup.partitions <= complete else None)
            start = end
        if len(complete) < len(partitions):
            self._report(INCOMPLETE)
        return answers

    async def watch_marks(self) -> None:
        """Check the marks of all partitions every second, and more often while one is missing."""
        while True:
            problem = await self._find_problem()
            self._reachable = problem != REDIS_AWAY
            self._report(problem)
            await asyncio.sleep(RETRY_S if problem else CHECK_S)

    async def _find_problem(self) -> str:
        if not self._partitions:
            return NO_PARTITIONS
        try:
            marks = await self._redis.mget([mark_key(partition) for partition in self._partitions])
        except (RedisError, OSError, TimeoutError):
            return REDIS_AWAY
        return "" if all(marks_complete(mark, self._server) for mark in marks) else INCOMPLETE

    def _report(self, problem: str) -> None:
        """Log a change of the problem that keeps decisions from being personal, and set the metric."""
        if problem == self._problem:
            return
        if problem:
            get_logger().warning("consent ledger unreadable, decisions are not personal", reason=problem)
        else:
            get_logger().info("consent ledger readable")
        self._problem = problem
        self._metrics.set("headwater_waiting", 1 if problem else 0, stage=ROOM, service="redis")

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def _on_connect(self, connection: Any) -> None:
        await connection.on_connect()
        self._server = await read_run_id(connection)


async def read_run_id(connection: Any) -> str:
    """Return the run id of a connection's server, which differs after each restart. Raises RedisError."""
    await connection.send_command("INFO", "server")
    return parse_run_id(await connection.read_response())


def redis_connector(url: str) -> Callable[..., Any]:
    """Return a function that creates clients of the Redis at `url`; it takes further client options."""
    import redis.asyncio

    return partial(redis.asyncio.Redis.from_url, url)


def _merge_states(texts: Sequence[bytes | None]) -> Times:
    """Merge the states of one identifier under all key versions."""
    times: Times = {}
    for text in texts:
        if text is not None:
            times = merge(times, orjson.loads(text))
    return times


__all__ = ["LedgerView", "redis_connector"]
