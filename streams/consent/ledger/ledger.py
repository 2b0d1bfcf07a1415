"""The stored consent state of a subject, how choices change it, and what it means for an event. Pure.

A state maps `<purpose>.<kind>` to the newest time of that kind, milliseconds UTC. Times only grow, so two states merge by
taking the larger of each, in any order: neither a replay nor a fenced worker can restore an old grant, and choices may arrive
in any order. What a dated choice adds depends on nothing but the choice.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple

Times = Mapping[str, int]

WITHDRAWN, GRANTED, DENIED, SEEN_GRANTED, SEEN_DENIED = "withdrawn", "granted", "denied", "seen_granted", "seen_denied"
"""Kinds of times. Dated choices: withdrawn, granted, denied. Signals of events without a time: seen_*."""
REFUSALS = (DENIED, WITHDRAWN)

KINDS = frozenset({WITHDRAWN, GRANTED, DENIED, SEEN_GRANTED, SEEN_DENIED})
ERASED = "erased"
"""Name of the time of an erasure: what was collected until then is not stored again."""

DAY_MS = 86_400_000
SKEW_MS = 300_000
"""How far a sender's clock may be ahead before the time of a choice is not believed."""
TIME_DIGITS = 15
"""A number of milliseconds with more digits is no time."""


def is_erased(times: Times, at: int) -> bool:
    """Whether what was collected at this time must not be stored, after an erasure."""
    return at <= times.get(ERASED, 0)


class StateValue(StrEnum):
    """What a state says about one purpose of one event."""

    __hash__ = str.__hash__  # a StrEnum's own hash is Python code, several times slower

    NOTHING = "nothing"
    GRANTED = "granted"
    DENIED = "denied"
    """Refused at an unknown time: counts where the event has no signal."""
    REFUSED = "refused"
    """Refused at a known time, and no later choice grants it: overrides signals that are not newer."""
    WITHDRAWN = "withdrawn"
    """The same, after a grant or by a withdrawal request."""


class Moment(NamedTuple):
    """The times of an event that a state is compared with, milliseconds UTC."""

    now: int
    """Collector time; later grants do not count."""
    granted_at: int = 0
    """When the event's own grant was made; 0 = unknown, which is newer than no refusal."""
    oldest: int = 0
    """Earlier choices do not count."""


def entry_name(purpose: str, kind: str) -> str:
    """The name of a time in a state."""
    return f"{purpose}.{kind}"


def is_time(name: str, text: str) -> bool:
    """Whether `name` names a time of a state and `text` is a time."""
    purpose, _, kind = name.rpartition(".")
    return bool(purpose) and kind in KINDS and text.isascii() and text.isdigit() and len(text) <= TIME_DIGITS


def merge(first: Times, second: Times) -> dict[str, int]:
    """Merge two states: the larger time of each name."""
    merged = dict(first)
    for name, time in second.items():
        if time > merged.get(name, 0):
            merged[name] = time
    return merged


def is_refused(times: Times, purpose: str) -> bool:
    """Whether the newest dated choice is a refusal; equal times count as one."""
    refused = _refused_at(times, purpose)
    return refused > 0 and times.get(entry_name(purpose, GRANTED), 0) <= refused


def evaluate_state(times: Times, purpose: str, moment: Moment) -> StateValue:
    """What a state says about a purpose at this moment. A denial wins where times are equal."""
    granted = max(times.get(entry_name(purpose, GRANTED), 0), moment.granted_at)
    withdrawn, denied = times.get(entry_name(purpose, WITHDRAWN), 0), times.get(entry_name(purpose, DENIED), 0)
    if withdrawn and granted <= withdrawn:
        return StateValue.WITHDRAWN
    if denied >= max(moment.oldest, 1) and granted <= denied:
        was_granted = any(entry_name(purpose, kind) in times for kind in (GRANTED, SEEN_GRANTED))
        return StateValue.WITHDRAWN if was_granted else StateValue.REFUSED
    granted = _newest(times, purpose, (GRANTED, SEEN_GRANTED), (moment.oldest, moment.now))
    denied = _newest(times, purpose, (DENIED, SEEN_DENIED, WITHDRAWN), (moment.oldest, max(times.values(), default=0)))
    if denied >= granted:
        return StateValue.DENIED if denied else StateValue.NOTHING
    return StateValue.GRANTED


def _newest(times: Times, purpose: str, kinds: Iterable[str], between: tuple[int, int]) -> int:
    candidates = (times.get(entry_name(purpose, kind), 0) for kind in kinds)
    return max((time for time in candidates if between[0] <= time <= between[1]), default=0)


class Claim(NamedTuple):
    """The choice that one event or one record of `consent.signals` carries, and when it was made."""

    granted: frozenset[str]
    denied: frozenset[str]
    chosen: int | None = 0
    """Time of the choice, milliseconds UTC; 0 = not stated, None = unreadable."""
    days: tuple[int, int] | None = None
    """Starts of the earliest and the latest day of the choice, milliseconds UTC, where only days are known (TC strings)."""
    acted: bool = False
    """The visitor has just chosen on this page."""


class ChoiceDates(NamedTuple):
    """When a choice counts as made, milliseconds UTC; 0 = unknown."""

    granted_at: int
    """The earliest possible time, so that a refusal of the same day wins."""
    denied_at: int
    """The latest possible time."""
    by_arrival: bool = False
    """The stated time is not believed, so a refusal counts from its arrival."""


def date_choice(claim: Claim, now: int, is_choice: bool, undated_grants_lift: bool = False) -> ChoiceDates:
    """When a choice counts as made. `now`: collector time; `is_choice`: the event itself is the choice.

    A time that is unreadable or in the future counts as unknown for grants and as `now` for refusals.
    """
    choice_dates = _dates(claim, now, is_choice)
    return choice_dates._replace(granted_at=now) if undated_grants_lift and not choice_dates.granted_at else choice_dates


def _dates(claim: Claim, now: int, is_choice: bool) -> ChoiceDates:
    if claim.chosen is None or claim.chosen > now + SKEW_MS:
        return ChoiceDates(0, now, by_arrival=True)
    if claim.chosen:
        return ChoiceDates(min(claim.chosen, now), min(claim.chosen, now))
    if claim.days is None:
        return ChoiceDates(now, now) if is_choice else ChoiceDates(0, 0)
    first, last = claim.days
    if first > now:
        return ChoiceDates(0, day_end(now))  # by a clock that is ahead
    if is_choice and claim.acted and first // DAY_MS == now // DAY_MS:
        return ChoiceDates(now, now)
    return ChoiceDates(first, min(day_end(last), day_end(now)))


def day_end(time: int) -> int:
    """The last millisecond of a day."""
    return time // DAY_MS * DAY_MS + DAY_MS - 1


class StateChange(NamedTuple):
    """What a choice adds to a state."""

    times: dict[str, int]
    """Times that are new or newer."""
    withdrawn: tuple[str, ...] = ()
    """Purposes that were granted before."""
    refused: tuple[str, ...] = ()
    """Purposes with a new or newer refusal in force, `withdrawn` included."""


def apply_claim(times: Times, claim: Claim, when: ChoiceDates, now: int, remember_undated: bool) -> StateChange:
    """What a choice adds to a state.

    Refusals without a time are stored for events without a signal; grants without a time where the policy uses them
    (`remember_undated`), and after such a refusal.
    """
    new: dict[str, int] = {}
    for purpose in sorted(claim.granted):
        if when.granted_at:
            new[entry_name(purpose, GRANTED)] = when.granted_at
        elif remember_undated or entry_name(purpose, SEEN_DENIED) in times:
            _add_undated(new, times, (entry_name(purpose, SEEN_GRANTED), entry_name(purpose, SEEN_DENIED)), now)
    for purpose in sorted(claim.denied):
        if when.denied_at:
            if when.by_arrival and is_refused(times, purpose) and now - _refused_at(times, purpose) < DAY_MS:
                continue  # it comes with every event: one update a day is enough
            new[entry_name(purpose, DENIED)] = when.denied_at
        else:
            _add_undated(new, times, (entry_name(purpose, SEEN_DENIED), entry_name(purpose, SEEN_GRANTED)), now)
    return _change(times, new)


def _change(times: Times, new: Mapping[str, int], withdrawn: Iterable[str] = ()) -> StateChange:
    """`withdrawn`: purposes that count as granted before, whatever the state says."""
    newer = {name: time for name, time in new.items() if time > times.get(name, 0)} if times else dict(new)
    refused = dict.fromkeys(purpose for purpose, _, kind in (name.rpartition(".") for name in newer) if kind in REFUSALS)
    if not refused:
        return StateChange(newer)
    merged = merge(times, newer) if times else newer
    in_force = tuple(purpose for purpose in refused if is_refused(merged, purpose))
    until = max(newer.values())
    granted = (purpose for purpose in in_force if purpose in withdrawn or (times and _was_granted(times, purpose, until)))
    return StateChange(newer, tuple(granted), in_force)


def _refused_at(times: Times, purpose: str) -> int:
    return max(times.get(f"{purpose}.{DENIED}", 0), times.get(f"{purpose}.{WITHDRAWN}", 0))


def _was_granted(times: Times, purpose: str, until: int) -> bool:
    return evaluate_state(times, purpose, Moment(until)) is StateValue.GRANTED


def _add_undated(new: dict[str, int], times: Times, names: tuple[str, str], now: int) -> None:
    """Add an undated signal that comes with every event: when it has changed, else once a day."""
    same, other = (times.get(name, 0) for name in names)
    if same <= other or now - same >= DAY_MS:
        new[names[0]] = now


def apply_withdrawal(times: Times, purposes: Iterable[str], at: int) -> StateChange:
    """What a withdrawal request adds to a state; it needs no grant before it."""
    purposes = list(purposes)
    return _change(times, {entry_name(purpose, WITHDRAWN): at for purpose in purposes}, purposes)


def apply_state(times: Times, other: Times) -> StateChange:
    """What another state of the same person adds to a state."""
    return _change(times, other)
