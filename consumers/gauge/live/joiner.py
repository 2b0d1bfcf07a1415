"""Joins the records that the stages write about one event, by its id, within a bounded window. Pure.

What a stage does not pass on leaves no record of its own. Its outputs and its offsets are one transaction, so an event that its
group has committed, and that has not come out for `GRACE_S`, was not passed on; the audit says which events of a site and a
minute consent refused, and why.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from consumers.gauge.live.live_event import LiveEvent, LiveState, PurposeRuling, read_rulings
from schemas.codec import Undecodable, decode
from schemas.registry import Registry, UnknownContract
from streams.consent.decision.decide import GRANTING, Action
from streams.consent.policy import BITS

RAW, CONSENTED, RESOLVED, AUDIT, DEAD = "events.raw", "events.consented", "events.resolved", "consent.audit", "events.dead"
FOLLOWED = (RAW, CONSENTED, RESOLVED, AUDIT, DEAD)
READERS: Mapping[str, str] = {RAW: "consent", CONSENTED: "identity"}
"""Topic -> stage that reads it."""
WINDOW_S = 20.0
"""Seconds after which an event is shown as waiting."""
GRACE_S = 2.0
"""Seconds between the commit of a stage and the visibility of its outputs, at the most."""
CHECK_S = 0.5
"""Seconds between two looks at all open events."""
MAX_OPEN = 20_000
MAX_CELLS = 5_000
"""Audit counts that are kept: one for each partition, site and minute with refused events."""
MINUTE_MS = 60_000

Place = tuple[str, int, int]
"""Topic, partition, offset."""
Committed = Mapping[tuple[str, int], int]
"""(topic, partition) -> offset up to which its stage has committed."""


class TopicRecord(NamedTuple):
    """A record of one of the topics that are followed."""

    topic: str
    partition: int
    offset: int
    value: bytes


@dataclass(slots=True)
class OpenEvent:
    """An event of which more may come."""

    topic: str
    """The last topic that it reached."""
    partition: int
    offset: int
    record: dict[str, Any]
    opened: float
    """Seconds, as `now`."""
    chain: int
    """Its partition on `events.raw`; -1 where that record was not read."""
    copies: int = 1
    """How often it came to `events.raw` while it was open."""
    passed: float | None = None
    """Since when its next stage has committed past it, seconds."""

    @property
    def place(self) -> Place:
        """Where its last record is."""
        return (self.topic, self.partition, self.offset)


@dataclass
class EventJoiner:
    """Open events by id. Memory is bounded: beyond `MAX_OPEN` the oldest is shown as it is."""

    registry: Registry
    _open: OrderedDict[str, OpenEvent] = field(default_factory=OrderedDict)
    _places: dict[Place, str] = field(default_factory=dict)
    _cells: OrderedDict[tuple[int, str, int], set[tuple[str, str]]] = field(default_factory=OrderedDict)
    """(partition of `events.raw`, site, minute) -> (outcome, reasons) of refused events."""
    _ready: list[LiveEvent] = field(default_factory=list)
    _unknown: int = 0
    _checked_at: float = float("-inf")

    @property
    def is_waiting(self) -> bool:
        """Whether any event is open."""
        return bool(self._open)

    def add(self, source: TopicRecord, now: float) -> None:
        """Add a record at `now` (seconds). One of a contract that is not known here is counted as lost."""
        try:
            record = decode(self.registry, source.value)[1]
        except Undecodable:
            return  # its dead letter is shown
        except UnknownContract:
            self._unknown += 1
            return
        if source.topic == AUDIT:
            self._add_audit(record)
        elif source.topic == DEAD:
            self._add_letter(source, record)
        elif not record["heartbeat"]:
            self._add_event(source, record, now)

    def take_ready(self, now: float, committed: Committed) -> list[LiveEvent]:
        """Return the events that are complete, refused, or have waited for `WINDOW_S`, and forget them."""
        if now - self._checked_at >= CHECK_S:
            self._checked_at = now
            self._check_open(now, committed)
        ready, self._ready = self._ready, []
        return ready

    def _check_open(self, now: float, committed: Committed) -> None:
        for event_id, event in list(self._open.items()):
            if committed.get((event.topic, event.partition), -1) > event.offset:
                if event.passed is None:
                    event.passed = now
                elif now - event.passed >= GRACE_S:
                    self._close(event_id, event, self._refused(event))
            elif now - event.opened >= WINDOW_S:
                self._close(event_id, event, _waiting(event))

    def take_unknown(self) -> int:
        """Return the number of records of unknown contracts since the last call."""
        unknown, self._unknown = self._unknown, 0
        return unknown

    def clear(self) -> None:
        """Forget all events, where records were skipped."""
        self._open.clear()
        self._places.clear()
        self._ready.clear()

    def _add_event(self, source: TopicRecord, record: dict[str, Any], now: float) -> None:
        event_id = record["event_id"]
        event = self._open.pop(event_id, None)
        chain = source.partition if source.topic == RAW else event.chain if event else -1
        opened = event.opened if event else now
        copies = event.copies + (source.topic == RAW) if event else 1
        if event is not None:
            self._places.pop(event.place, None)
        event = OpenEvent(source.topic, source.partition, source.offset, record, opened, chain, copies)
        if source.topic == RESOLVED:
            self._ready.append(_describe(event, LiveState.RESOLVED)._replace(row=f"{source.partition}:{source.offset}"))
            return
        self._open[event_id] = event
        self._places[event.place] = event_id
        if len(self._open) > MAX_OPEN:
            oldest_id, oldest = next(iter(self._open.items()))
            self._close(oldest_id, oldest, _waiting(oldest))

    def _add_audit(self, record: Mapping[str, Any]) -> None:
        if record["kind"] == "denied":
            cell = (record["chain"], record["site"], record["minute"])
            self._cells.setdefault(cell, set()).add((record["outcome"], record["reasons"]))
            if len(self._cells) > MAX_CELLS:
                self._cells.popitem(last=False)

    def _add_letter(self, source: TopicRecord, letter: Mapping[str, Any]) -> None:
        place = (letter["source_topic"], letter["source_partition"], letter["source_offset"])
        event_id = self._places.get(place)
        if event_id is None:
            shown = LiveEvent(LiveState.DEAD, letter["dead_ts"], source=letter["source"])
        else:
            event = self._open.pop(event_id)
            del self._places[place]
            shown = _describe(event, LiveState.DEAD)
        problem = f"{letter['reason']}: {letter['detail']}" if letter["detail"] else letter["reason"]
        self._ready.append(
            shown._replace(
                problems=(*shown.problems, problem), stage=letter["stage"], letter=f"{source.partition}:{source.offset}"
            )
        )

    def _close(self, event_id: str, event: OpenEvent, shown: LiveEvent) -> None:
        del self._open[event_id]
        self._places.pop(event.place, None)
        self._ready.append(shown)

    def _refused(self, event: OpenEvent) -> LiveEvent:
        """The event that its next stage has read and not passed on under its id."""
        if event.topic == CONSENTED:
            return _describe(event, LiveState.LEFT_OUT)
        cell = (event.chain, event.record["site"], event.record["collector_ts"] // MINUTE_MS * MINUTE_MS)
        refusals = {refusal for refusal in self._cells.get(cell, ()) if refusal[0] in (Action.DROP, Action.ANONYMISE)}
        outcomes, reasons = {outcome for outcome, _ in refusals}, {text for _, text in refusals}
        state = LiveState.ANONYMISED if outcomes == {Action.ANONYMISE.value} else LiveState.DROPPED
        rulings = _rulings_of(reasons.pop()) if len(reasons) == 1 else ()
        return _describe(event, state)._replace(outcome=" or ".join(sorted(outcomes)), rulings=rulings)


def _rulings_of(reasons: str) -> tuple[PurposeRuling, ...]:
    """Rulings of a refused event, whose audit names no granted purposes."""
    mask = sum(BITS.get(ruling.purpose, 0) for ruling in read_rulings(reasons, 0) if ruling.reason in GRANTING)
    return read_rulings(reasons, mask)


def _waiting(event: OpenEvent) -> LiveEvent:
    return _describe(event, LiveState.WAITING)._replace(waits_for=READERS[event.topic])


def _describe(event: OpenEvent, state: LiveState) -> LiveEvent:
    record = event.record
    return LiveEvent(
        state,
        record["collector_ts"],
        record["event_id"],
        record["event_name"],
        record["source"],
        record["site"],
        record["protocol"],
        record.get("consent_outcome", ""),
        read_rulings(record.get("consent_reasons", ""), record.get("consent_purposes", 0)),
        tuple(record.get("problems") or ()),
        copies=event.copies,
    )


__all__ = ["FOLLOWED", "GRACE_S", "MAX_OPEN", "RAW", "READERS", "WINDOW_S", "Committed", "EventJoiner", "TopicRecord"]
