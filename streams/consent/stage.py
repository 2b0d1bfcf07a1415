"""The consent stage: decides on each event, prepends the consent columns, and rewrites only events that lose something.

A decision depends on bytes of the event's head (name, source, site, region, signals), the day, and the subject's stored state.
It is cached with its encoded columns, so most events cost two look-ups and a concatenation.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from infra.errors import ConfigError, Retryable
from infra.telemetry.logs import get_logger
from infra.telemetry.metrics import Metrics
from schemas.codec import HEADER_BYTES, Undecodable, UnknownContract, decode, schema_id
from schemas.registry import Registry
from streams.consent.decision.audit import ChainHead
from streams.consent.decision.decision_cache import (
    MAX_BYTES,
    DecisionCache,
    EventContext,
    EventSignals,
    KnownVisitor,
    StateValues,
)
from streams.consent.decision.event_head import EventHead
from streams.consent.decision.outcome_counts import MINUTE_MS, OutcomeCounts
from streams.consent.formats.evidence import SignalReader
from streams.consent.formats.gvl import GvlFolder
from streams.consent.ledger.ledger_updates import NEVER, SUBJECT_LENGTH, ConsentEvent, LedgerUpdater, OtherStates
from streams.consent.ledger.ledger_writes import (
    AUDIT,
    HEADS,
    REVOCATIONS,
    SIGNALS,
    STATE,
    LedgerWrites,
    record_encoders,
)
from streams.consent.ledger.store import StateStore
from streams.consent.ledger.subject_state import LedgerCache, PartitionState, Scope, StateKey, StateTable, SubjectState
from streams.consent.policy import Policy
from streams.consent.redaction.batch import BatchRedactor
from streams.runtime.stage import BY_KEY, Batch, Outcome

RAW, CONSENTED, ERASURES = "events.raw", "events.consented", "privacy.erasures"
CHUNK = 1_000
"""Events that are decided on at once; a visitor who is new in one chunk is known in the next."""

KeyValues = Iterable[tuple[bytes | None, bytes | None]]
PolicyReader = Callable[[], Policy | None]
"""The policy if it has changed since the last call; ConfigError if it does not load any more."""


class ConsentDependencies(NamedTuple):
    """What the stage needs beside contracts and policy."""

    key: bytes
    """For ids of events that lose theirs."""
    states: StateStore
    metrics: Metrics
    changed: PolicyReader
    lists: GvlFolder | None = None
    """Imported vendor lists; None where the policy names no vendor."""
    partition_of: Callable[[bytes], int] = lambda _subject: 0
    """Subject -> partition of its own records and state."""


class PendingEvent(NamedTuple):
    """An event of a batch whose decision needs its subject's stored state."""

    at: int
    """Position in the batch."""
    key: bytes | None
    cache: DecisionCache
    event: ConsentEvent
    table: StateTable | None
    """States of the event's scope; None where nothing is stored for its key."""
    others: tuple[bytes, ...]
    """Its identifiers beside its key."""


class BatchProgress:
    """What the stage knows of a batch of events while it decides on them."""

    def __init__(self, batch: Batch, partition: PartitionState, redactor: BatchRedactor) -> None:
        self.batch = batch
        self.partition = partition
        self.redactor = redactor
        self.pending: list[PendingEvent] = []
        """In order."""
        self.missing: set[StateKey] = set()
        """States that the pending events need."""
        self.missing_others: set[StateKey] = set()
        """The same of their other identifiers."""
        self.recent_signals: dict[bytes | None, tuple[DecisionCache, EventSignals]] = {}
        """Signals of the last pending event of each key: long TC strings are neither measured nor hashed again."""
        self.misses = 0
        """Events whose signals were not cached."""

    def clear_pending(self) -> None:
        """Empty the queue before the next chunk."""
        self.pending, self.missing, self.missing_others, self.recent_signals = [], set(), set(), {}


class ConsentStage:
    """Broken records are dead letters; for an unknown contract and an unavailable ledger the batch is retried."""

    name = "consent"
    inputs: tuple[str, ...] = (RAW, SIGNALS)
    broadcast: tuple[str, ...] = (ERASURES,)
    restore: tuple[str, ...] = (HEADS,)

    def __init__(self, registry: Registry, policy: Policy, dependencies: ConsentDependencies) -> None:
        self._registry = registry
        self._encoders = record_encoders(registry)
        self._key = dependencies.key
        self._metrics = dependencies.metrics
        self._changed = dependencies.changed
        self._lists = dependencies.lists
        self._ledger = LedgerCache(dependencies.states, dependencies.metrics, dependencies.partition_of)
        self._counts = OutcomeCounts(dependencies.metrics)
        self._announced: set[int] = set()
        """Partitions whose audit names the policy in force."""
        self._enforce(policy)

    def _enforce(self, policy: Policy) -> None:
        self._policy = policy
        self._reader = SignalReader(policy, self._lists)
        self._updater = LedgerUpdater(self._registry, policy, self._reader, self._ledger)
        self._caches: dict[bytes, DecisionCache] = {}
        """By header of the event, which names its contract."""
        self._announced.clear()
        self._ledger.drop_all()

    # -- batches

    def handle(self, batch: Batch, now: float) -> Outcome:
        """Decide on one batch. Retryable for a contract nobody knows yet, and while the ledger is away."""
        outcome = Outcome()
        partition = self._ledger.partition(batch.partition)
        writes = LedgerWrites(self._encoders, self._policy, batch.partition, partition.head)
        at = int(now * 1000)
        try:
            self._ledger.trim(batch.partition, now)
            if batch.topic == SIGNALS:
                outcome.passed, broken = self._updater.apply_signals(batch, partition, writes)
                for position, detail in broken:
                    outcome.dead_letter(position, detail, now)
            else:
                self._decide_batch(outcome, batch, writes, now)
        except BaseException:
            # The batch comes again and may have changed what was looked up: look it up anew.
            self._ledger.drop(batch.partition)
            raise
        if batch.partition not in self._announced:
            writes.audit_policy(at)
            self._announced.add(batch.partition)
        for topic, outputs in writes.outputs().items():
            outcome.out.setdefault(topic, []).extend(outputs)
        partition.head = writes.head
        if writes.states:
            outcome.after_commit.append(self._ledger.save_after_commit(batch.partition, writes.states, at))
        return outcome

    def _decide_batch(self, outcome: Outcome, batch: Batch, writes: LedgerWrites, now: float) -> None:
        """Decide on events of known visitors at once, on the others after a look-up; events of one key stay in order."""
        redactor = BatchRedactor(batch, outcome, now, self._key)
        progress = BatchProgress(batch, self._ledger.partition(batch.partition), redactor)
        for start in range(0, len(batch), CHUNK):
            progress.clear_pending()
            for at, error in self._decide_known(progress, range(start, min(start + CHUNK, len(batch)))):
                outcome.dead_letter(at, error, now)
            self._ledger.load(batch.partition, progress.missing)
            self._ledger.load_others(batch.partition, progress.missing_others)
            for pending in progress.pending:
                self._decide_pending(progress, pending, writes)
        redactor.write_redacted()
        written = list(filter(None, redactor.written))
        outcome.out.setdefault(CONSENTED, []).extend(written)
        outcome.passed = len(written)
        self._counts.count(Counter(redactor.counted), outcome, writes)
        self._metrics.count("headwater_consent_signals_total", len(batch) - progress.misses, cache="hit")
        self._metrics.count("headwater_consent_signals_total", progress.misses, cache="miss")

    def _decide_known(self, progress: BatchProgress, positions: range) -> list[tuple[int, str]]:
        """Decide on events whose visitor sent the same signals before, queue the others, and return what is broken."""
        broken: list[tuple[int, str]] = []
        visitors, redactor = progress.partition.visitors, progress.redactor
        written, counted = redactor.written.append, redactor.counted.append
        keys = progress.batch.keys[positions.start : positions.stop]
        values: Any = progress.batch.values[positions.start : positions.stop]
        if not all(values):
            values = [value or b"" for value in values]
        common = self._caches.get(values[0][:HEADER_BYTES])
        heads = [None] * len(values) if common is None else common.head.read_many(values)
        imports = common is not None and common.imports.may_hold(values)
        for at, key, value, early_head in zip(positions, keys, values, heads, strict=True):
            try:
                if early_head and common:
                    cache, head = common, early_head
                else:
                    cache = self._find_cache(value)
                    head = cache.head.read_one(value)
                context, decision = cache.decide_again(value, head, visitors.get(key))
                if decision is None:
                    # Later events of this visitor in the batch must not overtake this one.
                    visitors.pop(key, None)
                    self._queue_event(progress, at, cache, context, head)
                elif decision.passes:
                    written((key, value.replace(cache.header, decision.prefix, 1), BY_KEY))
                    imported = (imports or cache is not common) and cache.imports.read(value)
                    counted((context, decision.imported_key if imported else decision.key, head[3] // MINUTE_MS))
                else:
                    redactor.defer_redaction(at, cache, context, decision, head[3] // MINUTE_MS)
            except Undecodable as error:
                broken.append((at, str(error)))
        return broken

    def _find_cache(self, value: bytes) -> DecisionCache:
        """The cache for an event's contract. Undecodable for what is no event, Retryable for an unknown contract."""
        return self._caches.get(value[:HEADER_BYTES]) or self._open_cache(value)

    def _open_cache(self, value: bytes) -> DecisionCache:
        if not value:
            raise Undecodable("tombstone")
        try:
            contract = self._registry.by_id(schema_id(value))
            if contract.topic != RAW:
                raise Undecodable(f"a record of {contract.topic}")
            cache = DecisionCache(contract, self._registry.derived(contract.id, CONSENTED), self._policy, self._reader)
        except UnknownContract as error:
            raise Retryable(str(error)) from error
        self._caches[value[:HEADER_BYTES]] = cache
        return cache

    def _queue_event(
        self, progress: BatchProgress, at: int, cache: DecisionCache, context: EventContext, head: EventHead
    ) -> None:
        """Queue an event, and note which stored states its decision needs. Undecodable."""
        key, value = progress.batch.keys[at], progress.batch.values[at] or b""
        _, _, region_at, time = head
        recent = progress.recent_signals.get(key)
        if recent and recent[0] is cache and recent[1].apply_at(value, region_at, time):
            signals = recent[1]
        else:
            signals, cached = cache.find_signals(value, region_at, time)
            progress.misses += not cached
            progress.recent_signals[key] = cache, signals
        end = region_at + len(signals.data)
        event = ConsentEvent(context, signals, time)
        table: StateTable | None = None
        others: tuple[bytes, ...] = ()
        if key is not None and len(key) == SUBJECT_LENGTH and not context.heartbeat:
            partition, scope = progress.partition, context.scopes[signals.regime]
            table = partition.table(scope)
            scopes: tuple[Scope, ...] = (scope,)
            if signals.refuses:  # a refusal is stored under every regime
                scopes = tuple(context.scopes.values())
                progress.missing.update((each, key) for each in scopes if key not in partition.table(each))
            elif key not in table:
                progress.missing.add((scope, key))
            sole = signals.sole_identifier
            if not (value.startswith(sole, region_at) and value.startswith(key, region_at + len(sole))):
                others = tuple(node for node in cache.head.identifiers(value, end) if node != key)
                keys = ((each, node) for each in scopes for node in others)
                progress.missing_others.update(state_key for state_key in keys if state_key not in partition.others)
        progress.pending.append(PendingEvent(at, key, cache, event, table, others))

    def _decide_pending(self, progress: BatchProgress, pending: PendingEvent, writes: LedgerWrites) -> None:
        """Decide on an event under its subject's stored state, update the state, and remember the visitor."""
        at, key, cache, event, table, others = pending
        context, signals, time = event
        values: StateValues = ()
        decision = signals.decisions.get(context.rule) or cache.decide_event(context, signals)
        if table is not None and key is not None:
            partition = progress.partition
            state, until = self._update_state(partition, event, key, writes)
            other_states = self._update_others(partition, event, others, writes) if others else ()
            if other_states or (state is not None and (state.refuses or not decision.settled)):
                values = self._updater.evaluate_states(event, state, other_states)
                decision = cache.decide_event(context, signals, values)
            if not others and context.ordinary and len(signals.data) <= MAX_BYTES:
                decisions = signals.decisions_for(values)
                partition.visitors[key] = KnownVisitor(
                    cache, signals.sole_identifier, context.group, time, min(signals.ends, until), decisions
                )
        if decision.passes:
            value = progress.batch.values[at] or b""
            progress.redactor.written.append((key, value.replace(cache.header, decision.prefix, 1), BY_KEY))
            counted = decision.imported_key if cache.imports.read(value) else decision.key
            progress.redactor.counted.append((context, counted, time // MINUTE_MS))
        else:
            progress.redactor.defer_redaction(at, cache, context, decision, time // MINUTE_MS)

    def _update_state(
        self, partition: PartitionState, event: ConsentEvent, key: bytes, writes: LedgerWrites
    ) -> tuple[SubjectState | None, int]:
        """The state of an event's key, the event included, and the collector time until which the same signals add nothing."""
        context, signals, _ = event
        state = partition.tables[context.scopes[signals.regime]][key]
        undated = signals.speaks and state is not None and state.refuses_undated
        if not (signals.learnable or undated or (signals.speaks and context.is_choice)):
            return state, NEVER
        if context.is_choice or not self._is_known(partition, event, key):
            state = self._updater.record_choice(event, partition.tables, key, writes)
            partition.refresh_others(key)
        return state, 0 if state is None else state.until

    def _is_known(self, partition: PartitionState, event: ConsentEvent, key: bytes) -> bool:
        """Whether an event adds nothing to its key's state under its own regime; an undated refusal, under any."""
        everywhere = event.signals.refuses and not event.signals.dated
        scopes = event.scopes if everywhere else (event.scope,)
        states = [partition.tables[scope][key] for scope in scopes]
        return all(state is not None and state.knows(event.signals.number, event.time) for state in states)

    def _update_others(
        self, partition: PartitionState, event: ConsentEvent, nodes: Iterable[bytes], writes: LedgerWrites
    ) -> OtherStates:
        """The states of an event's other identifiers; the event's choice is published for them."""
        if event.signals.speaks:
            self._updater.publish_to_others(event, nodes, partition.others, writes)
        scope = event.scope
        return [(node, partition.others[scope, node]) for node in nodes]

    # -- the runtime's other calls

    def on_tick(self, now: float) -> Outcome:  # noqa: ARG002 - the policy file has its own clock
        """Enforce a changed policy, and open views that no batch has opened: decisions read them too.

        Retryable while the ledger is away.
        """
        self._follow_policy()
        self._ledger.open_views()
        return Outcome()

    def _follow_policy(self) -> None:
        """Enforce a changed policy. One that does not load changes nothing, and is counted and logged."""
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
        """Look every subject up anew after an erasure."""
        if any(value is not None for _, value in records):
            self._ledger.drop_all()

    def on_restore(self, topic: str, partition: int, records: KeyValues) -> None:  # noqa: ARG002 - it restores one topic
        """Take over the head of a partition's audit chain."""
        head = None
        for _, value in records:
            if value is not None:
                record: dict[str, Any] = decode(self._registry, value)[1]
                head = ChainHead(record["seq"], record["hash"])
        self._ledger.restore(partition, head)

    def on_revoke(self, partition: int) -> None:
        """Forget a partition."""
        self._ledger.revoke(partition)
        self._announced.discard(partition)


__all__ = ["AUDIT", "CONSENTED", "RAW", "REVOCATIONS", "SIGNALS", "STATE", "ConsentDependencies", "ConsentStage"]
