"""The seeded world."""

from collections import Counter

from infra.ops.simulator.world.acts import (
    DOORS,
    DecisionRequest,
    Defect,
    Journey,
    SimulatedEvent,
    SimulatedRequest,
    VisitorChoice,
)
from infra.ops.simulator.world.world import ShopWorld

RUN = "abcdefab"


def events_of(journeys: list[Journey]) -> dict[int, SimulatedEvent]:
    """Every event once."""
    return {
        event.n: event
        for journey in journeys
        for step in journey
        if isinstance(step, SimulatedRequest)
        for event in step.events
    }


def test_the_same_seed_makes_the_same_world() -> None:
    """A run can be repeated."""
    assert list(ShopWorld(4, RUN, 500).journeys()) == list(ShopWorld(4, RUN, 500).journeys())
    assert list(ShopWorld(4, RUN, 500).journeys()) != list(ShopWorld(5, RUN, 500).journeys())


def test_exactly_as_many_events_as_asked_for_numbered_without_a_gap() -> None:
    """The ledger's size is known before the first event."""
    for size in (1, 7, 2_000):
        assert sorted(events_of(list(ShopWorld(1, RUN, size).journeys()))) == list(range(size))


def test_everything_that_can_happen_happens() -> None:
    """All doors, choices, defects, bots, late events, retries, decisions and logins on several devices."""
    journeys = list(ShopWorld(1, RUN, 20_000).journeys())
    events = events_of(journeys).values()
    assert {event.device.door for event in events} == set(DOORS)
    assert {event.device.choice for event in events} == set(VisitorChoice)
    assert {event.defect for event in events} == set(Defect)
    assert any(event.device.bot for event in events)
    assert any(event.age_ms > 3_600_000 for event in events)
    assert any(isinstance(step, DecisionRequest) for journey in journeys for step in journey)
    counts = Counter(id(step) for journey in journeys for step in journey)
    assert max(counts.values()) > 1
    cookies: dict[str, set[str]] = {}
    for event in events:
        if event.login:
            cookies.setdefault(event.person.name, set()).add(event.device.cookie)
    assert max(len(device_cookies) for device_cookies in cookies.values()) > 1


def test_events_of_one_request_share_device_person_and_login() -> None:
    """A request has one set of headers and, in GA4, one user id."""
    for journey in ShopWorld(2, RUN, 3_000).journeys():
        for step in journey:
            if isinstance(step, SimulatedRequest):
                assert len({(event.device, event.person, event.login) for event in step.events}) == 1
