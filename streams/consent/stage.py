"""The consent stage: a decision per event, its columns prepended; only what loses something is written anew.

A decision depends on the head's bytes (name, source, site, region, signals), the day and what the ledger remembers of the
subject, so it is kept with its encoded columns, and most events cost two look-ups and a concatenation.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from infra.errors import ConfigError, Retryable
from infra.logs import get_logger
from infra.metrics import Metrics
from schemas.codec import HEADER_BYTES, Undecodable, UnknownContract, decode, read_long, schema_id
from schemas.registry import Registry
from streams.consent.audit import Head
from streams.consent.case import Decided, Kind, Lineage, What, Where
from streams.consent.decide import Action, Reason
from streams.consent.entries import AUDIT, HEADS, REVOCATIONS, STATE, Entries, minute
from streams.consent.evidence import Reader
from streams.consent.gvl import GvlFolder
from streams.consent.learning import SIGNALS, SUBJECT_LENGTH, Event, Learner
from streams.consent.ledger import DAY_MS
from streams.consent.policy import BITS, Policy
from streams.consent.standing import Place, Standings, Table
from streams.consent.store import StateStore
from streams.consent.strip import random_id
from streams.runtime.stage import Batch, Cell, Dead, Outcome, Output, outputs

RAW, CONSENTED = "events.raw", "events.consented"
MINUTE_MS = 60_000

KeyValues = Iterable[tuple[bytes | None, bytes | None]]
PolicyReader = Callable[[], Policy | None]
"""The policy if it has changed since it was last asked for; ConfigError if it is broken now."""


class Kit(NamedTuple):
    """What the stage works with beside contracts and policy."""

    key: bytes
    """For ids of events that lose theirs."""
    states: StateStore
    metrics: Metrics
    changed: PolicyReader
    lists: GvlFolder | None = None
    """Imported vendor lists; None where the policy names no vendor."""


Row = tuple[int, bytes | None, bytes, Lineage, Where, What, int, Table | None]
"""One event of a batch as far as it is read: place, key, value, lineage, where, what, collector time (milliseconds UTC), and
what is known of subjects like its own; None where nothing is remembered of it."""
Tally = Counter[tuple[Where, Kind, int]]
"""Events by name and kind and the minute of their collector time."""


class ConsentStage:
    """See the module. Broken records go to the dead tray; an unknown contract and an absent ledger are waited for."""

    name = "consent"
    inputs: tuple[str, ...] = (RAW, SIGNALS)
    broadcast: tuple[str, ...] = ()
    restore: tuple[str, ...] = (HEADS,)

    def __init__(self, registry: Registry, policy: Policy, kit: Kit) -> None:
        self._registry = registry
        self._key = kit.key
        self._metrics = kit.metrics
        self._changed = kit.changed
        self._lists = kit.lists
        self._standings = Standings(kit.states, kit.metrics)
        self._announced: set[int] = set()
        self._enforce(policy)

    def _enforce(self, policy: Policy) -> None:
        self._policy = policy
        self._reader = Reader(policy, self._lists)
        self._learner = Learner(self._registry, policy, self._reader, self._standings)
        self._lineages: dict[bytes, Lineage] = {}
        self._announced.clear()
        self._standings.forget()

    # -- batches

    def handle(self, batch: Batch, now: float) -> Outcome:
        """Decide on one batch. Retryable for a contract nobody knows yet, and while the ledger is away."""
        outcome = Outcome()
        holding = self._standings.holding(batch.partition)
        entries = Entries(self._registry, self._policy, batch.partition, holding.head)
        at = int(now * 1000)
        try:
            self._standings.trim(batch.partition)
            if batch.topic == SIGNALS:
                outcome.passed, broken = self._learner.take(batch, holding, entries)
                for place, detail in broken:
                    self._bury(outcome, place, detail, now)
            else:
                self._take_events(outcome, batch, entries, now)
        except BaseException:
            # What was looked up may have been changed by a batch that comes again: look it up anew.
            self._standings.drop(batch.partition)
            raise
        if batch.partition not in self._announced:
            entries.policy_in_force(at)
            self._announced.add(batch.partition)
        for topic, made in entries.trays().items():
            outcome.out.setdefault(topic, []).extend(made)
        holding.head = entries.head
        if entries.states:
            outcome.after_commit.append(self._standings.saving(batch.partition, entries.states, at))
        return outcome

    def _take_events(self, outcome: Outcome, batch: Batch, entries: Entries, now: float) -> None:
        rows, wanted = self._read(outcome, batch, now)
        if wanted:
            self._standings.load(batch.partition, wanted)
        learn, recall = self._learner.learn, self._learner.recall
        counted: list[tuple[Where, Kind, int]] = []
        written: list[tuple[bytes | None, bytes | None, int]] = []
        for at, key, value, lineage, where, what, time, table in rows:
            decided = what.decided.get(where.rule) or lineage.decided(where, what)
            if table is not None and key is not None:
                standing = table[key]
                if (what.learnable or (what.speaks and where.is_choice)) and (
                    standing is None or standing.learned_from != what.number or time >= standing.until or where.is_choice
                ):
                    standing = learn(Event(where, what, time), table, key, entries)
                if standing is not None and (standing.withdrawn or not decided.settled):
                    decided = lineage.recalled(where, what, recall(Event(where, what, time), standing))
            if decided.passes:
                written.append((key, decided.prefix + value[HEADER_BYTES:], -1))
            elif decided.decision.action is not Action.DROP:
                try:
                    written.append(self._rewritten(batch, at, value, lineage, decided))
                except Undecodable as error:
                    self._bury(outcome, at, str(error), now)
                    continue
            counted.append((where, decided.kind, time // MINUTE_MS))
        outcome.out.setdefault(CONSENTED, []).extend(outputs(written))
        outcome.passed = len(written)
        self._count(Counter(counted), outcome, entries)

    def _read(self, outcome: Outcome, batch: Batch, now: float) -> tuple[list[Row], set[Place]]:
        """The events as far as they are read, and the subjects that must be looked up."""
        rows: list[Row] = []
        wanted: set[Place] = set()
        lineages, misses = self._lineages, 0
        table_of = self._standings.holding(batch.partition).table
        for at, (key, value) in enumerate(zip(batch.keys, batch.values, strict=True)):
            try:
                if value is None:
                    raise Undecodable("tombstone")
                lineage = lineages.get(value[:HEADER_BYTES]) or self._lineage(value)
                name_at, _, _, _, clock_at, region_at, _, head_end = lineage.ends(value)
                time = read_long(value, clock_at)
                day = time // DAY_MS
                name, said = value[name_at:clock_at], value[region_at:head_end]
                where = lineage.wheres.get(name) or lineage.where(name)
                what = lineage.whats.get((day, said))
                if what is None:
                    misses += 1
                    what = lineage.what(day, said)
            except Undecodable as error:
                self._bury(outcome, at, str(error), now)
                continue
            table = None
            if key is not None and len(key) == SUBJECT_LENGTH and not where.heartbeat:
                scope = where.scopes[what.regime]
                table = table_of(scope)
                if key not in table:
                    wanted.add((scope, key))
            rows.append((at, key, value, lineage, where, what, time, table))
        self._metrics.count("headwater_consent_signals_total", len(rows) - misses, cache="hit")
        self._metrics.count("headwater_consent_signals_total", misses, cache="miss")
        return rows, wanted

    def _bury(self, outcome: Outcome, at: int, detail: str, now: float) -> None:
        outcome.dead.append(Dead(at, "UNDECODABLE", detail))
        outcome.counts[Cell(minute(int(now * 1000)), "", "", "dead:UNDECODABLE")] += 1

    def _lineage(self, value: bytes) -> Lineage:
        """Raises Undecodable where there is no frame, Retryable where its contract is not known yet."""
        try:
            read = self._registry.by_id(schema_id(value))
            if read.topic != RAW:
                raise Undecodable(f"a record of {read.topic}")
            found = Lineage(read, self._registry.derived(read.id, CONSENTED), self._policy, self._reader)
        except UnknownContract as error:
            raise Retryable(str(error)) from error
        self._lineages[value[:HEADER_BYTES]] = found
        return found

    def _rewritten(self, batch: Batch, at: int, value: bytes, lineage: Lineage, decided: Decided) -> Output:
        """A stripped or anonymised event, or a heartbeat without whatever somebody may have put into it."""
        key, decision = batch.keys[at], decided.decision
        if decision.action is Action.ANONYMISE:
            unlinkable = random_id(self._key, batch.topic, batch.partition, batch.offsets[at])
            datum, key = lineage.rewriter.anonymise(value, unlinkable), unlinkable.encode()
        else:
            datum = lineage.rewriter.strip(value, decision.mask)
            if not decision.mask & BITS["analytics"] and not decided.kind.heartbeat:
                # The key is a pseudonym, and pseudonyms are analytics.
                key = random_id(self._key, batch.topic, batch.partition, batch.offsets[at]).encode()
        return Output(key, decided.prefix + datum)

    # -- counts and audit

    def _count(self, tally: Tally, outcome: Outcome, entries: Entries) -> None:
        for (where, kind, at), n in tally.items():
            if kind.heartbeat:
                continue
            decision, start = kind.decision, at * MINUTE_MS
            if decision.drop_reason is not None:
                outcome.dropped[decision.drop_reason.value] += n
            outcome.counts[Cell(start, where.source, where.event_name, kind.outcome)] += n
            if kind.fingerprint:
                set_up = (("site", where.site), *kind.fingerprint)
                outcome.counts[Cell(start, where.source, "", "fingerprint", set_up)] += n
            if decision.action is not Action.PASS:
                entries.denied(where.site, start, decision.action, kind.reasons, n)
            for ruling in decision.rulings:
                if ruling.reason is Reason.CONFLICT:
                    self._metrics.count("headwater_consent_conflicts_total", n, purpose=ruling.purpose)

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

    def on_restore(self, topic: str, partition: int, records: KeyValues) -> None:  # noqa: ARG002 - it restores one topic
        """The end of a partition's audit chain."""
        head = None
        for _, value in records:
            if value is not None:
                record = decode(self._registry, value)[1]
                head = Head(record["seq"], record["hash"])
        self._standings.restore(partition, head)

    def on_revoke(self, partition: int) -> None:
        """Forget what was looked up for a partition."""
        self._standings.revoke(partition)
        self._announced.discard(partition)


__all__ = ["AUDIT", "CONSENTED", "RAW", "REVOCATIONS", "SIGNALS", "STATE", "ConsentStage", "Kit"]
