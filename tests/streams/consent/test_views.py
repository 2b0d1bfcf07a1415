"""The consent stage opens the views of its partitions before the first event, and lost ones again."""

from collections.abc import Sequence

import pytest

from infra.errors import Retryable
from infra.telemetry.metrics import Metrics
from streams.consent.ledger.ledger import Times
from streams.consent.ledger.ledger_writes import HEADS
from streams.consent.ledger.store import MemoryStateStore
from streams.consent.ledger.subject_state import MAX_OPENED
from streams.consent.stage import ConsentDependencies, ConsentStage
from tests.streams.consent.room import GRANTED, POLICY, REGISTRY, Room, T


class LosableStates(MemoryStateStore):
    """A view that is opened by partition, can be lost, and can be away."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[int] = []
        self.whole: set[int] = set()
        self.away = False

    def open(self, partition: int) -> None:
        """Retryable while away."""
        self._reach()
        self.opened.append(partition)
        self.whole.add(partition)

    def incomplete(self, partitions: Sequence[int]) -> list[int]:
        """Retryable while away."""
        self._reach()
        return [partition for partition in partitions if partition not in self.whole]

    def read(self, partition: int, keys: Sequence[str]) -> list[Times | None]:
        """Retryable while away."""
        self._reach()
        return super().read(partition, keys)

    def _reach(self) -> None:
        if self.away:
            raise Retryable("away")


def worker(states: LosableStates, partitions: Sequence[int]) -> ConsentStage:
    """A stage that was assigned these."""
    stage = ConsentStage(REGISTRY, POLICY, ConsentDependencies(b"k" * 32, states, Metrics(), lambda: None))
    for partition in partitions:
        stage.on_restore(HEADS, partition, ())
    return stage


def test_views_are_open_before_any_event_comes() -> None:
    """`MAX_OPENED` views of the worker's own partitions are opened in each tick."""
    states, partitions = LosableStates(), range(3, 3 + MAX_OPENED + 2)
    stage = worker(states, partitions)
    assert states.opened == []
    stage.on_tick(T / 1000)
    assert states.opened == list(partitions[:MAX_OPENED])
    stage.on_tick(T / 1000)
    stage.on_tick(T / 1000)
    assert states.opened == list(partitions)


def test_a_lost_view_is_built_again_where_no_event_comes() -> None:
    """Only lost views of the worker's own partitions are reopened."""
    states = LosableStates()
    stage = worker(states, (0, 1, 2))
    stage.on_tick(T / 1000)
    states.whole.clear()
    stage.on_revoke(1)
    stage.on_tick(T / 1000)
    assert states.opened == [0, 1, 2, 0, 2]


def test_a_store_that_is_away_is_waited_for() -> None:
    """The tick raises Retryable, after the policy was checked."""
    states, looks = LosableStates(), list[int]()
    stage = ConsentStage(REGISTRY, POLICY, ConsentDependencies(b"k" * 32, states, Metrics(), lambda: looks.append(1)))
    stage.on_restore(HEADS, 0, ())
    states.away = True
    with pytest.raises(Retryable):
        stage.on_tick(T / 1000)
    states.away = False
    stage.on_tick(T / 1000)
    assert (states.opened, len(looks)) == ([0], 2)


def test_a_batch_does_not_open_twice_what_a_tick_has_opened() -> None:
    """A view that a batch has opened is not opened by a tick."""
    states = LosableStates()
    room = Room(states=states)
    room.event(GRANTED)
    room.stage.on_tick(T / 1000)
    room.event(GRANTED, T + 1)
    assert states.opened == [3]
