"""Decides whether the graph can be used; rebuilds it in a thread while events pass unresolved."""

import threading
import time
from collections.abc import Callable
from typing import Protocol

from infra.errors import ConfigError, Retryable
from infra.processes.back_off import BackOff
from infra.telemetry.logs import get_logger
from infra.telemetry.metrics import Metrics

BACK_OFF = BackOff(0.2, 5.0)
PATIENCE_S = 30.0
"""Seconds that a starting worker waits for the graph before it passes events unresolved."""


class GraphGuard(Protocol):
    """What the stage asks before it uses the graph."""

    def is_usable(self) -> bool:
        """Return whether the graph can be used."""
        ...

    def report_loss(self, error: Exception) -> None:
        """Report that a call to the graph failed."""
        ...


class NoGuard:
    """Always usable; failures are raised to the caller, who retries."""

    def is_usable(self) -> bool:
        """Return True."""
        return True

    def report_loss(self, error: Exception) -> None:
        """Raise the error."""
        raise error


class RebuildGuard:
    """Rebuilds the graph whenever it was lost; `rebuild` returns once it is complete, and raises Retryable until then."""

    def __init__(self, rebuild: Callable[[], None], metrics: Metrics, patience_s: float = PATIENCE_S) -> None:
        self._rebuild = rebuild
        self._metrics = metrics
        self._patience_s = patience_s
        self._whole = threading.Event()
        self._thread: threading.Thread | None = None

    def is_usable(self) -> bool:
        """See `GraphGuard`. The first call waits up to `patience_s` for a graph that is starting."""
        if self._thread is None:
            self._begin()
            if not self._whole.wait(self._patience_s):
                self._report_degraded("it does not answer, or its log is long")
        return self._whole.is_set()

    def report_loss(self, error: Exception) -> None:
        """See `GraphGuard`."""
        if self._whole.is_set():
            self._whole.clear()
            self._report_degraded(str(error))
            self._begin()

    def _begin(self) -> None:
        self._thread = threading.Thread(target=self._run, name="mender", daemon=True)
        self._thread.start()

    def _report_degraded(self, reason: str) -> None:
        self._metrics.set("headwater_identity_degraded", 1)
        get_logger().warning("events pass unresolved until the identity graph is back", error=reason)

    def _run(self) -> None:
        began, pauses, logged = time.monotonic(), BACK_OFF.pauses(), ""
        while True:
            try:
                self._rebuild()
                break
            except Retryable as error:
                if str(error) != logged:
                    logged = str(error)
                    get_logger().warning("the identity graph cannot be mended yet", error=logged)
                time.sleep(next(pauses))
            except ConfigError:
                break  # the stage raises it too and stops the worker, as with any wrong setting
            except BaseException as error:  # the thread must not die silently; the graph stays unavailable
                get_logger().error("the identity graph cannot be mended", exc_info=error)
                time.sleep(BACK_OFF.longest_s)
        get_logger().info("the identity graph is whole", seconds=round(time.monotonic() - began, 1))
        self._metrics.set("headwater_identity_degraded", 0)
        self._whole.set()
