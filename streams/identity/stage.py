"""The identity stage: prepends one stable profile to each event, drops duplicates, expands withdrawals to all linked ids.

While the graph is unavailable, events pass with their strongest node as profile and are marked as unresolved. Their links and
withdrawals are processed once the graph is back.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

from infra.errors import Retryable
from infra.telemetry.logs import get_logger
from infra.telemetry.metrics import Metrics
from schemas.codec import Record, Undecodable, UnknownContract, decode, encode
from schemas.registry import Registry
from streams.identity.graph.deferred import DEFERRED, DeferredRanges, OffsetSpan, ReadBack
from streams.identity.graph.graph import Graph, RenameLookup, no_renames
from streams.identity.graph.guard import GraphGuard, NoGuard
from streams.identity.graph.slots import MERGES, SlotLog
from streams.identity.graph.store import GraphStore, StoreUnavailable
from streams.identity.nodes import Alias
from streams.identity.reading import CONSENTED, DAY_MS, RESOLVED, is_node
from streams.identity.refusals.handover import Handover, expand
from streams.identity.refusals.revocation import (
    REQUESTS,
    REVOCATIONS,
    SIGNALS,
    request_record,
    signal_records,
    superseded_by_erasure,
)
from streams.identity.resolver import ERASURE, Resolver
from streams.runtime.stage import BY_KEY, Batch, Outcome

REWRITES_S = 5.0
"""Seconds between two searches for rewritten slots that are missing in the log."""
CATCH_UP = 5_000
"""Deferred records after which a tick ends."""

KeyValues = Iterable[tuple[bytes | None, bytes | None]]


def _nothing_to_read(topic: str, partition: int, first: int, end: int) -> Batch:
    raise Retryable(f"{topic}:{partition} {first}-{end}: nothing reads back here")


@dataclass(frozen=True)
class IdentityDependencies:
    """What the stage needs besides its store."""

    alias: Alias
    guard: GraphGuard = field(default_factory=NoGuard)
    read_back: ReadBack = _nothing_to_read
    sla_ms: int = DAY_MS
    """Milliseconds within which every room must have answered a privacy request."""
    renamed: RenameLookup = no_renames


class IdentityStage:
    """Implements the stage contract; see the module."""

    name = "identity"
    inputs: tuple[str, ...] = (CONSENTED, REVOCATIONS)
    broadcast: tuple[str, ...] = (MERGES, DEFERRED)
    restore: tuple[str, ...] = (DEFERRED,)

    def __init__(self, registry: Registry, store: GraphStore, metrics: Metrics, dependencies: IdentityDependencies) -> None:
        self._registry = registry
        self._metrics = metrics
        self._dependencies = dependencies
        self._graph = Graph(store, dependencies.renamed)
        self._handover = Handover(registry, store, metrics)
        self._resolver = Resolver(registry, self._graph, metrics, dependencies.alias, self._handover)
        self._slots = SlotLog(registry)
        self._deferred = DeferredRanges(registry, REVOCATIONS)
        self._rewrites_checked_at = 0.0

    # -- batches

    def handle(self, batch: Batch, now: float) -> Outcome:
        """Process a batch. Retryable while a contract is unknown."""
        outcome = self._attempt(batch, now)
        if outcome is None:
            outcome = Outcome(passed=len(batch)) if batch.topic == REVOCATIONS else self._resolver.pass_unresolved(batch, now)
        elif batch.topic != REVOCATIONS or not self._deferred.links_due:
            return outcome
        # Links that are due may join more ids to a withdrawal: it is expanded now, and again after them.
        outcome.out.setdefault(DEFERRED, []).append(self._deferred.defer(batch))
        self._metrics.set("headwater_identity_deferred", len(self._deferred))
        return outcome

    def _attempt(self, batch: Batch, now: float) -> Outcome | None:
        """Process a batch; return None while the graph is unavailable."""
        if self._dependencies.guard.is_usable():
            try:
                return self._process(batch, now)
            except StoreUnavailable as error:
                self._dependencies.guard.report_loss(error)
        return None

    def _process(self, batch: Batch, now: float) -> Outcome:
        return self._expand(batch, now) if batch.topic == REVOCATIONS else self._resolver.resolve(batch, now)

    def on_tick(self, now: float) -> Outcome:
        """Log rewrites of workers that stopped, and process deferred records. Retryable if those cannot be read."""
        outcome = Outcome()
        if self._dependencies.guard.is_usable():
            try:
                self._log_rewrites(outcome, now)
                self._catch_up(outcome, now)
            except StoreUnavailable as error:
                self._dependencies.guard.report_loss(error)
        return outcome

    def _log_rewrites(self, outcome: Outcome, now: float) -> None:
        """Emit rewritten slots that are not in the log: workers that cached the older slot would never read the newer one."""
        if now - self._rewrites_checked_at < REWRITES_S:
            return
        self._rewrites_checked_at = now
        nodes = self._graph.store.unlogged_rewrites()
        slots = [(node, slot) for node, slot in zip(nodes, self._graph.store.read(nodes), strict=True) if slot is not None]
        unlogged = [(node, slot) for node, slot in slots if not slot.logged]
        for node, slot in unlogged:
            outcome.out.setdefault(MERGES, []).append(self._slots.encode_slot(node, slot, "", int(now * 1000)))
        # It may be a link whose worker crashed: once it is confirmed, no other worker would hand over its refusals.
        self._handover.add_signals(outcome, unlogged)
        if slots:
            outcome.after_commit.append(partial(self._graph.store.confirm, slots))

    def _catch_up(self, outcome: Outcome, now: float) -> None:
        records_read = 0
        while records_read < CATCH_UP and (due := self._deferred.next_due()) is not None:
            try:
                batch = self._dependencies.read_back(*due)
            except Retryable:
                if records_read:
                    break  # emit what was processed so far
                raise
            records_read += len(batch)
            self._link_deferred(batch, due, outcome, now)
        self._metrics.set("headwater_identity_deferred", len(self._deferred))

    def _link_deferred(self, batch: Batch, due: OffsetSpan, outcome: Outcome, now: float) -> None:
        """Process records that passed unresolved: emit everything except the events themselves."""
        if len(batch):
            late = self._process(batch, now)
            # The events themselves left before, with their counts and dead letters.
            late.out.pop(RESOLVED, None)
            for topic, outputs in late.out.items():
                outcome.out.setdefault(topic, []).extend(outputs)
            outcome.after_commit += late.after_commit
        until = batch.offsets[-1] + 1 if len(batch) else due.end
        outcome.out.setdefault(DEFERRED, []).append(self._deferred.complete(due, until))

    # -- withdrawals

    def _expand(self, batch: Batch, now: float) -> Outcome:
        """Emit a signal for every linked id of each refusal, and a request to the other rooms for each withdrawal."""
        outcome = Outcome()
        revocations = self._drop_erased_subjects(outcome, self._revocations(outcome, batch, now))
        expansion = expand(self._graph.store, revocations)
        for revocation, linked in zip(revocations, expansion.components, strict=True):
            if not linked.whole:
                get_logger().warning("a refusal is linked to too many ids, not all are expanded", nodes=len(linked.nodes))
            for record in signal_records(revocation, linked):
                self._emit(outcome, SIGNALS, record["subject"], record)
            if revocation.get("withdrawal", True):  # records of the first contract version lack the field
                privacy_request = request_record(revocation, linked, self._dependencies.sla_ms)
                self._emit(outcome, REQUESTS, privacy_request["request_id"], privacy_request)
            self._metrics.count("headwater_revocations_total", whole=str(linked.whole).lower())
            outcome.passed += 1
        if expansion.pending:
            outcome.after_commit.append(partial(self._graph.store.confirm_refusals, expansion.pending))
        return outcome

    def _revocations(self, outcome: Outcome, batch: Batch, now: float) -> list[Record]:
        """Return the refusals of identity nodes in a batch; other records are dead letters."""
        revocations: list[Record] = []
        for position, value in enumerate(batch.values):
            try:
                contract, revocation = decode(self._registry, value or b"")
                if contract.topic != REVOCATIONS or not is_node(revocation["subject"]):
                    raise Undecodable(f"a record of {contract.topic}, or a subject that is no identity node")
            except Undecodable as error:
                outcome.dead_letter(position, str(error), now)
            except UnknownContract as error:
                raise Retryable(str(error)) from error
            else:
                revocations.append(revocation)
        return revocations

    def _drop_erased_subjects(self, outcome: Outcome, revocations: list[Record]) -> list[Record]:
        """Drop refusals of subjects that were erased since."""
        slots = self._graph.store.read([revocation["subject"] for revocation in revocations])
        pairs = zip(revocations, slots, strict=True)
        alive = [revocation for revocation, slot in pairs if not superseded_by_erasure(revocation, slot)]
        if len(alive) < len(revocations):
            outcome.dropped[ERASURE] += len(revocations) - len(alive)
        return alive

    def _emit(self, outcome: Outcome, topic: str, key: str, record: Record) -> None:
        value = encode(self._registry.latest(topic), record)
        outcome.out.setdefault(topic, []).append((key.encode(), value, BY_KEY))

    # -- memory

    def on_broadcast(self, topic: str, records: KeyValues) -> None:
        """Apply slots that any worker has committed, and ranges that any worker has deferred."""
        evidence_deleted = False
        for key, value in records:
            if value is None:
                if topic == MERGES and key is not None:
                    self._graph.forget(key.decode())
                    evidence_deleted = True
            elif topic == DEFERRED:
                self._deferred.observe(decode(self._registry, value)[1])
            else:
                self._graph.apply_committed(*self._slots.decode_slot(value))
        if evidence_deleted:
            self._resolver.evidence.invalidate()

    def on_restore(self, topic: str, partition: int, records: KeyValues) -> None:  # noqa: ARG002 - it restores one topic
        """Load the deferred ranges of a partition."""
        self._deferred.assign(partition)
        for _, value in records:
            if value is not None:
                self._deferred.restore(decode(self._registry, value)[1])
        self._metrics.set("headwater_identity_deferred", len(self._deferred))

    def on_revoke(self, partition: int) -> None:
        """Forget the deferred ranges of a partition that another worker owns now."""
        self._deferred.revoke(partition)
