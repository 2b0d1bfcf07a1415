"""The consent stage: a decision per event, its columns prepended; only what loses something is written anew.

A decision depends on the head's bytes (name, source, site, region, signals), the day and what the ledger remembers of the
subject, so it is kept with its encoded columns, and most events cost two look-ups and a concatenation.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import repeat
from typing import Any, NamedTuple

from infra.errors import ConfigError, Retryable
from infra.telemetry.logs import get_logger
from infra.telemetry.metrics import Metrics
from schemas.codec import HEADER_BYTES, Undecodable, UnknownContract, decode, schema_id
from schemas.columns import FEW
from schemas.registry import Registry
from streams.consent.decision.audit import ChainHead
from streams.consent.decision.decide import Action
from streams.consent.decision.decision_cache import (
    KEPT_BYTES,
    DecisionCache,
    EncodedDecision,
    EventContext,
    EventSignals,
    HeadSlices,
    Memories,
    OutcomeKey,
)
from streams.consent.formats.evidence import SignalReader
from streams.consent.formats.gvl import GvlFolder
from streams.consent.formats.reason import ConsentReason
from streams.consent.ledger.learning import FOR_EVER, SUBJECT_LENGTH, Event, Learner, Others
from streams.consent.ledger.ledger import DAY_MS
from streams.consent.ledger.ledger_writes import AUDIT, HEADS, REVOCATIONS, SIGNALS, STATE, LedgerWrites, writers
from streams.consent.ledger.store import StateStore
from streams.consent.ledger.subject_state import LedgerCache, PartitionState, Place, SubjectState, Table
from streams.consent.policy import BITS, Policy
from streams.consent.redaction.reference import RandomIds
from streams.runtime.stage import BY_KEY, Batch, CountCell, Outcome, Output

RAW, CONSENTED, ERASURES = "events.raw", "events.consented", "privacy.erasures"
UNMAPPED = "unmapped"
"""Outcome under which signals are counted that nothing maps, with their names as dimension."""
LABELS_KEPT, LABEL_LENGTH = 200, 64
MINUTE_MS = 60_000
AT_ONCE = 1_000
"""Events."""

NOBODY: Any = (None, None)

KeyValues = Iterable[tuple[bytes | None, bytes | None]]
PolicyReader = Callable[[], Policy | None]
"""The policy if it has changed since it was last asked for; ConfigError if it is broken now."""


class ConsentDependencies(NamedTuple):
    """What the stage works with beside contracts and policy."""

    key: bytes
    """For ids of events that lose theirs."""
    states: StateStore
    metrics: Metrics
    changed: PolicyReader
    lists: GvlFolder | None = None
    """Imported vendor lists; None where the policy names no vendor."""
    partition_of: Callable[[bytes], int] = lambda _subject: 0
    """Subject -> partition that its own records lie on, and where its state is kept."""


Row = tuple[int, bytes | None, bytes, DecisionCache, EventContext, EventSignals, int, Table | None, tuple[bytes, ...]]
"""One event of a batch as far as it is read: place, key, value, lineage, where, what, collector time (milliseconds UTC), what
is known of subjects like its own (None where nothing is remembered of it), and its identifiers beside its key."""
Tally = Counter[tuple[EventContext, OutcomeKey, int]]
"""Events by name and kind and the minute of their collector time."""


Redaction = tuple[int, int, EventContext, EncodedDecision, int]
"""An event that loses something: its place among what is written, its place in the batch, where, decision, minute."""


class BatchProgress:
    """One batch of events on its way."""

    def __init__(self, batch: Batch, now: float, outcome: Outcome) -> None:
        self.batch = batch
        self.now = now
        self.outcome = outcome
        self.written: list[Output | None] = []
        """None where the place is kept for an event that loses something."""
        self.counted: list[tuple[EventContext, OutcomeKey, int]] = []
        self.anonymous: dict[DecisionCache, list[Redaction]] = {}
        self.stripped: dict[DecisionCache, list[Redaction]] = {}
        self.rows: list[Row] = []
        """Events that need a closer look, in order."""
        self.missing: set[Place] = set()
        """Subjects that must be looked up first."""
        self.others: set[Place] = set()
        """Identifiers beside keys that must be."""

    def pass_less(self, lineage: DecisionCache, redactions: Redaction) -> None:
        """Keep a place for an event that loses something; one that loses everything needs none."""
        _, _, context, decided, minute = redactions
        if decided.drops:
            self.counted.append((context, decided.kind, minute))
        else:
            (self.anonymous if decided.anonymises else self.stripped).setdefault(lineage, []).append(redactions)
            self.written.append(None)


class ConsentStage:
    """See the module. Broken records go to the dead tray; an unknown contract and an absent ledger are waited for."""

    name = "consent"
    inputs: tuple[str, ...] = (RAW, SIGNALS)
    broadcast: tuple[str, ...] = (ERASURES,)
    restore: tuple[str, ...] = (HEADS,)

    def __init__(self, registry: Registry, policy: Policy, kit: ConsentDependencies) -> None:
        self._registry = registry
        self._writers = writers(registry)
        self._key = kit.key
        self._metrics = kit.metrics
        self._changed = kit.changed
        self._lists = kit.lists
        self._standings = LedgerCache(kit.states, kit.metrics, kit.partition_of)
        self._announced: set[int] = set()
        self._labels: set[str] = set()
        self._enforce(policy)

    def _enforce(self, policy: Policy) -> None:
        self._policy = policy
        self._reader = SignalReader(policy, self._lists)
        self._learner = Learner(self._registry, policy, self._reader, self._standings)
        self._lineages: dict[bytes, DecisionCache] = {}
        self._announced.clear()
        self._standings.forget()

    # -- batches

    def handle(self, batch: Batch, now: float) -> Outcome:
        """Decide on one batch. Retryable for a contract nobody knows yet, and while the ledger is away."""
        outcome = Outcome()
        holding = self._standings.holding(batch.partition)
        entries = LedgerWrites(self._writers, self._policy, batch.partition, holding.head)
        at = int(now * 1000)
        try:
            self._standings.trim(batch.partition, now)
            if batch.topic == SIGNALS:
                outcome.passed, broken = self._learner.take(batch, holding, entries)
                for place, detail in broken:
                    outcome.bury(place, detail, now)
            else:
                self._take_events(outcome, batch, entries, now)
        except BaseException:
            # What was looked up may have been changed by a batch that comes again: look it up anew.
            self._standings.drop(batch.partition)
            raise
        if batch.partition not in self._announced:
            entries.policy_in_force(at)
            self._announced.add(batch.partition)
        for topic, outputs in entries.trays().items():
            outcome.out.setdefault(topic, []).extend(outputs)
        holding.head = entries.head
        if entries.states:
            outcome.after_commit.append(self._standings.saving(batch.partition, entries.states, at))
        return outcome

    def _take_events(self, outcome: Outcome, batch: Batch, entries: LedgerWrites, now: float) -> None:
        """Events of visitors who say what they said before go at once, the others after a look-up; a key's in their order.

        A few at a time, so that a visitor met in a batch is known in the rest of it.
        """
        work = BatchProgress(batch, now, outcome)
        for start in range(0, len(batch), AT_ONCE):
            self._recognise(work, range(start, min(start + AT_ONCE, len(batch))))
            self._standings.load(batch.partition, work.missing)
            self._standings.load_others(batch.partition, work.others)
            self._look_closer(work, entries)
        self._write_less(work)
        written = list(filter(None, work.written))
        outcome.out.setdefault(CONSENTED, []).extend(written)
        outcome.passed = len(written)
        self._count(Counter(work.counted), outcome, entries)

    def _recognise(self, work: BatchProgress, places: range) -> None:
        batch, misses = work.batch, 0
        work.rows, work.missing, work.others = [], set(), set()
        keys = batch.keys[places.start : places.stop]
        values: Any = batch.values[places.start : places.stop]
        if not all(values):
            values = [value or b"" for value in values]
        common = self._lineages.get(values[0][:HEADER_BYTES])
        heads = repeat(None) if common is None or len(values) < FEW else common.heads(values)
        holding, write, count = self._standings.holding(batch.partition), work.written.append, work.counted.append
        visitors = holding.visitors
        recent: dict[bytes | None, tuple[DecisionCache, EventSignals]] = {}
        for at, key, value, head in zip(places, keys, values, heads, strict=False):
            try:
                lineage, name_at, name_end, region_at, time = head or self._alone(value)
                name = value[name_at:name_end]
                context = lineage.wheres.get(name) or lineage.where(name)
                visitor = visitors.get(key)  # type: ignore[arg-type] # None is nobody's key
                if visitor is not None:
                    cache_before, signals, group, since, until, by_rule = visitor
                    if (
                        value.startswith(signals.alone, region_at)
                        and cache_before is lineage
                        and context.group == group
                        and since <= time < until
                        and context.ordinary
                        and (decided := by_rule.get(context.rule)) is not None
                    ):
                        if decided.passes:
                            write((key, value.replace(lineage.header, decided.prefix, 1), BY_KEY))
                            count((context, decided.kind, time // MINUTE_MS))
                        else:
                            work.pass_less(lineage, (len(work.written), at, context, decided, time // MINUTE_MS))
                        continue
                    # Its next events in this batch must not overtake this one.
                    del visitors[key]  # type: ignore[arg-type]
                cache_before, signals = recent.get(key, NOBODY)
                if cache_before is not lineage or not (
                    signals.begins <= time < signals.ends and value.startswith(signals.data, region_at)
                ):
                    day = time // DAY_MS
                    data = value[region_at : lineage.said_ends(value, region_at)[-1]]
                    cache = lineage.whats.get((day, data))
                    misses += cache is None
                    signals = cache or lineage.what(day, data)
                    recent[key] = lineage, signals
                subjects = self._subjects(work, holding, (lineage, context, signals), key, value[region_at:])
            except Undecodable as error:
                work.outcome.bury(at, str(error), work.now)
                continue
            work.rows.append((at, key, value, lineage, context, signals, time, *subjects))
        self._metrics.count("headwater_consent_signals_total", len(places) - misses, cache="hit")
        self._metrics.count("headwater_consent_signals_total", misses, cache="miss")

    def _subjects(
        self,
        work: BatchProgress,
        holding: PartitionState,
        contract: tuple[DecisionCache, EventContext, EventSignals],
        key: bytes | None,
        value: bytes,
    ) -> tuple[Table | None, tuple[bytes, ...]]:
        """What is known of subjects like this event's, and its identifiers beside its key; what is not known is wanted.

        `value`: the event from its region on. Undecodable.
        """
        lineage, context, signals = contract
        if key is None or len(key) != SUBJECT_LENGTH or context.heartbeat:
            return None, ()
        scope = context.scopes[signals.regime]
        # A refusal is taken down under every regime.
        scopes = context.scopes.values() if signals.refuses else (scope,)
        work.missing.update((other_scope, key) for other_scope in scopes if key not in holding.table(other_scope))
        if value.startswith(signals.alone) and value.startswith(key, len(signals.alone)):
            return holding.table(scope), ()
        others = tuple(node for node in lineage.identifiers(value, len(signals.data)) if node != key)
        work.others.update(
            (other_scope, node) for other_scope in scopes for node in others if (other_scope, node) not in holding.others
        )
        return holding.table(scope), others

    def _look_closer(self, work: BatchProgress, entries: LedgerWrites) -> None:
        holding = self._standings.holding(work.batch.partition)
        visitors = holding.visitors
        for at, key, value, lineage, context, signals, time, table, others in work.rows:
            decided = signals.decided.get(context.rule) or lineage.decided(context, signals)
            if table is not None and key is not None:
                standing, until = self._learned(holding, (context, signals, time), key, entries)
                memories: Memories = ()
                others_known = self._others(holding, (context, signals, time), others, entries) if others else ()
                if others_known or (standing is not None and (standing.refuses or not decided.settled)):
                    memories = self._learner.recall((context, signals, time), standing, others_known)
                    if memories:
                        decided = lineage.recalled(context, signals, memories)
                if not others and context.ordinary and len(signals.data) <= KEPT_BYTES:
                    visitors[key] = (lineage, signals, context.group, time, min(signals.ends, until), signals.by_rule(memories))
            if decided.passes:
                work.written.append((key, value.replace(lineage.header, decided.prefix, 1), BY_KEY))
                work.counted.append((context, decided.kind, time // MINUTE_MS))
            else:
                work.pass_less(lineage, (len(work.written), at, context, decided, time // MINUTE_MS))

    def _learned(
        self, holding: PartitionState, event: Event, key: bytes, entries: LedgerWrites
    ) -> tuple[SubjectState | None, int]:
        """What is remembered of an event's key, the event included, and the collector time until which the same is no news."""
        context, signals, _ = event
        standing = holding.tables[context.scopes[signals.regime]][key]
        undated = signals.speaks and standing is not None and standing.refuses_undated
        if not (signals.learnable or undated or (signals.speaks and context.is_choice)):
            return standing, FOR_EVER
        if context.is_choice or not self._is_known(holding, event, key):
            standing = self._learner.learn(event, holding.tables, key, entries)
            holding.refresh_others(key)
        return standing, 0 if standing is None else standing.until

    def _is_known(self, holding: PartitionState, event: Event, key: bytes) -> bool:
        """Whether an event tells nothing new of its key: under its own regime, and a refusal without a time under each."""
        context, signals, time = event
        everywhere = signals.refuses and not signals.dated
        scopes = context.scopes.values() if everywhere else (context.scopes[signals.regime],)
        standings = [holding.tables[scope][key] for scope in scopes]
        return all(standing is not None and standing.knows(signals.number, time) for standing in standings)

    def _others(self, holding: PartitionState, event: Event, nodes: Iterable[bytes], entries: LedgerWrites) -> Others:
        """What is remembered of an event's identifiers beside its key; what it chooses is said of them too."""
        context, signals, _ = event
        scope = context.scopes[signals.regime]
        if signals.speaks:
            self._learner.tell_others(event, nodes, holding.others, entries)
        return [(node, holding.others[scope, node]) for node in nodes]

    def _write_less(self, work: BatchProgress) -> None:
        """The events that lose something, many together, each in its place."""
        for way, tray in ((self._anonymise, work.anonymous), (self._strip, work.stripped)):
            for lineage, redactions in tray.items():
                for start in range(0, len(redactions), AT_ONCE):
                    way(work, lineage, redactions[start : start + AT_ONCE])

    def _anonymise(self, work: BatchProgress, lineage: DecisionCache, redactions: list[Redaction]) -> None:
        batch, rewriter = work.batch, lineage.rewriter
        values = [batch.values[at] or b"" for _, at, *_ in redactions]
        unlinkable = RandomIds(self._key, batch.topic_id, batch.partition)
        ids = [unlinkable.of(batch.offsets[at]) for _, at, *_ in redactions]
        data = rewriter.anonymise_many(values, ids)
        for (place, at, context, decided, minute), value, new_id, outputs in zip(redactions, values, ids, data, strict=True):
            try:
                datum = outputs or rewriter.anonymise(value, new_id)
            except Undecodable as error:
                work.outcome.bury(at, str(error), work.now)
            else:
                work.written[place] = (new_id.encode(), decided.prefix + datum, BY_KEY)
                work.counted.append((context, decided.kind, minute))

    def _strip(self, work: BatchProgress, lineage: DecisionCache, redactions: list[Redaction]) -> None:
        batch, rewriter = work.batch, lineage.rewriter
        unlinkable = RandomIds(self._key, batch.topic_id, batch.partition)
        values = [batch.values[at] or b"" for _, at, *_ in redactions]
        for (place, at, context, decided, minute), value, ends in zip(redactions, values, rewriter.ends(values), strict=True):
            mask, key = decided.decision.mask, batch.keys[at]
            try:
                datum = rewriter.strip(value, mask, ends)
            except Undecodable as error:
                work.outcome.bury(at, str(error), work.now)
            else:
                if not mask & BITS["analytics"] and not decided.kind.heartbeat:
                    # The key is a pseudonym, and pseudonyms are analytics.
                    key = unlinkable.of(batch.offsets[at]).encode()
                work.written[place] = (key, decided.prefix + datum, BY_KEY)
                work.counted.append((context, decided.kind, minute))

    def _alone(self, value: bytes) -> HeadSlices:
        """The head of a record that was not read together with others. Undecodable, Retryable."""
        if not value:
            raise Undecodable("tombstone")
        return (self._lineages.get(value[:HEADER_BYTES]) or self._lineage(value)).head(value)

    def _lineage(self, value: bytes) -> DecisionCache:
        """Raises Undecodable where there is no frame, Retryable where its contract is not known yet."""
        try:
            contract = self._registry.by_id(schema_id(value))
            if contract.topic != RAW:
                raise Undecodable(f"a record of {contract.topic}")
            cache = DecisionCache(contract, self._registry.derived(contract.id, CONSENTED), self._policy, self._reader)
        except UnknownContract as error:
            raise Retryable(str(error)) from error
        self._lineages[value[:HEADER_BYTES]] = cache
        return cache

    # -- counts and audit

    def _count(self, tally: Tally, outcome: Outcome, entries: LedgerWrites) -> None:
        for (context, kind, at), n in tally.items():
            if kind.heartbeat:
                continue
            decision, start = kind.decision, at * MINUTE_MS
            if decision.drop_reason is not None:
                outcome.dropped[decision.drop_reason.value] += n
            outcome.counts[CountCell(start, context.source, context.event_name, kind.outcome)] += n
            if kind.fingerprint:
                set_up = (("site", context.site), *kind.fingerprint)
                outcome.counts[CountCell(start, context.source, "", "fingerprint", set_up)] += n
            for name in kind.unmapped:
                outcome.counts[CountCell(start, context.source, "", UNMAPPED, (("name", name[:LABEL_LENGTH]),))] += n
                label = {"source": context.source, "name": self._label(name[:LABEL_LENGTH])}
                self._metrics.count("headwater_consent_unmapped_total", n, **label)
            for section in kind.unreadable_sections:
                self._metrics.count("headwater_consent_gpp_unreadable_total", n, section=str(section))
            if decision.action is not Action.PASS:
                entries.denied(context.site, start, decision.action, kind.reasons, n)
            for ruling in decision.rulings:
                if ruling.reason is ConsentReason.CONFLICT:
                    self._metrics.count("headwater_consent_conflicts_total", n, purpose=ruling.purpose)

    def _label(self, name: str) -> str:
        """A name that senders choose, as a metric's label: only so many different ones."""
        if name not in self._labels and len(self._labels) >= LABELS_KEPT:
            return "other"
        self._labels.add(name)
        return name

    # -- the runtime's other calls

    def on_tick(self, now: float) -> Outcome:  # noqa: ARG002 - the policy file's own clock decides
        """Take up a changed policy, and open the views of the worker's partitions: decisions read them too, where no event
        comes. Retryable while the ledger is away."""
        self._follow_policy()
        self._standings.open_views()
        return Outcome()

    def _follow_policy(self) -> None:
        """A broken policy changes nothing and is said loudly."""
        try:
            policy = self._changed()
        except ConfigError as error:
            self._metrics.count("headwater_policy_loads_total", result="refused")
            get_logger().error("new consent policy refused, the old one stays in force", error=str(error), rev=self._policy.rev)
            return
        if policy is not None and policy.rev != self._policy.rev:
            self._metrics.count("headwater_policy_loads_total", result="loaded")
            get_logger().info("consent policy in force", rev=policy.rev)
            self._enforce(policy)

    def on_broadcast(self, topic: str, records: KeyValues) -> None:  # noqa: ARG002 - it follows one topic
        """Somebody was erased: what is known of subjects is looked up anew, and is not there any more."""
        if any(value is not None for _, value in records):
            self._standings.forget()

    def on_restore(self, topic: str, partition: int, records: KeyValues) -> None:  # noqa: ARG002 - it restores one topic
        """The end of a partition's audit chain."""
        head = None
        for _, value in records:
            if value is not None:
                record = decode(self._registry, value)[1]
                head = ChainHead(record["seq"], record["hash"])
        self._standings.restore(partition, head)

    def on_revoke(self, partition: int) -> None:
        """Forget what was looked up for a partition."""
        self._standings.revoke(partition)
        self._announced.discard(partition)


__all__ = ["AUDIT", "CONSENTED", "RAW", "REVOCATIONS", "SIGNALS", "STATE", "ConsentDependencies", "ConsentStage"]
