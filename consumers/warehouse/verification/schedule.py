"""Verification and the checks of users' views beside the loader, in a thread of their own. Whatever fails, loading goes on."""

import random
import threading
import time
from collections.abc import Callable, Iterable

from consumers.warehouse import ddl
from consumers.warehouse.store import Store
from consumers.warehouse.topic_partition import TopicPartition
from consumers.warehouse.verification.results import FAULTS, HOURLY
from consumers.warehouse.verification.verifier import Pace, Verifier
from consumers.warehouse.verification.view_checks import ViewChecks
from infra.logs import get_logger
from infra.metrics import Metrics
from infra.settings import Settings
from schemas.registry import Registry

LOOK_S = 60.0
"""So often it is looked which partitions are due, seconds."""
VIEWS_S = 15.0
"""So often views are tried, also between the slices of a verification: a failing one shows within a minute."""
SHARE = 4
"""A slice is followed by a pause of this many times as long: a fifth of the time at most is spent verifying."""
SHARE_BEHIND = 1
"""The same while some partition was not verified for longer than `BEHIND` intervals: more arrives than a fifth can look at."""
BEHIND = 1.5
LATE = 0.9
"""Several loaders share the work: a partition that was verified more lately than this share of the interval is left alone."""


class _Stopping(Exception):
    """The loader ends."""


class Verifying:
    """Looks each minute which partitions are due, and more often which views fail. `store` is its own: it may wait long."""

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
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="verify", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._metrics.set("headwater_verification_interval_seconds", self._settings.verify_interval_s)
        self._thread.start()

    def stop(self, patience_s: float = 5.0) -> None:
        """End after the query in hand."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(patience_s)
        if self._verifier is not None and not self._thread.is_alive():
            self._verifier.close()

    def _run(self) -> None:
        look_s = min(LOOK_S, self._settings.verify_interval_s or LOOK_S)
        verify_at = time.monotonic() + look_s
        while not self._stop.wait(min(VIEWS_S, look_s)):
            self._check_views_in_time()
            if time.monotonic() < verify_at:
                continue
            try:
                self.verify_due()
            except _Stopping:
                return
            except Exception as error:  # the proof is not worth the loader: it is tried again in a minute
                get_logger().warning("verification waits", error=f"{type(error).__name__}: {error}"[:500])
            verify_at = time.monotonic() + look_s

    def _check_views_in_time(self) -> None:
        """Try the views, unless that was just done."""
        if time.monotonic() - self._views_at < VIEWS_S:
            return
        self._views_at = time.monotonic()
        try:
            self.check_views()
        except Exception as error:  # no reason to stop loading or verifying either
            get_logger().warning("views cannot be tried", error=f"{type(error).__name__}: {error}"[:500])

    def check_views(self) -> None:
        """See which views of users fail. Retryable."""
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
        """Verify the partitions that are due, and report what is known of all of them. Retryable, ConfigError."""
        if not self._settings.verify_interval_s:
            return
        if self._verifier is None:
            self._verifier = Verifier(self._settings, self._store, self._registry, Pace(self._after_slice))
        try:
            positions = self._verifier.positions()
            self._report(one.source for one in positions)
            # In no order, and asked for anew each time: another loader may be at the same work.
            random.shuffle(positions)
            for position in positions:
                if self._stop.is_set():
                    raise _Stopping
                if self._is_due(position.source):
                    result = self._verifier.incremental(position, HOURLY)
                    if not result.exact:
                        get_logger().error("rows are not as Kafka's records", result=result.text)
            self._report(one.source for one in positions)
        except Exception:
            self._verifier.close()
            self._verifier = None
            raise

    def _is_due(self, source: TopicPartition) -> bool:
        return self._verified().get(source, 0.0) < self._clock() - LATE * self._settings.verify_interval_s

    def _verified(self) -> dict[TopicPartition, float]:
        """Partition -> when it was last verified by a run of this kind, seconds UTC."""
        query = (
            "SELECT topic, partition, topic_id, toUnixTimestamp64Milli(max(verified_at)) "  # noqa: S608 - ours
            f"FROM {ddl.quoted(self._store.database)}.verifications WHERE kind = '{HOURLY}' GROUP BY ALL"
        )
        rows = self._store.rows(query)
        return {TopicPartition(str(topic), int(number), str(topic_id)): ms / 1000 for topic, number, topic_id, ms in rows}

    def _report(self, sources: Iterable[TopicPartition]) -> None:
        """What stands in the warehouse, whichever loader found it out."""
        verified = self._verified()
        self._verified_at = max(self._verified_at, min((verified.get(one, 0.0) for one in sources), default=0.0))
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
        self._check_views_in_time()
        while (rest := rests_until - time.monotonic()) > 0:
            if self._stop.wait(min(rest, VIEWS_S)):
                raise _Stopping
            self._check_views_in_time()
