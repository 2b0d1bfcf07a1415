"""Contenders of the identity bench: each on a few events, and all on a small world."""

from collections.abc import Callable, Sequence
from dataclasses import asdict

import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from bench.identity.contenders import capped_union, labels_in_sql, union_of_all, unique_only
from bench.identity.metrics import Canonicals, bound, first_deliveries, score
from bench.identity.rates import Rates
from bench.identity.results import Advance, ContenderResult
from bench.identity.stage_contender import follow_profile, stage
from bench.identity.world import OWN, IdentityWorld, WorldEvent, make_world
from streams.identity.graph.union_find import Slot

U1, U2, U3, U4 = (f"0{n:032x}" for n in range(1, 5))
D1, C1, C2, C3, M1 = "1" + "a" * 32, "2" + "b" * 32, "2" + "c" * 32, "2" + "d" * 32, "3" + "e" * 32


def events(*rows: Sequence[str]) -> list[WorldEvent]:
    """Build events with these nodes, in order."""
    return [WorldEvent(n, n, f"e{n}", tuple(sorted(nodes)), 0, OWN) for n, nodes in enumerate(rows)]


def ignore_progress(n: int) -> None:
    """Ignore progress."""


def groups(canonicals: Canonicals) -> list[int]:
    """Number canonicals in the order they first appear."""
    first: dict[str | int, int] = {}
    return [first.setdefault(canonical, len(first)) for canonical in canonicals]


@pytest.fixture(scope="module")
def world() -> IdentityWorld:
    """A small world."""
    return make_world(Rates(events=6_000), 2)


def test_the_stage_stamps_and_follows() -> None:
    """A profile that was assigned before its id was linked to another is followed there; a duplicate counts once."""
    world_events = events([C1], [C2], [C2, U1], [C1, U1], [C2])
    result, tidied = stage([*world_events, world_events[0]._replace(arrived=9)], ignore_progress, size=1)
    assert (tidied.canonicals, tidied.at_arrival) == (result.canonicals, result.at_arrival), "nothing was demoted"
    assert result.at_arrival == [C1, C2, C2, C2, C2]
    assert result.canonicals == [C2] * 5


def test_tidied_rows_are_whose_the_rest_of_the_evidence_says() -> None:
    """After tidying, ids linked by a shared device alone are free, its own events are nobody's, and other evidence holds."""
    world_events = events([U1, D1], [D1, C1], [C1], [U1, C2], [D1], [U2, D1], [D1])
    as_stamped, tidied = stage(world_events, ignore_progress, size=1)
    assert groups(as_stamped.canonicals) == [0, 0, 0, 0, 0, 1, 2]
    assert groups(tidied.canonicals) == [0, 1, 1, 0, 2, 3, 4]
    assert {tidied.canonicals[4], tidied.canonicals[6]} <= tidied.nobodys
    assert tidied.canonicals[1] == C1


def test_following_ends() -> None:
    """Following a profile ends at a user's label, at a node that points at itself, and at one without a slot."""
    slots = {C1: Slot(U1, True), U1: Slot(C2, True), C2: Slot(U1, True), C3: Slot(C3, True), D1: Slot(C3, True)}
    assert [follow_profile(slots, profile) for profile in (C1, U1, C2, C3, D1, U2)] == [C2, C2, C2, C3, C3, U2]


def test_the_union_of_all_merges_users() -> None:
    """Two users on one cookie become one person; events keep the profile that was known on arrival."""
    world_events = events([C1], [U1], [C1, U1], [C1, U2], [U3])
    result = union_of_all(world_events, ignore_progress, size=1)
    assert groups(result.canonicals) == [0, 0, 0, 0, 1]
    assert groups(result.at_arrival or ()) == [0, 1, 0, 0, 2]
    assert groups(union_of_all(world_events, ignore_progress, size=3).at_arrival or ()) == [0, 0, 0, 0, 1]


def test_caps_refuse_the_link_that_is_too_many() -> None:
    """An e-mail may have one user, a device three."""
    result = capped_union(events([U1, M1], [U2, M1], [M1]), ignore_progress)
    assert groups(result.canonicals) == [0, 1, 0]
    result = capped_union(events([U1, D1], [U2, D1], [U3, D1], [U4, D1], [D1]), ignore_progress)
    assert groups(result.canonicals) == [0, 0, 0, 1, 0]


def test_unique_only_gives_a_cookie_to_its_only_user() -> None:
    """Earlier events included; a cookie of two users is nobody's; an e-mail owns it where there is no user."""
    result = unique_only(events([C1], [C1, U1], [C2, U1], [C2, U2], [C2], [C3, M1], [C3], [M1, U2], [C1, C3]), ignore_progress)
    assert result.canonicals == [U1, U1, U1, U2, C2, U2, U2, U2, U1]


@pytest.mark.parametrize("resolve", [union_of_all, labels_in_sql])
def test_components_are_those_of_scipy(world: IdentityWorld, resolve: Callable[..., ContenderResult]) -> None:
    """Both unions find the connected components of the whole graph."""
    deliveries = first_deliveries(world.events)
    numbers = {node: n for n, node in enumerate(sorted({node for event in deliveries for node in event.nodes}))}
    rows = [(numbers[event.nodes[0]], numbers[node]) for event in deliveries for node in event.nodes]
    matrix = coo_array(([1] * len(rows), tuple(zip(*rows, strict=True))), shape=(len(numbers), len(numbers)))
    _, components = connected_components(matrix, directed=False)
    expected = groups([int(components[numbers[event.nodes[0]]]) for event in deliveries])
    assert groups(resolve(deliveries, ignore_progress).canonicals) == expected


def as_stamped(deliveries: Sequence[WorldEvent], advance: Advance) -> ContenderResult:
    """Return the result of the stage alone."""
    return stage(deliveries, advance)[0]


def tidied(deliveries: Sequence[WorldEvent], advance: Advance) -> ContenderResult:
    """Return the result of the stage after tidying."""
    return stage(deliveries, advance)[1]


@pytest.mark.parametrize("resolve", [as_stamped, tidied, union_of_all, capped_union, unique_only, labels_in_sql])
def test_everybody_is_scored_on_a_small_world(world: IdentityWorld, resolve: Callable[..., ContenderResult]) -> None:
    """Each contender is deterministic, with shares between 0 and 1 and a recall near or below the bound."""
    deliveries = first_deliveries(world.events)
    progress: list[int] = []
    shown = world.events if resolve in (as_stamped, tidied) else deliveries
    result = resolve(shown, progress.append)
    assert sum(progress) == len(shown)
    assert resolve(shown, ignore_progress).canonicals == result.canonicals
    figures = score(world, deliveries, result.canonicals, result.at_arrival)
    for name in ("wrong", "avoidable", "wrong_known", "precision", "recall"):
        assert 0 <= asdict(figures)[name] <= 1
    assert figures.canonicals >= 1
    assert figures.avoidable <= figures.wrong
    assert figures.recall <= bound(world, deliveries).recall + 0.01


def test_the_stage_never_has_two_users_in_one(world: IdentityWorld) -> None:
    """No profile of the stage has two users."""
    for result in stage(world.events, ignore_progress):
        assert score(world, first_deliveries(world.events), result.canonicals, result.at_arrival).two_users == 0
