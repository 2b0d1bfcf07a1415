"""Updates the overrides in a thread beside the loader. A failure here never stops loading."""

import threading
import time
from collections.abc import Callable

from consumers.warehouse.history.overrides import last_run, project_if_changed
from consumers.warehouse.history.squash import DAY_MS, last_squash, squash
from consumers.warehouse.store import Store
from infra.settings import Settings
from infra.telemetry.logs import get_logger
from infra.telemetry.metrics import Metrics

SHARE = 9
"""Pause after a run, in multiples of its duration: runs take at most a tenth of the time."""
LATE = 0.9
"""Several loaders share the work: a run is skipped where another ended less than this share of the interval ago."""


class ProjectionThread:
    """Runs every `overrides_interval_s`, squashes every `squash_every_days`. Needs a `store` of its own: queries take long."""

    def __init__(self, settings: Settings, store: Store, metrics: Metrics, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="overrides", daemon=True)

    def start(self) -> None:
        """Start the thread, unless the interval is 0. The first run comes after one interval."""
        if self._settings.overrides_interval_s:
            self._thread.start()

    def stop(self, patience_s: float = 5.0) -> None:
        """Stop after the current statement; wait up to `patience_s` seconds. ClickHouse finishes a running mutation."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(patience_s)

    def _run(self) -> None:
        interval_s = self._settings.overrides_interval_s
        pause_s = interval_s
        while not self._stop.wait(pause_s):
            begun = time.monotonic()
            try:
                self.run_due(int(self._clock() * 1000))
            except Exception as error:  # must not end the loader; the next run tries again
                self._metrics.count("headwater_overrides_runs_total", outcome="failed")
                get_logger().warning("identity overrides wait", error=f"{type(error).__name__}: {error}"[:500])
            pause_s = max(interval_s, SHARE * (time.monotonic() - begun))

    def run_due(self, now_ms: int) -> None:
        """Update the overrides and squash, where due. Retryable and Halted as the store raises them."""
        if now_ms - last_run(self._store) < LATE * self._settings.overrides_interval_s * 1000:
            return
        result = project_if_changed(self._store, now_ms)
        outcome = "idle" if result is None else "changed" if result.changed or result.removed else "unchanged"
        self._metrics.count("headwater_overrides_runs_total", outcome=outcome)
        if result is not None:
            self._metrics.set("headwater_overrides", result.overrides)
            self._metrics.observe("headwater_overrides_seconds", result.seconds)
        every_ms = self._settings.squash_every_days * DAY_MS
        last = last_squash(self._store)
        if every_ms and last and now_ms - last >= every_ms:
            self._squash(now_ms)

    def _squash(self, now_ms: int) -> None:
        result = squash(self._store, now_ms, self._settings.squash_after_days, self._stop.is_set)
        self._metrics.count("headwater_squashed_rows_total", result.rows)
        self._metrics.set("headwater_overrides", result.overrides)
        get_logger().info("squashed", rows=result.rows, months=len(result.months), forgotten=result.forgotten)
