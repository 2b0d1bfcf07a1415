"""The consent stage in memory with a minimal identity stage: the reference for the model in `memory.py`."""

import hashlib
from collections import defaultdict

from infra.ops.simulator.protocols.requests import PURPOSES
from infra.ops.simulator.protocols.signals import consent_signals
from infra.ops.simulator.truth import ANALYTICS
from infra.ops.simulator.world.acts import SimulatedEvent, Statement
from infra.ops.simulator.world.memory import CHOICE_EVENT, identifiers_of
from infra.telemetry.metrics import Metrics
from schemas.codec import Record, decode, encode
from streams.consent.ledger.store import MemoryStateStore
from streams.consent.stage import CONSENTED, RAW, REVOCATIONS, SIGNALS, ConsentDependencies, ConsentStage
from streams.runtime.stage import Batch, Outcome
from tests.streams.consent.events import raw
from tests.streams.consent.room import POLICY, REGISTRY

NOON = 1_764_000_000_000 // 86_400_000 * 86_400_000 + 43_200_000
STEP_MS = 3_000
WORDS = {True: "granted", False: "denied"}


class Gate:
    """Processes one step at a time, with all its consequences before the next one."""

    def __init__(self) -> None:
        self.now = NOON
        self._stage = ConsentStage(
            REGISTRY, POLICY, ConsentDependencies(b"k" * 32, MemoryStateStore(), Metrics(), lambda: None)
        )
        self._offset = 0
        self._linked: defaultdict[str, set[str]] = defaultdict(set)
        self._refusals: defaultdict[str, list[Record]] = defaultdict(list)
        """Node -> revocations of all that is linked to it."""

    def event(self, event: SimulatedEvent) -> int:
        """Process an event; return the granted purposes."""
        self.now += STEP_MS
        nodes = sorted(map(node, identifiers_of(event)))
        consent = {name: WORDS.get(value, str(value)) for name, value in consent_signals(event.device, self.now).items()}
        if event.dated:
            consent["chosen_ts"] = str(self.now)
        if event.name == CHOICE_EVENT and "tc_string" in consent:
            consent["tc_event_status"] = "useractioncomplete"
        record = raw(
            event_name=event.name, signals=consent, region=event.device.region, collector_ts=self.now, identifiers=nodes
        )
        outcome = self._handle(RAW, nodes[0], record)
        ((_, value, _),) = outcome.out[CONSENTED]
        mask: int = decode(REGISTRY, value or b"")[1]["consent_purposes"]
        if mask & ANALYTICS:
            self._link(nodes)
        return mask

    def state(self, statement: Statement) -> None:
        """Process the signals that the collector writes for `POST /v1/consent`."""
        self.now += STEP_MS
        purposes = [name for name, bit in PURPOSES.items() if bit & statement.purposes]
        choice = {f"cmp.{name}": WORDS[statement.grants] for name in purposes}
        for _, identifier in statement.identifiers:
            if statement.withdrawal:
                self._signal(node(identifier), kind="withdrawal", purposes=purposes, via="webhook")
            else:
                self._signal(node(identifier), kind="choice", signals=choice, via="webhook")

    def _signal(self, to: str, **fields: object) -> None:
        record = {
            "subject": to, "site": "shop.example", "regulation": "", "signals": {}, "purposes": [], "chosen_ts": self.now,
            "received_ts": self.now, "evidence": "e", **fields,
        }  # fmt: skip
        self._handle(SIGNALS, to, record)

    def _handle(self, topic: str, key: str, record: Record) -> Outcome:
        value = encode(REGISTRY.latest(topic), record)
        self._offset += 1
        outcome = self._stage.handle(Batch(topic, 3, [key.encode()], [value], [self._offset]), self.now / 1000)
        for hook in outcome.after_commit:
            hook()
        for _, output, _ in outcome.out.get(SIGNALS, ()):
            signal = decode(REGISTRY, output or b"")[1]
            self._handle(SIGNALS, signal["subject"], signal)
        for _, output, _ in outcome.out.get(REVOCATIONS, ()):
            revocation = decode(REGISTRY, output or b"")[1]
            for linked in {revocation["subject"], *self._linked[revocation["subject"]]}:
                self._refusals[linked].append(revocation)
                self._hand_over(linked, [revocation])
        return outcome

    def _link(self, nodes: list[str]) -> None:
        everybody = set(nodes).union(*(self._linked[member] for member in nodes))
        if self._linked[nodes[0]] == everybody:
            return
        refusals = [revocation for member in everybody for revocation in self._refusals[member]]
        for member in everybody:
            self._linked[member] = everybody
            self._refusals[member] = list(refusals)
            self._hand_over(member, refusals)

    def _hand_over(self, to: str, revocations: list[Record]) -> None:
        for revocation in revocations:
            if revocation["subject"] != to:
                times = {"chosen_ts": revocation["withdrawn_ts"], "received_ts": revocation["received_ts"]}
                self._signal(to, kind="withdrawal", purposes=revocation["purposes"], via="linked", **times)


def node(identifier: str) -> str:
    """Return a node of the tier of a simulated identifier."""
    tier = "0" if identifier.startswith("account") else "3" if "@" in identifier else "2"
    return tier + hashlib.sha256(identifier.encode()).hexdigest()[:32]
