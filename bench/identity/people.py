"""Persons and households of the identity world, with their browsers and devices."""

import random
from dataclasses import dataclass, field

from bench.identity.rates import DAY_MS, Rates

FREQUENT_VISITS = 5


@dataclass(slots=True)
class Carrier:
    """What carries an id: an app on a device, or a browser. `value` is the current id; a browser's expires and is replaced."""

    name: str
    kind: str
    """`device` or `cookie`."""
    short_lived: bool = False
    shared: bool = False
    junk: bool = False
    value: str = ""
    expires_ms: float = 0.0
    """When the value is replaced, milliseconds since the start."""
    generation: int = 0
    session: int | None = None
    """The person who is logged in and remembered."""
    jar: "Carrier | None" = None
    """Cookies of an app's web view."""

    def renew(self, now: float, rng: random.Random, rates: Rates) -> None:
        """Replace an expired id, which also ends the session; create the first id."""
        if self.value and now < self.expires_ms:
            if self.short_lived:
                self.expires_ms = now + rates.short_life_days * DAY_MS
            return
        self.session = None
        self.generation += 1
        self.value = f"{self.name}.{self.generation}"
        if self.kind == "cookie":
            mean = rates.cookie_life_days * DAY_MS
            self.expires_ms = now + (rates.short_life_days * DAY_MS if self.short_lived else rng.expovariate(1 / mean))
        else:
            again = self.generation == 1 and rng.random() < rates.reinstalls
            self.expires_ms = now + rng.random() * rates.days * DAY_MS if again else float("inf")


@dataclass(slots=True)
class WorldPerson:
    """One person. `visits` are times in milliseconds from the start of the world."""

    number: int
    visits: list[float]
    user: str | None
    """The user id, of persons with an account."""
    account_from: float
    habit: float
    """Probability that a visit has a login."""
    remembered: bool
    emails: list[str]
    subscriber: bool
    browsers: list[Carrier]
    app: Carrier | None


@dataclass(slots=True)
class Household:
    """Persons under one roof, and what they share."""

    people: list[WorldPerson]
    shared: list[Carrier] = field(default_factory=list)
    email: str | None = None
    """Their common address, if any."""


def draw_household(number: int, first_person: int, rng: random.Random, rates: Rates) -> Household:
    """Draw the next household; its persons are numbered from `first_person`."""
    sizes = range(1, len(rates.household_sizes) + 1)
    size = rng.choices(sizes, rates.household_sizes)[0]
    household = Household([draw_person(first_person + n, rng, rates) for n in range(size)])
    if size == 1:
        return household
    # Only households of several can share, so that there the share has to be higher to be what it is of all.
    several = sum(n * share for n, share in zip(sizes, rates.household_sizes, strict=True)) - rates.household_sizes[0]
    odds = rates.shared * (several + rates.household_sizes[0]) / several
    for person in household.people:
        for carrier in carriers(person):
            if rng.random() < odds:
                carrier.shared = True
                household.shared.append(carrier)
    if rng.random() < rates.household_email:
        household.email = f"family{number}@mail.example"
        for person in household.people:
            person.emails[0] = household.email
    return household


def draw_person(number: int, rng: random.Random, rates: Rates) -> WorldPerson:
    """Draw one person: visits, carriers, addresses."""
    span = rates.days * DAY_MS
    first = rng.random() * span if rng.random() < rates.newcomers else 0.0
    visits = max(1, round(rng.lognormvariate(rates.visits_mu, rates.visits_sigma)))
    share = rates.accounts_frequent if visits >= FREQUENT_VISITS else rates.accounts_rare
    emails = [f"p{number}@mail.example"]
    if rng.random() < rates.second_email:
        emails.append(f"p{number}@work.example")
    names = ["phone", *(name for name, odds in (("laptop", rates.laptop), ("work", rates.work_browser)) if rng.random() < odds)]
    return WorldPerson(
        number=number,
        visits=[first + rng.random() * (span - first) for _ in range(visits)],
        user=f"user-{number}" if rng.random() < share else None,
        account_from=rng.random() * span if rng.random() < rates.sign_ups else 0.0,
        habit=rng.betavariate(rates.habit_alpha, rates.habit_beta),
        remembered=rng.random() < rates.remembered,
        emails=emails,
        subscriber=rng.random() < rates.subscribers,
        browsers=[Carrier(f"c{number}.{name}", "cookie", rng.random() < rates.short_lived) for name in names],
        app=draw_app(number, rng, rates) if rng.random() < rates.app else None,
    )


def draw_app(number: int, rng: random.Random, rates: Rates) -> Carrier:
    """Draw an app with the cookie jar of its web view."""
    jar = Carrier(f"c{number}.view", "cookie", rng.random() < rates.short_lived)
    return Carrier(f"d{number}", "device", junk=rng.random() < rates.junk_device, jar=jar)


def carriers(person: WorldPerson) -> list[Carrier]:
    """Return all browsers and apps of a person."""
    return person.browsers if person.app is None else [*person.browsers, person.app]
