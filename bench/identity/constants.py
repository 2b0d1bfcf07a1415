"""A world of constants: ids that a tag, a kiosk or a form gives to everybody, beside the visitors' own ids.

Each of `CASES` is a share of the traffic from the first day on; each of `SLOW` gets one new visitor a day, which stays under
daily limits. `headwater identity tidy` runs once a day, as in `headwater upkeep`. Seeded, with known truth.
"""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from bench.identity.metrics import main_owners, people_by_canonical
from bench.identity.rates import DAY_MS
from bench.identity.results import Advance
from bench.identity.stage_contender import ContenderStage, follow_profile
from bench.identity.world import OWN, SECRET, START_TS, WorldEvent
from infra.secrets import Secret
from streams.identity.nodes import NodeKeys, node

PERSONS, DAYS, BATCH = 10_000, 30, 500
EVENTS_PER_PERSON = 20
EVENTS = PERSONS * EVENTS_PER_PERSON
SHARE = 0.05
"""Of all events, for each case."""
ALONE = 0.1
"""Of a case's events: those that carry the constant only."""
SHORT_LIVED = 0.35
"""Of browsers: those that drop their cookie every week."""
MEMBERS, SAYS_EMAIL, HAS_DEVICE, HAS_PHONE = 0.5, 0.5, 0.4, 0.5
"""Share of persons with an account; of logins with an e-mail; of persons with a device; of persons with a phone."""


class ConstantCase(NamedTuple):
    """A constant and the ids that come with it."""

    name: str
    kind: str
    """Identifier type of the constant; a key of `TIERS`."""
    member: str
    """Identifier type of the visitor's own id."""


CASES = (
    ConstantCase("anonymous id beside client ids", "cookie", "cookie"),
    ConstantCase("kiosk's cookie with e-mails", "cookie", "email"),
    ConstantCase("kiosk's device with e-mails", "device", "email"),
    ConstantCase("shop's phone with e-mails", "phone", "email"),
    ConstantCase("e-mail with phones", "email", "phone"),
    ConstantCase("web view's cookie with devices", "cookie", "device"),
)
SLOW = (
    *(ConstantCase(f"slow: {case.name}", case.kind, case.member) for case in CASES),
    ConstantCase("slow: user id with client ids", "user", "cookie"),
    ConstantCase("slow: e-mail with client ids", "email", "cookie"),
    ConstantCase("slow: device with client ids", "device", "cookie"),
)


class Occurrence(NamedTuple):
    """An event and the case that it belongs to."""

    event: WorldEvent
    case: ConstantCase | None


@dataclass(frozen=True)
class Figures:
    """Result of the stage with a daily `tidy`; shares are 0 to 1."""

    events: int
    wrong: float
    """Of events: in another person's profile at the end."""
    wrong_later: int
    """Of those: after the first day of the constants, without slow constants and the persons they merged."""
    wrong_slow: int
    """Of those: of persons who met a slow constant."""
    stamped_wrong_later: int
    """As `wrong_later`, by the profile that events had on arrival."""
    unattributed: float
    """Of events: in nobody's profile."""
    merged: Mapping[str, int]
    """Slow case -> persons in the largest profile of a person who met it, at the end."""


def make(persons: int = PERSONS, days: int = DAYS, seed: int = 1) -> list[Occurrence]:
    """Generate events in the order of arrival."""
    return _ConstantWorldMaker(random.Random(seed), persons, days).make()


class ConstantVisit(NamedTuple):
    """A visit, before it becomes an event."""

    at: float
    """Milliseconds since the start of the world."""
    person: int
    nodes: tuple[str, ...]
    case: ConstantCase | None


class _ConstantWorldMaker:
    def __init__(self, rng: random.Random, persons: int, days: int) -> None:
        self._rng, self._persons, self._days = rng, persons, days
        self._keys = NodeKeys.derive(Secret(SECRET))
        self._known: dict[tuple[str, str], str] = {}
        self._traits = [
            {name: rng.random() < share for name, share in (("user", MEMBERS), ("device", HAS_DEVICE), ("phone", HAS_PHONE))}
            | {"short": rng.random() < SHORT_LIVED}
            for _ in range(persons)
        ]

    def make(self) -> list[Occurrence]:
        rng, visits = self._rng, list[ConstantVisit]()
        total = self._persons * EVENTS_PER_PERSON
        for case in CASES:
            for _ in range(int(total * SHARE)):
                at, person = rng.random() * self._days * DAY_MS, rng.randrange(self._persons)
                own = () if rng.random() < ALONE else (self._own(person, case.member, at),)
                visits.append(ConstantVisit(at, person, (self._node(case.kind, case.name), *own), case))
        for case in SLOW:
            for day in range(self._days):
                at, person = (day + rng.random()) * DAY_MS, rng.randrange(self._persons)
                own = (self._own(person, case.member, at),)
                visits.append(ConstantVisit(at, person, (self._node(case.kind, case.name), *own), case))
        for _ in range(total - len(visits)):
            at, person = rng.random() * self._days * DAY_MS, rng.randrange(self._persons)
            visits.append(ConstantVisit(at, person, self._ordinary(person, at), None))
        visits.sort()
        return [
            Occurrence(WorldEvent(START_TS + int(at), START_TS + int(at), f"{n:032x}", tuple(sorted(nodes)), person, OWN), case)
            for n, (at, person, nodes, case) in enumerate(visits)
        ]  # fmt: skip

    def _ordinary(self, person: int, at: float) -> tuple[str, ...]:
        """Return the nodes of a visit by app or browser, some of them logged in."""
        rng, traits = self._rng, self._traits[person]
        main = "device" if traits["device"] and rng.random() < 0.5 else "cookie"
        nodes = [self._own(person, main, at)]
        if traits["user"] and rng.random() < 0.3:
            nodes.append(self._own(person, "user", at))
            nodes += [self._own(person, "email", at)] if rng.random() < SAYS_EMAIL else []
        elif rng.random() < 0.1:
            nodes.append(self._own(person, "email", at))
            nodes += [self._own(person, "phone", at)] if traits["phone"] else []
        return tuple(nodes)

    def _own(self, person: int, kind: str, at: float) -> str:
        value = f"{kind}-{person}"
        if kind == "cookie" and self._traits[person]["short"]:
            value += f"-{int(at // (7 * DAY_MS))}"
        return self._node(kind, value)

    def _node(self, kind: str, value: str) -> str:
        if (kind, value) not in self._known:
            spelt = value
            if kind == "email":
                spelt = f"{''.join(filter(str.isalnum, value))}@shop.example"
            elif kind == "phone":
                person = value.removeprefix("phone-")
                spelt = f"+4930{20_000_000 + int(person) if person.isdecimal() else 99_000_000 + len(self._known) % 10**6}"
            spelt_node = node(self._keys, kind, spelt)
            assert spelt_node is not None
            self._known[kind, value] = spelt_node
        return self._known[kind, value]


def measure(rows: Sequence[Occurrence], advance: Advance, size: int = BATCH) -> Figures:
    """Resolve the events with the stage, and tidy at the end of each day."""
    room, profiles = ContenderStage(), list[str]()
    events = [row.event for row in rows]
    for _, today in groupby(events, lambda event: (event.arrived - START_TS) // DAY_MS):
        start, day_events = len(profiles), list(today)
        for at in range(0, len(day_events), size):
            room.resolve_batch(day_events[at : at + size])
            advance(len(day_events[at : at + size]))
        profiles += [room.profile_by_event[event.event_id] for event in day_events]
        profiles = room.tidy(start, list(zip(events[: len(profiles)], profiles, strict=True)))
    return _figures(rows, [follow_profile(room.store.slots, profile) for profile in profiles], room)


def _figures(rows: Sequence[Occurrence], canonicals: Sequence[str], room: ContenderStage) -> Figures:
    events = [row.event for row in rows]
    people = people_by_canonical(events, canonicals)
    owners = main_owners(people)
    slow = {row.event.person for row in rows if row.case in SLOW}
    first_day = START_TS + DAY_MS
    at_arrival = [room.profile_by_event[event.event_id] for event in events]
    later = [(event, profile) for event, profile in zip(events, at_arrival, strict=True) if event.arrived >= first_day]
    arrival_owners = main_owners(people_by_canonical([event for event, _ in later], [profile for _, profile in later]))
    wrong = [
        event for event, canonical in zip(events, canonicals, strict=True)
        if canonical not in room.nobodys and owners[canonical] != event.person
    ]  # fmt: skip
    merged: defaultdict[str, int] = defaultdict(int)
    for (_, case), canonical in zip(rows, canonicals, strict=True):
        if case is not None and case in SLOW and canonical not in room.nobodys:
            merged[case.name] = max(merged[case.name], len(people[canonical]))
    return Figures(
        len(events), len(wrong) / len(events),
        sum(event.arrived >= first_day and event.person not in slow for event in wrong),
        sum(event.person in slow for event in wrong),
        sum(
            profile not in room.nobodys and arrival_owners[profile] != event.person and event.person not in slow
            for event, profile in later
        ),
        sum(canonical in room.nobodys for canonical in canonicals) / len(events), dict(merged),
    )  # fmt: skip
