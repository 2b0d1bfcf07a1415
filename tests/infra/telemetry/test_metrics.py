"""Metrics are made on first use, by whichever thread comes first."""

import sys
import threading
from collections.abc import Iterator

import pytest

from infra.telemetry.metrics import Metrics


@pytest.fixture
def _eager_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_eager_switches")
def test_threads_that_use_a_metric_first_at_the_same_time_share_it() -> None:
    """Inserts run in threads, and several may be the first to count repaired rows."""
    for _ in range(100):
        metrics, barrier = Metrics(), threading.Barrier(4)
        errors: list[Exception] = []

        def count(metrics: Metrics, barrier: threading.Barrier, errors: list[Exception]) -> None:
            barrier.wait()
            try:
                metrics.count("headwater_repaired_total", 1, table="events", found="present")
            except ValueError as error:
                errors.append(error)

        threads = [threading.Thread(target=count, args=(metrics, barrier, errors)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        labels = {"table": "events", "found": "present"}
        assert metrics.registry.get_sample_value("headwater_repaired_total", labels) == 4
