"""Expected consent state of a household: a model of the consent ledger's rules, independent of its code. Pure.

1. A choice is dated (an event that is a choice, `chosen_ts`, a TC string, `POST /v1/consent`) or undated (any other event).
2. A dated refusal counts for every identifier of its event, for all that is linked to one of them, now or later, and in every
   region. It beats silence and every grant that is not later; undated grants are later than nothing.
3. A dated grant counts in its own kind of region (opt-in or opt-out), one of `POST /v1/consent` in both. It lifts refusals of
   the identifiers of its event; a grant of an event's strongest identifier also lifts, for that event, those of the others.
4. An undated refusal is remembered of every identifier of its event, in every region, and of nothing that is linked to them.
   It answers silence only, until a later grant in the same kind of region.
5. Events to which analytics is granted link their identifiers.

A choice is effective for the next event of the event's strongest identifier. For other identifiers it passes through topics,
and is certainly effective once the stream has drained (`settle`). An event whose outcome depends on a choice in flight raises
`RaceDependent`, which is an error of the simulated world.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from infra.ops.simulator.truth import (
    ALL,
    ANALYTICS,
    MARKETING,
    OPT_OUT_REGIONS,
    PERSONALIZATION,
    SIGNALS,
    default_purposes,
    granted_purposes,
)
from infra.ops.simulator.world.acts import SimulatedEvent, Statement, VisitorChoice

BITS = (ANALYTICS, MARKETING, PERSONALIZATION)
CHOICE_EVENT = "consent_update"
"""Name of an event that is a choice itself."""
TC_STRINGS = (VisitorChoice.TC_ALL, VisitorChoice.TC_NONE)
NEVER, YESTERDAY, END_OF_DAY = 0.0, 0.5, math.inf
"""Times in addition to the sequence numbers of choices 1, 2, ... A TC string contains the day only: its refusals count until
the day's end, but for linked identifiers only from their arrival."""


class RaceDependent(Exception):
    """The expected outcome of an event depends on how fast the stream is processed."""


class SimulatedRegime(StrEnum):
    """Meaning of missing signals in an event's region."""

    __hash__ = str.__hash__  # faster than Enum's own, which is Python code

    OPT_IN = "opt-in"
    OPT_OUT = "opt-out"


def regime_of(event: SimulatedEvent) -> SimulatedRegime:
    """Return the regime of an event. With a TC string the GDPR applies, whatever the region."""
    opt_out = event.device.region in OPT_OUT_REGIONS and event.device.choice not in TC_STRINGS
    return SimulatedRegime.OPT_OUT if opt_out else SimulatedRegime.OPT_IN


class TimeKind(StrEnum):
    """Kind of a recorded time."""

    __hash__ = str.__hash__

    REFUSED = "refused"
    GRANTED = "granted"
    REFUSED_UNDATED = "refused undated"
    GRANTED_UNDATED = "granted undated"


Entry = tuple[str, SimulatedRegime, int, TimeKind]
"""Identifier, regime, purpose, and kind of time."""
Times = dict[Entry, float]
"""Latest time per entry."""


@dataclass(frozen=True, slots=True)
class SimulatedDates:
    """Times of an event's choice; NEVER = undated."""

    granted: float
    refused: float


@dataclass
class HouseholdMemory:
    """Consent state of one household. Identifiers are cookies, accounts and e-mail addresses."""

    _now: float = 1.0
    _groups: dict[str, frozenset[str]] = field(default_factory=dict)
    """Identifier -> all identifiers linked to it."""
    _times: Times = field(default_factory=dict)
    """All recorded times."""
    _settled: Times = field(default_factory=dict)
    """Times that were effective when the stream last drained."""
    _arrivals: dict[tuple[str, int], float] = field(default_factory=dict)
    """(Identifier, purpose) -> latest arrival of a dated refusal, which linked identifiers receive."""
    _strongest: Times = field(default_factory=dict)
    """`_settled`, and what each identifier's own events have added since."""

    def add_event(self, event: SimulatedEvent) -> int:
        """Record an event's choice; return the purposes that must be granted to the event. RaceDependent."""
        self._now += 1
        identifiers, signals, when = identifiers_of(event), SIGNALS[event.device.choice], self._dates(event)
        denies = signals.denies | signals.withholds
        if not self._times and not denies and not when.granted:
            return self._without_memory(event, identifiers)
        about = regime_of(event)
        for purpose in BITS:
            if purpose & signals.grants:
                self._grant(identifiers, (about, purpose), when.granted)
            if purpose & denies:
                self._refuse(identifiers, purpose, when.refused)
        mask = self._mask(event, self._times, self._times, when)
        if mask & ANALYTICS:
            self._link(identifiers)
        if mask != self._mask(event, self._strongest, self._settled, when) or mask != self._mask(
            event, self._times, self._times, when
        ):
            raise RaceDependent(f"event {event.n} ({event.device.choice}) comes while its visitor's choice is on its way")
        return mask

    def _without_memory(self, event: SimulatedEvent, identifiers: Sequence[str]) -> int:
        mask = granted_purposes(event.device.choice, event.device.region)
        if mask & ANALYTICS:
            self._link(identifiers)
        return mask

    def add_statement(self, statement: Statement) -> None:
        """Record a statement to `POST /v1/consent`, under both regimes."""
        self._now += 1
        for _, identifier in statement.identifiers:
            if not statement.grants:
                self._arrivals |= {(identifier, bit): self._now for bit in BITS if bit & statement.purposes}
            for regime in SimulatedRegime:
                for purpose in (bit for bit in BITS if bit & statement.purposes):
                    kind = TimeKind.GRANTED if statement.grants else TimeKind.REFUSED
                    self._learn_when_drained((identifier, regime, purpose, kind), self._now)
        self._spread()

    def may_personalize(self, cookie: str, choice: VisitorChoice, region: str) -> int:
        """Return the purposes that the decision API may use: it knows dated refusals only."""
        mask, regime = (
            granted_purposes(choice, region),
            SimulatedRegime.OPT_OUT if region in OPT_OUT_REGIONS else SimulatedRegime.OPT_IN,
        )
        return sum(bit for bit in BITS if bit & mask and not self._refused((cookie,), (regime, bit), self._times, self._times))

    def settle(self) -> None:
        """Make all recorded times effective: the stream has drained."""
        self._settled, self._strongest = dict(self._times), dict(self._times)

    def _dates(self, event: SimulatedEvent) -> SimulatedDates:
        # A string of yesterday is no current choice, whatever the event's name.
        if event.dated or (event.name == CHOICE_EVENT and event.device.choice is not VisitorChoice.TC_ALL):
            return SimulatedDates(self._now, self._now)
        return SimulatedDates(YESTERDAY, END_OF_DAY) if event.device.choice in TC_STRINGS else SimulatedDates(NEVER, NEVER)

    def _grant(self, identifiers: Sequence[str], about: tuple[SimulatedRegime, int], at: float) -> None:
        for identifier, learn in self._learners(identifiers):
            if at:
                learn((identifier, *about, TimeKind.GRANTED), at)
            elif (identifier, *about, TimeKind.REFUSED_UNDATED) in self._times:
                learn((identifier, *about, TimeKind.GRANTED_UNDATED), self._now)

    def _refuse(self, identifiers: Sequence[str], purpose: int, at: float) -> None:
        kind = TimeKind.REFUSED if at else TimeKind.REFUSED_UNDATED
        for identifier, learn in self._learners(identifiers):
            for regime in SimulatedRegime:
                learn((identifier, regime, purpose, kind), at or self._now)
        if at:
            self._arrivals |= {(identifier, purpose): self._now for identifier in identifiers}
            self._spread()

    def _learners(self, identifiers: Sequence[str]) -> list[tuple[str, Callable[[Entry, float], None]]]:
        """Return an event's identifiers, strongest first, each with the function that records its times."""
        return [(identifiers[0], self._learn_at_once), *((other, self._learn_when_drained) for other in identifiers[1:])]

    def _learn_at_once(self, entry: Entry, at: float) -> None:
        """Record a time that is effective for the next event of the same identifier, which is on the same partition."""
        for times in (self._times, self._strongest):
            times[entry] = max(at, times.get(entry, NEVER))

    def _learn_when_drained(self, entry: Entry, at: float) -> None:
        """Record a time that is certainly effective only once the stream has drained."""
        self._times[entry] = max(at, self._times.get(entry, NEVER))

    def _link(self, identifiers: Sequence[str]) -> None:
        joined = frozenset[str]().union(*(self._groups.get(identifier, frozenset((identifier,))) for identifier in identifiers))
        if self._groups.get(identifiers[0]) != joined:
            self._groups.update(dict.fromkeys(joined, joined))
            self._spread()

    def _spread(self) -> None:
        """Give every identifier the refusals of all linked identifiers."""
        for (identifier, purpose), at in self._arrivals.items():
            for linked in self._groups.get(identifier, ()):
                for regime in SimulatedRegime:
                    self._learn_when_drained((linked, regime, purpose, TimeKind.REFUSED), at)

    def _mask(self, event: SimulatedEvent, own: Times, others: Times, when: SimulatedDates) -> int:
        """Return the purposes granted, given the times of the strongest identifier (`own`) and of the others."""
        identifiers, signals, regime = identifiers_of(event), SIGNALS[event.device.choice], regime_of(event)
        mask = 0
        for purpose in (bit for bit in BITS if not bit & (signals.denies | signals.withholds)):
            about = (regime, purpose)
            if self._refused(identifiers, about, own, others, when.granted if purpose & signals.grants else NEVER):
                continue
            silent_no = self._refused_before(identifiers, about, own, others) or not purpose & default_purposes(
                event.device.region
            )
            mask |= purpose if purpose & signals.grants or not silent_no else 0
        return mask

    def _refused(
        self, identifiers: Sequence[str], about: tuple[SimulatedRegime, int], own: Times, others: Times, granted: float = NEVER
    ) -> bool:
        """Whether a dated refusal of any identifier is in force."""
        granted = max(granted, own.get((identifiers[0], *about, TimeKind.GRANTED), NEVER))
        for times, identifier in zip((own, *(others for _ in identifiers[1:])), identifiers, strict=True):
            refused = times.get((identifier, *about, TimeKind.REFUSED), NEVER)
            if refused and max(granted, times.get((identifier, *about, TimeKind.GRANTED), NEVER)) <= refused:
                return True
        return False

    def _refused_before(
        self, identifiers: Sequence[str], about: tuple[SimulatedRegime, int], own: Times, others: Times
    ) -> bool:
        """Whether the latest entry of any identifier is a refusal, dated or not."""

        def latest(times: Times, identifier: str, *kinds: TimeKind) -> float:
            return max(times.get((identifier, *about, kind), NEVER) for kind in kinds)

        granted = latest(own, identifiers[0], TimeKind.GRANTED, TimeKind.GRANTED_UNDATED)
        for times, identifier in zip((own, *(others for _ in identifiers[1:])), identifiers, strict=True):
            refused = latest(times, identifier, TimeKind.REFUSED, TimeKind.REFUSED_UNDATED)
            if refused and max(granted, latest(times, identifier, TimeKind.GRANTED, TimeKind.GRANTED_UNDATED)) <= refused:
                return True
        return False


def identifiers_of(event: SimulatedEvent) -> tuple[str, ...]:
    """Return an event's identifiers, strongest first. (GA4's protocol carries no e-mail address.)"""
    if not event.login:
        return (event.device.cookie,)
    address = (event.person.email,) if event.email and event.device.door in ("headwater", "segment") else ()
    return (event.person.account, event.device.cookie, *address)


__all__ = ["ALL", "CHOICE_EVENT", "HouseholdMemory", "RaceDependent", "identifiers_of"]
