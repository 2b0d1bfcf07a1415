"""Visitors who refuse and return, and some of whom consent again: one household per story, in five acts. Pure.

The stream drains between two acts, so a choice of one act is effective in the next. Within an act no event depends on a choice
in flight (`memory.py` would raise), so the expected outcome of each event is certain.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from infra.ops.simulator.truth import ALL, MARKETING, PERSONALIZATION
from infra.ops.simulator.world.acts import (
    DOORS,
    Channel,
    DecisionRequest,
    Device,
    Door,
    PlayedRefusal,
    SimulatedEvent,
    SimulatedPerson,
    SimulatedRequest,
    Statement,
    Step,
    VisitorChoice,
)
from infra.ops.simulator.world.memory import CHOICE_EVENT, HouseholdMemory
from infra.ops.simulator.world.population import Population

BEFORE, REFUSES, AFTER, CONSENTS, END = range(5)
ACTS = 5
LONGEST = 60
"""Maximum events of one story."""
CONSENTED_AGAIN = 0.5
UNDATED_GRANTS = (VisitorChoice.CMP_ALL, VisitorChoice.MODE_ALL, VisitorChoice.TC_ALL)
PARTS = (ALL, MARKETING, MARKETING | PERSONALIZATION)
NAMES = ("page_view", "view_item", "add_to_cart")
ONETRUST_DOORS: tuple[Door, ...] = ("headwater", "segment")


class Story:
    """One person on two devices, `first` and `second`, linked by a login."""

    def __init__(self, population: Population, number: int, first: Device, second: Device) -> None:
        self.acts: list[list[Step]] = [[] for _ in range(ACTS)]
        self.first, self.second = first, second
        self.person: SimulatedPerson = population.person()
        self.rng = population.rng
        self.withdrawn = False
        """Withdrawn by a form, which the decision API learns of too."""
        self.consented_again = False
        self._population = population
        self._number = number
        self._memory = HouseholdMemory()
        self._act = BEFORE

    def begin(self, act: int) -> None:
        """Begin an act, after the stream has drained."""
        self._act = act
        self._memory.settle()

    def visit(self, device: Device, *, login: bool, choice: VisitorChoice = VisitorChoice.CMP_ALL) -> None:
        """Add a few events with this choice, undated."""
        names = [*(["login"] if login else []), *self.rng.choices(NAMES, k=self.rng.randint(1, 2))]
        if login and self.rng.random() < 0.2:
            names.append("purchase")
        self._send([self._event(name, replace(device, choice=choice), login=login) for name in names])

    def choose(self, device: Device, *, login: bool, choice: VisitorChoice) -> None:
        """Add an event that is a choice, dated now."""
        self._send([self._event(CHOICE_EVENT, replace(device, choice=choice), login=login)])

    def choose_dated(self, device: Device, *, login: bool, choice: VisitorChoice) -> None:
        """Add an ordinary event whose page dates the choice now."""
        event = self._event("page_view", replace(device, choice=choice), login=login)
        self._send([replace(event, dated=True)])

    def send_statement(self, statement: Statement) -> None:
        """Add a choice without an event."""
        self._memory.add_statement(statement)
        self.acts[self._act].append(statement)

    def request_decision(self, device: Device, choice: VisitorChoice) -> None:
        """Add a widget's request for a decision."""
        granted = self._memory.may_personalize(device.cookie, choice, device.region)
        self.acts[self._act].append(DecisionRequest(replace(device, choice=choice), self.person, granted=granted))

    def abroad(self, device: Device) -> Device:
        """Return the device in an opt-out region."""
        return replace(device, region=self._population.region_where(silence_grants=True))

    def consent_again(self) -> None:
        """Add a later grant of all purposes: by a form, by a choice event, or by a dated ordinary event."""
        self.consented_again = True
        way = self.rng.randrange(3)
        if way == 0:
            fields = (("user_id", self.person.account), ("client_id", self.first.cookie), ("anonymous_id", self.second.cookie))
            self.send_statement(Statement(self.first, fields, ALL, grants=True))
        elif way == 1:
            self.choose(self.first, login=True, choice=VisitorChoice.CMP_ALL)
        else:
            self.choose_dated(self.first, login=True, choice=VisitorChoice.CMP_ALL)

    def _event(self, name: str, device: Device, *, login: bool) -> SimulatedEvent:
        event = self._population.event(name, device, self.person, login=login)
        return event if self._act == BEFORE else replace(event, refusal=self._number)

    def _send(self, events: Sequence[SimulatedEvent]) -> None:
        self.acts[self._act].append(
            SimulatedRequest(tuple(replace(event, granted=self._memory.add_event(event)) for event in events))
        )


def stories(population: Population, events: int) -> Iterator[tuple[PlayedRefusal, list[list[Step]]]]:
    """Yield the refusal and the acts of stories of all channels in turn, of at most `events` events in total."""
    channels = tuple(Channel)
    number = 0
    while population.events + LONGEST <= events:
        channel = channels[number % len(channels)]
        plot = PLOTS[channel]
        story = _household(population, number, channel)
        story.begin(REFUSES)
        can_consent_again = plot.refuse(story)
        story.begin(AFTER)
        plot.return_after(story)
        story.begin(CONSENTS)
        if can_consent_again and population.happens(CONSENTED_AGAIN):
            story.consent_again()
        story.begin(END)
        plot.return_at_end(story)
        yield PlayedRefusal(number, channel, story.consented_again), story.acts
        number += 1


def _household(population: Population, number: int, channel: Channel) -> Story:
    """Return a story whose first act is done: a person has consented on two devices, logged in on one or both."""
    at_home = channel is Channel.ABROAD
    region = population.region_where(silence_grants=False) if at_home else population.region()
    doors = ONETRUST_DOORS if channel is Channel.ONETRUST else DOORS
    first = population.device(VisitorChoice.CMP_ALL, region, doors)
    second = population.device(VisitorChoice.CMP_ALL, population.region())
    story = Story(population, number, first, second)
    story.visit(first, login=False, choice=story.rng.choice(UNDATED_GRANTS))
    if channel is not Channel.BEFORE_LOGIN:
        story.visit(first, login=True)
    story.visit(second, login=True)
    return story


def _refuse_by_form(story: Story) -> bool:
    account, cookie = ("user_id", story.person.account), ("client_id", story.first.cookie)
    identifiers = story.rng.choice(((account, cookie), (account,), (cookie,)))
    purposes, story.withdrawn = story.rng.choice(PARTS), story.rng.random() < 0.5
    story.send_statement(Statement(story.first, identifiers, purposes, withdrawal=story.withdrawn))
    return True


def _refuse_unlinked(story: Story) -> bool:
    # Analytics stays granted, so that the login links the cookie and its refusals reach the other device.
    purposes = story.rng.choice((MARKETING, MARKETING | PERSONALIZATION))
    story.send_statement(Statement(story.first, (("client_id", story.first.cookie),), purposes, withdrawal=True))
    return True


def _refuse_on_first_device(story: Story) -> bool:
    story.choose(
        story.first,
        login=False,
        choice=story.rng.choice((VisitorChoice.CMP_NONE, VisitorChoice.CMP_NO_MARKETING, VisitorChoice.CMP_ANALYTICS)),
    )
    return True


def _refuse_by_tc_string(story: Story) -> bool:
    if story.rng.random() < 0.5:
        story.choose(story.first, login=True, choice=VisitorChoice.TC_NONE)
        return True
    # An ordinary event contains the day alone, so no consent of the same day is certainly later.
    story.visit(story.first, login=True, choice=VisitorChoice.TC_NONE)
    return False


def _refuse_by_onetrust(story: Story) -> bool:
    choice = story.rng.choice((VisitorChoice.ONETRUST_NONE, VisitorChoice.ONETRUST_NO_ADS))
    story.rng.choice((story.choose, story.choose_dated))(story.first, login=True, choice=choice)
    return True


def _refuse_at_home(story: Story) -> bool:
    choice = story.rng.choice((VisitorChoice.CMP_NONE, VisitorChoice.CMP_NO_MARKETING, VisitorChoice.MODE_ANALYTICS))
    if story.rng.random() < 0.5:
        story.choose(story.first, login=True, choice=choice)
        return True
    story.visit(story.first, login=False, choice=choice)
    story.visit(story.first, login=True, choice=choice)
    return False


def _object_by_gpc(story: Story) -> bool:
    story.visit(story.first, login=False, choice=VisitorChoice.GPC)
    story.visit(story.first, login=True, choice=VisitorChoice.GPC)
    return False


def _refuse_unknown_names(story: Story) -> bool:
    _return_with_unknown_names(story)
    return False


def _return_everywhere(story: Story) -> None:
    for device in (story.first, story.second):
        for login in (True, False):
            story.visit(device, login=login, choice=story.rng.choice(UNDATED_GRANTS))
    if story.withdrawn:
        story.request_decision(story.first, VisitorChoice.CMP_ALL)
        story.request_decision(story.second, VisitorChoice.CMP_ALL)


def _return_on_second_device(story: Story) -> None:
    for login in (True, False):
        story.visit(story.second, login=login, choice=story.rng.choice(UNDATED_GRANTS))


def _return_and_log_in(story: Story) -> None:
    for login in (True, False):
        story.visit(story.first, login=login, choice=story.rng.choice(UNDATED_GRANTS))


def _return_abroad(story: Story) -> None:
    for device, login in ((story.second, True), (story.second, False), (story.first, False)):
        story.visit(story.abroad(device), login=login, choice=VisitorChoice.SILENT)


def _return_without_gpc(story: Story) -> None:
    for login in (True, False):
        story.visit(story.abroad(story.first), login=login, choice=VisitorChoice.SILENT)
    story.visit(story.first, login=False)


def _return_with_unknown_names(story: Story) -> None:
    for device in (story.first, story.second):
        story.visit(device, login=True, choice=VisitorChoice.UNMAPPED)


Act = Callable[[Story], None]


class Plot(NamedTuple):
    """The steps of one channel."""

    refuse: Callable[[Story], bool]
    """Adds the refusal; returns whether a later consent can lift it within the run."""
    return_after: Act
    """Adds events after the refusal."""
    return_at_end: Act
    """Adds events after a possible second consent."""


PLOTS: Mapping[Channel, Plot] = {
    Channel.WEBHOOK: Plot(_refuse_by_form, _return_everywhere, _return_everywhere),
    Channel.OTHER_DEVICE: Plot(_refuse_on_first_device, _return_on_second_device, _return_on_second_device),
    Channel.TC_TODAY: Plot(_refuse_by_tc_string, _return_everywhere, _return_everywhere),
    Channel.ONETRUST: Plot(_refuse_by_onetrust, _return_everywhere, _return_everywhere),
    Channel.ABROAD: Plot(_refuse_at_home, _return_abroad, _return_abroad),
    Channel.GPC: Plot(_object_by_gpc, _return_without_gpc, _return_without_gpc),
    Channel.UNMAPPED: Plot(_refuse_unknown_names, _return_with_unknown_names, _return_with_unknown_names),
    Channel.BEFORE_LOGIN: Plot(_refuse_unlinked, _return_and_log_in, _return_everywhere),
}
