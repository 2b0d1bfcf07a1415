"""Identity workers on a real log: what the runtime does between a batch and its commit, without a consumer group."""

import time
from collections.abc import Iterable, Sequence
from contextlib import closing

from infra.clients.kafka import producer, reader
from infra.errors import Retryable
from infra.settings import PACKAGED_CONTRACTS, Settings
from infra.telemetry.metrics import Metrics
from schemas.codec import Record, decode, encode
from schemas.registry import Registry
from streams.identity.app import build
from streams.identity.graph.deferred import DEFERRED
from streams.identity.reading import CONSENTED, RESOLVED
from streams.identity.refusals.revocation import REQUESTS, REVOCATIONS, SIGNALS
from streams.identity.stage import IdentityStage
from streams.runtime.follow import stable_end
from streams.runtime.stage import Batch, Outcome

CONTRACTS = PACKAGED_CONTRACTS
REGISTRY = Registry(CONTRACTS)
T = 1_764_000_123_456


def event(n: int, nodes: Iterable[str], **fields: object) -> bytes:
    """Encode an event of events.consented with everything granted."""
    record = {
        "consent_outcome": "pass", "consent_purposes": 7, "consent_reasons": "", "consent_policy": "", "consent_evidence": "",
        "event_id": f"e{n}", "event_name": "page_view", "source": "web", "site": "x", "heartbeat": False, "collector_ts": T,
        "region": "", "signals": {}, "identifiers": sorted(nodes), "event_ts": 0, "event_ts_source": "", "protocol": "",
        **fields,
    }  # fmt: skip
    return encode(REGISTRY.latest(CONSENTED), record)


def revocation(subject: str, **fields: object) -> bytes:
    """Encode a record of consent.revocations."""
    record = {
        "subject": subject, "site": "shop.example", "regulation": "opt-in", "purposes": ["analytics", "marketing"],
        "withdrawn_ts": T, "received_ts": T + 9, "evidence": "e", "withdrawal": True, **fields,
    }  # fmt: skip
    return encode(REGISTRY.latest(REVOCATIONS), record)


def end_of(settings: Settings, partition: int, topic: str = CONSENTED) -> int:
    """Return the next offset of a partition of an input."""
    deadline = time.monotonic() + 30
    with closing(reader(settings, "headwater.line")) as consumer:
        while True:
            try:
                return stable_end(consumer, topic, partition)[1]
            except Retryable:  # a topic that was just made has no leader yet
                assert time.monotonic() < deadline
                time.sleep(0.1)


class Line:
    """Workers that run one after the other; outcomes are on Kafka before the next batch."""

    def __init__(self, settings: Settings, workers: int) -> None:
        self.settings = settings
        self.now = T
        """Collector time of sent events, milliseconds UTC."""
        self._producer = producer(settings)
        self.metrics = [Metrics() for _ in range(workers)]
        self.workers = [build(settings, metrics) for metrics in self.metrics]
        self.resolved: list[Record] = []
        self.signals: list[Record] = []
        """Signals to the consent room."""
        self.ends = [end_of(settings, worker) for worker in range(workers)]
        for worker, stage in enumerate(self.workers):
            stage.on_restore(DEFERRED, worker, ())
        self.events = sum(self.ends)

    def fresh(self) -> IdentityStage:
        """Return a worker that has just started and read the log."""
        return build(self.settings, Metrics())

    def send(self, combinations: Sequence[Sequence[str]], worker: int = 0, ids: Sequence[str] = ()) -> list[Record]:
        """Send events on the worker's own partition, process and commit them; return what left. `ids`: event ids."""
        fields = [{"event_id": event_id} for event_id in ids] or [{}] * len(combinations)
        values = [event(self.events + n, nodes, collector_ts=self.now, **fields[n]) for n, nodes in enumerate(combinations)]
        offsets = range(self.ends[worker], self.ends[worker] + len(values))
        self.ends[worker] += len(values)
        self.events += len(values)
        for value in values:
            self._producer.produce(CONSENTED, value, b"k", worker)
        assert self._producer.flush(10) == 0
        stage = self.workers[worker]
        outcome = stage.handle(Batch(CONSENTED, worker, [b"k"] * len(values), values, offsets), 0)
        self.commit(outcome)
        assert outcome.passed + outcome.dropped["DUPLICATE"] == len(values)
        records = [decode(REGISTRY, value or b"")[1] for _, value, _ in outcome.out[RESOLVED]]
        self.resolved += records
        return records

    def withdraw(self, subject: str, worker: int = 0) -> list[Record]:
        """Process and commit a withdrawal; return the privacy requests."""
        value = encode(REGISTRY.latest(REVOCATIONS), {
            "subject": subject, "site": "x", "regulation": "gdpr", "purposes": ["personalization"], "withdrawn_ts": T,
            "received_ts": T, "evidence": "",
        })  # fmt: skip
        offset = end_of(self.settings, worker, REVOCATIONS)
        self._producer.produce(REVOCATIONS, value, b"k", worker)
        assert self._producer.flush(10) == 0
        outcome = self.workers[worker].handle(Batch(REVOCATIONS, worker, [b"k"], [value], [offset]), 0)
        self.commit(outcome)
        return [decode(REGISTRY, value or b"")[1] for _, value, _ in outcome.out.get(REQUESTS, ())]

    def spoil(self) -> None:
        """Produce undecodable bytes on the topic of withdrawals."""
        self._producer.produce(REVOCATIONS, b"rubbish", b"k", 0)
        assert self._producer.flush(10) == 0

    def tick(self, *workers: int) -> list[Outcome]:
        """Tick all workers and commit."""
        outcomes = []
        for worker in workers:
            outcomes.append(self.workers[worker].on_tick(0))
            self.commit(outcomes[-1])
        return outcomes

    def commit(self, outcome: Outcome) -> None:
        """Produce everything except the events, run the hooks, broadcast to all workers."""
        for topic, outputs in outcome.out.items():
            for key, value, partition in outputs if topic != RESOLVED else ():
                self._producer.produce(topic, value, key, max(partition, 0))
        assert self._producer.flush(10) == 0
        self.signals += [decode(REGISTRY, value or b"")[1] for _, value, _ in outcome.out.get(SIGNALS, ())]
        for hook in outcome.after_commit:
            hook()
        for worker in self.workers:
            for topic in worker.broadcast:
                worker.on_broadcast(topic, [(key, value) for key, value, _ in outcome.out.get(topic, ())])
