"""The consent ledger as decisions read it, on a real Redis: whole or not at all, many in one command, never waited for long."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from structlog.testing import capture_logs

from consumers.decisions.ledger_view import (
    INCOMPLETE,
    KEYS_AT_ONCE,
    NO_PARTITIONS,
    REDIS_AWAY,
    TIMEOUT_S,
    LedgerView,
    redis_connector,
)
from infra.ops.embedded.servers.redis import EmbeddedRedis
from infra.telemetry.metrics import Metrics
from streams.consent.ledger.ledger import Times
from tests.consumers.decisions.views import PARTITIONS, gate_view, open_views, partition_of, remember

SITE, OTHER_SITE = "shop.example", "other.example"
NODE, NEWER, STRANGER = "2" + "a" * 32, "2" + "b" * 32, "2" + "c" * 32
LOOKUP = ("opt-in", [SITE], [NODE])


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A Redis that a test may stop."""
    with EmbeddedRedis(tmp_path / "redis") as own:
        yield own


class Running:
    """A view that is served and watched."""

    def __init__(self, view: LedgerView, metrics: Metrics) -> None:
        self.view = view
        self.metrics = metrics

    async def until(self, problem: str = "", seconds: float = 20) -> None:
        """Wait until that is what is wrong with the view; empty = nothing, it is whole."""
        deadline = time.monotonic() + seconds
        while self.view._problem != problem:
            assert time.monotonic() < deadline, self.view._problem
            await asyncio.sleep(0.02)
        assert self.view.is_complete is (problem == "")

    def waiting(self) -> float | None:
        """The metric."""
        return self.metrics.registry.get_sample_value("headwater_waiting", {"stage": "decisions", "service": "redis"})


def run(url: str, walk: Callable[[Running], Awaitable[None]], partitions: Sequence[int] = range(PARTITIONS)) -> None:
    """Take a walk with a view beside it."""

    async def whole_walk() -> None:
        metrics = Metrics()
        view = LedgerView(redis_connector(url), metrics)
        if partitions:
            view.set_partitions(partition_of, partitions)
        tasks = [asyncio.create_task(work) for work in (view.answer_lookups(), view.watch_marks())]
        try:
            await walk(Running(view, metrics))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await view.close()

    asyncio.run(whole_walk())


def test_states_of_one_identifier_are_read_as_one(own_redis: EmbeddedRedis) -> None:
    """Under all versions of the keys the newer of each time; by group and regulation; nothing of a stranger."""
    gate = open_views(own_redis.url)
    remember(gate, NODE, SITE, {"personalization.denied": 7, "marketing.granted": 3})
    remember(gate, NEWER, SITE, {"personalization.denied": 5, "personalization.granted": 9})
    remember(gate, NODE, OTHER_SITE, {"analytics.denied": 1})
    remember(gate, NODE, SITE, {"personalization.withdrawn": 8}, "opt-out")
    merged: Times = {"personalization.denied": 7, "marketing.granted": 3, "personalization.granted": 9}

    async def walk(running: Running) -> None:
        await running.until()
        view = running.view
        assert await view.read_states("opt-in", [SITE, OTHER_SITE], [NODE, NEWER]) == [merged, {"analytics.denied": 1}]
        assert await view.read_states("opt-out", [SITE], [NODE]) == [{"personalization.withdrawn": 8}]
        assert await view.read_states("opt-in", [SITE], [STRANGER]) == [{}]
        assert running.waiting() == 0

    run(own_redis.url, walk)


def test_what_was_refused_is_seen_with_the_next_question(own_redis: EmbeddedRedis) -> None:
    """Nothing of a visitor is kept between two questions."""
    gate = open_views(own_redis.url)

    async def walk(running: Running) -> None:
        await running.until()
        assert await running.view.read_states(*LOOKUP) == [{}]
        remember(gate, NODE, SITE, {"personalization.denied": 7})
        assert await running.view.read_states(*LOOKUP) == [{"personalization.denied": 7}]

    run(own_redis.url, walk)


def lose_mark(client: Any) -> None:
    """As where a worker opens the view for the first time, or Redis was emptied."""
    client.delete(f"cv:{{{partition_of(NODE.encode())}}}")


def build_anew(client: Any) -> None:
    """As while a worker reads the topic."""
    client.set(f"cv:{{{partition_of(NODE.encode())}}}", "building|0123456789abcdef")


def come_from_elsewhere(client: Any) -> None:
    """As after a restart of Redis from a file that lacks the last moments."""
    client.set(f"cv:{{{partition_of(NODE.encode())}}}", f"{'0' * 40}|{int(time.time() * 1000)}")


@pytest.mark.parametrize("damage", [lose_mark, build_anew, come_from_elsewhere])
def test_a_view_that_is_not_whole_is_not_believed(own_redis: EmbeddedRedis, damage: Callable[[Any], None]) -> None:
    """Its visitors are answered with nothing, those of whole partitions are; it is said once, and that it is whole again."""
    open_views(own_redis.url)

    async def walk(running: Running) -> None:
        await running.until()
        with redis.Redis.from_url(own_redis.url) as client:
            damage(client)
        with capture_logs() as logs:
            for _ in range(3):
                assert await running.view.read_states(*LOOKUP) is None
            assert await running.view.read_states("opt-in", [SITE], [NODE, NEWER]) is None
            assert await running.view.read_states("opt-in", [SITE], [NEWER]) == [{}]
            await running.until(INCOMPLETE)
            assert running.waiting() == 1
            open_views(own_redis.url)
            await running.until()
            assert await running.view.read_states(*LOOKUP) == [{}]
        assert [entry["event"] for entry in logs] == [
            "consent ledger unreadable, decisions are not personal", "consent ledger readable",
        ]  # fmt: skip

    run(own_redis.url, walk)


def test_redis_away_is_answered_at_once(own_redis: EmbeddedRedis) -> None:
    """While it is known to be away nobody waits; when it is back, what it held is believed once the gate has looked at it."""
    gate = open_views(own_redis.url)
    remember(gate, NODE, SITE, {"personalization.denied": 7})

    async def walk(running: Running) -> None:
        await running.until()
        own_redis.stop()
        assert await running.view.read_states(*LOOKUP) is None
        await running.until(REDIS_AWAY)
        began = time.monotonic()
        for _ in range(1_000):
            assert await running.view.read_states(*LOOKUP) is None
        assert time.monotonic() - began < TIMEOUT_S
        await asyncio.get_running_loop().run_in_executor(None, own_redis.start)
        await running.until(INCOMPLETE)
        assert await running.view.read_states(*LOOKUP) is None, "marked by another process of Redis"
        again = gate_view(own_redis.url)
        for partition in range(PARTITIONS):
            again.open(partition)
        await running.until()
        assert await running.view.read_states(*LOOKUP) == [{"personalization.denied": 7}]

    run(own_redis.url, walk)


def test_a_redis_that_hangs_is_waited_for_no_longer_than_the_limit(own_redis: EmbeddedRedis) -> None:
    """All who asked meanwhile are answered with nothing."""
    open_views(own_redis.url)

    async def walk(running: Running) -> None:
        await running.until()
        with redis.Redis.from_url(own_redis.url) as client:
            client.execute_command("CLIENT", "PAUSE", "3000", "ALL")
            began = time.monotonic()
            answers = await asyncio.gather(*(running.view.read_states(*LOOKUP) for _ in range(50)))
            assert answers == [None] * 50
            assert time.monotonic() - began < 3 * TIMEOUT_S

    run(own_redis.url, walk)


def test_without_partitions_nothing_is_answered(own_redis: EmbeddedRedis) -> None:
    """Until Kafka has said how many there are, no state can be found."""
    open_views(own_redis.url)

    async def walk(running: Running) -> None:
        await running.until(NO_PARTITIONS)
        assert await running.view.read_states(*LOOKUP) is None
        assert running.waiting() == 1
        running.view.set_partitions(partition_of, range(PARTITIONS))
        await running.until()
        assert await running.view.read_states(*LOOKUP) == [{}]

    run(own_redis.url, walk, ())


def test_many_questions_share_a_command_and_each_gets_its_own_answer(own_redis: EmbeddedRedis) -> None:
    """2,000 at once, of one or three nodes, among them some who refused: a few commands, and nobody gets another's state."""
    gate = open_views(own_redis.url)
    nodes = [f"2{number % 16:x}{number:031x}" for number in range(2_000)]
    for number in range(0, 2_000, 7):
        remember(gate, nodes[number], SITE, {"personalization.denied": number + 1})

    async def walk(running: Running) -> None:
        await running.until()
        with redis.Redis.from_url(own_redis.url) as client:
            before = commands(client)
            answers = await asyncio.gather(
                *(
                    running.view.read_states("opt-in", [SITE], [node] if number % 2 else [STRANGER, node, NEWER])
                    for number, node in enumerate(nodes)
                )
            )
            command_count = commands(client) - before
        for number, answer in enumerate(answers):
            assert answer == [{} if number % 7 else {"personalization.denied": number + 1}]
        assert command_count <= 2_000 * 2 / KEYS_AT_ONCE + 5

    run(own_redis.url, walk)


def commands(client: Any) -> int:
    """How many MGET the server has run."""
    return int(client.info("commandstats").get("cmdstat_mget", {}).get("calls", 0))
