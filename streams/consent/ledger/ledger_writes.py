"""What one batch writes beside its events: changed states, revocations, published states, and the audit chain."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import NamedTuple

from schemas.codec import Record, encode
from schemas.fast.flat_encoder import flat_record_encoder
from schemas.registry import Registry
from streams.consent.decision.audit import ChainHead, append_record
from streams.consent.decision.decide import Action
from streams.consent.ledger.ledger import DENIED, SEEN_DENIED, WITHDRAWN, StateChange, Times, entry_name, merge
from streams.consent.policy import BITS, Policy
from streams.runtime.stage import BY_KEY, Output

STATE, REVOCATIONS, AUDIT, HEADS = "consent.state", "consent.revocations", "consent.audit", "consent.heads"
SIGNALS = "consent.signals"
STATE_KIND = "state"
"""`kind` of a signal that carries a state: its times by name, as text."""
MINUTE_MS = 60_000
DENIAL_SUFFIXES = tuple(entry_name("", kind) for kind in (DENIED, SEEN_DENIED, WITHDRAWN))
"""Of names of times."""


RecordEncoders = Mapping[str, Callable[[Record], bytes]]
"""Topic -> encoder of its records."""


def record_encoders(registry: Registry) -> RecordEncoders:
    """Encoders for the newest contracts."""
    contracts = [registry.latest(topic) for topic in (STATE, REVOCATIONS, AUDIT, HEADS)]
    flat = {contract.topic: flat_record_encoder(contract.parsed, contract.header) for contract in contracts}
    return {**flat, SIGNALS: partial(encode, registry.latest(SIGNALS))}


class ChangeSource(NamedTuple):
    """The cause of a change."""

    scope: str
    subject: str
    at: int
    """Collector time, milliseconds UTC."""
    chosen: int
    """When the visitor chose, milliseconds UTC; 0 = unknown."""
    method: str
    """event, webhook or linked."""
    evidence: str
    platform: str = ""
    gvl: int = 0


class DeniedEvents(NamedTuple):
    """What events that lost something are counted by, for the audit."""

    site: str
    minute: int
    """Its start, milliseconds UTC."""
    outcome: str
    reasons: str


class LedgerWrites:
    """Collects the records of one batch; `outputs` ends the collection."""

    def __init__(self, encoders: RecordEncoders, policy: Policy, partition: int, head: ChainHead) -> None:
        self._encoders = encoders
        self._policy = policy
        self._partition = partition
        self.head = head
        self.states: dict[str, Times] = {}
        """Changed states, by key."""
        self._outputs: dict[str, list[Output]] = {}
        self._denied: Counter[DeniedEvents] = Counter()

    def audit_policy(self, at: int) -> None:
        """Record that this policy is in force from now on. `at`: milliseconds UTC."""
        purposes = " ".join(self._policy.purposes)
        self._audit({"kind": "policy", "reasons": purposes, "outcome": "in force", "method": "file", "minute": minute(at)})

    def change_state(self, source: ChangeSource, times: Times, change: StateChange) -> Times:
        """Write a changed state and its audit record; the new state is returned."""
        now = merge(times, change.times) if times else change.times
        key = f"{source.scope}|{source.subject}"
        self.states[key] = now
        regulation, _, site = source.scope.partition("|")
        self._append(
            STATE,
            key,
            {
                "subject": source.subject, "site": site, "regulation": regulation, "times": now, "evidence": source.evidence,
                "platform": source.platform, "gvl": source.gvl, "policy": self._policy.rev, "changed_ts": source.at,
            },
            self._partition,
        )  # fmt: skip
        self._audit(
            {
                "kind": "state", "subject": source.subject, "site": site, "regulation": regulation,
                "reasons": " ".join(f"{name}={time}" for name, time in sorted(change.times.items())),
                "platform": source.platform, "outcome": _outcome(change), "method": source.method, "minute": minute(source.at),
                "event_ts": source.chosen, "evidence": source.evidence,
            }
        )  # fmt: skip
        return now

    def revoke(self, source: ChangeSource, site: str, regulation: str, changes: Iterable[StateChange]) -> None:
        """Publish a refusal for linked ids: one record for purposes granted before, one for the others."""
        withdrawn = sorted({purpose for change in changes for purpose in change.withdrawn})
        refused = sorted({purpose for change in changes for purpose in change.refused}.difference(withdrawn))
        for purposes, was_granted in ((withdrawn, True), (refused, False)):
            if purposes:
                revocation = {
                    "subject": source.subject, "site": site, "regulation": regulation, "purposes": purposes,
                    "withdrawn_ts": source.chosen, "received_ts": source.at, "evidence": source.evidence,
                    "withdrawal": was_granted,
                }  # fmt: skip
                self._append(REVOCATIONS, source.subject, revocation)

    def publish_state(self, source: ChangeSource, site: str, regulation: str, times: Times) -> None:
        """Publish times of an event's choice for another of its identifiers, `source.subject`."""
        record = {
            "subject": source.subject, "site": site, "regulation": regulation, "kind": STATE_KIND,
            "signals": {name: str(time) for name, time in times.items()}, "purposes": [], "chosen_ts": source.chosen,
            "received_ts": source.at, "via": source.method, "evidence": source.evidence,
        }  # fmt: skip
        self._append(SIGNALS, source.subject, record)

    def count_denied(self, site: str, start: int, action: Action, reasons: str, n: int) -> None:
        """Count events that lost fields or were dropped, for the audit."""
        self._denied[DeniedEvents(site, start, action.value, reasons)] += n

    def outputs(self) -> Mapping[str, list[Output]]:
        """All records by topic, with the new head of the audit chain."""
        for denied, n in self._denied.items():
            self._audit(
                {
                    "kind": "denied", "site": denied.site, "minute": denied.minute, "outcome": denied.outcome,
                    "reasons": denied.reasons, "n": n, "method": "event",
                }
            )  # fmt: skip
        if AUDIT in self._outputs:
            self._append(HEADS, str(self._partition), {"chain": self._partition, **self.head._asdict()}, self._partition)
        return self._outputs

    def _audit(self, fields: Record) -> None:
        fields |= {"policy": self._policy.rev, "controller": self._policy.controller}
        self.head, record = append_record(self.head, self._partition, fields)
        self._append(AUDIT, str(self._partition), record, self._partition)

    def _append(self, topic: str, key: str, record: Record, partition: int = BY_KEY) -> None:
        self._outputs.setdefault(topic, []).append((key.encode(), self._encoders[topic](record), partition))


def minute(time: int) -> int:
    """The start of a minute, milliseconds UTC."""
    return time // MINUTE_MS * MINUTE_MS


def _outcome(change: StateChange) -> str:
    if change.withdrawn:
        return "withdrawn"
    return "denied" if any(name.endswith(DENIAL_SUFFIXES) for name in change.times) else "granted"


__all__ = ["AUDIT", "BITS", "HEADS", "REVOCATIONS", "STATE", "ChangeSource", "LedgerWrites", "minute", "record_encoders"]
