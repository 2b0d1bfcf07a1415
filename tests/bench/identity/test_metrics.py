"""Scores of the identity bench, against examples counted by hand."""

import pytest

from bench.identity.causes import lost_by_cause, wrong_by_cause
from bench.identity.metrics import bound, first_deliveries, person_components, score
from bench.identity.world import KIOSK, OWN, SHARED, IdentityWorld, WorldEvent

U0, U1 = "0" + "0" * 32, "0" + "1" * 32
C0, C1, C2, KEPT = (f"2{name * 32}" for name in "abcd")
WORLD = IdentityWorld(households=[0, 0, 1], users=[U0, U1, None], shared_nodes={KEPT: "kiosk", C2: "junk e-mail"})


def event(n: int, person: int, *nodes: str, place: str = OWN) -> WorldEvent:
    """Build one event."""
    return WorldEvent(n, n, f"e{n}", nodes, person, place)


EVENTS = [
    event(0, 0, C0),
    event(1, 0, U0, C0),
    event(2, 0, U0, KEPT, place=KIOSK),
    event(3, 1, U1, C1),
    event(4, 1, KEPT, place=KIOSK),
    event(5, 2, KEPT, place=KIOSK),
]


def test_figures_are_those_counted_by_hand() -> None:
    """Canonical x has three events of person 0 and one of person 1; y one of each of two persons."""
    figures = score(WORLD, EVENTS, ["x", "x", "x", "y", "x", "y"], ["x", "z", "x", "y", "z", "w"])
    assert figures.wrong == 2 / 6
    # Event 4 has the nodes of event 5 and came first, so by its nodes it belongs to person 1: it is avoidable.
    assert (figures.avoidable, figures.given_away) == (1 / 6, 0.0)
    assert figures.wrong_known == 2 / 6
    assert figures.canonicals == (1 + 2 + 1) / 3
    assert figures.precision == 3 / (6 + 1)
    assert figures.recall == 3 / (3 + 1)
    assert (figures.merged_people, figures.merged_accounts, figures.merged_households) == (2, 1, 1)
    assert figures.two_users == 0
    assert figures.stale == 3 / 6
    assert figures.overrides == 2 / 6


def test_two_users_are_counted_by_what_events_carry() -> None:
    """One canonical for all has both user ids; without profiles on arrival there is no staleness."""
    figures = score(WORLD, EVENTS, [0] * 6, None)
    assert (figures.two_users, figures.stale, figures.overrides) == (1, None, None)
    assert figures.wrong == 3 / 6
    assert figures.precision == (3 + 1) / 15
    assert figures.recall == 1.0


def test_the_bound_is_what_nodes_can_tell() -> None:
    """Two anonymous persons at one kiosk cannot be told apart, and person 1's kiosk event cannot be attributed."""
    figures = bound(WORLD, EVENTS)
    assert figures.wrong == 1 / 6
    assert figures.wrong_known == 0.0
    assert figures.canonicals == (1 + 2 + 1) / 3
    assert figures.recall == 3 / 4


def test_the_bound_is_reached_by_who_knows_the_truth() -> None:
    """Components of the truth connect what one person's own events connect, and nothing else."""
    components = person_components(EVENTS)
    assert components[0] == components[1] == components[2]
    assert len(set(components)) == 4
    assert score(WORLD, EVENTS, components, None).wrong == 0


def test_wrong_events_have_causes() -> None:
    """The cause is the place, or what merged the own device with another's; conflicts that reveal it are counted."""
    assert wrong_by_cause(WORLD, EVENTS, ["x", "x", "x", "y", "x", "y"]) == {
        f"hidden, at: {KIOSK}": 1 / 6,
        f"unavoidable, at: {KIOSK}": 1 / 6,
    }
    merged = [event(0, 0, U0, C2), event(1, 0, U0, C2), event(2, 1, U1)]
    assert wrong_by_cause(WORLD, merged, ["x"] * 3) == {"hidden, own, merged by: junk e-mail": 1 / 3}
    assert score(WORLD, merged, ["x"] * 3, None).given_away == 0
    conflicted = [*merged, event(3, 1, U1, C2)]
    assert score(WORLD, conflicted, ["x", "x", "x", "y"], None).given_away == 1 / 4
    assert score(WORLD, conflicted, ["x", "x", "x", "y"], None, nobodys={"x"}).given_away == 0
    assert wrong_by_cause(WORLD, conflicted, ["x", "x", "x", "y"]) == {"own, merged by: junk e-mail": 1 / 4}
    assert wrong_by_cause(WORLD, conflicted, ["x", "x", "x", "y"], {"x"}) == {}


def test_lost_pairs_have_causes() -> None:
    """Six pairs of person 0, one of them at home, all apart; two of person 1 without evidence."""
    events = [
        event(0, 0, U0, C0),
        event(1, 0, C0),
        event(2, 0, C0, place=SHARED),
        event(3, 0, C0, place=KIOSK),
        event(4, 1, C1),
        event(5, 1, U1),
    ]
    assert lost_by_cause(WORLD, events, [0, 1, 2, 3, 4, 5]) == {
        "at: kiosk": 3 / 7,
        "at: shared device": 2 / 7,
        "own: nothing shared": 1 / 7,
        "no evidence": 1 / 7,
    }
    assert lost_by_cause(WORLD, events, [0, 0, 0, 0, 4, 5]) == {"no evidence": pytest.approx(1 / 7)}


def test_the_first_delivery_keeps_its_place() -> None:
    """Duplicates are left out and the order is kept."""
    again = EVENTS[0]._replace(arrived=9)
    assert first_deliveries([*EVENTS[:3], again, *EVENTS[3:], again]) == EVENTS
