"""A stage that copies records to the same partition of another topic, as a worker of its own.

    python -m bench.passthrough '{"source": "a", "sink": "b", "name": "copy", "settings": {...}}'

`settings` are Headwater's; `sleep_s` makes each batch slow, `consumer` names another consumer class (module:class).
"""

import json
import sys
import time
from collections.abc import Callable, Iterable
from importlib import import_module
from itertools import repeat
from typing import Any

from infra.settings import Settings
from infra.telemetry.logs import configure_logs
from infra.telemetry.metrics import Metrics
from streams.runtime.faust_app import run
from streams.runtime.first_start import begin_at_earliest
from streams.runtime.stage import Batch, Outcome
from streams.runtime.transport import Transport
from streams.runtime.worker import Worker


class PassThrough:
    """Copies every record."""

    broadcast: tuple[str, ...] = ()
    restore: tuple[str, ...] = ()

    def __init__(self, name: str, source: str, sink: str, sleep_s: float = 0) -> None:
        self.name = name
        self.inputs: tuple[str, ...] = (source,)
        self._sink = sink
        self._sleep_s = sleep_s

    def handle(self, batch: Batch, now: float) -> Outcome:  # noqa: ARG002 - the stage contract gives the time
        """Copy each record to its own partition."""
        if self._sleep_s:
            time.sleep(self._sleep_s)
        return Outcome({self._sink: list(zip(batch.keys, batch.values, repeat(batch.partition)))}, passed=len(batch))

    def on_broadcast(self, topic: str, records: Iterable[tuple[bytes | None, bytes | None]]) -> None:
        """Do nothing: there are no broadcast topics."""

    def on_restore(self, topic: str, partition: int, records: Iterable[tuple[bytes | None, bytes | None]]) -> None:
        """Do nothing: there is no state."""

    def on_revoke(self, partition: int) -> None:
        """Do nothing: there is no state."""

    def on_tick(self, now: float) -> Outcome:  # noqa: ARG002 - the stage contract gives the time
        """Return nothing."""
        return Outcome()


def main(config: dict[str, Any], make_stage: Callable[..., PassThrough] = PassThrough) -> None:
    """Run the worker until a signal stops it."""
    configure_logs(config["name"])
    settings = Settings(**config["settings"])
    stage = make_stage(name=config["name"], source=config["source"], sink=config["sink"], sleep_s=config.get("sleep_s", 0))
    worker = Worker(settings, stage, Metrics())
    if "consumer" in config:
        module, name = config["consumer"].split(":")
        Transport.Consumer = getattr(import_module(module), name)
    if config.get("begin") != "committed":
        begin_at_earliest(settings, worker.group, worker.stage.inputs)
    run(worker)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
