"""What a worker does between batches while a service is away."""

import asyncio
from pathlib import Path

import pytest

from infra.errors import Retryable
from infra.settings import load_settings
from infra.telemetry.metrics import Metrics
from streams.runtime.stage import Outcome
from streams.runtime.worker import Worker
from tests.streams.consent.room import Room


def test_a_successful_tick_ends_the_wait_of_a_failed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A successful tick ends the wait that a failed one began, so that the metric of an idle stage is right."""
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
