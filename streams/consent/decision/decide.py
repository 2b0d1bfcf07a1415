"""Decides on an event: from evidence, stored state and policy to a ruling for each purpose and an action. Pure.

Deny beats grant, and invalid counts as deny. A dated refusal of the stored state overrides grants that are not newer. What the
signals leave unknown is filled by the stored state, then by the region's default. So adding a denial to an event never adds a
grant.
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
OVERRIDING: Mapping[StateValue, ConsentReason] = MappingProxyType(
    {StateValue.WITHDRAWN: ConsentReason.WITHDRAWN, StateValue.REFUSED: ConsentReason.PURPOSE}
)
"""State values that override an event's own signals, and their reason."""
StoredValues = Mapping[str, StateValue]
NO_VALUES: StoredValues = MappingProxyType({})


class Action(StrEnum):
    """What happens to an event."""

    __hash__ = str.__hash__  # a StrEnum's own hash is Python code, several times slower

    PASS = "pass"  # noqa: S105 - the name of an outcome
    STRIP = "strip"
    ANONYMISE = "anonymise"
    DROP = "drop"


class Ruling(NamedTuple):
    """The decision on one purpose of an event."""

    purpose: str
    granted: bool
    reason: ConsentReason


class ConsentDecision(NamedTuple):
    """The decision on an event: rulings in the policy's order, and an action."""

    rulings: tuple[Ruling, ...]
    action: Action
    mask: int
    """Granted purposes as bits (`policy.BITS`)."""
    drop_reason: ConsentReason | None = None

    @property
    def reasons(self) -> str:
        """`purpose=REASON` pairs, as events and audit carry them."""
        return " ".join(f"{ruling.purpose}={ruling.reason}" for ruling in self.rulings)


def decide(policy: Policy, event_name: str, evidence: SignalEvidence, stored: StoredValues = NO_VALUES) -> ConsentDecision:
    """Decide on an event that is no heartbeat. `stored`: the values of its subject's state by purpose."""
    rulings = tuple(
        rule_purpose(name, evidence, stored.get(name, StateValue.NOTHING), policy.memory.use_stored_state)
        for name in policy.purposes
    )
    mask = sum(BITS[ruling.purpose] for ruling in rulings if ruling.granted)
    action, drop_reason = _action(policy, event_name, rulings)
    return ConsentDecision(rulings, action, mask, drop_reason)


def exempt(policy: Policy) -> ConsentDecision:
    """The decision on a heartbeat: it passes without any purpose, so all fields of purposes are emptied."""
    return ConsentDecision(
        tuple(Ruling(purpose, False, ConsentReason.OK_EXEMPT) for purpose in policy.purposes), Action.PASS, 0
    )


def rule_purpose(name: str, evidence: SignalEvidence, value: StateValue, use_stored_state: bool) -> Ruling:
    """Decide on one purpose: by the event's signals, then by the stored state's value, then by the region's default.

    A dated refusal of the state overrides every grant that is not newer (`ledger.evaluate_state` has compared the times).
    """
    reason = _reason(evidence.results[name])
    if value in OVERRIDING and reason in (*GRANTING, ConsentReason.NO_SIGNAL):
        return Ruling(name, False, OVERRIDING[value])
    if reason is not ConsentReason.NO_SIGNAL:
        return Ruling(name, reason in GRANTING, reason)
    if use_stored_state and value is StateValue.GRANTED:
        return Ruling(name, True, ConsentReason.OK_CONSENT)
    if value is StateValue.DENIED:
        return Ruling(name, False, ConsentReason.PURPOSE)
    return Ruling(name, evidence.regime is Regime.OPT_OUT, ConsentReason.NO_SIGNAL)


def _reason(results: Mapping[str, FormatResult]) -> ConsentReason:
    """The reason that follows from the results of all formats, strictest first."""
    by_value: dict[ConsentValue, FormatResult] = {}
    for result in results.values():
        by_value.setdefault(result.value, result)
    if ConsentValue.INVALID in by_value:
        return by_value[ConsentValue.INVALID].reason
    if ConsentValue.UNDECODED in by_value:
        return ConsentReason.UNMAPPED
    if ConsentValue.DENY in by_value:
        if "gpc" in results:
            return ConsentReason.GPC
        return ConsentReason.CONFLICT if ConsentValue.GRANT in by_value else by_value[ConsentValue.DENY].reason
    if ConsentValue.UNCONFIRMED in by_value:
        return ConsentReason.PENDING
    return by_value[ConsentValue.GRANT].reason if ConsentValue.GRANT in by_value else ConsentReason.NO_SIGNAL


def _action(policy: Policy, event_name: str, rulings: tuple[Ruling, ...]) -> tuple[Action, ConsentReason | None]:
    rule = policy.rule(event_name)
    if rule is None:
        return Action.DROP, ConsentReason.UNMAPPED
    denied = {ruling.purpose: ruling.reason for ruling in rulings if not ruling.granted}
    missing = [purpose for purpose in rule.requires if purpose in denied]
    if missing:
        return (Action.DROP, denied[missing[0]]) if rule.on_deny == "drop" else (Action.ANONYMISE, None)
    # A purpose that the policy does not list is never granted, so its fields are stripped too.
    return (Action.STRIP if denied or set(policy.purposes) < set(BITS) else Action.PASS), None


def evidence_hash(signals: Signals) -> str:
    """A hash of the signals that does not depend on their order; empty without signals."""
    if not signals:
        return ""
    return hashlib.sha256(orjson.dumps(sorted(signals.items()))).hexdigest()[:16]


__all__ = ["Action", "ConsentDecision", "ConsentReason", "Ruling", "decide", "evidence_hash", "exempt", "rule_purpose"]
