"""The decision log, `bandit.decisions`: each decision with the probability of its arm, queued before it is answered."""

import os
from typing import Any, NamedTuple

import confluent_kafka as ck

from consumers.decisions.rules import ArmChoice
from infra.telemetry.metrics import Metrics
from schemas.codec import encode
from schemas.registry import Registry
from streams.bandit.experiment import Experiment

TOPIC = "bandit.decisions"


class DecisionRecord(NamedTuple):
    """One decision as it is logged."""

    decision_id: str
    visitor: str
    """Pseudonym; empty without consent."""
    choice: ArmChoice
    decided_ts: int


def uuid7(now_ms: int, randomness: bytes | None = None) -> str:
    """Return a UUIDv7 (RFC 9562, 5.7) of milliseconds UTC and 10 random bytes."""
    raw = bytearray(now_ms.to_bytes(6, "big") + (os.urandom(10) if randomness is None else randomness))
    raw[6] = 0x70 | (raw[6] & 0x0F)
    raw[8] = 0x80 | (raw[8] & 0x3F)
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class DecisionLog:
    """Queues decisions in an idempotent producer, which delivers them after the answer. The queue is bounded."""

    def __init__(self, producer: Any, registry: Registry, metrics: Metrics) -> None:
        self._producer = producer
        self._contract = registry.latest(TOPIC)
        self._metrics = metrics

    def append(self, experiment: Experiment, decision: DecisionRecord) -> bool:
        """Queue one decision. Returns False where the queue is full because Kafka is unreachable."""
        choice = decision.choice
        record = {
            "decision_id": decision.decision_id,
            "experiment": experiment.key,
            "epoch": experiment.epoch,
            "visitor": decision.visitor,
            "arm": choice.arm,
            "group": choice.group,
            "propensity": choice.propensity,
            "eligible": list(choice.eligible),
            "reason": choice.reason,
            "snapshot_version": choice.snapshot_version,
            "config_version": experiment.version,
            "decided_ts": decision.decided_ts,
        }
        key = (decision.visitor or decision.decision_id).encode()
        try:
            self._producer.produce(TOPIC, encode(self._contract, record), key, on_delivery=self._on_delivery)
        except BufferError:
            self._metrics.count("headwater_decisions_unlogged_total", reason="queue_full")
            return False
        return True

    def poll(self) -> None:
        """Process delivery reports without waiting."""
        self._producer.poll(0)

    def close(self, seconds: float) -> int:
        """Flush for at most `seconds`. Returns how many decisions were not delivered."""
        return int(self._producer.flush(seconds))

    def _on_delivery(self, error: ck.KafkaError | None, _message: Any) -> None:
        if error is not None:
            self._metrics.count("headwater_decisions_unlogged_total", reason="not_delivered")
