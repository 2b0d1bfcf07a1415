"""Where a consent reason is decided: signals, region and policy in, one ruling a purpose and one outcome an event out. Pure.

Deny beats grant and invalid counts as deny; Consent Mode narrows and never widens; only what the event's own signals leave
unknown is filled by the region's default. Adding a denial to an event can therefore never add a grant.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from streams.consent.policy import BITS, Policy, Purpose, Regime
from streams.consent.reason import Reason
from streams.consent.signals import (
    Signals,
    Word,
    claims_gdpr,
    cmp_word,
    consent_mode,
    consent_mode_word,
    gpc_word,
    gpp_word,
    has_explicit_choice,
    strictest,
    tc_word,
)


class Action(StrEnum):
    """What becomes of one event."""

    PASS = "pass"  # noqa: S105 - the name of an outcome
    STRIP = "strip"
    ANONYMISE = "anonymise"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Ruling:
    """One purpose of one event."""

    purpose: str
    granted: bool
    reason: Reason


@dataclass(frozen=True, slots=True)
class Decision:
    """One event: rulings in the policy's order, what becomes of it, and on what evidence."""

    rulings: tuple[Ruling, ...]
    action: Action
    mask: int
    """Granted purposes as bits."""
    evidence: str
    """Hash of the signals that were decided on."""
    drop_reason: Reason | None = None

    @property
    def reasons(self) -> str:
        """`purpose=REASON` pairs, as events and audit carry them."""
        return " ".join(f"{ruling.purpose}={ruling.reason}" for ruling in self.rulings)


def decide(policy: Policy, event_name: str, region: str, signals: Signals) -> Decision:
    """The decision on an event that is no heartbeat."""
    regime = policy.regime(region)
    if claims_gdpr(signals):
        regime = Regime.OPT_IN
    rulings = tuple(rule_purpose(policy, purpose, regime, signals) for purpose in policy.purposes)
    granted = frozenset(ruling.purpose for ruling in rulings if ruling.granted)
    mask = sum(BITS[purpose] for purpose in granted)
    action, drop_reason = _action(policy, event_name, rulings)
    return Decision(rulings, action, mask, evidence_hash(signals), drop_reason)


def exempt(policy: Policy) -> Decision:
    """The decision on a heartbeat: it passes and is granted nothing, so no field of a purpose travels with it."""
    return Decision(tuple(Ruling(purpose, False, Reason.OK_EXEMPT) for purpose in policy.purposes), Action.PASS, 0, "")


def rule_purpose(policy: Policy, name: str, regime: Regime, signals: Signals) -> Ruling:
    """The ruling on one purpose: words first, the region's default only where there are none."""
    words = read_words(policy, policy.purposes[name], regime, signals)
    reason = _reason(words)
    if reason is Reason.NO_SIGNAL:
        return Ruling(name, regime is Regime.OPT_OUT, reason)
    return Ruling(name, reason is Reason.OK_CONSENT, reason)


def read_words(policy: Policy, purpose: Purpose, regime: Regime, signals: Signals) -> dict[str, Word]:
    """Format -> what it says about a purpose under this regime."""
    mode = consent_mode_word(consent_mode(signals, policy.letters), purpose.consent_mode)
    if mode is Word.UNCONFIRMED and regime is Regime.OPT_OUT:
        mode = Word.GRANT
    if mode is Word.GRANT and has_explicit_choice(signals):
        mode = Word.UNKNOWN  # it narrows what the platform's own words grant, and adds nothing to them
    objection = purpose.denied_by_gpc
    return {
        "cmp": cmp_word(signals, purpose.cmp),
        "consent_mode": mode,
        "gpc": gpc_word(signals) if objection else Word.UNKNOWN,
        "tc_string": tc_word(signals),
        # Under opt-out a GPP string speaks about sale and sharing, which is what GPC objects to as well.
        "gpp": gpp_word(signals) if objection or regime is Regime.OPT_IN else Word.UNKNOWN,
    }


def _reason(words: Mapping[str, Word]) -> Reason:
    """The one place where words become a reason; strictest first."""
    worst = strictest(words.values())
    if worst is Word.INVALID:
        return Reason.MALFORMED
    if worst is Word.UNDECODED:
        return Reason.UNMAPPED
    if worst is Word.DENY:
        if words["gpc"] is Word.DENY:
            return Reason.GPC
        return Reason.CONFLICT if Word.GRANT in words.values() else Reason.PURPOSE
    if worst is Word.UNCONFIRMED:
        return Reason.PENDING
    return Reason.OK_CONSENT if worst is Word.GRANT else Reason.NO_SIGNAL


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
    text = json.dumps(sorted(signals.items()), ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


__all__ = ["Action", "Decision", "Reason", "Ruling", "decide", "evidence_hash", "exempt", "read_words", "rule_purpose"]
