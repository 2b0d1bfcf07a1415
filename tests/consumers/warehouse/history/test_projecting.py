"""The thread that updates overrides beside the loader."""

from typing import Any

from consumers.warehouse.history.projecting import ProjectionThread
from consumers.warehouse.history.squash import last_squash
from infra.settings import Settings
from infra.telemetry.metrics import Metrics
from tests.consumers.warehouse.merge_history import DAY_MS, NOW_MS, History, Slot, node
from tests.consumers.warehouse.plant import wait

MINUTE_MS = 60_000


def changed(history: History, **different: Any) -> Settings:
    """The installation's settings with some changed."""
    return history.settings.model_copy(update=different)


def outcomes(metrics: Metrics, outcome: str) -> float:
    """Number of runs with this outcome."""
    return metrics.registry.get_sample_value("headwater_overrides_runs_total", {"outcome": outcome}) or 0


def test_runs_come_by_themselves_and_a_failure_ends_nothing(history: History) -> None:
    """The source table is missing, then restored and filled; the thread ends when it is stopped."""
    metrics = Metrics()
    projecting = ProjectionThread(changed(history, overrides_interval_s=0.05), history.store, metrics)
    history.stamp(node(2, 1))
    history.merge(Slot(node(2, 1), node(1, 1)))
    history.store.command("RENAME TABLE headwater.identity_merges TO headwater.away")
    projecting.start()
    try:
        wait(lambda: outcomes(metrics, "failed") >= 2, 20)
        history.store.command("RENAME TABLE headwater.away TO headwater.identity_merges")
        wait(lambda: metrics.registry.get_sample_value("headwater_overrides") == 1, 20)
    finally:
        projecting.stop()
    assert history.overrides() == {node(2, 1): node(1, 1)}
    assert outcomes(metrics, "changed") >= 1


def test_several_loaders_share_the_runs(history: History) -> None:
    """A loader skips its run soon after another loader's."""
    both = [Metrics(), Metrics()]
    first, second = (ProjectionThread(history.settings, history.store, metrics) for metrics in both)
    history.stamp(node(2, 1))
    first.run_due(NOW_MS)
    second.run_due(NOW_MS + MINUTE_MS // 2)
    assert [outcomes(metrics, "unchanged") for metrics in both] == [1, 0]
    second.run_due(NOW_MS + MINUTE_MS)
    assert [outcomes(metrics, "unchanged") for metrics in both] == [1, 1]


def test_a_week_after_the_first_run_and_each_week_old_rows_are_rewritten(history: History) -> None:
    """Not earlier, and never where squashes are switched off."""
    metrics = Metrics()
    history.merge(Slot(node(2, 1), node(1, 1)))
    history.stamp(node(2, 1), days_ago=30)
    weekly = ProjectionThread(history.settings, history.store, metrics)
    weekly.run_due(NOW_MS)
    weekly.run_due(NOW_MS + 6 * DAY_MS)
    assert history.overrides()
    switched_off = ProjectionThread(changed(history, squash_every_days=0), history.store, metrics)
    switched_off.run_due(NOW_MS + 7 * DAY_MS)
    assert history.overrides()
    weekly.run_due(NOW_MS + 7 * DAY_MS + MINUTE_MS)
    assert not history.overrides()
    assert last_squash(history.store) >= NOW_MS + 7 * DAY_MS
    assert metrics.registry.get_sample_value("headwater_squashed_rows_total") == 1
    assert metrics.registry.get_sample_value("headwater_overrides") == 0


def test_it_can_be_switched_off(history: History) -> None:
    """An interval of 0 starts no thread."""
    projecting = ProjectionThread(changed(history, overrides_interval_s=0), history.store, Metrics())
    projecting.start()
    projecting.stop()
    assert not projecting._thread.is_alive()
