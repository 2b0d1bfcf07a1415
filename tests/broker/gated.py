"""A pass-through worker whose first batch waits at a gate, and consumers that each lack one safeguard.

    python -m tests.broker.gated '{"gate": "<file>", "consumer": "tests.broker.gated:WithoutLease", ...}'

The batch creates `<gate>.waiting` when it begins and continues once `<gate>` exists.
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
        """Copy the batch, and return after the gate has opened."""
        outcome = super().handle(batch, now)
        self._gate.with_suffix(".waiting").touch()
        while not self._gate.exists():
            time.sleep(0.01)
        return outcome


class Zombie(Consumer):
    """Does not end when its partitions are lost, so that only the broker can refuse its commit."""

    def _lost(self, kafka: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
        pass


class ZombieWithoutGeneration(Zombie):
    """A zombie whose commit carries no generation, so that the broker cannot refuse it."""

    def group_metadata(self) -> Any:
        """Return the metadata of a consumer that never joined the group."""
        return ck.Consumer(self.worker.settings.kafka_config(group_id=self.worker.group)).consumer_group_metadata()


class WithoutLease(Consumer):
    """Commits on revocation but does not withdraw the leases."""

    async def revoke(self, tps: list[Any]) -> None:
        """Release the partitions and leave their leases valid."""
        leases = {tp: self.leases[tp] for tp in tps}
        await super().revoke(tps)
        for lease in leases.values():
            lease.valid = True


if __name__ == "__main__":
    config = json.loads(sys.argv[1])
    passthrough.main(config, lambda **copying: Gated(Path(config["gate"]), **copying))
