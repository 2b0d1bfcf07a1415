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

from streams.consent.formats.evidence import Evidence, Heard
from streams.consent.formats.reason import Reason
from streams.consent.formats.signals import Signals, Word
from streams.consent.ledger.ledger import Memory
from streams.consent.policy import BITS, Policy, Regime

GRANTING = (Reason.OK_CONSENT, Reason.OK_LI)
REMEMBERED: Mapping[Memory, Reason] = MappingProxyType({Memory.WITHDRAWN: Reason.WITHDRAWN, Memory.REFUSED: Reason.PURPOSE})
"""What is remembered that beats an event's own signals, and the reason."""
Recalled = Mapping[str, Memory]
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
    reason: Reason


class Decision(NamedTuple):
    """One event: rulings in the policy's order, what becomes of it, and on what evidence."""

    rulings: tuple[Ruling, ...]
    action: Action
    mask: int
    """Granted purposes as bits."""
    drop_reason: Reason | None = None

    @property
    def reasons(self) -> str:
        """`purpose=REASON` pairs, as events and audit carry them."""
        return " ".join(f"{ruling.purpose}={ruling.reason}" for ruling in self.rulings)


def decide(policy: Policy, event_name: str, evidence: Evidence, recalled: Recalled = NOTHING) -> Decision:
    """The decision on an event that is no heartbeat. `recalled`: what the ledger says of its subject, purpose by purpose."""
    rulings = tuple(
        rule_purpose(name, evidence, recalled.get(name, Memory.NOTHING), policy.memory.use_stored_state)
        for name in policy.purposes
    )
    mask = sum(BITS[ruling.purpose] for ruling in rulings if ruling.granted)
    action, drop_reason = _action(policy, event_name, rulings)
    return Decision(rulings, action, mask, drop_reason)


def exempt(policy: Policy) -> Decision:
    """The decision on a heartbeat: it passes and is granted nothing, so no field of a purpose travels with it."""
    return Decision(tuple(Ruling(purpose, False, Reason.OK_EXEMPT) for purpose in policy.purposes), Action.PASS, 0)


def rule_purpose(name: str, evidence: Evidence, memory: Memory, use_stored_state: bool) -> Ruling:
    """The ruling on one purpose: the event's own signals first; then what is remembered; the region's default last.

    A refusal whose time is known beats every grant that is not newer (`ledger.recall` has compared the times).
    """
    reason = _reason(evidence.heard[name])
    if memory in REMEMBERED and reason in (*GRANTING, Reason.NO_SIGNAL):
        return Ruling(name, False, REMEMBERED[memory])
    if reason is not Reason.NO_SIGNAL:
        return Ruling(name, reason in GRANTING, reason)
    if use_stored_state and memory is Memory.GRANTED:
        return Ruling(name, True, Reason.OK_CONSENT)
    if memory is Memory.DENIED:
        return Ruling(name, False, Reason.PURPOSE)
    return Ruling(name, evidence.regime is Regime.OPT_OUT, Reason.NO_SIGNAL)


def _reason(heard: Mapping[str, Heard]) -> Reason:
    """The one place where words become a reason; strictest first."""
    by_word: dict[Word, Heard] = {}
    for one in heard.values():
        by_word.setdefault(one.word, one)
    if Word.INVALID in by_word:
        return by_word[Word.INVALID].reason
    if Word.UNDECODED in by_word:
        return Reason.UNMAPPED
    if Word.DENY in by_word:
        if "gpc" in heard:
            return Reason.GPC
        return Reason.CONFLICT if Word.GRANT in by_word else by_word[Word.DENY].reason
    if Word.UNCONFIRMED in by_word:
        return Reason.PENDING
    return by_word[Word.GRANT].reason if Word.GRANT in by_word else Reason.NO_SIGNAL


def _action(policy: Policy, event_name: str, rulings: tuple[Ruling, ...]) -> tuple[Action, Reason | None]:
    rule = policy.rule(event_name)
    if rule is None:
        return Action.DROP, Reason.UNMAPPED
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


__all__ = ["Action", "Decision", "Reason", "Ruling", "decide", "evidence_hash", "exempt", "rule_purpose"]
