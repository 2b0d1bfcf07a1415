"""What a policy would do with recorded events: the stage itself, run over them, beside the same run under another policy."""

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
    """What became of one event."""

    outcome: str
    """pass, strip, anonymise, `drop (REASON)` or dead."""
    reasons: tuple[str, ...] = ()
    """`purpose=REASON`, in the policy's order; a dropped event tells none."""


class OutcomeChange(NamedTuple):
    """Events of one name that fare otherwise."""

    event_name: str
    before: str
    after: str


class PolicyDiff(NamedTuple):
    """Two policies over the same events."""

    events: int
    before: Counter[str]
    """Outcome -> events."""
    after: Counter[str]
    changed: Counter[OutcomeChange]
    rulings: Counter[tuple[str, str]]
    """(`purpose=REASON` before, after; empty: no such purpose) -> events on which that differs."""


class PolicyRun:
    """One policy, with a memory of its own that begins empty."""

    def __init__(self, registry: Registry, policy: Policy, lists: GvlFolder | None) -> None:
        # Ids of anonymised events are thrown away with everything else, so any key will do.
        dependencies = ConsentDependencies(b"trial", MemoryStateStore(), Metrics(), lambda: None, lists)
        self._stage = ConsentStage(registry, policy, dependencies)
        self._head = HeadReader(registry, "consent_reasons")

    def fate(self, event: RawRecord, now: float) -> EventOutcome:
        """Decide on the next event. Retryable for a contract that nobody knows."""
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
    """Both over the same events, one after the other. `now`: seconds since 1970."""
    diff = PolicyDiff(0, Counter(), Counter(), Counter(), Counter())
    names, n = HeadReader(registry, "event_name"), 0
    for event in events:
        n += 1
        old, new = before.fate(event, now), after.fate(event, now)
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
    """Rulings of two fates that differ; nothing where one of them tells none."""
    if not old.reasons or not new.reasons:
        return
    before, after = (dict(ruling.split("=", 1) for ruling in fate.reasons) for fate in (old, new))
    for purpose in before | after:
        was, becomes = before.get(purpose), after.get(purpose)
        if was != becomes:
            yield (f"{purpose}={was}" if was else "", f"{purpose}={becomes}" if becomes else "")
