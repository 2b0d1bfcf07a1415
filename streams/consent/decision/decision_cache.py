"""Caches consent decisions, encoded, by what they depend on: the event's name, its signals, and its subject's stored state.

Names (event, source, site) have few values and occur with every combination of signals, of which there are many. So each is
cached under its own bytes of the event's head, and a decision under both.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

from schemas.codec import Record
from schemas.fast.flag_reader import FlagReader
from schemas.fast.flat_encoder import flat_record_encoder
from schemas.registry import Contract
from streams.consent.decision.decide import Action, ConsentDecision, decide, evidence_hash, exempt
from streams.consent.decision.event_head import ONE_IDENTIFIER, EventHead, EventHeadReader
from streams.consent.formats.evidence import SignalEvidence, SignalReader
from streams.consent.formats.reason import ConsentReason
from streams.consent.ledger.ledger import DAY_MS, DENIED, GRANTED, StateValue, day_end, entry_name
from streams.consent.policy import Policy, Regime
from streams.consent.redaction.click_ids import ClickIds
from streams.consent.redaction.fast import Rewriter
from streams.runtime.stage import IMPORTED

MAX_CONTEXTS = 4_096
MAX_SIGNAL_SETS = 16_384
"""Of all days together. What a visitor chose stays the same for months, and few choices make most of the traffic."""
MAX_BYTES = 4_096
"""Of one cached key. Longer ones are read each time, so that memory stays bounded."""
MAX_OUTCOME_KEYS = 4_096
MAX_UNMAPPED = 8
"""Names of one event that are counted."""
HEARTBEAT = -1

Dimensions = tuple[tuple[str, str], ...]
EvidenceMarks = tuple[Dimensions, tuple[str, ...], tuple[int, ...]]
"""What evidence is counted by: the platform's fingerprint, unmapped names, ids of unreadable GPP sections."""
StateValues = tuple[StateValue, ...]
"""What a subject's stored state says, in the policy's order of purposes; empty = nothing."""


@dataclass(slots=True, eq=False)
class EventContext:
    """The fields of an event that name it, and what follows from them."""

    event_name: str
    source: str
    site: str
    heartbeat: bool
    rule: int
    """Number of the policy's rule for this event name; decisions differ by rule."""
    group: str
    """Group of sites that share stored states."""
    scopes: Mapping[str, tuple[str, str]]
    """Regime -> (regime, group)."""
    is_choice: bool
    """The event is itself the visitor's choice, made at its collector time."""
    ordinary: bool
    """It is neither a choice nor a heartbeat."""


@dataclass(slots=True, eq=False)
class OutcomeKey:
    """What events are counted by: equal decisions with equal platform fingerprints share one."""

    decision: ConsentDecision
    outcome: str
    """The action; `dropped:<reason>` for a drop; behind `imported:` for an imported event."""
    reasons: str
    fingerprint: Dimensions
    """Of the consent platform, without the site."""
    unmapped: tuple[str, ...]
    """Names of signals that the policy does not map."""
    unreadable_sections: tuple[int, ...]
    """Ids of GPP sections that cannot be read."""
    heartbeat: bool


@dataclass(slots=True, eq=False)
class EncodedDecision:
    """A decision, and the bytes that are written for it."""

    key: OutcomeKey
    imported_key: OutcomeKey
    """The same for imported events, which are no part of the present volume."""
    decision: ConsentDecision
    prefix: bytes
    """Header and consent columns, encoded."""
    passes: bool
    """The payload is written unchanged."""
    anonymises: bool
    drops: bool
    settled: bool
    """The signals decide every purpose, so only a stored refusal can change the decision."""


@dataclass(slots=True, eq=False)
class EventSignals:
    """The region and signals of an event, evaluated for one day."""

    number: int
    """Unique in the process."""
    data: bytes
    """The encoded region and signals."""
    sole_identifier: bytes
    """The same, followed by the first bytes of an array of one identifier: the event's key is its only identifier."""
    begins: int
    ends: int
    """The day for which the evaluation holds, milliseconds UTC."""
    evidence: SignalEvidence
    regime: str
    hash: str
    speaks: bool
    """They grant or deny a purpose."""
    refuses: bool
    """They deny a purpose in a way that is stored."""
    dated: bool
    """They say when the choice was made, or on which day."""
    learnable: bool
    """They are stored whatever the event is called."""
    entries: tuple[tuple[str, int], ...]
    """(entry, time) pairs that a state must hold to know all of the choice; for choices whose time is known."""
    decisions: dict[int, EncodedDecision] = field(default_factory=dict)
    """By rule, for subjects without a stored state that matters."""
    decisions_by_state: dict[StateValues, dict[int, EncodedDecision]] = field(default_factory=dict)
    """By stored state and rule."""

    def apply_at(self, value: bytes, region_at: int, time: int) -> bool:
        """Whether an event has the same signals on the same day."""
        return self.begins <= time < self.ends and value.startswith(self.data, region_at)

    def decisions_for(self, values: StateValues) -> dict[int, EncodedDecision]:
        """Decisions by rule for subjects with this stored state; it may be empty."""
        return self.decisions_by_state.setdefault(values, {}) if values else self.decisions


class KnownVisitor(NamedTuple):
    """A subject with one identifier whose stored state covers its last signals: the same signals again need no look-up."""

    cache: "DecisionCache"
    sole_identifier: bytes
    """Of the signals."""
    group: str
    """Of the site."""
    since: int
    until: int
    """Collector times between which this holds, milliseconds UTC, within the day of the signals."""
    decisions: dict[int, EncodedDecision]
    """By rule, under the subject's stored state."""


class DecisionCache:
    """Decisions on events of one version of `events.raw` under one policy."""

    def __init__(self, raw: Contract, consented: Contract, policy: Policy, reader: SignalReader) -> None:
        self.header = raw.header
        self.head = EventHeadReader(raw)
        self.imports = FlagReader(raw, "imported")
        self.rewriter = Rewriter(raw, policy, ClickIds(policy.click_ids))
        self._policy = policy
        self._reader = reader
        self._encode = flat_record_encoder(consented.columns(), consented.header)
        self._rules: dict[str, int] = {}
        self._outcome_keys: dict[tuple[ConsentDecision, EvidenceMarks, bool, str], OutcomeKey] = {}
        self.contexts: dict[bytes, EventContext] = {}
        """By encoded names."""
        self.signals: OrderedDict[tuple[int, bytes], EventSignals] = OrderedDict()
        """By day since 1970 and encoded region and signals."""

    def decide_again(
        self, value: bytes, head: EventHead, visitor: KnownVisitor | None
    ) -> tuple[EventContext, EncodedDecision | None]:
        """An event's context, and the decision if its visitor sent the same signals before, else None. Undecodable."""
        names_at, names_end, region_at, time = head
        names = value[names_at:names_end]
        context = self.contexts.get(names) or self._read_context(names)
        if visitor is not None:
            cache, sole_identifier, group, since, until, decisions = visitor
            if (
                value.startswith(sole_identifier, region_at)
                and cache is self
                and context.group == group
                and since <= time < until
                and context.ordinary
            ):
                return context, decisions.get(context.rule)
        return context, None

    def decide_event(self, context: EventContext, signals: EventSignals, values: StateValues = ()) -> EncodedDecision:
        """The decision on an event with these signals. `values`: the subject's stored state."""
        decisions = signals.decisions_for(values)
        encoded = decisions.get(context.rule)
        if encoded is None:
            if context.heartbeat:
                decision = exempt(self._policy)
            else:
                stored = dict(zip(self._policy.purposes, values, strict=True)) if values else {}
                decision = decide(self._policy, context.event_name, signals.evidence, stored)
            encoded = decisions[context.rule] = self._encode_decision(decision, context, signals)
        return encoded

    def find_signals(self, value: bytes, region_at: int, time: int) -> tuple[EventSignals, bool]:
        """The signals of an event for the day of its time, and whether they were cached. Undecodable."""
        day, data = time // DAY_MS, value[region_at : self.head.signals_end(value, region_at)]
        signals = self.signals.get((day, data))
        return (self._read_signals(day, data), False) if signals is None else (signals, True)

    def _read_signals(self, day: int, data: bytes) -> EventSignals:
        """Evaluate signals that are not cached for this day; the oldest are evicted. Undecodable."""
        fields = self.head.read_signals(data)
        evidence = self._reader.read(fields["region"], fields["signals"], day * DAY_MS)
        signals = self._evaluate(day, data, evidence, evidence_hash(fields["signals"]))
        if len(data) <= MAX_BYTES:
            if len(self.signals) >= MAX_SIGNAL_SETS:
                self.signals.popitem(last=False)
            self.signals[day, data] = signals
        return signals

    def _evaluate(self, day: int, data: bytes, evidence: SignalEvidence, signals_hash: str) -> EventSignals:
        claim, memory = evidence.claim, self._policy.memory
        speaks, dated = bool(claim.granted or claim.denied), claim.chosen != 0 or claim.days is not None
        first, last = (claim.chosen,) * 2 if claim.chosen else claim.days or (0, 0)
        return EventSignals(
            number=next(_numbers),
            data=data,
            sole_identifier=data + ONE_IDENTIFIER,
            begins=day * DAY_MS,
            ends=(day + 1) * DAY_MS,
            evidence=evidence,
            regime=evidence.regime.value,
            hash=signals_hash,
            speaks=speaks,
            refuses=bool(claim.denied),
            dated=dated,
            learnable=speaks and (dated or bool(claim.denied) or memory.use_stored_state or memory.undated_grants_lift),
            entries=(
                *((entry_name(purpose, GRANTED), first) for purpose in sorted(claim.granted)),
                *((entry_name(purpose, DENIED), last if claim.chosen else day_end(last)) for purpose in sorted(claim.denied)),
            ),
        )

    def _read_context(self, data: bytes) -> EventContext:
        """Decode names that are not cached; the oldest are evicted. Undecodable."""
        fields = self.head.read_names(data)
        group = self._policy.group(fields["site"])
        is_choice = fields["event_name"] in self._policy.memory.choice_events
        context = EventContext(
            **fields,
            rule=HEARTBEAT if fields["heartbeat"] else self._rule_number(fields["event_name"]),
            group=group,
            scopes={regime.value: (regime.value, group) for regime in Regime},
            is_choice=is_choice,
            ordinary=not is_choice and not fields["heartbeat"],
        )
        if len(data) <= MAX_BYTES:
            if len(self.contexts) >= MAX_CONTEXTS:
                self.contexts.pop(next(iter(self.contexts)))
            self.contexts[data] = context
        return context

    def _rule_number(self, event_name: str) -> int:
        rule = self._policy.rule(event_name)
        return self._rules.setdefault("" if rule is None else rule.model_dump_json(), len(self._rules))

    def _encode_decision(self, decision: ConsentDecision, context: EventContext, signals: EventSignals) -> EncodedDecision:
        key = self._outcome_key(decision, signals.evidence, context.heartbeat)
        return EncodedDecision(
            key,
            self._outcome_key(decision, signals.evidence, context.heartbeat, IMPORTED),
            key.decision,
            self._encode(self._consent_columns(key, signals)),
            passes=decision.action is Action.PASS and not context.heartbeat,
            anonymises=decision.action is Action.ANONYMISE,
            drops=decision.action is Action.DROP,
            settled=all(ruling.reason is not ConsentReason.NO_SIGNAL for ruling in decision.rulings),
        )

    def _outcome_key(
        self, decision: ConsentDecision, evidence: SignalEvidence, heartbeat: bool, origin: str = ""
    ) -> OutcomeKey:
        marks = (evidence.fingerprint, evidence.unmapped[:MAX_UNMAPPED], evidence.unreadable_sections)
        key = self._outcome_keys.get((decision, marks, heartbeat, origin))
        if key is None:
            if len(self._outcome_keys) >= MAX_OUTCOME_KEYS:
                self._outcome_keys.clear()
            action, reason = decision.action.value, decision.drop_reason
            outcome = action if reason is None else f"dropped:{reason}"
            key = OutcomeKey(decision, origin + outcome, decision.reasons, *marks, heartbeat)
            self._outcome_keys[decision, marks, heartbeat, origin] = key
        return key

    def _consent_columns(self, key: OutcomeKey, signals: EventSignals) -> Record:
        return {
            "consent_outcome": key.decision.action.value,
            "consent_purposes": key.decision.mask,
            "consent_reasons": key.reasons,
            "consent_policy": self._policy.rev,
            # A hash of rare signals would link an anonymised event to its visitor's others.
            "consent_evidence": "" if key.decision.action is Action.ANONYMISE or key.heartbeat else signals.hash,
        }


_numbers = count(1)


__all__ = [
    "DecisionCache",
    "Dimensions",
    "EncodedDecision",
    "EventContext",
    "EventSignals",
    "KnownVisitor",
    "OutcomeKey",
    "StateValues",
]
