"""Whether an event lets the collector keep an id in the visitor's browser, by the rules of the consent stage."""

from collections.abc import Mapping
from enum import Enum

from streams.collector.protocols.choices import SentChoice
from streams.collector.signals.policy_source import PolicySource
from streams.consent.decision.decide import rule_purpose
from streams.consent.formats.consent_value import ConsentValue
from streams.consent.formats.evidence import SignalEvidence, SignalReader
from streams.consent.formats.gvl import GvlFolder
from streams.consent.formats.reason import ConsentReason
from streams.consent.formats.signal_format import FormatResult
from streams.consent.ledger.ledger import StateValue

STORAGE = "analytics"
"""The purpose that covers storing an id and reading it again."""
REFUSALS = frozenset({ConsentReason.PURPOSE, ConsentReason.VENDOR, ConsentReason.UNMAPPED})
"""Denials that a visitor chose. An unreadable signal, an open banner and a browser's GPC are none."""


class StorageConsent(Enum):
    """What one event says about storage."""

    GRANTED = "granted"
    UNKNOWN = "neither granted nor refused: nothing is stored, and what is there is not renewed"
    REFUSED = "refused: what is there is deleted"


class StorageRules:
    """The rules of the policy in force. What the consent ledger remembers of a visitor is not known here."""

    def __init__(self, policies: PolicySource, lists: GvlFolder | None = None) -> None:
        self._policies = policies
        self._lists = lists
        self._policy = policies.policy()
        self._reader = SignalReader(self._policy, lists)

    def decide(self, region: str, signals: Mapping[str, str], now_ms: int) -> StorageConsent:
        """Decide on an event by its region and its signals, as the consent stage receives them."""
        policy = self._policies.policy()
        if policy is not self._policy:
            self._policy, self._reader = policy, SignalReader(policy, self._lists)
        if STORAGE not in policy.purposes:
            return StorageConsent.UNKNOWN
        evidence = self._reader.read(region, signals, now_ms)
        if _is_refused(evidence):
            return StorageConsent.REFUSED
        is_granted = rule_purpose(STORAGE, evidence, StateValue.NOTHING, use_stored_state=False).granted
        return StorageConsent.GRANTED if is_granted else StorageConsent.UNKNOWN

    def decide_choice(self, choice: SentChoice, region: str, now_ms: int) -> StorageConsent:
        """Decide on a choice without an event. It can refuse storage, but only an event grants it."""
        if choice.kind == "withdrawal":
            refused = not choice.purposes or STORAGE in choice.purposes
        else:
            refused = self.decide(region, choice.signals, now_ms) is StorageConsent.REFUSED
        return StorageConsent.REFUSED if refused else StorageConsent.UNKNOWN


def _is_refused(evidence: SignalEvidence) -> bool:
    return any(_is_refusal(result) for result in evidence.results[STORAGE].values())


def _is_refusal(result: FormatResult) -> bool:
    return result.value is ConsentValue.DENY and result.reason in REFUSALS


__all__ = ["StorageConsent", "StorageRules"]
