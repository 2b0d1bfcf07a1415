"""Identity overrides, in the real engine."""

import json
import random
from typing import Any

import pytest
from typer.testing import CliRunner

from consumers.warehouse.app import app
from consumers.warehouse.history.overrides import OVERLAP_MS, project, project_if_changed
from consumers.warehouse.store import Store
from infra.errors import Retryable
from tests.consumers.warehouse.merge_history import NOW_MS, History, Slot, node, reference


def test_a_chain_of_any_length_ends_at_its_root(history: History) -> None:
    """Two thousand pointers within one tier, then three tiers down to a user and its label."""
    chain = [Slot(node(2, n + 1), node(2, n)) for n in range(2_000)]
    history.merge(*chain, Slot(node(2, 0), node(1, 7)), Slot(node(1, 7), node(0, 1)), Slot(node(0, 1), node(1, 9)))
    history.stamp(node(2, 2_000), node(2, 1_999), node(2, 3), node(1, 7), node(0, 1))
    result = project(history.store, NOW_MS)
    assert (result.overrides, result.changed, result.removed) == (5, 5, 0)
    assert set(history.overrides().values()) == {node(1, 9)}
    assert set(history.now()) == {(p, node(1, 9)) for p in (node(2, 2_000), node(2, 1_999), node(2, 3), node(1, 7), node(0, 1))}
    assert not history.leftovers()


def test_a_label_is_not_followed(history: History) -> None:
    """The label of a user points to the user: rows with the label keep it, and rows of its other nodes get it."""
    label, user = node(2, 5), node(0, 1)
    history.merge(Slot(label, user), Slot(user, label), Slot(node(2, 6), user), Slot(node(2, 8), node(0, 2)))
    history.stamp(label, node(2, 6), node(2, 8))
    project(history.store, NOW_MS)
    assert history.overrides() == {node(2, 6): label, node(2, 8): node(0, 2)}


def test_a_user_under_newer_keys_is_the_same(history: History) -> None:
    """Whichever of two user nodes points to the other, both and all below map to what the upper one is stamped with."""
    history.merge(
        Slot(node(2, 5), node(0, 9)), Slot(node(0, 9), node(2, 5)), Slot(node(0, 3), node(0, 9)), Slot(node(2, 6), node(0, 3)),
        Slot(node(0, 7), node(0, 7)), Slot(node(0, 8), node(0, 7)), Slot(node(2, 7), node(0, 8)),
    )  # fmt: skip
    history.stamp(node(0, 9), node(0, 3), node(2, 6), node(0, 8), node(2, 7))
    project(history.store, NOW_MS)
    assert history.overrides() == {
        node(0, 9): node(2, 5), node(0, 3): node(2, 5), node(2, 6): node(2, 5), node(0, 8): node(0, 7), node(2, 7): node(0, 7),
    }  # fmt: skip


def test_only_ids_that_an_event_was_stamped_with_have_an_override(history: History) -> None:
    """Of a thousand linked nodes three are stamped; ids without a slot, aliases and empty ids map to themselves."""
    history.merge(*(Slot(node(2, n), node(1, n)) for n in range(1_000)))
    history.stamp(node(2, 5), node(2, 6), node(2, 7), node(1, 5), node(3, 5), "f" * 33, "")
    assert project(history.store, NOW_MS).overrides == 3
    assert history.overrides() == {node(2, n): node(1, n) for n in (5, 6, 7)}
    assert history.now()["", ""] == 1
    assert history.now()["f" * 33, "f" * 33] == 1


def test_shared_nodes_are_followed_and_erased_ones_are_not(history: History) -> None:
    """A shared node keeps its earlier mapping; ids of an erased person, and paths over them, have none."""
    history.merge(
        Slot(node(2, 1), node(1, 1)), Slot(node(2, 1), node(1, 1), 1, "shared"),
        Slot(node(2, 2), node(1, 2)), Slot(node(2, 2), node(2, 2), 1, "erased"),
        Slot(node(3, 3), node(2, 3)), Slot(node(2, 3), node(1, 3), 1, "erased"),
        Slot(node(2, 4), node(0, 4)), Slot(node(0, 4), node(2, 9)), Slot(node(0, 4), node(0, 4), 1, "erased"),
    )  # fmt: skip
    history.stamp(node(2, 1), node(2, 2), node(3, 3), node(2, 4))
    project(history.store, NOW_MS)
    assert history.overrides() == {node(2, 1): node(1, 1)}


def test_a_rewrite_with_a_higher_epoch_changes_and_removes_overrides(history: History) -> None:
    """The highest epoch counts, whatever the order of the records."""
    history.merge(Slot(node(2, 1), node(1, 1)), Slot(node(2, 2), node(1, 2)), Slot(node(2, 3), node(1, 3)))
    history.stamp(node(2, 1), node(2, 2), node(2, 3))
    project(history.store, NOW_MS)
    history.merge(Slot(node(2, 1), node(1, 8), 2), Slot(node(2, 2), node(2, 2), 1))
    history.merge(Slot(node(2, 1), node(1, 7), 1))
    result = project(history.store, NOW_MS + 1)
    assert (result.overrides, result.changed, result.removed) == (2, 1, 1)
    assert history.overrides() == {node(2, 1): node(1, 8), node(2, 3): node(1, 3)}
    versions = dict(history.store.rows("SELECT profile_id, version FROM headwater.identity_overrides"))
    assert versions[node(2, 1)] > versions[node(2, 3)], "an override that stays keeps the time since when it holds"


@pytest.mark.parametrize("newer_first", [False, True])
def test_of_a_node_that_was_forgotten_and_linked_anew_the_newer_link_counts(history: History, newer_first: bool) -> None:
    """Both records have the same epoch, and the older one may still be there or be loaded again."""
    old, new = (Slot(node(2, 9), node(2, 1)), 0.2), (Slot(node(2, 9), node(2, 5)), 0.1)
    for slot, days_ago in (new, old) if newer_first else (old, new):
        history.merge(slot, days_ago=days_ago)
    history.stamp(node(2, 9))
    project(history.store, NOW_MS)
    assert history.store.rows("SELECT profile_id, canonical FROM headwater.identity_overrides") == [(node(2, 9), node(2, 5))]


def test_ids_that_share_a_prefix_are_kept_apart(history: History) -> None:
    """Overrides are found by the whole id: ids that differ in the last digit or in the tier only do not mix."""
    hexes = "ab" * 15
    ids = [f"{tier}{hexes}{last:02x}" for tier in (2, 3) for last in range(40)]
    history.merge(*(Slot(profile, node(1, n)) for n, profile in enumerate(ids[::2])))
    history.stamp(*ids)
    project(history.store, NOW_MS)
    expected = {profile: node(1, n) for n, profile in enumerate(ids[::2])}
    assert set(history.now()) == {(profile, expected.get(profile, profile)) for profile in ids}


@pytest.mark.parametrize("bucket_nodes", [1_000_000, 70])
def test_the_view_equals_a_walk_step_by_step_on_random_graphs(history: History, bucket_nodes: int) -> None:
    """Random forests with rewrites, labels, shared and erased nodes, in three instalments, joined at once and in buckets."""
    chance = random.Random(bucket_nodes)
    nodes = sorted({node(chance.randrange(4), chance.randrange(200)) for _ in range(400)})
    merged: list[Slot] = []
    stamped: list[str] = []
    for part in range(3):
        slots = []
        for at in chance.sample(range(1, len(nodes)), 150):
            epoch = 1 + max((slot.epoch for slot in merged if slot.node == nodes[at]), default=-1)
            below = nodes[max(0, at - chance.choice([1, 1, 300])) : at]
            labels = [candidate for candidate in nodes if candidate[0] != "0" or candidate <= nodes[at]]
            parent = chance.choice(labels if nodes[at][0] == "0" else [*below, nodes[at]] if epoch else below)
            slots.append(Slot(nodes[at], parent, epoch, chance.choice(["", "", "", "shared", "erased"] if epoch else [""])))
        merged += slots
        chance.shuffle(slots)
        history.merge(*slots)
        fresh = chance.choices(nodes, k=100)
        stamped += fresh
        history.stamp(*fresh)
        project(history.store, NOW_MS + part * OVERLAP_MS, bucket_nodes)
        today = {profile: reference(merged, profile) for profile in stamped}
        assert set(history.now()) == set(today.items())
        assert history.overrides() == {profile: now for profile, now in today.items() if now != profile}


class Failing:
    """A store that fails at one of its statements."""

    def __init__(self, store: Store, at: int) -> None:
        self._store = store
        self.remaining = at

    def command(self, statement: str) -> None:
        """Run the statement, or fail; clean-up fails too."""
        self.remaining -= 1
        if self.remaining < 0:
            raise Retryable("away")
        self._store.command(statement)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def test_a_run_that_was_cut_short_anywhere_leaves_the_old_or_the_new(history: History) -> None:
    """Interrupted at each statement, the table is old or new, never partial, and the next run completes and cleans up."""
    history.merge(Slot(node(2, 1), node(1, 1)), Slot(node(3, 1), node(2, 1)))
    history.stamp(node(2, 1), node(3, 1))
    project(history.store, NOW_MS)
    old = history.overrides()
    history.merge(Slot(node(1, 1), node(0, 1)), Slot(node(2, 2), node(1, 2)))
    history.stamp(node(2, 2))
    new = {node(2, 1): node(0, 1), node(3, 1): node(0, 1), node(2, 2): node(1, 2)}
    at = 0
    while True:
        failing: Any = Failing(history.store, at)
        try:
            project(failing, NOW_MS + 1 + at)
            break
        except Retryable:
            assert history.overrides() in (old, new)
        at += 1
    assert at > 10
    project(history.store, NOW_MS + 24 * 3_600_000)
    assert history.overrides() == new
    assert not history.leftovers()


def test_a_server_that_was_killed_has_the_overrides_again(history: History) -> None:
    """After kill -9 the view answers as before, and the next run continues from the processed blocks."""
    history.merge(Slot(node(2, 1), node(1, 1)), Slot(node(2, 2), node(1, 2)))
    history.stamp(node(2, 1))
    for minute in range(3):
        project(history.store, NOW_MS + minute * OVERLAP_MS)
    history.kill()
    assert history.now() == {(node(2, 1), node(1, 1)): 1}
    history.stamp(node(2, 2))
    result = project_if_changed(history.store, NOW_MS + 3 * OVERLAP_MS)
    assert result is not None
    assert (result.overrides, result.changed) == (2, 1)


def test_without_new_rows_there_is_nothing_to_do_and_old_parts_are_not_read_again(history: History) -> None:
    """Blocks count as processed once a second run has read them a minute later; new rows and new slots start a run."""
    history.merge(Slot(node(2, 1), node(1, 1)), Slot(node(2, 2), node(1, 2)))
    history.stamp(node(2, 1))
    assert project_if_changed(history.store, NOW_MS) is not None
    assert project_if_changed(history.store, NOW_MS + OVERLAP_MS) is not None
    assert project_if_changed(history.store, NOW_MS + 2 * OVERLAP_MS) is None
    history.store.command("TRUNCATE TABLE headwater.identity_stamped")
    history.stamp(node(2, 2))
    result = project_if_changed(history.store, NOW_MS + 3 * OVERLAP_MS)
    assert result is not None
    assert history.overrides() == {node(2, 2): node(1, 2)}, "the first event's part was not read again"
    history.merge(Slot(node(1, 2), node(0, 2)))
    result = project_if_changed(history.store, NOW_MS + 4 * OVERLAP_MS)
    assert result is not None
    assert history.overrides() == {node(2, 2): node(0, 2)}


def test_the_command_prints_counts(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text and JSON show the same figures, and the help has an example."""
    monkeypatch.setenv("HEADWATER_CLICKHOUSE", history.server.url)
    history.merge(Slot(node(2, 1), node(1, 1)))
    history.stamp(node(2, 1), node(1, 5))
    first = CliRunner().invoke(app, ["overrides"])
    assert first.stdout.startswith(
        "1 of about 2 profile ids of events belong to another profile today\n1 new or changed, 0 gone;"
    )
    again = json.loads(CliRunner().invoke(app, ["overrides", "--json"]).stdout)
    assert {name: again[name] for name in ("stamped", "overrides", "changed", "gone")} == {
        "stamped": 2, "overrides": 1, "changed": 0, "gone": 0,
    }  # fmt: skip
    assert "Example: headwater warehouse overrides" in CliRunner().invoke(app, ["overrides", "--help"]).stdout
