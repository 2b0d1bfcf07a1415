"""Whether the graph can be used; while it cannot, a thread tries to mend it, and events pass unresolved."""

import threading
import time
from collections.abc import Callable
from typing import Protocol

from infra.errors import Retryable
from infra.logs import get_logger
from infra.metrics import Metrics

BACK_OFF_S = (0.2, 5.0)
PATIENCE_S = 30.0
"""How long a worker that starts waits for the graph before it lets events pass unresolved."""


class Guard(Protocol):
    """What the stage asks."""

    def usable(self) -> bool:
        """Whether the graph may be asked."""
        ...

    def lost(self, error: Exception) -> None:
        """It could not be."""
        ...


class Trusting:
    """For a graph that nothing stands guard over: a failure is the caller's, who comes again."""

    def usable(self) -> bool:
        """Always."""
        return True

    def lost(self, error: Exception) -> None:
        """Pass it on."""
        raise error


class Mender:
    """Mends the graph whenever it is lost: `mend` returns once it is whole, and raises Retryable while that is impossible."""

    def __init__(self, mend: Callable[[], None], metrics: Metrics, patience_s: float = PATIENCE_S) -> None:
        self._mend = mend
        self._metrics = metrics
        self._patience_s = patience_s
        self._usable: bool | None = None
        self._thread: threading.Thread | None = None

    def usable(self) -> bool:
        """See `Guard`. The first call waits a while for the graph: what is only starting is not away."""
        if self._usable is None:
            self._start()
        return self._usable is True

    def _start(self) -> None:
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                self._mend()
            except Retryable as error:
                if time.monotonic() > deadline:
                    self.lost(error)
                    return
                time.sleep(BACK_OFF_S[0])
            else:
                self._set(usable=True)
                return

    def lost(self, error: Exception) -> None:
        """See `Guard`."""
        if self._usable is False:
            return
        get_logger().warning("events pass unresolved until the identity graph is back", error=str(error))
        self._set(usable=False)
        self._thread = threading.Thread(target=self._run, name="mender", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        began, (pause, most) = time.monotonic(), BACK_OFF_S
        while True:
            try:
                self._mend()
                break
            except Retryable:
                time.sleep(pause)
                pause = min(most, pause * 2)
            except BaseException as error:  # nothing may die here unseen; the graph stays away, and says so
                get_logger().error("the identity graph cannot be mended", exc_info=error)
                time.sleep(most)
        get_logger().info("the identity graph is whole again", seconds=round(time.monotonic() - began, 1))
        self._set(usable=True)

    def _set(self, *, usable: bool) -> None:
        self._usable = usable
        self._metrics.set("headwater_identity_degraded", 0 if usable else 1)
