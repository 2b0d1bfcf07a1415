"""Updates stored states: from events, from records of `consent.signals`, and from refusals of linked ids."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from infra.errors import Retryable
from schemas.codec import Undecodable, UnknownContract, decode
from schemas.registry import Registry
from streams.consent.decision.decision_cache import EventContext, EventSignals, StateValues
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
    apply_claim,
    apply_state,
    apply_withdrawal,
    date_choice,
    entry_name,
    evaluate_state,
    is_erased,
    is_time,
    merge,
)
from streams.consent.ledger.ledger_writes import SIGNALS, STATE_KIND, ChangeSource, LedgerWrites
from streams.consent.ledger.subject_state import LedgerCache, PartitionState, Scope, StateKey, StateTable, SubjectState
from streams.consent.policy import BITS, Policy, Regime
from streams.runtime.stage import Batch

SUBJECT_LENGTH = 33
"""Characters of an identity node. Any other key belongs to one event alone, and nothing is stored for it."""
NEVER = 1 << 62
NO_TIMES: Times = {}
NO_DATES = ChoiceDates(0, 0)
NO_PURPOSES: frozenset[str] = frozenset()
STRICTEST = (StateValue.WITHDRAWN, StateValue.REFUSED, StateValue.DENIED)


class ConsentEvent(NamedTuple):
    """An event as the ledger needs it."""

    context: EventContext
    signals: EventSignals
    time: int
    """Collector time, milliseconds UTC."""

    @property
    def scope(self) -> Scope:
        """The scope of the event's own regime."""
        return self.context.scopes[self.signals.regime]

    @property
    def scopes(self) -> Iterable[Scope]:
        """The scopes of all regimes."""
        return self.context.scopes.values()


OtherStates = Sequence[tuple[bytes, SubjectState | None]]
"""Identifiers that an event has beside its key, and the stored state of each."""


class LedgerUpdater:
    """Evaluates and updates stored states under one policy."""

    def __init__(self, registry: Registry, policy: Policy, reader: SignalReader, ledger: LedgerCache) -> None:
        self._registry = registry
        self._policy = policy
        self._reader = reader
        self._ledger = ledger

    def evaluate_states(self, event: ConsentEvent, state: SubjectState | None, others: OtherStates = ()) -> StateValues:
        """What stored states say about an event, purpose by purpose; empty = nothing.

        A refusal counts whichever of the event's identifiers has it. A later grant of the same identifier lifts it, and so does
        a later grant of the event's key, its strongest identifier: a user's consent holds on her devices, and the consent of
        somebody who shares a device does not hold for its users.
        """
        oldest = event.time - self._policy.memory.max_age_days * DAY_MS
        granted_at = self._choice_dates(event).granted_at
        own = NO_TIMES if state is None else state.times
        values = []
        for purpose in self._policy.purposes:
            moment = Moment(event.time, granted_at if purpose in event.signals.evidence.claim.granted else 0, oldest)
            value = evaluate_state(own, purpose, moment)
            if others:
                grants = {name: own[name] for kind in (GRANTED, SEEN_GRANTED) if (name := entry_name(purpose, kind)) in own}
                stored = {
                    evaluate_state(merge(other.times, grants), purpose, moment) for _, other in others if other is not None
                }
                value = next((strict for strict in STRICTEST if strict in stored or strict is value), value)
            values.append(value)
        return () if all(value is StateValue.NOTHING for value in values) else tuple(values)

    def record_choice(
        self, event: ConsentEvent, tables: Mapping[Scope, StateTable], key: bytes, writes: LedgerWrites
    ) -> SubjectState | None:
        """Store what an event's signals add to its key's state, and return the state. Call it where `knows` is false.

        Refusals are stored under every regime, grants under the event's own.
        """
        signals, time, scope = event.signals, event.time, event.scope
        state = tables[scope][key]
        times: Times = NO_TIMES if state is None else state.times
        if is_erased(times, time):
            return state
        constant = signals.dated and not event.context.is_choice
        if state is not None and constant and all(times.get(name, 0) >= at for name, at in signals.entries):
            return state.mark_known(signals.number, NEVER)
        when = self._choice_dates(event)
        claim = signals.evidence.claim
        changes = [self._apply(event, tables[scope], (scope, key), (claim, when), writes)]
        if claim.denied:
            refusal = claim._replace(granted=NO_PURPOSES)
            changes += [
                self._apply(event, tables[other], (other, key), (refusal, when), writes)
                for other in event.scopes
                if other != scope
            ]
            if any(change.refused for change in changes):
                writes.revoke(self._source(event, scope, key, when.denied_at), scope[1], "", changes)
        return self._mark_known(event, tables, key, when)

    def _mark_known(
        self, event: ConsentEvent, tables: Mapping[Scope, StateTable], key: bytes, when: ChoiceDates
    ) -> SubjectState | None:
        """Note until when the same signals add nothing."""
        signals, time = event.signals, event.time
        state = tables[event.scope][key]
        if state is None:
            return None
        if not signals.dated or when.by_arrival:
            for scope in event.scopes if signals.evidence.claim.denied else ():
                if (changed := tables[scope][key]) is not None:
                    changed.mark_known(signals.number, time + DAY_MS)
            return state.mark_known(signals.number, time + DAY_MS)
        # A time that was not believed, of a clock that is ahead, may be believed soon.
        return state.mark_known(signals.number, NEVER if when.granted_at else time + SKEW_MS)

    def _apply(
        self,
        event: ConsentEvent,
        table: StateTable,
        state_key: StateKey,
        dated_claim: tuple[Claim, ChoiceDates],
        writes: LedgerWrites,
    ) -> StateChange:
        """Apply a claim to the state of one scope and subject."""
        (scope, key), (claim, when) = state_key, dated_claim
        state = table[key]
        times: Times = NO_TIMES if state is None else state.times
        if is_erased(times, event.time):
            return StateChange({})
        change = apply_claim(times, claim, when, event.time, self._policy.memory.use_stored_state)
        if change.times:
            chosen = when.denied_at if change.refused else max(when.granted_at, when.denied_at)
            table[key] = SubjectState(writes.change_state(self._source(event, scope, key, chosen), times, change))
        return change

    def _source(self, event: ConsentEvent, scope: Scope, key: bytes, chosen: int) -> ChangeSource:
        evidence, signals_hash = event.signals.evidence, event.signals.hash
        return ChangeSource(
            "|".join(scope), key.decode(), event.time, chosen, "event", signals_hash, evidence.platform, evidence.gvl
        )

    def publish_to_others(
        self,
        event: ConsentEvent,
        nodes: Iterable[bytes],
        states: dict[StateKey, SubjectState | None],
        writes: LedgerWrites,
    ) -> None:
        """Publish an event's choice for its other identifiers, as far as it changes their states, and update `states`.

        A refusal counts under every regime, a grant under the event's own.
        """
        own, claim, when = event.scope, event.signals.evidence.claim, self._choice_dates(event)
        refusal, grant = claim._replace(granted=NO_PURPOSES), claim._replace(denied=NO_PURPOSES)
        for node in nodes:
            new_times: dict[str, dict[str, int]] = {}
            for regulation, scope, choice in (
                *(("", scope, refusal) for scope in event.scopes if claim.denied),
                (event.signals.regime, own, grant),
            ):
                state = states[scope, node]
                times: Times = NO_TIMES if state is None else state.times
                newer = NO_TIMES if is_erased(times, event.time) else apply_claim(times, choice, when, event.time, False).times
                if newer:
                    new_times[regulation] = merge(new_times.get(regulation, NO_TIMES), newer)
                    states[scope, node] = SubjectState(merge(times, newer))
            for regulation, newer in new_times.items():
                writes.publish_state(self._source(event, own, node, max(newer.values())), own[1], regulation, newer)

    def _choice_dates(self, event: ConsentEvent) -> ChoiceDates:
        """When the choice of an event was made; of an event that is a choice, at its collector time."""
        if not event.signals.speaks:
            return NO_DATES
        lifts = self._policy.memory.undated_grants_lift
        return date_choice(event.signals.evidence.claim, event.time, event.context.is_choice, lifts)

    def apply_signals(self, batch: Batch, partition: PartitionState, writes: LedgerWrites) -> tuple[int, list[tuple[int, str]]]:
        """Apply a batch of `consent.signals`: how many records were applied, and (position, problem) of each broken one."""
        records: list[dict[str, Any]] = []
        broken: list[tuple[int, str]] = []
        for at, value in enumerate(batch.values):
            try:
                records.append(self._decode(value or b""))
            except Undecodable as error:
                broken.append((at, str(error)))
            except UnknownContract as error:
                raise Retryable(str(error)) from error
        keys = {(scope, record["subject"].encode()) for record in records for scope in self._scopes(record).values()}
        self._ledger.load(
            batch.partition, {(scope, subject) for scope, subject in keys if subject not in partition.table(scope)}
        )
        for record in records:
            partition.visitors.pop(record["subject"].encode(), None)
            self._apply_signal(record, partition, writes)
            partition.refresh_others(record["subject"].encode())
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

    def _apply_signal(self, record: dict[str, Any], partition: PartitionState, writes: LedgerWrites) -> None:
        """Apply one record under each regime that it holds for."""
        subject, received = record["subject"].encode(), record["received_ts"]
        changes, chosen = [], received
        for regime, scope in self._scopes(record).items():
            table = partition.table(scope)
            state = table[subject]
            times: Times = NO_TIMES if state is None else state.times
            if is_erased(times, received):
                continue
            change, chosen = self._signal_change(record, regime, times)
            if change.times:
                source = ChangeSource(
                    "|".join(scope), record["subject"], received, chosen, record["via"], record["evidence"],
                    record["signals"].get("platform", ""),
                )  # fmt: skip
                table[subject] = SubjectState(writes.change_state(source, times, change))
                changes.append(change)
        if record["via"] != "linked" and any(change.refused for change in changes):
            source = ChangeSource("", record["subject"], received, chosen, record["via"], record["evidence"])
            writes.revoke(source, self._policy.group(record["site"]), record["regulation"], changes)

    def _signal_change(self, record: dict[str, Any], regime: Regime, times: Times) -> tuple[StateChange, int]:
        """What a record adds to a state, and when the visitor chose, milliseconds UTC."""
        received = record["received_ts"]
        chosen = min(record["chosen_ts"] or received, received)
        if record["kind"] == "withdrawal":
            purposes = [name for name in record["purposes"] if name in BITS] or list(self._policy.purposes)
            return apply_withdrawal(times, purposes, chosen), chosen
        if record["kind"] == STATE_KIND:
            return apply_state(times, {name: int(time) for name, time in record["signals"].items()}), chosen
        claim = self._reader.read_under(regime, record["signals"], received).claim
        if claim.days is None and claim.chosen == 0:
            claim = claim._replace(chosen=record["chosen_ts"] or None)
        when = date_choice(claim, received, is_choice=True)
        change = apply_claim(times, claim, when, received, self._policy.memory.use_stored_state)
        return change, when.denied_at if change.refused else max(when.granted_at, when.denied_at)
