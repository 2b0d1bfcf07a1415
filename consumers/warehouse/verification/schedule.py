"""Verifies, and checks users' views, in a thread beside the loader. A failure here never stops loading."""

import random
import threading
import time
from collections.abc import Callable, Iterable

from consumers.warehouse.schema import ddl
from consumers.warehouse.store import Store
from consumers.warehouse.topic_partition import TopicPartition
from consumers.warehouse.verification.results import FAULTS, HOURLY
from consumers.warehouse.verification.verifier import Verifier
from consumers.warehouse.verification.view_checks import ViewChecks
from infra.settings import Settings
from infra.telemetry.logs import get_logger
from infra.telemetry.metrics import Metrics
from schemas.registry import Registry

CHECK_S = 60.0
"""How often due partitions are looked up."""
VIEWS_S = 15.0
"""How often views are checked at least, also between the slices of a verification: a failing one shows within a minute."""
SHARE = 4
"""Pause after a slice, in multiples of its duration: verification takes at most a fifth of the time."""
SHARE_BEHIND = 1
"""The same while a partition has not been verified for `BEHIND` intervals, because a fifth of the time is not enough."""
BEHIND = 1.5
LATE = 0.9
"""Several loaders share the work: a partition verified less than this share of the interval ago is skipped."""


class _Stopping(Exception):
    """The thread is being stopped."""


class VerificationThread:
    """Verifies due partitions each minute and checks views more often. Needs a `store` of its own: queries take long."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        registry: Registry,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._store = store
        self._registry = registry
        self._metrics = metrics
        self._clock = clock
        self._views = ViewChecks(store)
        self._failing: dict[str, str] = {}
        self._series: set[tuple[str, str]] = set()
        self._verified_at = clock()
        self._verifier: Verifier | None = None
        self._views_at = 0.0
        self._views_s = min(VIEWS_S, settings.verify_interval_s or VIEWS_S)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="verify", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._metrics.set("headwater_verification_interval_seconds", self._settings.verify_interval_s)
        self._thread.start()

    def stop(self, patience_s: float = 5.0) -> None:
        """Stop after the current query; wait up to `patience_s` seconds."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(patience_s)
        if self._verifier is not None and not self._thread.is_alive():
            self._verifier.close()

    def _run(self) -> None:
        interval_s = min(CHECK_S, self._settings.verify_interval_s or CHECK_S)
        verify_at = time.monotonic() + interval_s
        while not self._stop.wait(self._views_s):
            self._check_due_views()
            if time.monotonic() < verify_at:
                continue
            try:
                self.verify_due()
            except _Stopping:
                return
            except Exception as error:  # must not end the loader; the next round tries again
                get_logger().warning("verification waits", error=f"{type(error).__name__}: {error}"[:500])
            verify_at = time.monotonic() + interval_s

    def _check_due_views(self) -> None:
        """Check the views unless they were checked a moment ago. Errors are logged."""
        if time.monotonic() - self._views_at < self._views_s:
            return
        self._views_at = time.monotonic()
        try:
            self.check_views()
        except Exception as error:  # must end neither the loader nor the verification
            get_logger().warning("views cannot be checked", error=f"{type(error).__name__}: {error}"[:500])

    def check_views(self) -> None:
        """Check users' views; log and count those that fail. Retryable."""
        failures = self._views.check(int(self._clock() * 1000))
        for view in self._failing.keys() - failures.keys():
            self._metrics.set("headwater_view_failing", 0, view=view)
        for view, failure in failures.items():
            self._metrics.set("headwater_view_failing", int(bool(failure)), view=view)
            if failure and self._failing.get(view) != failure:
                get_logger().error("a view misses rows", view=view, error=failure)
            elif not failure and self._failing.get(view):
                get_logger().info("a view takes rows again", view=view)
        self._failing = failures

    def verify_due(self) -> None:
        """Verify the partitions that are due, and set the metrics of all of them. Retryable, ConfigError."""
        if not self._settings.verify_interval_s:
            return
        if self._verifier is None:
            self._verifier = Verifier(self._settings, self._store, self._registry, self._after_slice)
        try:
            positions = self._verifier.prepare()
            self._report(position.source for position in positions)
            # In random order, and each looked up before its turn: another loader may do the same work.
            random.shuffle(positions)
            for position in positions:
                if self._stop.is_set():
                    raise _Stopping
                if self._is_due(position.source):
                    result = self._verifier.incremental(position, HOURLY)
                    if not result.exact:
                        get_logger().error("rows are not as Kafka's records", result=result.text)
            self._verifier.record_idle()
            self._report(position.source for position in positions)
        except Exception:
            self._verifier.close()
            self._verifier = None
            raise

    def _is_due(self, source: TopicPartition) -> bool:
        return self._verified().get(source, 0.0) < self._clock() - LATE * self._settings.verify_interval_s

    def _verified(self) -> dict[TopicPartition, float]:
        """Partition -> its last hourly verification, seconds UTC."""
        query = (
            "SELECT topic, partition, topic_id, toUnixTimestamp64Milli(max(verified_at)) "  # noqa: S608 - ours
            f"FROM {ddl.quoted(self._store.database)}.verifications WHERE kind = '{HOURLY}' GROUP BY ALL"
        )
        rows = self._store.rows(query)
        return {TopicPartition(str(topic), int(number), str(topic_id)): ms / 1000 for topic, number, topic_id, ms in rows}

    def _report(self, sources: Iterable[TopicPartition]) -> None:
        """Set metrics from the results in the warehouse, whichever loader wrote them."""
        verified = self._verified()
        self._verified_at = max(self._verified_at, min((verified.get(source, 0.0) for source in sources), default=0.0))
        self._metrics.set("headwater_verification_timestamp_seconds", self._verified_at)
        counts = ", ".join(f"sum({kind})" for kind in FAULTS)
        query = f"SELECT topic, {counts} FROM {ddl.quoted(self._store.database)}.verification_faults GROUP BY topic"  # noqa: S608 - ours
        wrong = {
            (str(topic), kind): int(n) for topic, *rest in self._store.rows(query) for kind, n in zip(FAULTS, rest, strict=True)
        }
        self._series |= wrong.keys()
        for topic, kind in self._series:
            self._metrics.set("headwater_verification_wrong_rows", wrong.get((topic, kind), 0), topic=topic, kind=kind)

    def _after_slice(self, seconds: float, records: int) -> None:
        self._metrics.count("headwater_verified_records_total", records)
        behind = self._clock() - self._verified_at > BEHIND * self._settings.verify_interval_s
        rests_until = time.monotonic() + (SHARE_BEHIND if behind else SHARE) * seconds
        self._check_due_views()
        while (rest := rests_until - time.monotonic()) > 0:
            if self._stop.wait(min(rest, self._views_s)):
                raise _Stopping
            self._check_due_views()
