"""The Faust app of a worker: one agent over the stage's inputs that hands batches to `Worker.work`."""

from functools import cached_property
from typing import Any

import faust
from faust.serializers.schemas import Schema
from mode.utils.queues import FlowControlEvent

from infra.processes.memory import keep_freed_memory
from streams.runtime.worker import Worker


class RawCodec(Schema):
    """Passes keys and values on as the transport delivers them."""

    def loads_key(self, _app: Any, message: Any, **_kwargs: Any) -> Any:
        """Return the key undecoded."""
        return message.key

    def loads_value(self, _app: Any, message: Any, **_kwargs: Any) -> Any:
        """Return the value undecoded."""
        return message.value


class OpenFlow(FlowControlEvent):
    """Flow control that is always open and never clears a queue.

    Faust clears its agents' queues in a separate task some time after each assignment. A batch that was queued before would
    be lost silently, and the transport would wait for it for ever. Leases decide instead which batches may still emit.
    """

    def __init__(self) -> None:
        super().__init__(initially_suspended=False)

    def suspend(self) -> None:
        """Do nothing."""

    def clear(self) -> None:
        """Do nothing."""


class StageApp(faust.App):
    """A Faust app that holds its worker, which the transport needs."""

    worker: Worker

    @cached_property
    def flow_control(self) -> FlowControlEvent:
        """Replace Faust's flow control by one that is always open."""
        return OpenFlow()


def make_app(worker: Worker) -> StageApp:
    """Build the Faust app of a worker, with one agent over the stage's inputs."""
    app = StageApp(
        worker.group,
        broker=f"librdkafka://{worker.settings.kafka.split(',')[0]}",
        store="memory://",
        web_enabled=False,
        topic_disable_leader=True,
        stream_wait_empty=False,
        stream_recovery_delay=0,
        datadir=str(worker.settings.state_dir / "faust"),
    )
    app.worker = worker
    topic = app.topic(*worker.stage.inputs, schema=RawCodec(), acks=True, allow_empty=True)

    @app.agent(topic, name=worker.stage.name)
    async def stage(stream: Any) -> None:
        async for event in stream.events():
            await worker.work(event.message.value, app.consumer.finish_batch)

    return app


def run(worker: Worker) -> None:
    """Run until SIGTERM or SIGINT; then finish the batch, commit and close."""
    keep_freed_memory()
    faust_worker = faust.Worker(make_app(worker), loglevel="WARNING", redirect_stdouts=False, quiet=True)
    faust_worker.spinner = None  # it writes terminal codes even where there is no terminal
    faust_worker.execute_from_commandline()
