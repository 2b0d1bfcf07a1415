"""A seeded world of shoppers: who they are, what they chose, what they do. Pure: the same seed gives the same world.

One journey is one household: its steps happen one after the other, journeys happen beside one another. Every event has
a number, counted from 0 through the whole world.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from infra.simulator.acts import DOORS, Ask, Choice, Defect, Device, Event, Journey, Person, Request, Step
from infra.simulator.marks import event_id, marker

T = TypeVar("T")

HOUR_MS = 3_600_000
PAGES = ("/", "/c/shoes", "/c/jackets", "/p/trail-runner", "/p/rain-shell", "/p/wool-hat", "/cart", "/checkout")
AGENTS = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Mobile/15E",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10.15; rv:143.0) Gecko/20100101 Firefox/143.0",
)
BOT_AGENT = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"
REGIONS = (("DE", 40), ("FR", 15), ("GB", 10), ("US", 25), ("", 10))
NOWHERE = (("", 1),)
CHOICES = (
    (Choice.CMP_ALL, 30),
    (Choice.CMP_NONE, 10),
    (Choice.CMP_ANALYTICS, 10),
    (Choice.CMP_NO_MARKETING, 10),
    (Choice.MODE_ALL, 12),
    (Choice.MODE_NONE, 6),
    (Choice.MODE_ANALYTICS, 6),
    (Choice.CONFLICT, 4),
    (Choice.GPC, 4),
    (Choice.SILENT, 12),
)
BATCHED = (Defect.NO_NAME, Defect.NOT_AN_OBJECT)


@dataclass(frozen=True)
class Mix:
    """How often things happen, as shares."""

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
    poison: float = 0.0004


MIX = Mix()


class World:
    """Makes journeys and numbers their events, until there are exactly `events` of them."""

    def __init__(
        self, seed: int, run: str, events: int, mix: Mix = MIX, *, regions: Sequence[tuple[str, int]] = REGIONS
    ) -> None:
        self._rng = random.Random(seed)
        self._run = run
        self._left = events
        self._mix = mix
        self._regions = regions
        self._made = 0
        self._people = 0

    def journeys(self) -> Iterator[Journey]:
        """Households, one by one."""
        while self._left > 0:
            yield tuple(self._household())

    def _household(self) -> list[Step]:
        device = self._device()
        person = self._person()
        if device.bot:
            return self._session(device, person, login=False)
        steps = self._session(device, person, login=False)
        if not self._happens(self._mix.login):
            return steps
        if self._happens(self._mix.shared_device):
            device = replace(device, shared=True)
        steps += self._session(device, person, login=True)
        if self._happens(self._mix.second_device):
            other = replace(self._device(person_device=True), first=False)
            steps += self._session(other, person, login=False)
            steps += self._session(other, person, login=True)
        if device.shared:
            steps += self._session(device, self._person(), login=True)
        if self._happens(self._mix.withdraw):
            steps += self._session(replace(device, choice=Choice.CMP_NONE), person, login=True)
        if self._happens(self._mix.duplicate):
            # A client that comes back from the tunnel sends what it thinks was lost, long after.
            steps.append(self._rng.choice([step for step in steps if isinstance(step, Request)] or steps))
        return steps

    def _session(self, device: Device, person: Person, *, login: bool) -> list[Step]:
        steps: list[Step] = []
        asked = not device.bot and self._happens(self._mix.widget)
        if asked:
            steps.append(Ask(device, person))
        names = self._names(login=login, asked=asked, bot=device.bot)
        events = [self._event(name, device, person, login=login, answers=asked) for name in names[: self._left]]
        while events:
            size = self._rng.randint(1, 6)
            steps += self._sent(tuple(events[:size]))
            events = events[size:]
        return steps

    def _sent(self, events: tuple[Event, ...]) -> list[Step]:
        """One request, or what its defect makes of it; sometimes the client repeats it at once."""
        if self._happens(self._mix.defect):
            events = tuple(replace(event, defect=self._rng.choice((Defect.WRONG_KEY, Defect.BROKEN_BODY))) for event in events)
        else:
            events = tuple(self._maybe_broken(event) for event in events)
        poison = [event for event in events if event.defect is Defect.POISON]
        rest = tuple(event for event in events if event.defect is not Defect.POISON)
        steps: list[Step] = [Request((event,)) for event in poison]
        if rest:
            steps += [Request(rest)] * (2 if self._happens(self._mix.duplicate) else 1)
        return steps

    def _maybe_broken(self, event: Event) -> Event:
        if event.answers:
            return event
        if self._happens(self._mix.poison):
            return replace(event, defect=Defect.POISON)
        if self._happens(self._mix.defect):
            return replace(event, defect=self._rng.choice(BATCHED))
        return event

    def _names(self, *, login: bool, asked: bool, bot: bool) -> list[str]:
        names = ["page_view"] * self._rng.randint(1, 2 if bot else 4)
        if bot:
            return names
        if asked:
            names.insert(1, "widget_viewed")
        if login:
            names.insert(0, "login")
        names += ["view_item"] * self._rng.randint(0, 3)
        if self._happens(self._mix.purchase):
            names += ["add_to_cart", "begin_checkout", "purchase"]
        return names

    def _event(self, name: str, device: Device, person: Person, *, login: bool, answers: bool) -> Event:
        n = self._made
        self._made += 1
        self._left -= 1
        bought = name == "purchase"
        answers = answers and name in ("widget_viewed", "purchase")
        # What answers a decision happens after it, or no attribution window would take it.
        late = not answers and self._happens(self._mix.late)
        return Event(
            n=n,
            id=event_id(self._run, n),
            run=self._run,
            name=name,
            device=device,
            person=person,
            login=login,
            age_ms=self._rng.randint(6 * HOUR_MS, 47 * HOUR_MS) if late else self._rng.randint(0, 2_000),
            page=self._rng.choice(PAGES),
            value=round(self._rng.uniform(9, 240), 2) if bought else 0.0,
            order_id=f"o-{self._run}-{n}" if bought else "",
            email=login and name in ("login", "purchase"),
            answers=answers,
        )

    def _person(self) -> Person:
        self._people += 1
        clear = marker("cl", self._run, self._people)
        return Person(f"person-{self._people}", f"account-{clear}", f"{clear}@mail.example", self._people)

    def _device(self, *, person_device: bool = False) -> Device:
        bot = not person_device and self._happens(self._mix.bot)
        self._people += 1
        return Device(
            cookie=f"cookie-{marker('cl', self._run, self._people)}",
            door=self._rng.choice(DOORS),
            region=self._pick(self._regions),
            choice=Choice.SILENT if bot else self._pick(CHOICES),
            agent=BOT_AGENT if bot else self._rng.choice(AGENTS),
            bot=bot,
        )

    def _happens(self, share: float) -> bool:
        return self._rng.random() < share

    def _pick(self, weighted: Sequence[tuple[T, int]]) -> T:
        return self._rng.choices([item for item, _ in weighted], [weight for _, weight in weighted])[0]
