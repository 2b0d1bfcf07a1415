"""The consent stage: a decision per event, its columns prepended; only what loses something is decoded and written anew.

A decision depends on the head's bytes alone (name, source, site, region, signals), so it is kept with its encoded columns
under those bytes, and most events cost a look-up and a concatenation.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from infra.errors import ConfigError, Retryable
from infra.logs import get_logger
from infra.metrics import Metrics
from schemas.codec import (
    HEADER_BYTES,
    HeadReader,
    HeadSlicer,
    Record,
    Undecodable,
    UnknownContract,
    encode,
    encode_columns,
    read_long,
    schema_id,
)
from schemas.registry import Contract, Registry
from streams.consent.clickids import ClickIds
from streams.consent.decide import Action, Decision, Reason, decide, exempt
from streams.consent.policy import BITS, Policy
from streams.consent.rewrite import Rewriter
from streams.consent.strip import random_id
from streams.runtime.stage import Batch, Cell, Dead, Outcome, Output

RAW, CONSENTED, AUDIT = "events.raw", "events.consented", "consent.audit"
KEPT_CASES = 8_192
KEPT_BYTES = 4_096
"""Heads longer than this are decided each time, so that memory stays bounded whatever is sent."""
MINUTE_MS = 60_000

KeyValues = Iterable[tuple[bytes | None, bytes | None]]
PolicyReader = Callable[[], Policy | None]
"""The policy if it has changed since it was last asked for; ConfigError if it is broken now."""


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """Everything that is the same for all events with one head."""

    decision: Decision
    columns: Record
    prefix: bytes
    """Header and consent columns, encoded."""
    source: str
    site: str
    event_name: str
    heartbeat: bool
    passes: bool
    """Nothing is taken away: the payload is not touched."""


@dataclass(frozen=True, slots=True)
class _Lineage:
    """What is made once for each version of `events.raw`."""

    written: Contract
    columns: Callable[[Record], bytes]
    slicer: HeadSlicer
    rewriter: Rewriter


class ConsentStage:
    """See the module. Broken records go to the dead tray; an unknown contract is waited for."""

    name = "consent"
    inputs: tuple[str, ...] = (RAW,)
    broadcast: tuple[str, ...] = ()
    restore: tuple[str, ...] = ()

    def __init__(self, registry: Registry, policy: Policy, key: bytes, metrics: Metrics, changed: PolicyReader) -> None:
        self._registry = registry
        self._key = key
        self._metrics = metrics
        self._changed = changed
        self._head = HeadReader(registry, "signals")
        self._enforce(policy)

    def _enforce(self, policy: Policy) -> None:
        self._policy = policy
        self._click_ids = ClickIds(policy.click_ids)
        self._cases: dict[bytes, Case] = {}
        self._lineages: dict[bytes, _Lineage] = {}

    # -- batches

    def handle(self, batch: Batch, now: float) -> Outcome:
        """Decide on one batch. Retryable for a contract nobody knows yet."""
        outcome = Outcome()
        tally: dict[tuple[Case, int], int] = {}
        written: list[Output] = outcome.out.setdefault(CONSENTED, [])
        cases, lineages, keys = self._cases, self._lineages, batch.keys
        for at, value in enumerate(batch.values):
            try:
                if value is None:
                    raise Undecodable("tombstone")
                lineage = lineages.get(value[:HEADER_BYTES]) or self._lineage(value)
                name_at, _, _, _, clock_at, region_at, _, head_end = lineage.slicer.ends(value)
                head = value[:HEADER_BYTES] + value[name_at:clock_at] + value[region_at:head_end]
                case = cases.get(head) or self._case(head, value, lineage)
                minute = read_long(value, clock_at) // MINUTE_MS
                if case.passes:
                    written.append(Output(keys[at], case.prefix + value[HEADER_BYTES:]))
                elif case.decision.action is not Action.DROP:
                    written.append(self._rewritten(batch, at, value, case, lineage))
            except Undecodable as error:
                outcome.dead.append(Dead(at, "UNDECODABLE", str(error)))
                outcome.counts[Cell(int(now // 60) * MINUTE_MS, "", "", "dead:UNDECODABLE")] += 1
                continue
            counted = (case, minute)
            tally[counted] = tally.get(counted, 0) + 1
        outcome.passed = len(written)
        self._count(tally, outcome)
        return outcome

    def _lineage(self, value: bytes) -> _Lineage:
        """Raises Undecodable where there is no frame, Retryable where its contract is not known yet."""
        try:
            read = self._registry.by_id(schema_id(value))
            if read.topic != RAW:
                raise Undecodable(f"a record of {read.topic}")
            written = self._registry.derived(read.id, CONSENTED)
        except UnknownContract as error:
            raise Retryable(str(error)) from error
        found = _Lineage(
            written, encode_columns(written), HeadSlicer(read, "signals"), Rewriter(read, self._policy, self._click_ids)
        )
        self._lineages[value[:HEADER_BYTES]] = found
        return found

    def _case(self, key: bytes, value: bytes, lineage: _Lineage) -> Case:
        """A head that is met for the first time. The oldest one is forgotten when there are too many."""
        head = self._head.read(value)[1]
        heartbeat: bool = head["heartbeat"]
        if heartbeat:
            decision = exempt(self._policy)
        else:
            decision = decide(self._policy, head["event_name"], head["region"], head["signals"])
        columns = self._columns(decision)
        case = Case(
            decision, columns, lineage.columns(columns), head["source"], head["site"], head["event_name"], heartbeat,
            decision.action is Action.PASS and not heartbeat,
        )  # fmt: skip
        if len(key) <= KEPT_BYTES:
            if len(self._cases) >= KEPT_CASES:
                self._cases.pop(next(iter(self._cases)))
            self._cases[key] = case
        return case

    def _columns(self, decision: Decision) -> Record:
        return {
            "consent_outcome": decision.action.value,
            "consent_purposes": decision.mask,
            "consent_reasons": decision.reasons,
            "consent_policy": self._policy.rev,
            # A hash of rare signals would tie an anonymised event to its visitor's others.
            "consent_evidence": "" if decision.action is Action.ANONYMISE else decision.evidence,
        }

    def _rewritten(self, batch: Batch, at: int, value: bytes, case: Case, lineage: _Lineage) -> Output:
        """A stripped or anonymised event, or a heartbeat without whatever somebody may have put into it."""
        key = batch.keys[at]
        mask = case.decision.mask
        if case.decision.action is Action.ANONYMISE:
            unlinkable = random_id(self._key, batch.topic, batch.partition, batch.offsets[at])
            datum, key = lineage.rewriter.anonymise(value, unlinkable), unlinkable.encode()
        else:
            datum = lineage.rewriter.strip(value, mask)
            if not mask & BITS["analytics"] and not case.heartbeat:
                # The key is a pseudonym, and pseudonyms are analytics.
                key = random_id(self._key, batch.topic, batch.partition, batch.offsets[at]).encode()
        return Output(key, case.prefix + datum)

    # -- counts and audit

    def _count(self, tally: dict[tuple[Case, int], int], outcome: Outcome) -> None:
        audit: Counter[tuple[str, int, str, str]] = Counter()
        for (case, minute), n in tally.items():
            if case.heartbeat:
                continue
            decision, start = case.decision, minute * MINUTE_MS
            what = decision.action.value
            if decision.drop_reason is not None:
                outcome.dropped[decision.drop_reason.value] += n
                what = f"dropped:{decision.drop_reason}"
            outcome.counts[Cell(start, case.source, case.event_name, what)] += n
            if decision.action is not Action.PASS:
                audit[case.site, start, decision.action.value, decision.reasons] += n
            for ruling in decision.rulings:
                if ruling.reason is Reason.CONFLICT:
                    self._metrics.count("headwater_consent_conflicts_total", n, purpose=ruling.purpose)
        if audit:
            outcome.out[AUDIT] = self._audited(audit)

    def _audited(self, audit: Counter[tuple[str, int, str, str]]) -> list[Output]:
        contract = self._registry.latest(AUDIT)
        names = ("site", "minute", "outcome", "reasons")
        return [
            Output(
                line[0].encode(), encode(contract, {**dict(zip(names, line, strict=True)), "policy": self._policy.rev, "n": n})
            )
            for line, n in audit.items()
        ]

    # -- the runtime's other calls

    def on_tick(self, now: float) -> dict[str, list[Output]]:  # noqa: ARG002 - the policy file's own clock decides
        """Take up a changed policy; a broken one changes nothing and is said loudly."""
        try:
            policy = self._changed()
        except ConfigError as error:
            self._metrics.count("headwater_policy_loads_total", result="refused")
            get_logger().error("new consent policy refused, the old one stays in force", error=str(error), rev=self._policy.rev)
            return {}
        if policy is not None and policy.rev != self._policy.rev:
            self._metrics.count("headwater_policy_loads_total", result="loaded")
            get_logger().info("consent policy in force", rev=policy.rev)
            self._enforce(policy)
        return {}

    def on_broadcast(self, topic: str, records: KeyValues) -> None:
        """Follows no topic."""

    def on_restore(self, topic: str, partition: int, records: KeyValues) -> None:
        """Remembers nothing."""

    def on_revoke(self, partition: int) -> None:
        """Keeps nothing of a partition."""


__all__ = ["AUDIT", "CONSENTED", "RAW", "Case", "ConsentStage"]
