"""`bandit.decisions`: every answer is logged, with the probability it was drawn with, before it is given."""

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
    """One answered question."""

    decision_id: str
    visitor: str
    """Pseudonym; empty without consent."""
    choice: ArmChoice
    decided_ts: int


def uuid7(now_ms: int, randomness: bytes | None = None) -> str:
    """A UUIDv7 (RFC 9562, 5.7): 48 bits of milliseconds, then randomness (10 bytes)."""
    raw = bytearray(now_ms.to_bytes(6, "big") + (os.urandom(10) if randomness is None else randomness))
    raw[6] = 0x70 | (raw[6] & 0x0F)
    raw[8] = 0x80 | (raw[8] & 0x3F)
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class DecisionLog:
    """Hands decisions to an idempotent producer with a bounded queue; it delivers while the page is already answered."""

    def __init__(self, producer: Any, registry: Registry, metrics: Metrics) -> None:
        self._producer = producer
        self._contract = registry.latest(TOPIC)
        self._metrics = metrics

    def append(self, experiment: Experiment, decision: DecisionRecord) -> bool:
        """Queue one decision; False where the queue is full (Kafka has been away for too long)."""
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
            self._producer.produce(TOPIC, encode(self._contract, record), key, on_delivery=self._delivered)
        except BufferError:
            self._metrics.count("headwater_decisions_unlogged_total", reason="queue_full")
            return False
        return True

    def poll(self) -> None:
        """Take in delivery reports; never waits."""
        self._producer.poll(0)

    def close(self, seconds: float) -> int:
        """Wait for what is queued; returns how many were not delivered."""
        return int(self._producer.flush(seconds))

    def _delivered(self, error: ck.KafkaError | None, _message: Any) -> None:
        if error is not None:
            self._metrics.count("headwater_decisions_unlogged_total", reason="not_delivered")
