"""One event as listeners see it, and which events a listener asks for. Pure."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from streams.consent.policy import BITS


class LiveState(StrEnum):
    """What had become of an event when it was shown."""

    RESOLVED = "resolved"
    """It left the last stage: the warehouse makes a row of it."""
    ANONYMISED = "anonymised"
    """It goes on under another id, as an event of its own; nothing links the two."""
    DROPPED = "dropped"
    """Consent did not pass it on."""
    LEFT_OUT = "left out"
    """Identity did not pass it on: a copy of an earlier event, or of an erased person."""
    DEAD = "dead"
    """Nobody could use it: a dead letter."""
    WAITING = "waiting"
    """Its next room has not read it. It is shown again once that has."""


class PurposeRuling(NamedTuple):
    """What was decided on one purpose."""

    purpose: str
    granted: bool
    reason: str
    """A `ConsentReason`; a newer release may write others."""

    @property
    def mark(self) -> str:
        """First letter of the purpose and a sign: `a+`."""
        return f"{self.purpose[:1]}{'+' if self.granted else '-'}"


def read_rulings(reasons: str, mask: int) -> tuple[PurposeRuling, ...]:
    """Rulings of a text of `purpose=REASON` pairs and a mask of granted purposes."""
    pairs = (pair.partition("=") for pair in reasons.split())
    return tuple(PurposeRuling(purpose, bool(mask & BITS.get(purpose, 0)), reason) for purpose, _, reason in pairs)


class LiveEvent(NamedTuple):
    """One event, with all that its stages made known of it. Empty texts are unknown."""

    state: LiveState
    time_ms: int
    """Collector time, milliseconds UTC; of a dead letter its own."""
    event_id: str = ""
    event_name: str = ""
    source: str = ""
    site: str = ""
    protocol: str = ""
    outcome: str = ""
    """pass, strip, anonymise or drop; empty before consent has decided."""
    rulings: tuple[PurposeRuling, ...] = ()
    """Empty where several events of one site and minute were refused for different reasons: the audit only counts them."""
    problems: tuple[str, ...] = ()
    """What was read differently from how it was sent; the defect of a dead letter. Never a value of the event."""
    row: str = ""
    """Partition and offset on `events.resolved`, which are the row's `_partition` and `_offset`."""
    stage: str = ""
    """The stage or door that made a dead letter of it."""
    letter: str = ""
    """Partition and offset on `events.dead`, for `headwater dead show`."""
    waits_for: str = ""
    """The stage that has not read it."""
    copies: int = 1
    """How often it had been sent when it was shown; identity passes one of them."""

    def as_data(self) -> dict[str, Any]:
        """The event as JSON."""
        data = {**self._asdict(), "rulings": [ruling._asdict() for ruling in self.rulings]}
        return {name: value for name, value in data.items() if value or name in ("state", "time_ms")}


ONLY = ("refused", "problems")
PARAMETERS = ("source", "event", "only", "token")
MAX_VALUES = 20


class LiveFilter(NamedTuple):
    """Criteria of a listener; an empty one matches any event."""

    sources: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    only: str = ""
    """`refused`: dropped, or dead letters. `problems`: with problems, or dead letters."""

    def matches(self, event: LiveEvent) -> bool:
        """Whether the listener asks for this event."""
        if self.sources and event.source not in self.sources:
            return False
        if self.names and event.event_name not in self.names:
            return False
        if self.only == "refused":
            return event.state in (LiveState.DROPPED, LiveState.DEAD)
        return self.only != "problems" or bool(event.problems) or event.state is LiveState.DEAD


def parse_filter(query: Mapping[str, Sequence[str]]) -> LiveFilter:
    """Build the filter of a request's parameters, each with its values. ValueError says what is wrong."""
    for name, values in query.items():
        if name not in PARAMETERS:
            raise ValueError(f"no parameter {name[:40]!r}: there are source, event and only")
        if len(values) > MAX_VALUES:
            raise ValueError(f"{name} may be given {MAX_VALUES} times")
    only = query.get("only", ("",))
    if len(only) > 1 or only[0] not in ("", *ONLY):
        raise ValueError(f"only is one of {', '.join(ONLY)}")
    return LiveFilter(frozenset(query.get("source", ())), frozenset(query.get("event", ())), only[0])


__all__ = ["ONLY", "LiveEvent", "LiveFilter", "LiveState", "PurposeRuling", "parse_filter", "read_rulings"]
