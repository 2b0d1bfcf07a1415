"""Failing materialised views of users are found by name; working ones are not reported."""

from collections.abc import Iterator

import pytest

from consumers.warehouse.store import Store
from consumers.warehouse.verification import schedule
from consumers.warehouse.verification.schedule import VerificationThread
from consumers.warehouse.verification.verifier import Verifier
from consumers.warehouse.verification.view_checks import ViewChecks, user_views
from infra.telemetry.metrics import Metrics
from schemas.registry import Registry
from tests.consumers.warehouse.merge_history import History

IGNORE = "SETTINGS materialized_views_ignore_errors = 1"


@pytest.fixture
def store(history: History) -> Iterator[Store]:
    """A warehouse and a database of an analyst, with a target table."""
    for statement in (
        "DROP DATABASE IF EXISTS lab SYNC",
        "CREATE DATABASE lab",
        "CREATE TABLE lab.target (name String, price UInt8 DEFAULT 7, note Nullable(String)) ENGINE = MergeTree ORDER BY name",
    ):
        history.store.command(statement)
    yield history.store
    history.store.command("DROP DATABASE lab SYNC")


def load(store: Store, value: float, page: str = "a page") -> None:
    """Insert one event as the loader does."""
    store.command(
        "INSERT INTO headwater.events (_topic_id, _partition, _offset, _loaded_at, event_name, value, page_url, collector_ts) "
        f"{IGNORE} VALUES ('t', 0, toInt64({value}), now64(3), 'view', {value}, '{page}', now64(3))"
    )


def now_ms(store: Store) -> int:
    """ClickHouse's time."""
    return int(store.rows("SELECT toUnixTimestamp64Milli(now64(3)) + 50")[0][0])


def test_a_view_that_works_is_listed_and_quiet(store: Store) -> None:
    """Columns are matched by name, missing ones get defaults, and the view may be in another database."""
    store.command(
        "CREATE MATERIALIZED VIEW lab.works TO lab.target AS SELECT page_url AS note, event_name AS name FROM headwater.events"
    )
    load(store, 3)
    assert [(view.label, view.table, view.target) for view in user_views(store)] == [("lab.works", "events", ("lab", "target"))]
    assert ViewChecks(store).check(now_ms(store)) == {"lab.works": ""}
    assert store.rows("SELECT * FROM lab.target") == [("view", 7, "a page")]


@pytest.mark.parametrize(
    ("select", "failure"),
    [
        ("event_name AS name, throwIf(value > 100) AS price", "code 395"),
        ("event_name AS name, toUInt8(page_url) AS price", "code 6"),
        ("event_name AS name, page_url AS price", "code 6"),
        ("intDiv(1, toInt64(value) - 200) AS name", "code 153"),
    ],
    ids=["throws", "converts", "target-type", "divides"],
)
def test_a_view_that_fails_on_new_rows_is_noticed_until_it_is_mended(
    store: Store, history: History, select: str, failure: str
) -> None:
    """A failure is named by its error, never its text, which quotes rows; it is checked with these rows until it succeeds."""
    store.command(f"CREATE MATERIALIZED VIEW lab.broken TO lab.target AS SELECT {select} FROM headwater.events")
    metrics = Metrics()
    verifying = VerificationThread(history.settings, store, Registry(history.settings.contracts), metrics)
    load(store, 200, "secret-page")
    assert store.rows("SELECT count() FROM headwater.events WHERE _offset = 200") == [(1,)], "the row itself is there"
    assert store.rows("SELECT count() FROM lab.target") == [(0,)], "the view has missed it"
    failures = ViewChecks(store).check(now_ms(store))
    assert failures["lab.broken"].startswith(failure)
    assert "secret-page" not in failures["lab.broken"]
    verifying.check_views()
    assert metrics.registry.get_sample_value("headwater_view_failing", {"view": "lab.broken"}) == 1
    verifying.check_views()
    assert metrics.registry.get_sample_value("headwater_view_failing", {"view": "lab.broken"}) == 1, "no new rows: still so"
    store.command("ALTER TABLE lab.broken MODIFY QUERY SELECT event_name AS name FROM headwater.events")
    verifying.check_views()
    assert metrics.registry.get_sample_value("headwater_view_failing", {"view": "lab.broken"}) == 0
    store.command("DROP VIEW lab.broken")
    verifying.check_views()
    assert user_views(store) == []


def test_a_failing_view_is_noticed_while_a_verification_runs(
    store: Store, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A verification of much takes hours, and rests between its slices: views are tried all the while."""
    monkeypatch.setattr(schedule, "VIEWS_S", 0.05)
    metrics = Metrics()
    verifying = schedule.VerificationThread(history.settings, store, Registry(history.settings.contracts), metrics)

    def slice_ends(_verifier: object) -> list[object]:
        verifying._after_slice(0.0, 1)
        store.command(
            "CREATE MATERIALIZED VIEW lab.broken TO lab.target AS SELECT throwIf(value > 100) AS price FROM headwater.events"
        )
        load(store, 300)
        verifying._after_slice(0.25, 1)
        assert metrics.registry.get_sample_value("headwater_view_failing", {"view": "lab.broken"}) == 1
        return []

    monkeypatch.setattr(Verifier, "prepare", slice_ends)
    verifying.verify_due()
    store.command("DROP VIEW lab.broken SYNC")


def test_a_view_whose_target_is_gone_is_noticed(store: Store) -> None:
    """The view has no table to fill."""
    store.command("CREATE MATERIALIZED VIEW lab.lost TO lab.target AS SELECT event_name AS name FROM headwater.events")
    store.command("DROP TABLE lab.target SYNC")
    load(store, 5)
    assert ViewChecks(store).check(now_ms(store)) == {"lab.lost": "its target is gone"}


def test_old_rows_are_not_read_for_a_check(store: Store) -> None:
    """Only rows loaded since the last check are tried, not older ones."""
    load(store, 150)
    checks = ViewChecks(store)
    store.command(
        "CREATE MATERIALIZED VIEW lab.strict (name UInt8) ENGINE = MergeTree ORDER BY name "
        "AS SELECT throwIf(value > 100) AS name FROM headwater.events"
    )
    assert checks.check(now_ms(store) + 120_000) == {"lab.strict": ""}
    assert ViewChecks(store).check(now_ms(store)) == {"lab.strict": "code 395 FUNCTION_THROW_IF_VALUE_IS_NON_ZERO"}
