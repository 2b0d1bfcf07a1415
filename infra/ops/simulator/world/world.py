"""A seeded world of shoppers, their choices and their events. Pure: the same seed gives the same world.

One journey is one household: its steps are sequential, journeys are parallel. Events are numbered from 0 through the whole
world. The world is sent in acts: the stream must drain before each but the first, because the stories (`stories.py`) contain
refusals that take time to propagate. Most journeys are no stories, and lie within one act.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from infra.ops.simulator.world.acts import (
    DecisionRequest,
    Defect,
    Device,
    Journey,
    PlayedRefusal,
    SimulatedEvent,
    SimulatedPerson,
    SimulatedRequest,
    Step,
    VisitorChoice,
)
from infra.ops.simulator.world.memory import HouseholdMemory
from infra.ops.simulator.world.population import BOT_AGENT, Population
from infra.ops.simulator.world.stories import ACTS, stories

REGIONS = (("DE", 40), ("FR", 15), ("GB", 10), ("US", 25), ("", 10))
NOWHERE = (("", 1),)
CHOICES = (
    (VisitorChoice.CMP_ALL, 30),
    (VisitorChoice.CMP_NONE, 9),
    (VisitorChoice.CMP_ANALYTICS, 9),
    (VisitorChoice.CMP_NO_MARKETING, 9),
    (VisitorChoice.MODE_ALL, 12),
    (VisitorChoice.MODE_NONE, 5),
    (VisitorChoice.MODE_ANALYTICS, 5),
    (VisitorChoice.CONFLICT, 4),
    (VisitorChoice.GPC, 4),
    (VisitorChoice.SILENT, 12),
    (VisitorChoice.ONETRUST_NONE, 3),
    (VisitorChoice.ONETRUST_NO_ADS, 3),
    (VisitorChoice.UNMAPPED, 3),
)
"""Choices of visitors without a story: undated, so that they do not reach other devices (`memory.py`, rule 4)."""
BATCHED = (Defect.NO_NAME, Defect.NOT_AN_OBJECT)


@dataclass(frozen=True)
class Mix:
    """Probabilities of the world's events."""

    duplicate: float = 0.02
    late: float = 0.02
    defect: float = 0.006
    bot: float = 0.03
    shared_device: float = 0.05
    second_device: float = 0.35
    login: float = 0.45
    purchase: float = 0.25
    widget: float = 0.4
    withdraw: float = 0.04
    stories: float = 0.2
    """Share of all events that belong to stories."""
    poison: float = 0.0004


MIX = Mix()


class ShopWorld:
    """Generates journeys with exactly `events` events."""

    def __init__(
        self, seed: int, run: str, events: int, mix: Mix = MIX, *, regions: Sequence[tuple[str, int]] = REGIONS
    ) -> None:
        self._population = Population(seed, run, events, regions)
        self._events = events
        self._mix = mix
        self._stories = list(stories(self._population, int(events * mix.stories)))

    @property
    def refusals(self) -> list[PlayedRefusal]:
        """The refusals of the stories."""
        return [refusal for refusal, _ in self._stories]

    def acts(self) -> Iterator[Iterator[Journey]]:
        """Yield the journeys of each act, to be consumed before the next one; a single act where there is no story."""
        acts = ACTS if self._stories else 1
        begins = self._population.events
        for act in range(acts):
            story_journeys = (tuple(steps[act]) for _, steps in self._stories if steps[act])
            yield chain(story_journeys, self._journeys(begins + (self._events - begins) * (act + 1) // acts))

    def journeys(self) -> Iterator[Journey]:
        """Yield the journeys of all acts."""
        return chain.from_iterable(self.acts())

    def _journeys(self, until: int) -> Iterator[Journey]:
        """Yield households without a story until there are `until` events."""
        while self._population.events < until:
            yield tuple(_with_grants(self._household()))

    def _household(self) -> list[Step]:
        device = self._device()
        person = self._population.person()
        if device.bot:
            return self._session(device, person, login=False)
        steps = self._session(device, person, login=False)
        if not self._population.happens(self._mix.login):
            return steps
        if self._population.happens(self._mix.shared_device):
            device = replace(device, shared=True)
        steps += self._session(device, person, login=True)
        if self._population.happens(self._mix.second_device):
            other = replace(self._device(person_device=True), first=False)
            steps += self._session(other, person, login=False)
            steps += self._session(other, person, login=True)
        if device.shared:
            steps += self._session(device, self._population.person(), login=True)
        if self._population.happens(self._mix.withdraw):
            steps += self._session(replace(device, choice=VisitorChoice.CMP_NONE), person, login=True)
        if self._population.happens(self._mix.duplicate):
            # A client that reconnects repeats a request long after. One without consent signals is excluded: the visitor's
            # later choices would decide its outcome.
            repeatable = [
                step for step in steps if isinstance(step, SimulatedRequest) and step.device.choice is not VisitorChoice.SILENT
            ]
            steps += [self._population.rng.choice(repeatable)] if repeatable else []
        return steps

    def _session(self, device: Device, person: SimulatedPerson, *, login: bool) -> list[Step]:
        steps: list[Step] = []
        has_widget = not device.bot and self._population.happens(self._mix.widget)
        if has_widget:
            steps.append(DecisionRequest(device, person))
        names = self._names(login=login, has_widget=has_widget, bot=device.bot)
        events = [self._event(name, device, person, login=login, answers=has_widget) for name in names[: self._population.left]]
        while events:
            size = self._population.rng.randint(1, 6)
            steps += self._requests(tuple(events[:size]))
            events = events[size:]
        return steps

    def _requests(self, events: tuple[SimulatedEvent, ...]) -> list[Step]:
        """Return the request, with defects by chance; sometimes the client repeats it at once."""
        if self._population.happens(self._mix.defect):
            defect = self._population.rng.choice((Defect.WRONG_KEY, Defect.BROKEN_BODY))
            events = tuple(replace(event, defect=defect) for event in events)
        else:
            events = tuple(self._maybe_defective(event) for event in events)
        poison = [event for event in events if event.defect is Defect.POISON]
        rest = tuple(event for event in events if event.defect is not Defect.POISON)
        steps: list[Step] = [SimulatedRequest((event,)) for event in poison]
        if rest:
            steps += [SimulatedRequest(rest)] * (2 if self._population.happens(self._mix.duplicate) else 1)
        return steps

    def _maybe_defective(self, event: SimulatedEvent) -> SimulatedEvent:
        if event.answers:
            return event
        if self._population.happens(self._mix.poison):
            return replace(event, defect=Defect.POISON)
        if self._population.happens(self._mix.defect):
            return replace(event, defect=self._population.rng.choice(BATCHED))
        return event

    def _names(self, *, login: bool, has_widget: bool, bot: bool) -> list[str]:
        names = ["page_view"] * self._population.rng.randint(1, 2 if bot else 4)
        if bot:
            return names
        if has_widget:
            names.insert(1, "widget_viewed")
        if login:
            names.insert(0, "login")
        names += ["view_item"] * self._population.rng.randint(0, 3)
        if self._population.happens(self._mix.purchase):
            names += ["add_to_cart", "begin_checkout", "purchase"]
        return names

    def _event(self, name: str, device: Device, person: SimulatedPerson, *, login: bool, answers: bool) -> SimulatedEvent:
        answers = answers and name in ("widget_viewed", "purchase")
        # An event that refers to a decision follows it, or it would be outside the attribution window.
        late = not answers and self._population.happens(self._mix.late)
        return replace(self._population.event(name, device, person, login=login, late=late), answers=answers)

    def _device(self, *, person_device: bool = False) -> Device:
        bot = not person_device and self._population.happens(self._mix.bot)
        region = self._population.region()
        device = self._population.device(VisitorChoice.SILENT if bot else self._population.pick(CHOICES), region)
        return replace(device, agent=BOT_AGENT, bot=True) if bot else device


def _with_grants(steps: list[Step]) -> list[Step]:
    """Return a household's steps with the purposes to be granted to each event; a repeated request stays the same object."""
    memory = HouseholdMemory()
    judged: dict[int, Step] = {}
    for step in steps:
        if isinstance(step, SimulatedRequest) and id(step) not in judged:
            judged[id(step)] = SimulatedRequest(tuple(_with_grant(event, memory) for event in step.events))
    return [judged.get(id(step), step) for step in steps]


def _with_grant(event: SimulatedEvent, memory: HouseholdMemory) -> SimulatedEvent:
    return replace(event, granted=memory.add_event(event)) if event.defect is Defect.NONE else event
