"""Faust's flow control, which clears queues after each assignment, does not affect delivered batches."""

import asyncio
from pathlib import Path

from bench.passthrough import PassThrough
from infra.settings import Settings
from infra.telemetry.metrics import Metrics
from streams.runtime.faust_app import make_app
from streams.runtime.worker import Worker


def test_a_rebalance_leaves_handed_batches_in_the_queue(tmp_path: Path) -> None:
    """Suspend, resume and clear after an assignment take nothing from an agent's queue."""
    settings = Settings(kafka="127.0.0.1:1", state_dir=tmp_path, secret="for tests only, forty characters long...")

    async def remaining() -> int:
        app = make_app(Worker(settings, PassThrough("flow", "a", "b"), Metrics()))
        queue = app.FlowControlQueue(10, clear_on_resume=True)
        await asyncio.wait_for(queue.put("batch"), 1)
        app.flow_control.suspend()
        app.flow_control.resume()
        app.flow_control.clear()
        assert app.flow_control.is_active()
        return int(queue.qsize())

    assert asyncio.run(remaining()) == 1
