"""Decisions kept by what they depend on: where an event was, what its signals say, and what is remembered of its subject.

Where (name, source, site) has few values and comes in every combination with what is said (region, signals), which has many.
So each is kept under its own bytes of the event's head, and a decision under both.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import count, repeat
from typing import Any

import numpy as np
from fastavro import parse_schema, schemaless_reader

from schemas.codec import HeadSlicer, Record, Undecodable, flat_record_encoder, read_long
from schemas.columns import HeadColumns
from schemas.registry import Contract
from streams.consent.decision.decide import Action, ConsentDecision, decide, evidence_hash, exempt
from streams.consent.formats.evidence import SignalEvidence, SignalReader
from streams.consent.formats.reason import ConsentReason
from streams.consent.ledger.ledger import DAY_MS, DENIED, GRANTED, StateValue, day_end, entry
from streams.consent.policy import Policy, Regime
from streams.consent.redaction.click_ids import ClickIds
from streams.consent.redaction.fast import Rewriter

KEPT_WHERES = 4_096
KEPT_WHATS = 16_384
"""Of all days together. What a visitor chose stays the same for months, and few choices make most of the traffic."""
KEPT_BYTES = 4_096
"""Longer ones are read each time, so that memory stays bounded whatever is sent."""
KEPT_KINDS = 4_096
HEAD_BYTES = 256
"""Of an event, within which its collector time is expected. One that says it later is read alone."""

NODE_BYTES = 34
"""Of an identity node in an array, its length included."""
PLAIN_IDENTIFIERS = re.compile(rb"[\x02-\x7e](?:\x42[0-3][0-9a-f]{32})+\x00").match
"""An Avro array of nodes as every writer encodes it: one block (twice its count), texts of 33 bytes (twice that), the end."""
UNMAPPED_KEPT = 8
"""Names of one event that are counted."""
ONE_IDENTIFIER = b"\x02\x42"
"""An Avro array of one text of 33 bytes begins like this."""
HEARTBEAT = -1
CLOCK = "collector_ts"

Dimensions = tuple[tuple[str, str], ...]
Marks = tuple[Dimensions, tuple[str, ...], tuple[int, ...]]
"""Of an event's evidence, what it is counted by: the platform's set-up, unmapped names, GPP sections that cannot be read."""
Memories = tuple[StateValue, ...]
"""What is remembered, in the policy's order of purposes; empty = nothing."""


@dataclass(slots=True, eq=False)
class EventContext:
    """The part of an event's head that names it."""

    event_name: str
    source: str
    site: str
    heartbeat: bool
    rule: int
    """Number of the policy's rule for events of this name: what decisions differ by."""
    group: str
    """Of sites that share what is remembered."""
    scopes: Mapping[str, tuple[str, str]]
    """Regime -> regime and group."""
    is_choice: bool
    """The event is a choice, made when it happened."""
    ordinary: bool
    """It is neither a choice nor a heartbeat."""


@dataclass(slots=True, eq=False)
class OutcomeKey:
    """What events are counted by: equal decisions under equal set-ups of a consent platform are of one kind."""

    decision: ConsentDecision
    outcome: str
    """The action; for a drop with its reason."""
    reasons: str
    fingerprint: Dimensions
    """Of the platform's set-up, without the site."""
    unmapped: tuple[str, ...]
    """Names of signals that nothing maps."""
    unreadable_sections: tuple[int, ...]
    """Ids of GPP sections that cannot be read."""
    heartbeat: bool


@dataclass(slots=True, eq=False)
class EncodedDecision:
    """A decision, and what is written for it."""

    kind: OutcomeKey
    decision: ConsentDecision
    prefix: bytes
    """Header and consent columns, encoded."""
    passes: bool
    """Nothing is taken away: the payload is not touched."""
    anonymises: bool
    drops: bool
    settled: bool
    """The signals speak about every purpose, so that only a withdrawal can change the decision."""


@dataclass(slots=True, eq=False)
class EventSignals:
    """The part of an event's head that says what its visitor wants."""

    number: int
    """Never given twice."""
    data: bytes
    """What it was read from. Visitors who said the same share it."""
    alone: bytes
    """The same, and the beginning of an array of one identifier: the event's key is its only one."""
    begins: int
    ends: int
    """The day that it holds for, milliseconds UTC."""
    evidence: SignalEvidence
    regime: str
    hash: str
    speaks: bool
    """It grants or denies something."""
    refuses: bool
    """It denies something that is remembered."""
    dated: bool
    """It says when that was chosen, if only the day."""
    learnable: bool
    """It is taken down, whatever the event is called."""
    entries: tuple[tuple[str, int], ...]
    """What a state must hold to know all of it: names and times; for choices whose time is known."""
    decided: dict[int, EncodedDecision] = field(default_factory=dict)
    """By rule, for subjects of whom nothing is remembered that matters."""
    recalled: dict[Memories, dict[int, EncodedDecision]] = field(default_factory=dict)
    """By memory and rule."""

    def by_rule(self, memories: Memories) -> dict[int, EncodedDecision]:
        """Decisions for subjects of whom this is remembered; for whom nothing is, `()`."""
        return self.recalled.setdefault(memories, {}) if memories else self.decided


class DecisionCache:
    """What is made once for each version of `events.raw` under one policy: readers of the head, and what was read."""

    def __init__(self, raw: Contract, consented: Contract, policy: Policy, reader: SignalReader) -> None:
        self._policy = policy
        self._reader = reader
        self._lifts = policy.memory.undated_grants_lift
        self._encode = flat_record_encoder(consented.columns(), consented.header)
        self._where = _part(raw, ("event_name", "source", "site", "heartbeat"))
        self._what = _part(raw, ("region", "signals"))
        self._identifiers = _part(raw, ("identifiers",))
        self.header = raw.header
        self.said_ends = HeadSlicer(raw, "signals", "region").ends
        self._near_ends = HeadSlicer(raw, CLOCK).ends
        self._columns = HeadColumns(raw, CLOCK)
        self._places = [raw.names.index(name) for name in ("event_id", "heartbeat", CLOCK)]
        self.rewriter = Rewriter(raw, policy, ClickIds(policy.click_ids))
        self._rules: dict[str, int] = {}
        self._kinds: dict[tuple[ConsentDecision, Marks, bool], OutcomeKey] = {}
        self.wheres: dict[bytes, EventContext] = {}
        self.whats: OrderedDict[tuple[int, bytes], EventSignals] = OrderedDict()
        """By day since 1970 and bytes."""

    def heads(self, values: Sequence[bytes]) -> list["HeadSlices | None"]:
        """Heads of many records at once; None where one is to be read alone."""
        # Joining whole events would push out of the processor's cache what is compared next.
        columns = self._columns.read([value[:HEAD_BYTES] for value in values])
        event_id, heartbeat, clock = self._places
        offsets = (columns.ends[event_id], columns.ends[heartbeat], columns.ends[clock], columns.numbers[clock])
        heads: list[HeadSlices | None] = list(zip(repeat(self), *(column.tolist() for column in offsets), strict=False))
        for odd in np.flatnonzero(~columns.sound):
            heads[odd] = None
        return heads

    def head(self, value: bytes) -> "HeadSlices":
        """The head of one record. Undecodable."""
        ends = self._near_ends(value)
        event_id, heartbeat, clock = self._places
        return self, ends[event_id], ends[heartbeat], ends[clock], read_long(value, ends[clock - 1])

    def where(self, data: bytes) -> EventContext:
        """Met for the first time. Undecodable."""
        fields = self._where(data)
        group = self._policy.group(fields["site"])
        context = EventContext(
            **fields,
            rule=HEARTBEAT if fields["heartbeat"] else self._rule(fields["event_name"]),
            group=group,
            scopes={regime.value: (regime.value, group) for regime in Regime},
            is_choice=(is_choice := fields["event_name"] in self._policy.memory.choice_events),
            ordinary=not is_choice and not fields["heartbeat"],
        )
        if len(data) <= KEPT_BYTES:
            if len(self.wheres) >= KEPT_WHERES:
                self.wheres.pop(next(iter(self.wheres)))
            self.wheres[data] = context
        return context

    def identifiers(self, value: bytes, begin: int) -> list[bytes]:
        """The identifiers of an event, whose array begins there. Undecodable."""
        plain = PLAIN_IDENTIFIERS(value, begin)
        if plain is not None and value[begin] == 2 * ((plain.end() - begin) // NODE_BYTES):
            return [value[at : at + NODE_BYTES - 1] for at in range(begin + 2, plain.end() - 1, NODE_BYTES)]
        return [node.encode() for node in self._identifiers(value[begin:])["identifiers"]]

    def _rule(self, event_name: str) -> int:
        rule = self._policy.rule(event_name)
        return self._rules.setdefault("" if rule is None else rule.model_dump_json(), len(self._rules))

    def what(self, day: int, data: bytes) -> EventSignals:
        """Met for the first time that day; the first of those kept is forgotten when there are too many. Undecodable."""
        fields = self._what(data)
        evidence = self._reader.read(fields["region"], fields["signals"], day * DAY_MS)
        claim = evidence.claim
        speaks, dated = bool(claim.granted or claim.denied), claim.chosen != 0 or claim.days is not None
        first, last = (claim.chosen,) * 2 if claim.chosen else claim.days or (0, 0)
        signals = EventSignals(
            next(_numbers),
            data,
            data + ONE_IDENTIFIER,
            day * DAY_MS,
            (day + 1) * DAY_MS,
            evidence,
            evidence.regime.value,
            evidence_hash(fields["signals"]),
            speaks,
            bool(claim.denied),
            dated,
            speaks and (dated or bool(claim.denied) or self._policy.memory.use_stored_state or self._lifts),
            (
                *((entry(purpose, GRANTED), first) for purpose in sorted(claim.granted)),
                *((entry(purpose, DENIED), last if claim.chosen else day_end(last)) for purpose in sorted(claim.denied)),
            ),
        )
        if len(data) <= KEPT_BYTES:
            if len(self.whats) >= KEPT_WHATS:
                self.whats.popitem(last=False)
            self.whats[day, data] = signals
        return signals

    def decided(self, context: EventContext, signals: EventSignals, memories: Memories = ()) -> EncodedDecision:
        """The decision on an event of this name, saying this, of a subject of whom this is remembered."""
        if memories:
            return self.recalled(context, signals, memories)
        encoded = signals.decided.get(context.rule)
        if encoded is None:
            decision = exempt(self._policy) if context.heartbeat else decide(self._policy, context.event_name, signals.evidence)
            encoded = signals.decided[context.rule] = self._decided(decision, context, signals)
        return encoded

    def recalled(self, context: EventContext, signals: EventSignals, memories: Memories) -> EncodedDecision:
        """The same, where this is remembered."""
        by_rule = signals.by_rule(memories)
        encoded = by_rule.get(context.rule)
        if encoded is None:
            recalled = dict(zip(self._policy.purposes, memories, strict=True))
            decision = decide(self._policy, context.event_name, signals.evidence, recalled)
            encoded = by_rule[context.rule] = self._decided(decision, context, signals)
        return encoded

    def _decided(self, decision: ConsentDecision, context: EventContext, signals: EventSignals) -> EncodedDecision:
        kind = self._kind(decision, signals.evidence, context.heartbeat)
        return EncodedDecision(
            kind,
            kind.decision,
            self._encode(self._told(kind, signals)),
            decision.action is Action.PASS and not context.heartbeat,
            decision.action is Action.ANONYMISE,
            decision.action is Action.DROP,
            all(ruling.reason is not ConsentReason.NO_SIGNAL for ruling in decision.rulings),
        )

    def _kind(self, decision: ConsentDecision, evidence: SignalEvidence, heartbeat: bool) -> OutcomeKey:
        marks = (evidence.fingerprint, evidence.unmapped[:UNMAPPED_KEPT], evidence.unreadable_sections)
        kind = self._kinds.get((decision, marks, heartbeat))
        if kind is None:
            if len(self._kinds) >= KEPT_KINDS:
                self._kinds.clear()
            action, reason = decision.action.value, decision.drop_reason
            outcome = action if reason is None else f"dropped:{reason}"
            kind = self._kinds[decision, marks, heartbeat] = OutcomeKey(decision, outcome, decision.reasons, *marks, heartbeat)
        return kind

    def _told(self, kind: OutcomeKey, signals: EventSignals) -> Record:
        return {
            "consent_outcome": kind.decision.action.value,
            "consent_purposes": kind.decision.mask,
            "consent_reasons": kind.reasons,
            "consent_policy": self._policy.rev,
            # A hash of rare signals would tie an anonymised event to its visitor's others.
            "consent_evidence": "" if kind.decision.action is Action.ANONYMISE or kind.heartbeat else signals.hash,
        }


HeadSlices = tuple[DecisionCache, int, int, int, int]
"""An event's lineage; where its name begins, where its names end, where its region begins; its collector time."""

_numbers = count(1)


def _part(contract: Contract, names: tuple[str, ...]) -> Callable[[bytes], dict[str, Any]]:
    """Reads these neighbouring fields alone."""
    fields = [item for item in contract.schema["fields"] if item["name"] in names]
    schema = parse_schema({**contract.schema, "name": f"{contract.schema['name']}Part{names[0]}", "fields": fields})

    def read(data: bytes) -> dict[str, Any]:
        try:
            record: Any = schemaless_reader(BytesIO(data), schema, None)
        except Exception as error:  # fastavro's word for broken bytes depends on where they break
            raise Undecodable(f"broken datum: {type(error).__name__}") from None
        return dict(record)

    return read


__all__ = [
    "DecisionCache",
    "Dimensions",
    "EncodedDecision",
    "EventContext",
    "EventSignals",
    "HeadSlices",
    "Memories",
    "OutcomeKey",
]
