"""The consent ledger's view on a real Redis: complete or not used, many lookups in one command, short timeouts."""

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
    """A view whose tasks run."""

    def __init__(self, view: LedgerView, metrics: Metrics) -> None:
        self.view = view
        self.metrics = metrics

    async def until(self, problem: str = "", seconds: float = 20) -> None:
        """Wait until the view has this problem; empty = none."""
        deadline = time.monotonic() + seconds
        while self.view._problem != problem:
            assert time.monotonic() < deadline, self.view._problem
            await asyncio.sleep(0.02)
        assert self.view.is_complete is (problem == "")

    def waiting(self) -> float | None:
        """Return the metric `headwater_waiting`."""
        return self.metrics.registry.get_sample_value("headwater_waiting", {"stage": "decisions", "service": "redis"})


def run(url: str, walk: Callable[[Running], Awaitable[None]], partitions: Sequence[int] = range(PARTITIONS)) -> None:
    """Run a scenario with a view whose tasks run."""

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
    """The newest time of all key versions counts, by group and regulation; states of other visitors do not."""
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


def test_a_refusal_counts_with_the_next_lookup(own_redis: EmbeddedRedis) -> None:
    """States are not cached between two lookups."""
    gate = open_views(own_redis.url)

    async def walk(running: Running) -> None:
        await running.until()
        assert await running.view.read_states(*LOOKUP) == [{}]
        remember(gate, NODE, SITE, {"personalization.denied": 7})
        assert await running.view.read_states(*LOOKUP) == [{"personalization.denied": 7}]

    run(own_redis.url, walk)


def lose_mark(client: Any) -> None:
    """Delete the mark, as before the first start of a worker or after a flush of Redis."""
    client.delete(f"cv:{{{partition_of(NODE.encode())}}}")


def build_anew(client: Any) -> None:
    """Mark the view as being built, as a worker does while it reads the topic."""
    client.set(f"cv:{{{partition_of(NODE.encode())}}}", "building|0123456789abcdef")


def come_from_elsewhere(client: Any) -> None:
    """Mark the view with another server's run id, as after a restart of Redis from an older file."""
    client.set(f"cv:{{{partition_of(NODE.encode())}}}", f"{'0' * 40}|{int(time.time() * 1000)}")


@pytest.mark.parametrize("damage", [lose_mark, build_anew, come_from_elsewhere])
def test_an_incomplete_view_is_not_used(own_redis: EmbeddedRedis, damage: Callable[[Any], None]) -> None:
    """Lookups of the incomplete partition return None, others are answered; each change is logged once."""
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
    """No lookup waits while Redis is known to be away; afterwards states count once the consent stage has marked them."""
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
    """All lookups that arrived meanwhile return None."""
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
    """Lookups return None until the number of partitions is known."""
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
    """2,000 concurrent lookups of one or three nodes need a few commands, and each gets its own state."""
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
    """Return how many MGET the server has run."""
    return int(client.info("commandstats").get("cmdstat_mget", {}).get("calls", 0))
