"""The acts of a run are sent in order."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from infra.errors import ConfigError
from infra.ops.simulator.app import SimulationPlan, _run_acts
from infra.ops.simulator.reconcile.drain import Lags, NotDrained
from infra.ops.simulator.sender import SendProgress
from infra.ops.simulator.world.acts import Journey
from infra.ops.simulator.world.stories import ACTS
from infra.ops.simulator.world.world import ShopWorld

RUN = "abcdefab"
Settle = Callable[[Callable[[Lags], None]], None]


class Log:
    """Records sent acts and waits in order."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.progress = SendProgress()

    async def run(self, journeys: Iterable[Journey], _width: int) -> None:
        """An act is sent."""
        self.done.append("act" if list(journeys) else "act without journeys")

    def settle(self, tell: Callable[[Lags], None]) -> None:
        """Record a wait."""
        tell({"headwater.consent": 3})
        self.done.append("settled")


def play(log: Any, events: int, settle: Settle) -> None:
    """Send a world."""
    asyncio.run(_run_acts(log, ShopWorld(1, RUN, events), SimulationPlan(events, 8, settle)))


def test_the_house_settles_between_acts_and_only_there() -> None:
    """The run waits between acts; not before the first, and not after the last, where reconcile waits."""
    log = Log()
    play(log, 2_000, log.settle)
    assert log.done == [*["act", "settled"] * (ACTS - 1), "act"]
    assert "consent 3" in log.progress.waiting
    alone = Log()
    play(alone, 100, alone.settle)
    assert alone.done == ["act"]


def test_a_house_that_does_not_settle_ends_the_run_in_words() -> None:
    """A stream that does not drain raises ConfigError; unsent events are not in the ledger."""
    log = Log()

    def settle(_tell: Callable[[Lags], None]) -> None:
        raise NotDrained("not drained after 5 s: headwater.identity 7")

    with pytest.raises(ConfigError, match=r"identity 7.*--patience 0"):
        play(log, 2_000, settle)
    assert log.done == ["act"]
