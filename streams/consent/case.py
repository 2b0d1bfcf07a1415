"""Decisions kept by what they depend on: the bytes of an event's head, the day, and what is remembered of its subject."""

from collections.abc import Callable
from dataclasses import dataclass, field

from schemas.codec import HeadReader, HeadSlicer, Record, encode_columns
from schemas.registry import Contract, Registry
from streams.consent.clickids import ClickIds
from streams.consent.decide import Action, Decision, decide, evidence_hash, exempt
from streams.consent.evidence import Evidence, Reader
from streams.consent.ledger import DAY_MS, Memory
from streams.consent.policy import Policy
from streams.consent.reason import Reason
from streams.consent.rewrite import Rewriter
from streams.consent.signals import Signals

KEPT_CASES = 8_192
KEPT_BYTES = 4_096
"""Heads longer than this are decided each time, so that memory stays bounded whatever is sent."""
KEPT_DAYS = 3

Dimensions = tuple[tuple[str, str], ...]
Memories = tuple[Memory, ...]
"""What is remembered, in the policy's order of purposes."""


class Lineage:
    """What is made once for each version of `events.raw` under one policy."""

    def __init__(self, read: Contract, written: Contract, policy: Policy) -> None:
        self.columns: Callable[[Record], bytes] = encode_columns(written)
        self.slicer = HeadSlicer(read, "signals")
        self.rewriter = Rewriter(read, policy, ClickIds(policy.click_ids))


@dataclass(frozen=True, slots=True)
class Head:
    """What a decision is made of, as it was sent."""

    event_name: str
    source: str
    site: str
    heartbeat: bool
    region: str
    signals: Signals


@dataclass(slots=True, eq=False)
class Case:
    """Everything that is the same for all events with one head, on one day, with one memory."""

    head: Head
    decision: Decision
    evidence: Evidence | None
    """None for a heartbeat."""
    lineage: Lineage
    prefix: bytes
    """Header and consent columns, encoded."""
    scope: str
    """Regulation and group of sites, under which the ledger remembers; empty for a heartbeat."""
    passes: bool
    """Nothing is taken away: the payload is not touched."""
    settled: bool
    """The signals speak about every purpose, so that only a withdrawal can change the decision."""
    teaches: bool
    """The ledger may learn from it."""
    evidence_hash: str
    fingerprint: Dimensions
    """What tells one set-up of a consent platform from another; empty where there is none."""
    variants: dict[Memories, "Case"] = field(default_factory=dict)


class Cases:
    """The cases of one policy."""

    def __init__(self, registry: Registry, policy: Policy, reader: Reader) -> None:
        self._policy = policy
        self._reader = reader
        self._head = HeadReader(registry, "signals")
        self._days: dict[int, dict[bytes, Case]] = {}

    def of_day(self, day: int) -> dict[bytes, Case]:
        """What is kept of a day (days since 1970), by the bytes of the head."""
        found = self._days.get(day)
        if found is None:
            while len(self._days) >= KEPT_DAYS:
                self._days.pop(min(self._days))
            found = self._days[day] = {}
        return found

    def meet(self, key: bytes, value: bytes, day: int, lineage: Lineage) -> Case:
        """A head that is met for the first time that day. The oldest one is forgotten when there are too many."""
        read = self._head.read(value)[1]
        head = Head(
            read["event_name"], read["source"], read["site"], read["heartbeat"], read["region"], read["signals"]
        )  # fmt: skip
        if head.heartbeat:
            case = self._case(head, exempt(self._policy), None, lineage)
        else:
            evidence = self._reader.read(head.region, head.signals, day * DAY_MS)
            case = self._case(head, decide(self._policy, head.event_name, evidence), evidence, lineage)
        cases = self.of_day(day)
        if len(key) <= KEPT_BYTES:
            if len(cases) >= KEPT_CASES:
                cases.pop(next(iter(cases)))
            cases[key] = case
        return case

    def variant(self, case: Case, memories: Memories) -> Case:
        """The same case for a subject of whom something is remembered."""
        found = case.variants.get(memories)
        if found is None:
            assert case.evidence is not None  # noqa: S101 - nothing is remembered of heartbeats
            recalled = dict(zip(self._policy.purposes, memories, strict=True))
            decision = decide(self._policy, case.head.event_name, case.evidence, recalled)
            found = case.variants[memories] = self._case(case.head, decision, case.evidence, case.lineage)
        return found

    def _case(self, head: Head, decision: Decision, evidence: Evidence | None, lineage: Lineage) -> Case:
        memory, said = self._policy.memory, None if evidence is None else evidence.said
        chosen = said is not None and (bool(said.granted_at or said.denied_at) or head.event_name in memory.choice_events)
        return Case(
            head, decision, evidence, lineage, lineage.columns(self._columns(head, decision)),
            "" if evidence is None else scope(self._policy, evidence, head.site),
            decision.action is Action.PASS and not head.heartbeat,
            all(ruling.reason is not Reason.NO_SIGNAL for ruling in decision.rulings),
            said is not None and bool(said.granted or said.denied) and (chosen or memory.use_stored_state),
            "" if evidence is None else evidence_hash(head.signals),
            () if evidence is None or not evidence.fingerprint else (("site", head.site), *evidence.fingerprint),
        )  # fmt: skip

    def _columns(self, head: Head, decision: Decision) -> Record:
        return {
            "consent_outcome": decision.action.value,
            "consent_purposes": decision.mask,
            "consent_reasons": decision.reasons,
            "consent_policy": self._policy.rev,
            # A hash of rare signals would tie an anonymised event to its visitor's others.
            "consent_evidence": "" if decision.action is Action.ANONYMISE or head.heartbeat else evidence_hash(head.signals),
        }


def scope(policy: Policy, evidence: Evidence, site: str) -> str:
    """Under which regulation and group of sites something is remembered."""
    return f"{evidence.regime.value}|{policy.group(site)}"


__all__ = ["Case", "Cases", "Head", "Lineage", "Memories", "scope"]
