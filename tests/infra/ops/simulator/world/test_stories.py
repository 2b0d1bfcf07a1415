"""Stories of visitors who refuse."""

from collections import Counter
from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from infra.ops.simulator.truth import ALL, OPT_OUT_REGIONS
from infra.ops.simulator.world.acts import Channel, SimulatedEvent, SimulatedRequest, Statement, Step, VisitorChoice
from infra.ops.simulator.world.population import Population
from infra.ops.simulator.world.stories import ACTS, BEFORE, CONSENTS, END, LONGEST, REFUSES, stories
from infra.ops.simulator.world.world import NOWHERE, REGIONS, ShopWorld

RUN = "abcdefab"


def events_of(steps: Iterable[Step]) -> list[SimulatedEvent]:
    """The events of an act."""
    return [event for step in steps if isinstance(step, SimulatedRequest) for event in step.events]


def test_every_channel_is_played_and_some_visitors_consent_again() -> None:
    """By form and by event; each story in whole acts, each refusal before what it costs."""
    played = list(stories(Population(3, RUN, 6_000, REGIONS), 6_000))
    counted = Counter(refusal.channel for refusal, _ in played)
    assert set(counted) == set(Channel)
    assert max(counted.values()) - min(counted.values()) <= 1
    again = [acts for refusal, acts in played if refusal.consented_again]
    assert {type(acts[CONSENTS][0]) for acts in again} == {SimulatedRequest, Statement}
    for _, acts in played:
        assert len(acts) == ACTS
        assert acts[REFUSES]
        assert all(event.granted == ALL for event in events_of(acts[BEFORE]))


def test_refusals_cost_events_and_later_consent_gives_them_back() -> None:
    """In each channel some events lose something, and after a second consent some do not."""
    lost, regained = Counter[Channel](), Counter[Channel]()
    for refusal, acts in stories(Population(5, RUN, 9_000, REGIONS), 9_000):
        at_end = events_of(acts[END])
        lost[refusal.channel] += sum(event.granted != ALL for act in acts for event in events_of(act))
        if refusal.consented_again:
            regained[refusal.channel] += sum(event.granted == ALL for event in at_end)
    assert all(lost[channel] for channel in Channel)
    assert set(+regained) == set(Channel) - {Channel.GPC, Channel.UNMAPPED}


def test_who_refuses_at_home_is_silent_abroad() -> None:
    """Where silence is a grant, if the world has such a region; where it has none, she is silent at home."""
    for regions, abroad in ((REGIONS, OPT_OUT_REGIONS), (NOWHERE, {""})):
        for refusal, acts in stories(Population(2, RUN, 3_000, regions), 3_000):
            if refusal.channel is Channel.ABROAD:
                silent = [event for event in events_of(acts[END]) if event.device.choice is VisitorChoice.SILENT]
                assert silent
                assert {event.device.region for event in silent} <= set(abroad)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 1_500))
def test_no_event_hangs_on_how_fast_the_house_is(seed: int, events: int) -> None:
    """For every seed the model never raises `RaceDependent`, and there are exactly the requested number of events."""
    world = ShopWorld(seed, RUN, events)
    numbers = {event.n for journey in world.journeys() for event in events_of(journey)}
    assert numbers == set(range(events))


def test_no_story_is_longer_than_it_says() -> None:
    """So none is cut at the end of its share of the world."""
    for _, acts in stories(Population(8, RUN, 20_000, REGIONS), 20_000):
        assert sum(len(events_of(act)) for act in acts) <= LONGEST


def test_a_world_that_is_too_small_for_a_story_has_one_act() -> None:
    """Nothing has to be waited for."""
    assert len(list(ShopWorld(1, RUN, 100).acts())) == 1
    assert len([list(act) for act in ShopWorld(1, RUN, 2_000).acts()]) == ACTS
