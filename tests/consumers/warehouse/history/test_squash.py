"""Old rows are rewritten, and unneeded overrides forgotten, in the real engine."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from consumers.warehouse.app import app
from consumers.warehouse.history.overrides import OVERLAP_MS, project
from consumers.warehouse.history.squash import last_squash, squash
from consumers.warehouse.store import Store
from infra.errors import Halted, Retryable
from tests.consumers.warehouse.merge_history import DAY_MS, NOW_MS, History, Slot, node

WEEK = 7.0


def never() -> bool:
    """Never stop."""
    return False


def mutations(history: History) -> int:
    """Number of mutations of `events` so far."""
    return int(history.store.rows("SELECT count() FROM system.mutations WHERE table = 'events'")[0][0])


def linked(history: History) -> None:
    """Two ids linked to others; the first has rows of this week and of two months, the second old rows only."""
    history.merge(Slot(node(2, 1), node(1, 1)), Slot(node(2, 2), node(1, 2)))
    history.stamp(node(2, 1))
    history.stamp(node(2, 1), node(2, 2), node(3, 3), days_ago=40)
    history.stamp(node(2, 1), days_ago=100)
    project(history.store, NOW_MS)


def test_old_rows_are_rewritten_and_only_needless_overrides_forgotten(history: History) -> None:
    """The view is unchanged; every row keeps its offset; young rows keep their stamp and their override."""
    linked(history)
    places = "SELECT _partition, _offset, node, collector_ts FROM headwater.events ORDER BY _offset"
    before, rows = (
        history.store.rows("SELECT profile_now FROM headwater.events_now ORDER BY _offset"),
        history.store.rows(places),
    )
    result = squash(history.store, NOW_MS + 1, WEEK, never)
    assert (result.rows, len(result.months), result.forgotten, result.overrides) == (3, 2, 1, 1)
    assert history.store.rows("SELECT profile_now FROM headwater.events_now ORDER BY _offset") == before
    assert history.store.rows(places) == rows
    assert history.overrides() == {node(2, 1): node(1, 1)}
    assert history.now() == {
        (node(2, 1), node(1, 1)): 1, (node(1, 1), node(1, 1)): 2, (node(1, 2), node(1, 2)): 1, (node(3, 3), node(3, 3)): 1,
    }  # fmt: skip
    assert not history.leftovers()
    assert last_squash(history.store) > NOW_MS


def test_a_squash_without_old_rows_touches_nothing(history: History) -> None:
    """No mutation starts in months without old rows, the second time too."""
    linked(history)
    squash(history.store, NOW_MS + 1, WEEK, never)
    count = mutations(history)
    assert squash(history.store, NOW_MS + 2, WEEK, never).rows == 0
    assert mutations(history) == count
    result = squash(history.store, NOW_MS + 3, -1, never)
    assert len(result.months) == 1, "the month of the young row alone"
    assert history.overrides() == {}


def test_what_rows_were_rewritten_to_is_stamped_from_then_on(history: History) -> None:
    """When the new id is linked to a third one, rewritten rows follow."""
    linked(history)
    squash(history.store, NOW_MS + 1, WEEK, never)
    history.merge(Slot(node(1, 2), node(0, 2)))
    project(history.store, NOW_MS + 10)
    assert history.overrides()[node(1, 2)] == node(0, 2)
    assert history.now()[node(1, 2), node(0, 2)] == 1


def test_an_id_that_is_stamped_again_later_has_its_override_again(history: History) -> None:
    """A late event carries an old id."""
    linked(history)
    squash(history.store, NOW_MS + 1, WEEK, never)
    assert node(2, 2) not in history.overrides()
    history.stamp(node(2, 2))
    project(history.store, NOW_MS + 10)
    assert history.now()[node(2, 2), node(1, 2)] == 1


class Meddling:
    """A store in which something happens just before a statement that contains a text."""

    def __init__(self, store: Store, before: str, happens: Any) -> None:
        self._store = store
        self._before = before
        self._happens = happens

    def command(self, statement: str) -> None:
        """Let it happen, then run the statement."""
        if self._before in statement:
            self._happens()
        self._store.command(statement)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def test_an_override_that_changed_meanwhile_is_kept(history: History) -> None:
    """Its id leads elsewhere since the squash began."""
    linked(history)

    def changes() -> None:
        history.merge(Slot(node(2, 2), node(1, 7), 1))
        project(history.store, NOW_MS + OVERLAP_MS)

    meddling: Any = Meddling(history.store, "ALTER TABLE", changes)
    result = squash(meddling, NOW_MS + 1, WEEK, never)
    assert result.forgotten == 0
    assert history.overrides() == {node(2, 1): node(1, 1), node(2, 2): node(1, 7)}


def test_an_id_that_is_seen_again_meanwhile_is_kept(history: History) -> None:
    """Also when its row comes after the squash has searched for rows."""
    linked(history)

    def comes() -> None:
        history.stamp(node(2, 2))
        project(history.store, NOW_MS + OVERLAP_MS)

    meddling: Any = Meddling(history.store, "DELETE FROM", comes)
    squash(meddling, NOW_MS + 1, WEEK, never)
    assert history.overrides() == {node(2, 1): node(1, 1), node(2, 2): node(1, 2)}
    assert history.now()[node(2, 2), node(1, 2)] == 1


def test_a_squash_that_is_stopped_is_finished_by_the_server_and_the_next_one(history: History) -> None:
    """Its tables stay as long as the server reads them; afterwards nothing is left behind."""
    linked(history)
    history.store.command("SYSTEM STOP MERGES headwater.events")
    with pytest.raises(Retryable):
        squash(history.store, NOW_MS + 1, WEEK, lambda: True)
    assert history.leftovers(), "the rewriting has not ended and still reads it"
    with pytest.raises(Retryable):
        squash(history.store, NOW_MS + 2, WEEK, lambda: True)
    history.store.command("SYSTEM START MERGES headwater.events")
    result = squash(history.store, NOW_MS + DAY_MS, WEEK, never)
    assert (result.forgotten, result.overrides) == (1, 1)
    assert not history.leftovers()
    assert history.now()[node(1, 2), node(1, 2)] == 1


def test_rewriting_that_cannot_work_is_said(history: History) -> None:
    """A failing mutation raises Halted instead of being waited for."""
    linked(history)
    history.store.command("CREATE TABLE headwater.identity_work_1_frozen AS headwater.identity_overrides")
    history.store.command(
        "ALTER TABLE headwater.events UPDATE profile_id = toString(throwIf(joinGet('headwater.identity_work_1_frozen', "
        "'canonical', profile_id) = '')) WHERE 1 SETTINGS mutations_sync = 0"
    )
    with pytest.raises(Halted, match="KILL MUTATION"):
        squash(history.store, NOW_MS + 1, WEEK, never)
    history.store.command("KILL MUTATION WHERE table = 'events' AND NOT is_done")
    assert squash(history.store, NOW_MS + 2, WEEK, never).forgotten == 1


def test_the_command_prints_counts(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text and JSON show the same figures, and the help has an example."""
    monkeypatch.setenv("HEADWATER_CLICKHOUSE", history.server.url)
    linked(history)
    first = CliRunner().invoke(app, ["squash", "--older-than", "60"]).stdout.splitlines()
    assert first[0].endswith("  1 rows rewritten")
    assert first[1:] == ["1 rows rewritten, 0 overrides forgotten, 2 left"]
    again = json.loads(CliRunner().invoke(app, ["squash", "--json"]).stdout)
    assert (again["rows"], again["forgotten"], again["overrides"]) == (2, 1, 1)
    assert "Example: headwater warehouse squash" in CliRunner().invoke(app, ["squash", "--help"]).stdout
