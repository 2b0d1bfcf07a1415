"""A pass-through worker whose first batch waits at a gate, and consumers with one safeguard removed each.

    python -m tests.broker.gated '{"gate": "<file>", "consumer": "tests.broker.gated:WithoutLease", ...}'

The batch touches `<gate>.waiting` when it has begun and goes on once `<gate>` exists.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import confluent_kafka as ck

from bench import passthrough
from streams.runtime.stage import Batch, Outcome
from streams.runtime.transport import Consumer


class Gated(passthrough.PassThrough):
    """Waits once, in the middle of its first batch."""

    def __init__(self, gate: Path, **copying: Any) -> None:
        super().__init__(**copying)
        self._gate = gate

    def handle(self, batch: Batch, now: float) -> Outcome:
        """Copy, after the gate has opened."""
        outcome = super().handle(batch, now)
        self._gate.with_suffix(".waiting").touch()
        while not self._gate.exists():
            time.sleep(0.01)
        return outcome


class Zombie(Consumer):
    """Does not end when its partitions are lost: the worst case, in which only the broker can refuse its commit."""

    def _lost(self, kafka: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
        pass


class ZombieWithoutGeneration(Zombie):
    """A zombie whose commit names no generation: the broker has nothing to refuse it by."""

    def group_metadata(self) -> Any:
        """Of a consumer that never joined the group."""
        return ck.Consumer(self.worker.settings.kafka_config(group_id=self.worker.group)).consumer_group_metadata()


class WithoutLease(Consumer):
    """Commits on revocation, but does not withdraw the leases."""

    async def revoke(self, tps: list[Any]) -> None:
        """Forget the partitions and leave the batch in the stage's hands its right to emit."""
        leases = {tp: self.leases[tp] for tp in tps}
        await super().revoke(tps)
        for lease in leases.values():
            lease.valid = True


if __name__ == "__main__":
    config = json.loads(sys.argv[1])
    passthrough.main(config, lambda **copying: Gated(Path(config["gate"]), **copying))
