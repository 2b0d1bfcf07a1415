"""What a worker does between batches, where the world is away and no batch comes."""

import asyncio
from pathlib import Path

import pytest

from infra.errors import Retryable
from infra.settings import load_settings
from infra.telemetry.metrics import Metrics
from streams.runtime.stage import Outcome
from streams.runtime.worker import Worker
from tests.streams.consent.room import Room


def test_a_wait_that_a_tick_began_ends_with_the_next_tick_that_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The metric must not say that a quiet stage waits for what has long come back."""
    metrics, stage = Metrics(), Room().stage
    answers = iter((Outcome(), Retryable("away"), Retryable("away"), Outcome()))

    def on_tick(_now: float) -> Outcome:
        answer = next(answers)
        if isinstance(answer, Retryable):
            raise answer
        return answer

    monkeypatch.setattr(stage, "on_tick", on_tick)
    worker = Worker(load_settings(secret="s" * 32, state_dir=tmp_path), stage, metrics)
    worker._progress.record([("events.raw", 0)])

    async def waits_after_each_tick() -> list[float | None]:
        waits = []
        for _ in range(4):
            await worker._tick()
            waits.append(metrics.registry.get_sample_value("headwater_waiting", {"stage": "consent", "service": ""}))
        return waits

    assert asyncio.run(waits_after_each_tick()) == [None, 1.0, 1.0, 0.0]
