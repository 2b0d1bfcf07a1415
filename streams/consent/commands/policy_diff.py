"""Compares two policies on recorded events, by running the stage under each."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from infra.telemetry.metrics import Metrics
from schemas.codec import HeadReader
from schemas.registry import Registry
from streams.consent.formats.gvl import GvlFolder
from streams.consent.ledger.store import MemoryStateStore
from streams.consent.policy import Policy
from streams.consent.stage import CONSENTED, RAW, ConsentDependencies, ConsentStage
from streams.runtime.stage import Batch

UNREADABLE = "dead"


class RawRecord(NamedTuple):
    """A record of `events.raw`."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None


class EventOutcome(NamedTuple):
    """The outcome of one event."""

    outcome: str
    """pass, strip, anonymise, `drop (REASON)` or dead."""
    reasons: tuple[str, ...] = ()
    """`purpose=REASON`, in the policy's order; empty for a dropped event."""


class OutcomeChange(NamedTuple):
    """A changed outcome of events of one name."""

    event_name: str
    before: str
    after: str


class PolicyDiff(NamedTuple):
    """The outcomes of the same events under two policies."""

    events: int
    before: Counter[str]
    """Outcome -> events."""
    after: Counter[str]
    changed: Counter[OutcomeChange]
    rulings: Counter[tuple[str, str]]
    """(`purpose=REASON` before, after; empty = no such purpose) -> events."""


class PolicyRun:
    """The stage under one policy, with a ledger of its own that begins empty."""

    def __init__(self, registry: Registry, policy: Policy, lists: GvlFolder | None) -> None:
        # Ids of anonymised events are discarded, so any key will do.
        dependencies = ConsentDependencies(b"trial", MemoryStateStore(), Metrics(), lambda: None, lists)
        self._stage = ConsentStage(registry, policy, dependencies)
        self._head = HeadReader(registry, "consent_reasons")

    def decide_event(self, event: RawRecord, now: float) -> EventOutcome:
        """Decide on the next event. Retryable for an unknown contract."""
        batch = Batch(RAW, event.partition, [event.key], [event.value], [event.offset])
        outcome = self._stage.handle(batch, now)
        for hook in outcome.after_commit:
            hook()
        if outcome.dead:
            return EventOutcome(UNREADABLE)
        for reason in outcome.dropped:
            return EventOutcome(f"drop ({reason})")
        head = self._head.read(outcome.out[CONSENTED][0][1] or b"")[1]
        return EventOutcome(head["consent_outcome"], tuple(head["consent_reasons"].split()))


def compare(registry: Registry, events: Iterable[RawRecord], before: PolicyRun, after: PolicyRun, now: float) -> PolicyDiff:
    """Run both policies over the same events. `now`: seconds since 1970."""
    diff = PolicyDiff(0, Counter(), Counter(), Counter(), Counter())
    names, n = HeadReader(registry, "event_name"), 0
    for event in events:
        n += 1
        old, new = before.decide_event(event, now), after.decide_event(event, now)
        diff.before[old.outcome] += 1
        diff.after[new.outcome] += 1
        if old == new:
            continue
        if old.outcome != new.outcome:
            name = names.read(event.value or b"")[1]["event_name"]
            diff.changed[OutcomeChange(name, old.outcome, new.outcome)] += 1
        diff.rulings.update(_differing(old, new))
    return diff._replace(events=n)


def _differing(old: EventOutcome, new: EventOutcome) -> Iterator[tuple[str, str]]:
    """Rulings of two outcomes that differ; none where an event was dropped."""
    if not old.reasons or not new.reasons:
        return
    before, after = (dict(ruling.split("=", 1) for ruling in outcome.reasons) for outcome in (old, new))
    for purpose in before | after:
        was, becomes = before.get(purpose), after.get(purpose)
        if was != becomes:
            yield (f"{purpose}={was}" if was else "", f"{purpose}={becomes}" if becomes else "")
