"""Where a consent reason is decided: evidence, memory and policy in, one ruling a purpose and one outcome an event out. Pure.

Deny beats grant and invalid counts as deny; Consent Mode narrows and never widens; only what the event's own signals leave
unknown is filled, by what is remembered of its subject and then by the region's default; a refusal whose time is known beats
what is not newer.
Adding a denial to an event can therefore never add a grant.
"""

import hashlib
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

import orjson

from streams.consent.formats.consent_value import ConsentValue
from streams.consent.formats.evidence import SignalEvidence
from streams.consent.formats.reason import ConsentReason
from streams.consent.formats.signal_format import FormatResult
from streams.consent.formats.signal_names import Signals
from streams.consent.ledger.ledger import StateValue
from streams.consent.policy import BITS, Policy, Regime

GRANTING = (ConsentReason.OK_CONSENT, ConsentReason.OK_LI)
REMEMBERED: Mapping[StateValue, ConsentReason] = MappingProxyType(
    {StateValue.WITHDRAWN: ConsentReason.WITHDRAWN, StateValue.REFUSED: ConsentReason.PURPOSE}
)
"""What is remembered that beats an event's own signals, and the reason."""
Recalled = Mapping[str, StateValue]
NOTHING: Recalled = MappingProxyType({})


class Action(StrEnum):
    """What becomes of one event."""

    __hash__ = str.__hash__  # an enum's own is Python code

    PASS = "pass"  # noqa: S105 - the name of an outcome
    STRIP = "strip"
    ANONYMISE = "anonymise"
    DROP = "drop"


class Ruling(NamedTuple):
    """One purpose of one event."""

    purpose: str
    granted: bool
    reason: ConsentReason


class ConsentDecision(NamedTuple):
    """One event: rulings in the policy's order, what becomes of it, and on what evidence."""

    rulings: tuple[Ruling, ...]
    action: Action
    mask: int
    """Granted purposes as bits."""
    drop_reason: ConsentReason | None = None

    @property
    def reasons(self) -> str:
        """`purpose=REASON` pairs, as events and audit carry them."""
        return " ".join(f"{ruling.purpose}={ruling.reason}" for ruling in self.rulings)


def decide(policy: Policy, event_name: str, evidence: SignalEvidence, recalled: Recalled = NOTHING) -> ConsentDecision:
    """The decision on an event that is no heartbeat. `recalled`: what the ledger says of its subject, purpose by purpose."""
    rulings = tuple(
        rule_purpose(name, evidence, recalled.get(name, StateValue.NOTHING), policy.memory.use_stored_state)
        for name in policy.purposes
    )
    mask = sum(BITS[ruling.purpose] for ruling in rulings if ruling.granted)
    action, drop_reason = _action(policy, event_name, rulings)
    return ConsentDecision(rulings, action, mask, drop_reason)


def exempt(policy: Policy) -> ConsentDecision:
    """The decision on a heartbeat: it passes and is granted nothing, so no field of a purpose travels with it."""
    return ConsentDecision(
        tuple(Ruling(purpose, False, ConsentReason.OK_EXEMPT) for purpose in policy.purposes), Action.PASS, 0
    )


def rule_purpose(name: str, evidence: SignalEvidence, memory: StateValue, use_stored_state: bool) -> Ruling:
    """The ruling on one purpose: the event's own signals first; then what is remembered; the region's default last.

    A refusal whose time is known beats every grant that is not newer (`ledger.recall` has compared the times).
    """
    reason = _reason(evidence.results[name])
    if memory in REMEMBERED and reason in (*GRANTING, ConsentReason.NO_SIGNAL):
        return Ruling(name, False, REMEMBERED[memory])
    if reason is not ConsentReason.NO_SIGNAL:
        return Ruling(name, reason in GRANTING, reason)
    if use_stored_state and memory is StateValue.GRANTED:
        return Ruling(name, True, ConsentReason.OK_CONSENT)
    if memory is StateValue.DENIED:
        return Ruling(name, False, ConsentReason.PURPOSE)
    return Ruling(name, evidence.regime is Regime.OPT_OUT, ConsentReason.NO_SIGNAL)


def _reason(results: Mapping[str, FormatResult]) -> ConsentReason:
    """The one place where words become a reason; strictest first."""
    by_word: dict[ConsentValue, FormatResult] = {}
    for result in results.values():
        by_word.setdefault(result.value, result)
    if ConsentValue.INVALID in by_word:
        return by_word[ConsentValue.INVALID].reason
    if ConsentValue.UNDECODED in by_word:
        return ConsentReason.UNMAPPED
    if ConsentValue.DENY in by_word:
        if "gpc" in results:
            return ConsentReason.GPC
        return ConsentReason.CONFLICT if ConsentValue.GRANT in by_word else by_word[ConsentValue.DENY].reason
    if ConsentValue.UNCONFIRMED in by_word:
        return ConsentReason.PENDING
    return by_word[ConsentValue.GRANT].reason if ConsentValue.GRANT in by_word else ConsentReason.NO_SIGNAL


def _action(policy: Policy, event_name: str, rulings: tuple[Ruling, ...]) -> tuple[Action, ConsentReason | None]:
    rule = policy.rule(event_name)
    if rule is None:
        return Action.DROP, ConsentReason.UNMAPPED
    denied = {ruling.purpose: ruling.reason for ruling in rulings if not ruling.granted}
    missing = [purpose for purpose in rule.requires if purpose in denied]
    if missing:
        return (Action.DROP, denied[missing[0]]) if rule.on_deny == "drop" else (Action.ANONYMISE, None)
    # A purpose that the policy does not list is never granted, so its fields must go too.
    return (Action.STRIP if denied or set(policy.purposes) < set(BITS) else Action.PASS), None


def evidence_hash(signals: Signals) -> str:
    """A fingerprint of the signals, in any order; empty where there are none."""
    if not signals:
        return ""
    return hashlib.sha256(orjson.dumps(sorted(signals.items()))).hexdigest()[:16]


__all__ = ["Action", "ConsentDecision", "ConsentReason", "Ruling", "decide", "evidence_hash", "exempt", "rule_purpose"]
