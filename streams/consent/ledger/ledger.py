"""What is remembered of a subject's consent, and what it means for an event. Pure.

A state maps `<purpose>.<what>` to the newest time at which it was so, milliseconds UTC. Times only grow, so two states merge by
taking the larger of each, in any order: neither a replay nor a zombie can bring an old grant back, and it does not matter
which of two choices arrives first. What is learned from a choice with a time depends on nothing but the choice.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple

Times = Mapping[str, int]

WITHDRAWN, GRANTED, DENIED, SEEN_GRANTED, SEEN_DENIED = "withdrawn", "granted", "denied", "seen_granted", "seen_denied"
"""Of a choice whose time is known: withdrawn, granted, denied. Of a signal that came with an event and says no time: seen_*."""
REFUSALS = (DENIED, WITHDRAWN)

WHATS = frozenset({WITHDRAWN, GRANTED, DENIED, SEEN_GRANTED, SEEN_DENIED})
ERASED = "erased"
"""Name of a time that stands alone: the subject was erased then, and what was said until then is not taken down again."""

DAY_MS = 86_400_000
SKEW_MS = 300_000
"""How far a sender's clock may be ahead before the time of a choice is not believed."""
TIME_DIGITS = 15
"""More milliseconds than that are past the year 30,000."""


def is_erased(times: Times, at: int) -> bool:
    """Whether what was collected at this time must not be remembered."""
    return at <= times.get(ERASED, 0)


class StateValue(StrEnum):
    """What a state says of one purpose to one event."""

    __hash__ = str.__hash__  # an enum's own is Python code

    NOTHING = "nothing"
    GRANTED = "granted"
    DENIED = "denied"
    """Refused at a time that is not known: an answer to silence only."""
    REFUSED = "refused"
    """Refused, and nothing newer grants it: beats every signal that is not newer."""
    WITHDRAWN = "withdrawn"
    """The same, of a consent that was given before or by a request of the visitor."""


class Moment(NamedTuple):
    """When an event was, as far as a state cares. Milliseconds UTC."""

    now: int
    """Collector time: what was granted later is not granted to it."""
    granted_at: int = 0
    """When the choice that the event carries was made; 0 = it does not say, so it is newer than no refusal."""
    oldest: int = 0
    """What was said before is forgotten."""


def entry_name(purpose: str, kind: str) -> str:
    """The name of one time in a state."""
    return f"{purpose}.{kind}"


def is_time(name: str, text: str) -> bool:
    """Whether this names a time of a state, and is one."""
    purpose, _, kind = name.rpartition(".")
    return bool(purpose) and kind in WHATS and text.isascii() and text.isdigit() and len(text) <= TIME_DIGITS


def merge(first: Times, second: Times) -> dict[str, int]:
    """Both states as one."""
    merged = dict(first)
    for name, time in second.items():
        if time > merged.get(name, 0):
            merged[name] = time
    return merged


def is_refused(times: Times, purpose: str) -> bool:
    """Whether the newest choice that counts is a refusal; on a tie it is."""
    refused = _refused_at(times, purpose)
    return refused > 0 and times.get(entry_name(purpose, GRANTED), 0) <= refused


def evaluate_state(times: Times, purpose: str, moment: Moment) -> StateValue:
    """What a state says of a purpose to an event of this moment. Denial wins where times are equal."""
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
    """What one event or one signal of a platform says about a subject, purpose by purpose, and what it says of when."""

    granted: frozenset[str]
    denied: frozenset[str]
    chosen: int | None = 0
    """Time of the choice; 0 = it says nothing, None = it cannot be read."""
    days: tuple[int, int] | None = None
    """First moments of the earliest and the latest day that it was made on, where only the day is known: TC strings."""
    acted: bool = False
    """The visitor has acted on this very page."""


class ChoiceDates(NamedTuple):
    """When a choice counts as made, milliseconds UTC; 0 = not known."""

    granted_at: int
    """At the earliest, so that a refusal of the same day wins."""
    denied_at: int
    """At the latest."""
    by_arrival: bool = False
    """It says a time that cannot be believed, so a refusal counts as made when it arrived."""


def date_choice(claim: Claim, now: int, is_choice: bool, undated_grants_lift: bool = False) -> ChoiceDates:
    """When the choice of an event counts as made. `now`: collector time; `is_choice`: the event itself is the choice.

    A time that cannot be read, or lies ahead, counts as none for grants and as `now` for refusals.
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
    """The last moment of a day."""
    return time // DAY_MS * DAY_MS + DAY_MS - 1


class StateChange(NamedTuple):
    """What a state learns."""

    times: dict[str, int]
    """Entries that are new or newer."""
    withdrawn: tuple[str, ...] = ()
    """Purposes that were granted until now."""
    refused: tuple[str, ...] = ()
    """Purposes that are refused from now on, and were not, or not since this time; those withdrawn are among them."""


def apply_claim(times: Times, claim: Claim, when: ChoiceDates, now: int, remember_undated: bool) -> StateChange:
    """What a choice adds to a state; nothing where it says what is known.

    Refusals without a time are remembered for events that say nothing; grants without one where the policy uses them
    (`remember_undated`), and where they follow such a refusal.
    """
    new: dict[str, int] = {}
    for purpose in sorted(claim.granted):
        if when.granted_at:
            new[entry_name(purpose, GRANTED)] = when.granted_at
        elif remember_undated or entry_name(purpose, SEEN_DENIED) in times:
            _seen(new, times, (entry_name(purpose, SEEN_GRANTED), entry_name(purpose, SEEN_DENIED)), now)
    for purpose in sorted(claim.denied):
        if when.denied_at:
            if when.by_arrival and is_refused(times, purpose) and now - _refused_at(times, purpose) < DAY_MS:
                continue  # it comes with every event: once a day is enough
            new[entry_name(purpose, DENIED)] = when.denied_at
        else:
            _seen(new, times, (entry_name(purpose, SEEN_DENIED), entry_name(purpose, SEEN_GRANTED)), now)
    return _change(times, new)


def _change(times: Times, new: Mapping[str, int], withdrawn: Iterable[str] = ()) -> StateChange:
    """`withdrawn`: purposes that count as granted until now, whatever is known of them."""
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


def _seen(new: dict[str, int], times: Times, names: tuple[str, str], now: int) -> None:
    """Take down a signal that comes with every event: when it has changed, else once a day."""
    same, other = (times.get(name, 0) for name in names)
    if same <= other or now - same >= DAY_MS:
        new[names[0]] = now


def apply_withdrawal(times: Times, purposes: Iterable[str], at: int) -> StateChange:
    """A withdrawal that was said as such; it needs no grant before it."""
    purposes = list(purposes)
    return _change(times, {entry_name(purpose, WITHDRAWN): at for purpose in purposes}, purposes)


def apply_state(times: Times, other: Times) -> StateChange:
    """Another state of the same person, as it is."""
    return _change(times, other)
