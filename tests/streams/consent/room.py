"""A consent stage with a view of its own, for tests."""

from typing import Any

from infra.settings import PACKAGED_CONTRACTS
from infra.telemetry.metrics import Metrics
from schemas.codec import Record, decode, encode
from schemas.registry import Registry
from streams.consent.ledger.ledger_writes import SIGNALS
from streams.consent.ledger.store import MemoryStateStore
from streams.consent.policy import PACKAGED, Policy, parse_policy
from streams.consent.stage import CONSENTED, RAW, ConsentDependencies, ConsentStage
from streams.runtime.stage import Batch, Outcome
from tests.streams.consent.events import raw

REGISTRY = Registry(PACKAGED_CONTRACTS)
POLICY = parse_policy(PACKAGED.read_text(), "p")
STORED = parse_policy(PACKAGED.read_text().replace("use_stored_state: false", "use_stored_state: true"), "p")
SUBJECT, OTHER = b"2" + b"ab" * 16, b"0" + b"cd" * 16
T = 1_764_000_123_456
HOUR = 3_600_000
GRANTED = {"cmp.analytics": "1", "cmp.marketing": "1", "cmp.personalization": "1"}
DENIED = dict.fromkeys(GRANTED, "0")
EMPTY: dict[str, str] = {}


class Room:
    """A stage with its view that handles one record at a time, and commits unless `commit=False`."""

    def __init__(self, policy: Policy = POLICY, states: MemoryStateStore | None = None) -> None:
        self.states = states or MemoryStateStore()
        self.stage = ConsentStage(REGISTRY, policy, ConsentDependencies(b"k" * 32, self.states, Metrics(), lambda: None))
        self.offset = 0

    def handle(self, topic: str, value: bytes, subject: bytes = SUBJECT, *, commit: bool = True) -> Outcome:
        """Handle one record, and the signals that the stage publishes."""
        self.offset += 1
        outcome = self.stage.handle(Batch(topic, 3, [subject], [value], [self.offset]), T / 1000)
        for hook in outcome.after_commit if commit else ():
            hook()
        for key, signal, _ in outcome.out.get(SIGNALS, ()):
            self.handle(SIGNALS, signal or b"", key or b"", commit=commit)
        return outcome

    def event(self, signals: dict[str, str], at: int = T, subject: bytes = SUBJECT, **fields: object) -> str:
        """Handle an event; returns its reasons, e.g. `OK_CONSENT PURPOSE PURPOSE`. `subject`: its key and only identifier."""
        event = raw(**{"signals": signals, "collector_ts": at, "identifiers": [subject.decode()], **fields})
        value = encode(REGISTRY.latest(RAW), event)
        (record,) = records(self.handle(RAW, value, subject), CONSENTED)
        return " ".join(pair.partition("=")[2] for pair in record["consent_reasons"].split())

    def signal(self, **fields: Any) -> Outcome:
        """Handle a record of `consent.signals`."""
        record = {
            "subject": SUBJECT.decode(), "site": "shop.example", "regulation": "", "kind": "withdrawal", "signals": {},
            "purposes": [], "chosen_ts": T, "received_ts": T, "via": "webhook", "evidence": "e", **fields,
        }  # fmt: skip
        return self.handle(SIGNALS, encode(REGISTRY.latest(SIGNALS), record), record["subject"].encode())


def records(outcome: Outcome, topic: str) -> list[Record]:
    """The decoded records of an exit."""
    return [decode(REGISTRY, value or b"")[1] for _, value, _ in outcome.out.get(topic, ())]
