"""People, devices and events of the simulated world, drawn with one seed and numbered. Pure."""

import random
from collections.abc import Sequence
from typing import TypeVar

from infra.ops.simulator.marks import event_id, marker
from infra.ops.simulator.truth import OPT_OUT_REGIONS
from infra.ops.simulator.world.acts import DOORS, Device, Door, SimulatedEvent, SimulatedPerson, VisitorChoice

T = TypeVar("T")

HOUR_MS = 3_600_000
PAGES = ("/", "/c/shoes", "/c/jackets", "/p/trail-runner", "/p/rain-shell", "/p/wool-hat", "/cart", "/checkout")
AGENTS = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Mobile/15E",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10.15; rv:143.0) Gecko/20100101 Firefox/143.0",
)
BOT_AGENT = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"
Weighted = Sequence[tuple[T, int]]


class Population:
    """Draws people, devices and events. Events are numbered from 0, at most `events` of them."""

    def __init__(self, seed: int, run: str, events: int, regions: Weighted[str]) -> None:
        self.rng = random.Random(seed)
        self.left = events
        self._run = run
        self._regions = regions
        self._events = 0
        self._names = 0

    @property
    def events(self) -> int:
        """Number of events drawn."""
        return self._events

    def happens(self, share: float) -> bool:
        """Return True with this probability."""
        return self.rng.random() < share

    def pick(self, weighted: Weighted[T]) -> T:
        """Return one item by weight."""
        return self.rng.choices([item for item, _ in weighted], [weight for _, weight in weighted])[0]

    def person(self) -> SimulatedPerson:
        """Return a new person."""
        self._names += 1
        clear = marker("cl", self._run, self._names)
        return SimulatedPerson(f"person-{self._names}", f"account-{clear}", f"{clear}@mail.example", self._names)

    def device(self, choice: VisitorChoice, region: str, doors: Sequence[Door] = DOORS) -> Device:
        """Return a new browser."""
        self._names += 1
        cookie = f"cookie-{marker('cl', self._run, self._names)}"
        return Device(cookie, self.rng.choice(doors), region, choice, self.rng.choice(AGENTS))

    def region(self) -> str:
        """Return a region by weight."""
        return self.pick(self._regions)

    def region_where(self, *, silence_grants: bool) -> str:
        """Return an opt-out region, or an opt-in one; any region where the world has no such."""
        fitting = [region for region in self._regions if (region[0] in OPT_OUT_REGIONS) == silence_grants]
        return self.pick(fitting or self._regions)

    def event(self, name: str, device: Device, person: SimulatedPerson, *, login: bool, late: bool = False) -> SimulatedEvent:
        """Return the next event."""
        n = self._events
        self._events += 1
        self.left -= 1
        bought = name == "purchase"
        return SimulatedEvent(
            n=n,
            id=event_id(self._run, n),
            run=self._run,
            name=name,
            device=device,
            person=person,
            login=login,
            age_ms=self.rng.randint(6 * HOUR_MS, 47 * HOUR_MS) if late else self.rng.randint(0, 2_000),
            page=self.rng.choice(PAGES),
            value=round(self.rng.uniform(9, 240), 2) if bought else 0.0,
            order_id=f"o-{self._run}-{n}" if bought else "",
            email=login and name in ("login", "purchase"),
        )
