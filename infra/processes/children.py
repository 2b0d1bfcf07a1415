"""Several processes of one server: started, restarted where they die, and ended together."""

import os
import signal
import tempfile
import time
from collections.abc import Callable
from multiprocessing import connection, get_context
from multiprocessing.context import SpawnProcess

from prometheus_client.multiprocess import mark_process_dead

from infra.errors import EXIT_CONFIG, ConfigError
from infra.telemetry.logs import get_logger
from infra.telemetry.metrics import SHARED_FOLDER

STOP_S = 10.0
"""Seconds that processes may take to end after SIGTERM; then they are killed."""
RESTART_S = 1.0
"""Seconds between two starts of a process that dies at once."""
CHECK_S = 0.5

ProcessTarget = Callable[[int], None]
"""The work of one process, called with its number. It must be picklable."""


class ProcessGroup:
    """The processes of one server."""

    def __init__(self, target: ProcessTarget, count: int) -> None:
        self._target = target
        self._count = count
        self._context = get_context("spawn")
        self._children: dict[int, SpawnProcess] = {}
        self._started: dict[int, float] = {}
        self._stopping = False

    def run(self) -> None:
        """Run until SIGTERM or SIGINT. ConfigError where a process ends because of its configuration.

        The processes share their metrics by a temporary folder.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._request_stop)
        with tempfile.TemporaryDirectory(prefix="headwater-metrics-") as folder:
            os.environ[SHARED_FOLDER] = folder  # the processes inherit it
            self._run()

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._start_missing()
                connection.wait([child.sentinel for child in self._children.values()], CHECK_S)
                self._remove_ended()
        finally:
            self._stop()

    def _request_stop(self, _number: int, _frame: object) -> None:
        self._stopping = True

    def _start_missing(self) -> None:
        for number in range(self._count):
            is_due = time.monotonic() - self._started.get(number, -RESTART_S) >= RESTART_S
            if number not in self._children and is_due and not self._stopping:
                child = self._context.Process(target=self._target, args=(number,), name=f"process-{number}")
                child.start()
                self._children[number] = child
                self._started[number] = time.monotonic()

    def _remove_ended(self) -> None:
        for number, child in list(self._children.items()):
            if child.exitcode is None:
                continue
            del self._children[number]
            if child.exitcode == EXIT_CONFIG and not self._stopping:
                raise ConfigError("a process ended because of its configuration; its message is above")
            if not self._stopping:
                get_logger().error("a process died and is started again", number=number, exit_code=child.exitcode)
            if child.pid is not None:
                mark_process_dead(child.pid)  # type: ignore[no-untyped-call] # publishes no types for it

    def _stop(self) -> None:
        for child in self._children.values():
            child.terminate()
        deadline = time.monotonic() + STOP_S
        for child in self._children.values():
            child.join(max(0.0, deadline - time.monotonic()))
            if child.exitcode is None:
                get_logger().error("a process did not end in time and is killed", process=child.name)
                child.kill()
                child.join()


__all__ = ["ProcessGroup", "ProcessTarget"]
