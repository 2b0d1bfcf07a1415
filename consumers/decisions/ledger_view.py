"""The consent gate's view of its ledger, as decisions read it: many visitors in one round trip, and never waited for long.

Requests that come while an answer is on its way go together with the next question. A partition's mark is read in the same
command as its states, so what is not whole is never believed.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import orjson
from redis.exceptions import RedisError

from infra.telemetry.logs import get_logger
from infra.telemetry.metrics import Metrics
from streams.consent.ledger.ledger import Times, merge
from streams.consent.ledger.store import mark_key, marks_whole, state_key, view_key

TIMEOUT_S = 0.5
"""A page's widget does not wait that long; what comes later is the default arm."""
CHECK_S, RETRY_S = 1.0, 0.2
KEYS_AT_ONCE = 1_000
"""Keys of one command, so that it keeps the server from others for no longer than the gate's."""
ROOM = "decisions"

NO_PARTITIONS = "the partitions of consent.signals are not known yet"
REDIS_AWAY = "Redis does not answer"
INCOMPLETE = "the view is being built, or was lost"

Partitioner = Callable[[bytes], int]


class Lookup(NamedTuple):
    """One request's question."""

    partitions: frozenset[int]
    names: Sequence[str]
    answer: "asyncio.Future[list[bytes | None] | None]"


class LedgerView:
    """Reads what `RedisStates` writes. `connect` makes an asynchronous client of Redis.

    `serve` and `watch` run beside the requests; without them nothing is answered.
    """

    def __init__(self, connect: Callable[..., Any], metrics: Metrics) -> None:
        self._redis = connect(
            redis_connect_func=self._meet, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=None
        )
        self._metrics = metrics
        self._partition_of: Partitioner | None = None
        self._partitions: tuple[int, ...] = ()
        self._server = ""
        """Run id of the server that the newest connection leads to."""
        self._reachable = False
        self._problem: str | None = None
        self._pending: list[Lookup] = []
        self._wanted = asyncio.Event()

    @property
    def whole(self) -> bool:
        """Whether decisions can be personal: the view of every partition was whole a moment ago."""
        return self._problem == ""

    def divide(self, partition_of: Partitioner, partitions: Sequence[int]) -> None:
        """Take up which partitions there are, and where each subject's state is kept."""
        self._partition_of, self._partitions = partition_of, tuple(partitions)

    async def read(self, regulation: str, groups: Sequence[str], nodes: Sequence[str]) -> list[Times] | None:
        """The states of one identifier's nodes, merged, group by group; None where the view cannot be read, or is not whole."""
        if not self._reachable or self._partition_of is None:
            return None
        places = [(self._partition_of(node.encode()), node) for node in nodes]
        names = [view_key(partition, state_key(regulation, group, node)) for group in groups for partition, node in places]
        lookup = Lookup(frozenset(place for place, _ in places), names, asyncio.get_running_loop().create_future())
        self._pending.append(lookup)
        self._wanted.set()
        texts = await lookup.answer
        if texts is None:
            return None
        return [_merged(texts[start : start + len(nodes)]) for start in range(0, len(texts), len(nodes))]

    async def serve(self) -> None:
        """Answer what was asked, as much as is there in one command."""
        while True:
            await self._wanted.wait()
            lookups = self._next_lookups()
            try:
                answers = await self._look_up(lookups)
            except (RedisError, OSError, TimeoutError):
                self._reachable = False
                self._report(REDIS_AWAY)
                # Who asked meanwhile must not wait for what is known to be away.
                lookups += self._pending
                self._pending.clear()
                self._wanted.clear()
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
            self._wanted.clear()
        return lookups

    async def _look_up(self, lookups: Sequence[Lookup]) -> list[list[bytes | None] | None]:
        partitions = sorted({partition for lookup in lookups for partition in lookup.partitions})
        names = [mark_key(partition) for partition in partitions]
        for lookup in lookups:
            names += lookup.names
        texts: list[bytes | None] = await self._redis.mget(names)
        whole = {partition for partition, mark in zip(partitions, texts, strict=False) if marks_whole(mark, self._server)}
        answers: list[list[bytes | None] | None] = []
        start = len(partitions)
        for lookup in lookups:
            end = start + len(lookup.names)
            answers.append(texts[start:end] if lookup.partitions <= whole else None)
            start = end
        if len(whole) < len(partitions):
            self._report(INCOMPLETE)
        return answers

    async def watch(self) -> None:
        """Look at the marks every second; where something is missing, more often."""
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
        return "" if all(marks_whole(mark, self._server) for mark in marks) else INCOMPLETE

    def _report(self, problem: str) -> None:
        """Say once what keeps decisions from being personal, and once that nothing does any more."""
        if problem == self._problem:
            return
        if problem:
            get_logger().warning("consent ledger unreadable, decisions are not personal", reason=problem)
        else:
            get_logger().info("consent ledger readable")
        self._problem = problem
        self._metrics.set("headwater_waiting", 1 if problem else 0, stage=ROOM, service="redis")

    async def close(self) -> None:
        """End the connections."""
        await self._redis.aclose()

    async def _meet(self, connection: Any) -> None:
        await connection.on_connect()
        self._server = await run_of(connection)


async def run_of(connection: Any) -> str:
    """The run id of the process that a new asynchronous connection leads to: another one at each start. RedisError."""
    await connection.send_command("INFO", "server")
    text = (await connection.read_response()).decode()
    return str(dict(line.split(":", 1) for line in text.splitlines() if ":" in line)["run_id"])


def connector(url: str) -> Callable[..., Any]:
    """Makes clients of the Redis at an address; they are given what differs."""
    import redis.asyncio

    return partial(redis.asyncio.Redis.from_url, url)


def _merged(texts: Sequence[bytes | None]) -> Times:
    """The states of one identifier under all versions of the keys."""
    times: Times = {}
    for text in texts:
        if text is not None:
            times = merge(times, orjson.loads(text))
    return times


__all__ = ["LedgerView", "connector"]
