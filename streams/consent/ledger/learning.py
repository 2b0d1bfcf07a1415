"""What the ledger learns: from events that carry a choice, from webhooks, and from refusals that reach a linked id."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from infra.errors import Retryable
from schemas.codec import Undecodable, UnknownContract, decode
from schemas.registry import Registry
from streams.consent.decision.decision_cache import EventContext, EventSignals, Memories
from streams.consent.formats.evidence import SignalReader
from streams.consent.ledger.ledger import (
    DAY_MS,
    GRANTED,
    SEEN_GRANTED,
    SKEW_MS,
    ChoiceDates,
    Claim,
    Moment,
    StateChange,
    StateValue,
    Times,
    dates,
    entry,
    is_erased,
    is_time,
    learn,
    merge,
    recall,
    take_over,
    withdraw,
)
from streams.consent.ledger.ledger_writes import SIGNALS, STATE_KIND, ChangeSource, LedgerWrites
from streams.consent.ledger.subject_state import LedgerCache, PartitionState, Place, Scope, SubjectState, Table
from streams.consent.policy import BITS, Policy, Regime
from streams.runtime.stage import Batch

SUBJECT_LENGTH = 33
"""Of an identity node; every other key is an event's own and remembers nothing."""
FOR_EVER = 1 << 62
NO_TIMES: Times = {}
NO_DATES = ChoiceDates(0, 0)
NO_PURPOSES: frozenset[str] = frozenset()
STRICTEST = (StateValue.WITHDRAWN, StateValue.REFUSED, StateValue.DENIED)


Event = tuple[EventContext, EventSignals, int]
"""An event as the ledger sees it: where, what, and its collector time, milliseconds UTC."""
Others = Sequence[tuple[bytes, SubjectState | None]]
"""Identifiers that an event has beside its key, and what is remembered of each."""


class Learner:
    """Under one policy."""

    def __init__(self, registry: Registry, policy: Policy, reader: SignalReader, standings: LedgerCache) -> None:
        self._registry = registry
        self._policy = policy
        self._reader = reader
        self._standings = standings

    def recall(self, event: Event, standing: SubjectState | None, others: Others = ()) -> Memories:
        """What is remembered, purpose by purpose, as far as it matters to an event; empty = nothing.

        Refusals count, whichever of the event's identifiers they are remembered of. A later grant of the same identifier lifts
        one, and so does a later grant of the event's key, its strongest identifier: who agrees as a user agrees for her
        devices, and nobody who shares a device agrees for its users.
        """
        _, signals, time = event
        oldest = time - self._policy.memory.max_age_days * DAY_MS
        granted_at = self._dates(event).granted_at
        own = NO_TIMES if standing is None else standing.times
        memories = []
        for purpose in self._policy.purposes:
            moment = Moment(time, granted_at if purpose in signals.evidence.claim.granted else 0, oldest)
            memory = recall(own, purpose, moment)
            if others:
                grants = {name: own[name] for kind in (GRANTED, SEEN_GRANTED) if (name := entry(purpose, kind)) in own}
                remembered = {recall(merge(other.times, grants), purpose, moment) for _, other in others if other is not None}
                memory = next((value for value in STRICTEST if value in remembered or value is memory), memory)
            memories.append(memory)
        return () if all(memory is StateValue.NOTHING for memory in memories) else tuple(memories)

    def learn(self, event: Event, tables: Mapping[Scope, Table], key: bytes, entries: LedgerWrites) -> SubjectState | None:
        """Take down what an event says, if that is news. Most say what is known: see `SubjectState.knows`, before calling this.

        Refusals hold under every regime, grants under the event's own.
        """
        context, signals, time = event
        scope = context.scopes[signals.regime]
        standing = tables[scope][key]
        times: Times = NO_TIMES if standing is None else standing.times
        if is_erased(times, time):
            return standing
        constant = signals.dated and not context.is_choice
        if standing is not None and constant and all(times.get(name, 0) >= at for name, at in signals.entries):
            return standing.has_learned(signals.number, FOR_EVER)
        when = self._dates(event)
        claim = signals.evidence.claim
        changes = [self._take_down(event, (scope, tables[scope], key), (claim, when), entries)]
        if claim.denied:
            refusal = claim._replace(granted=NO_PURPOSES)
            changes += [
                self._take_down(event, (other, tables[other], key), (refusal, when), entries)
                for other in context.scopes.values()
                if other != scope
            ]
            if any(change.refused for change in changes):
                entries.revoke(self._source(event, scope, key, when.denied_at), scope[1], "", changes)
        standing = tables[scope][key]
        if standing is None:
            return None
        if not signals.dated or when.by_arrival:
            for among in context.scopes.values() if claim.denied else ():
                if (state := tables[among][key]) is not None:
                    state.has_learned(signals.number, time + DAY_MS)
            return standing.has_learned(signals.number, time + DAY_MS)
        # A time that was not believed, of a clock that is ahead, may be soon.
        return standing.has_learned(signals.number, FOR_EVER if when.granted_at else time + SKEW_MS)

    def _take_down(
        self, event: Event, place: tuple[Scope, Table, bytes], choice: tuple[Claim, ChoiceDates], entries: LedgerWrites
    ) -> StateChange:
        """Take down a choice in the state of one scope, table and subject."""
        (_, _, time), (scope, table, key), (claim, when) = event, place, choice
        standing = table[key]
        times: Times = NO_TIMES if standing is None else standing.times
        if is_erased(times, time):
            return StateChange({})
        change = learn(times, claim, when, time, self._policy.memory.use_stored_state)
        if change.times:
            chosen = when.denied_at if change.refused else max(when.granted_at, when.denied_at)
            table[key] = SubjectState(entries.change(self._source(event, scope, key, chosen), times, change))
        return change

    def _source(self, event: Event, scope: Scope, key: bytes, chosen: int) -> ChangeSource:
        _, signals, time = event
        evidence = signals.evidence
        return ChangeSource("|".join(scope), key.decode(), time, chosen, "event", signals.hash, evidence.platform, evidence.gvl)

    def tell_others(
        self, event: Event, nodes: Iterable[bytes], states: dict[Place, SubjectState | None], entries: LedgerWrites
    ) -> None:
        """Say an event's own choice of its other identifiers too, as far as it is news to them, and know it of them then.

        A refusal counts under every regime, a grant under the event's own.
        """
        context, signals, time = event
        own, claim, when = context.scopes[signals.regime], signals.evidence.claim, self._dates(event)
        refusal, grant = claim._replace(granted=NO_PURPOSES), claim._replace(denied=NO_PURPOSES)
        for node in nodes:
            news: dict[str, dict[str, int]] = {}
            for regulation, scope, choice in (
                *(("", scope, refusal) for scope in context.scopes.values() if claim.denied),
                (signals.regime, own, grant),
            ):
                standing = states[scope, node]
                times: Times = NO_TIMES if standing is None else standing.times
                learned = NO_TIMES if is_erased(times, time) else learn(times, choice, when, time, False).times
                if learned:
                    news[regulation] = merge(news.get(regulation, NO_TIMES), learned)
                    states[scope, node] = SubjectState(merge(times, learned))
            for regulation, times in news.items():
                entries.tell(self._source(event, own, node, max(times.values())), own[1], regulation, times)

    def _dates(self, event: Event) -> ChoiceDates:
        """When the choice of an event was made; an event that is a choice is made now."""
        context, signals, time = event
        if not signals.speaks:
            return NO_DATES
        return dates(signals.evidence.claim, time, context.is_choice, self._policy.memory.undated_grants_lift)

    def take(self, batch: Batch, holding: PartitionState, entries: LedgerWrites) -> tuple[int, list[tuple[int, str]]]:
        """Take in a batch of `consent.signals`: how many were taken, and (place, what was wrong) of the others."""
        records: list[dict[str, Any]] = []
        broken: list[tuple[int, str]] = []
        for at, value in enumerate(batch.values):
            try:
                records.append(self._decode(value or b""))
            except Undecodable as error:
                broken.append((at, str(error)))
            except UnknownContract as error:
                raise Retryable(str(error)) from error
        places = {(scope, record["subject"].encode()) for record in records for scope in self._scopes(record).values()}
        self._standings.load(batch.partition, {place for place in places if place[1] not in holding.table(place[0])})
        for record in records:
            holding.visitors.pop(record["subject"].encode(), None)
            self._take(record, holding, entries)
            holding.refresh_others(record["subject"].encode())
        return len(batch) - len(broken), broken

    def _scopes(self, record: dict[str, Any]) -> dict[Regime, Scope]:
        group = self._policy.group(record["site"])
        return {regime: (regime.value, group) for regime in Regime if record["regulation"] in ("", regime.value)}

    def _decode(self, value: bytes) -> dict[str, Any]:
        contract, record = decode(self._registry, value)
        if contract.topic != SIGNALS:
            raise Undecodable(f"a record of {contract.topic}")
        if len(record["subject"]) != SUBJECT_LENGTH or record["kind"] not in ("choice", "withdrawal", STATE_KIND):
            raise Undecodable("no subject that is an identity node, or a kind that is not known")
        if record["kind"] == STATE_KIND and not all(is_time(*item) for item in record["signals"].items()):
            raise Undecodable("a state with something that is no time of a purpose")
        return record

    def _take(self, record: dict[str, Any], holding: PartitionState, entries: LedgerWrites) -> None:
        """One signal, under each regime that it holds for."""
        subject, received = record["subject"].encode(), record["received_ts"]
        changes, chosen = [], received
        for regime, scope in self._scopes(record).items():
            table = holding.table(scope)
            standing = table[subject]
            times: Times = NO_TIMES if standing is None else standing.times
            if is_erased(times, received):
                continue
            change, chosen = self._learned(record, regime, times)
            if change.times:
                source = ChangeSource(
                    "|".join(scope), record["subject"], received, chosen, record["via"], record["evidence"],
                    record["signals"].get("platform", ""),
                )  # fmt: skip
                table[subject] = SubjectState(entries.change(source, times, change))
                changes.append(change)
        if record["via"] != "linked" and any(change.refused for change in changes):
            source = ChangeSource("", record["subject"], received, chosen, record["via"], record["evidence"])
            entries.revoke(source, self._policy.group(record["site"]), record["regulation"], changes)

    def _learned(self, record: dict[str, Any], regime: Regime, times: Times) -> tuple[StateChange, int]:
        """What a signal adds to a state, and when that was chosen."""
        received = record["received_ts"]
        chosen = min(record["chosen_ts"] or received, received)
        if record["kind"] == "withdrawal":
            purposes = [name for name in record["purposes"] if name in BITS] or list(self._policy.purposes)
            return withdraw(times, purposes, chosen), chosen
        if record["kind"] == STATE_KIND:
            return take_over(times, {name: int(time) for name, time in record["signals"].items()}), chosen
        claim = self._reader.hear(regime, record["signals"], received).claim
        if claim.days is None and claim.chosen == 0:
            claim = claim._replace(chosen=record["chosen_ts"] or None)
        when = dates(claim, received, is_choice=True)
        change = learn(times, claim, when, received, self._policy.memory.use_stored_state)
        return change, when.denied_at if change.refused else max(when.granted_at, when.denied_at)
