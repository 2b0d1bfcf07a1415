"""A seeded world with known truth: what people did over two months, as identity reads it, and who they were.

Values pass the collector's normalisation and hashing, so blocked literals are no nodes. Everybody has consented, so the graph
is measured and not the consent gate.
"""

import random
from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from bench.identity.people import Carrier, Household, WorldPerson, draw_household
from bench.identity.rates import DAY_MS, HOUR_MS, MINUTE_MS, Rates
from infra.secrets import Secret
from streams.identity.nodes import NodeKeys, node

START_TS = 1_790_000_000_000
SECRET = "a benchmark has nothing to hide, but forty characters"  # noqa: S105 - hashes nobody
SECOND_MS = 1_000
PAGE_MS = 40_000
"""Mean time between two events of a visit."""
KIOSK_PAGES = 3.0

OWN, SHARED, LEFT_OPEN, KIOSK = "own", "shared", "left open", "kiosk"
"""Where an event happened. Left open: on a shared device, in another person's session."""
JUNK_EMAILS = ("sdfg@hjkl.com", "nix@nirgends.example", "info@shop.example", "b@bb.bb", "max@mustermann.example")
"""Junk that no list of literals contains; literals of the lists never reach the graph."""
JUNK_WEIGHTS = (8, 4, 2, 1, 1)
NO_EMAILS = ("null", "none", "n/a", "test", "abc", "-", "undefined")
LITERALS = ("null", "undefined", "(not set)", "guest", "0", "[object Object]")
JUNK_DEVICE = "12345-abcde-unset"
"""The id that a bug gave to a generation of phones, and that emulators still have."""
JUNK_USER = "visitor_0"
"""What a broken release sends for anonymous visitors; in no list of literals."""


class WorldEvent(NamedTuple):
    """One event and its truth."""

    arrived: int
    """Milliseconds UTC."""
    ts: int
    """Event time, milliseconds UTC."""
    event_id: str
    nodes: tuple[str, ...]
    """Strongest first; never empty."""
    person: int
    place: str


@dataclass
class IdentityWorld:
    """Events in the order of arrival, duplicates included, and the truth about persons and nodes."""

    events: list[WorldEvent] = field(default_factory=list)
    households: list[int] = field(default_factory=list)
    """Person -> household."""
    users: list[str | None] = field(default_factory=list)
    """Person -> user node."""
    shared_nodes: dict[str, str] = field(default_factory=dict)
    """Node that events of several persons carry -> reason."""
    blocked: int = 0
    """Values that were no identifiers."""


def make_world(rates: Rates, seed: int = 1) -> IdentityWorld:
    """Generate the world of a seed; the same on every machine. 400,000 events take about five seconds."""
    return _WorldMaker(rates, random.Random(seed)).make()


class _WorldMaker:
    """Generates households one after another, and sorts their events by arrival at the end."""

    def __init__(self, rates: Rates, rng: random.Random) -> None:
        self._rates, self._rng = rates, rng
        self._world = IdentityWorld()
        self._keys = NodeKeys.derive(Secret(SECRET))
        self._node_by_value: dict[tuple[str, str], str | None] = {}
        self._event_count = 0
        self._delay_ms = 0.0
        self._broken_from = rng.random() * (rates.days * DAY_MS - rates.broken_hours * HOUR_MS)

    def make(self) -> IdentityWorld:
        """Generate households until there are enough events."""
        world, number = self._world, 0
        while self._event_count < self._rates.events:
            household = draw_household(number, len(world.households), self._rng, self._rates)
            for person in household.people:
                world.households.append(number)
                world.users.append(None if person.user is None else self._node("user", person.user))
            if household.email is not None:
                self._mark_shared("email", household.email, "household e-mail")
            visits = [(at, person) for person in household.people for at in person.visits]
            for at, person in sorted(visits, key=lambda visit: visit[0]):
                self._visit(household, person, at)
            number += 1
        world.events.sort()
        people: defaultdict[str, set[int]] = defaultdict(set)
        for event in world.events:
            for member in event.nodes:
                people[member].add(event.person)
        world.shared_nodes = {member: reason for member, reason in world.shared_nodes.items() if len(people[member]) > 1}
        return world

    # -- visits

    def _visit(self, household: Household, person: WorldPerson, at: float) -> None:
        rates, rng = self._rates, self._rng
        if rng.random() < rates.kiosk_visits:
            self._kiosk_visit(person, at)
            return
        carrier = self._choose(household, person)
        share = rates.late_web if carrier.kind == "cookie" else rates.late_app
        self._delay_ms = 0.0
        if rng.random() < share:
            self._delay_ms = rng.lognormvariate(0, rates.late_sigma) * rates.late_median_minutes * MINUTE_MS
        if carrier.kind == "cookie" and rng.random() < rates.private:
            carrier = Carrier(f"private{self._event_count}", "cookie")
        carrier.renew(at, rng, rates)
        if carrier.shared:
            self._mark_shared(carrier.kind, self._value(carrier), "shared device")
        pages = self._pages(rates.pages)
        ids: list[list[tuple[str, str]]] = [[(carrier.kind, self._value(carrier))] for _ in range(pages)]
        place = self._log_in(person, carrier, at, ids)
        if carrier.kind == "cookie":
            self._browse(person, at, ids)
        else:
            self._join_cookies(person, carrier, at, ids)
        if rng.random() < rates.junk_literals:
            literal = rng.choice(LITERALS)
            for page in ids:
                if all(kind != "user" for kind, _ in page):
                    page.append(("user", literal))
        self._emit(person, at, ids, place)

    def _choose(self, household: Household, person: WorldPerson) -> Carrier:
        """Choose one of the person's carriers, or a shared one of the household."""
        rates = self._rates
        pool, weights = list(person.browsers), [1.0] * len(person.browsers)
        if person.app is not None:
            pool.append(person.app)
            weights.append(rates.app_visits)
        mine = {carrier.name for carrier in pool}
        others = rates.shared_by_others / (1 - rates.shared_by_others) / max(1, len(household.people) - 1)
        for carrier in household.shared:
            if carrier.name not in mine:
                pool.append(carrier)
                weights.append(others)
        return self._rng.choices(pool, weights)[0]

    def _log_in(self, person: WorldPerson, carrier: Carrier, at: float, ids: list[list[tuple[str, str]]]) -> str:
        """Add user ids from the login on; return the place of the visit."""
        rates, rng = self._rates, self._rng
        place = SHARED if carrier.shared else OWN
        if carrier.session is not None and carrier.session != person.number:
            if rng.random() < rates.left_open:
                for page in ids:
                    page.append(("user", f"user-{carrier.session}"))
                return LEFT_OPEN
            carrier.session = None
        if person.user is None or at < person.account_from:
            return place
        begin = 0
        if carrier.session is None:
            begin = self._pages(1 / rates.login_position) - 1 if rng.random() < person.habit else len(ids)
            if begin < len(ids):
                if rng.random() < rates.login_says_email:
                    ids[begin].append(("email", person.emails[0]))
                if carrier.kind == "device" or person.remembered:
                    carrier.session = person.number
        for page in ids[begin:]:
            page.append(("user", person.user))
        return place

    def _browse(self, person: WorldPerson, at: float, ids: list[list[tuple[str, str]]]) -> None:
        """Add what happens in browsers only: newsletter clicks, typed e-mails, the broken release."""
        rates, rng = self._rates, self._rng
        if person.subscriber and rng.random() < rates.clicks:
            address = self._email(person)
            if rng.random() < rates.forwarded:
                address = f"p{rng.randrange(person.number + 1)}@mail.example"
                self._mark_shared("email", address, "forwarded newsletter")
            ids[0].append(("email", address))
        if all(kind != "user" for page in ids for kind, _ in page):
            if rng.random() < rates.typed:
                ids[-1].append(("email", self._type(person)))
            if 0 <= at - self._broken_from < rates.broken_hours * HOUR_MS and rng.random() < rates.broken_visits:
                self._mark_shared("user", JUNK_USER, "junk user id")
                for page in ids:
                    page.append(("user", JUNK_USER))

    def _join_cookies(self, person: WorldPerson, app: Carrier, at: float, ids: list[list[tuple[str, str]]]) -> None:
        """Add what an app shares with browsers: a web view with its own cookies, links that open the phone's browser."""
        rates, rng = self._rates, self._rng
        if rng.random() < rates.web_views and app.jar is not None:
            app.jar.renew(at, rng, rates)
            if app.shared:
                self._mark_shared("cookie", app.jar.value, "shared device")
            for page in ids[len(ids) // 2 :]:
                page.append(("cookie", app.jar.value))
        elif rng.random() < rates.hand_overs:
            phone = person.browsers[0]
            phone.renew(at, rng, rates)
            ids[-1].append(("cookie", phone.value))

    def _kiosk_visit(self, person: WorldPerson, at: float) -> None:
        rates, rng = self._rates, self._rng
        number = rng.randrange(rates.kiosks)
        kind = "cookie" if number % 2 else "device"
        self._mark_shared(kind, f"kiosk{number}", "kiosk")
        self._delay_ms = 0.0
        ids = [[(kind, f"kiosk{number}")] for _ in range(self._pages(KIOSK_PAGES))]
        if person.user is not None and at >= person.account_from and rng.random() < rates.kiosk_logins:
            for page in ids[rng.randrange(len(ids)) :]:
                page.append(("user", person.user))
        self._emit(person, at, ids, KIOSK)

    # -- values

    def _pages(self, mean: float) -> int:
        """Draw a geometric number from 1."""
        number = 1
        while self._rng.random() > 1 / mean:
            number += 1
        return number

    def _value(self, carrier: Carrier) -> str:
        if carrier.junk:
            self._mark_shared("device", JUNK_DEVICE, "junk device id")
            return JUNK_DEVICE
        return carrier.value

    def _email(self, person: WorldPerson) -> str:
        """Draw one of the person's addresses."""
        second = len(person.emails) > 1 and self._rng.random() < self._rates.second_share
        return person.emails[1 if second else 0]

    def _type(self, person: WorldPerson) -> str:
        """Draw what the person types where an e-mail is required."""
        rng = self._rng
        if rng.random() < self._rates.junk_typed:
            if rng.random() < 0.5:
                return rng.choice(NO_EMAILS)
            address = rng.choices(JUNK_EMAILS, JUNK_WEIGHTS)[0]
            self._mark_shared("email", address, "junk e-mail")
            return address
        address = self._email(person)
        return f"{self._event_count}{address}" if rng.random() < self._rates.misspelt else address

    def _node(self, kind: str, value: str) -> str | None:
        result = self._node_by_value.get((kind, value), "")
        if result == "":
            result = self._node_by_value[kind, value] = node(self._keys, kind, value)
        return result

    def _mark_shared(self, kind: str, value: str, reason: str) -> None:
        shared = self._node(kind, value)
        if shared is not None:
            self._world.shared_nodes.setdefault(shared, reason)

    # -- events

    def _emit(self, person: WorldPerson, at: float, ids: list[list[tuple[str, str]]], place: str) -> None:
        """Append the events of a visit, some of them twice."""
        rates, rng, world = self._rates, self._rng, self._world
        late = min(self._delay_ms, rates.late_most_days * DAY_MS)
        for page in ids:
            page_nodes = [self._node(kind, value) for kind, value in page]
            nodes = tuple(sorted({member for member in page_nodes if member is not None}))
            world.blocked += page_nodes.count(None)
            ts = START_TS + int(at)
            arrived = ts + int(late + rng.expovariate(1 / SECOND_MS))
            event = WorldEvent(arrived, ts, f"{self._event_count:032x}", nodes, person.number, place)
            world.events.append(event)
            if rng.random() < rates.duplicates:
                again = arrived + int(rng.lognormvariate(2.5, 1.5) * SECOND_MS)
                world.events.append(event._replace(arrived=again))
            self._event_count += 1
            at += rng.expovariate(1 / PAGE_MS)
