"""What is remembered of a subject's consent, and what it means for an event. Pure.

A state maps `<purpose>.<what>` to the newest time at which it was so, milliseconds UTC. Times only grow, so two states merge by
taking the larger of each, in any order: neither a replay nor a zombie can bring an old grant back.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple

Times = Mapping[str, int]

WITHDRAWN, GRANTED, DENIED, SEEN_GRANTED, SEEN_DENIED = "withdrawn", "granted", "denied", "seen_granted", "seen_denied"
"""Of a choice whose time is known: withdrawn, granted, denied. Of a signal that came with an event and says no time: seen_*."""

WHATS = frozenset({WITHDRAWN, GRANTED, DENIED, SEEN_GRANTED, SEEN_DENIED})
ERASED = "erased"
"""Name of a time that stands alone: the subject was erased then, and what was said until then is not taken down again."""

DAY_MS = 86_400_000
TIME_DIGITS = 15
"""More milliseconds than that are past the year 30,000."""


def is_erased(times: Times, at: int) -> bool:
    """Whether what was collected at this time must not be remembered."""
    return at <= times.get(ERASED, 0)


class Memory(StrEnum):
    """What a state says of one purpose to one event."""

    __hash__ = str.__hash__  # an enum's own is Python code

    NOTHING = "nothing"
    GRANTED = "granted"
    DENIED = "denied"
    WITHDRAWN = "withdrawn"


class Moment(NamedTuple):
    """When an event was, as far as a state cares. Milliseconds UTC."""

    now: int
    """Collector time: what was granted later is not granted to it."""
    granted_at: int = 0
    """When the choice that the event carries was made; 0 = it does not say, so it is newer than no withdrawal."""
    oldest: int = 0
    """What was said before is forgotten."""


def entry(purpose: str, what: str) -> str:
    """The name of one time in a state."""
    return f"{purpose}.{what}"


def is_time(name: str, text: str) -> bool:
    """Whether this names a time of a state, and is one."""
    purpose, _, what = name.rpartition(".")
    return bool(purpose) and what in WHATS and text.isascii() and text.isdigit() and len(text) <= TIME_DIGITS


def merge(one: Times, other: Times) -> dict[str, int]:
    """Both states as one."""
    merged = dict(one)
    for name, time in other.items():
        if time > merged.get(name, 0):
            merged[name] = time
    return merged


def is_withdrawn(times: Times, purpose: str) -> bool:
    """Whether the newest choice that counts is a withdrawal; on a tie it is."""
    withdrawn = times.get(entry(purpose, WITHDRAWN), 0)
    return withdrawn > 0 and times.get(entry(purpose, GRANTED), 0) <= withdrawn


def recall(times: Times, purpose: str, moment: Moment) -> Memory:
    """What a state says of a purpose to an event of this moment. Denial wins where times are equal."""
    if is_withdrawn(times, purpose) and moment.granted_at <= times[entry(purpose, WITHDRAWN)]:
        return Memory.WITHDRAWN
    granted = _newest(times, purpose, (GRANTED, SEEN_GRANTED), (moment.oldest, moment.now))
    denied = _newest(times, purpose, (DENIED, SEEN_DENIED, WITHDRAWN), (moment.oldest, max(times.values(), default=0)))
    if denied >= granted:
        return Memory.DENIED if denied else Memory.NOTHING
    return Memory.GRANTED


def _newest(times: Times, purpose: str, whats: Iterable[str], between: tuple[int, int]) -> int:
    found = (times.get(entry(purpose, what), 0) for what in whats)
    return max((time for time in found if between[0] <= time <= between[1]), default=0)


class Said(NamedTuple):
    """What one event or one signal of a platform says about a subject, purpose by purpose."""

    granted: frozenset[str]
    denied: frozenset[str]
    granted_at: int
    """Time of the choice, at the earliest; 0 = unknown. A TC string tells the day only: its first moment."""
    denied_at: int
    """Time of the choice, at the latest: the last moment of that day, so that denial wins on the same day."""


class Change(NamedTuple):
    """What a state learns."""

    times: dict[str, int]
    """Entries that are new or newer."""
    withdrawn: tuple[str, ...]
    """Purposes that were granted until now."""


def learn(times: Times, said: Said, now: int, use_stored_state: bool) -> Change:
    """What `said` adds to a state; nothing where it says what is known."""
    new: dict[str, int] = {}
    withdrawn: list[str] = []
    for purpose in sorted(said.granted):
        if said.granted_at:
            new[entry(purpose, GRANTED)] = said.granted_at
        elif use_stored_state:
            _seen(new, times, (entry(purpose, SEEN_GRANTED), entry(purpose, SEEN_DENIED)), now)
    for purpose in sorted(said.denied):
        if said.denied_at:
            if times and _was_granted(times, purpose, said.denied_at):
                new[entry(purpose, WITHDRAWN)] = said.denied_at
                withdrawn.append(purpose)
            new[entry(purpose, DENIED)] = said.denied_at
        elif use_stored_state:
            _seen(new, times, (entry(purpose, SEEN_DENIED), entry(purpose, SEEN_GRANTED)), now)
    newer = {name: time for name, time in new.items() if time > times.get(name, 0)}
    return Change(newer, tuple(purpose for purpose in withdrawn if entry(purpose, WITHDRAWN) in newer))


def _was_granted(times: Times, purpose: str, until: int) -> bool:
    return recall(times, purpose, Moment(until)) is Memory.GRANTED


def _seen(new: dict[str, int], times: Times, names: tuple[str, str], now: int) -> None:
    """Take down a signal that comes with every event: when it has changed, else once a day."""
    same, other = (times.get(name, 0) for name in names)
    if same <= other or now - same >= DAY_MS:
        new[names[0]] = now


def withdraw(times: Times, purposes: Iterable[str], at: int) -> Change:
    """A withdrawal that was said as such; it needs no grant before it."""
    new = {entry(purpose, WITHDRAWN): at for purpose in purposes}
    newer = {name: time for name, time in new.items() if time > times.get(name, 0)}
    return Change(newer, tuple(name.rpartition(".")[0] for name in newer))
