"""The guard waits for the graph at the start, lets events pass while it is unavailable, and rebuilds it."""

import threading

import pytest

from infra.errors import ConfigError, Retryable
from infra.telemetry.metrics import Metrics
from streams.identity.graph.guard import NoGuard, RebuildGuard
from tests.house.standing import wait_until


def degraded(metrics: Metrics) -> float | None:
    """Return the metric."""
    return metrics.registry.get_sample_value("headwater_identity_degraded")


def test_a_graph_that_is_only_starting_is_not_away() -> None:
    """The first call waits, so that nothing passes unresolved while services start."""
    tries = iter([Retryable("not yet"), Retryable("not yet"), None])

    def rebuild() -> None:
        if (error := next(tries)) is not None:
            raise error

    metrics = Metrics()
    guard = RebuildGuard(rebuild, metrics)
    assert guard.is_usable()
    assert degraded(metrics) == 0
    assert next(tries, "all were used") == "all were used"


def test_a_long_mending_does_not_hold_events_back() -> None:
    """After its patience the worker lets events pass and reports it; once the graph is complete it is used."""
    over, metrics = threading.Event(), Metrics()

    def rebuild() -> None:
        over.wait(30)

    guard = RebuildGuard(rebuild, metrics, patience_s=0.05)
    assert not guard.is_usable()
    assert degraded(metrics) == 1
    over.set()
    wait_until(guard.is_usable, 5, "the mender")
    assert degraded(metrics) == 0


def test_a_lost_graph_is_mended_once() -> None:
    """One thread rebuilds the graph however many batches fail; unexpected errors do not end it."""
    threads, metrics = list[str](), Metrics()

    def rebuild() -> None:
        threads.append(threading.current_thread().name)

    guard = RebuildGuard(rebuild, metrics)
    assert guard.is_usable()
    for _ in range(3):
        guard.report_loss(Retryable("away"))
    wait_until(guard.is_usable, 5, "the mender")
    assert 2 <= len(threads) <= 4
    assert set(threads) == {"mender"}


def test_a_wrong_setting_is_the_stages_to_meet() -> None:
    """A Redis that may evict keys is not waited for: the stage raises the error."""

    def rebuild() -> None:
        raise ConfigError("noeviction")

    assert RebuildGuard(rebuild, Metrics()).is_usable()


def test_without_a_guard_the_caller_comes_again() -> None:
    """A failure is raised."""
    assert NoGuard().is_usable()
    with pytest.raises(Retryable):
        NoGuard().report_loss(Retryable("away"))
