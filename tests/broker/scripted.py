"""A stage that does, on request, everything that a stage may do.

    python -m tests.broker.scripted '{"name": ..., "source": ..., "sink": ..., "settings": {...}, "away": "<file>"}'

A record `bad` is dead, `drop` is dropped, `hang` never ends; while the file `away` exists, `handle` raises Retryable. Any
other record leaves with the count of its key so far (restored from `<name>-state`) and the newest broadcast setting.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench import passthrough
from infra.errors import Retryable
from streams.runtime.stage import BY_KEY, Batch, CountCell, DeadRecord, Outcome

KeyValues = Iterable[tuple[bytes | None, bytes | None]]


class Scripted(passthrough.PassThrough):
    """Counts records per key, exactly, across restarts."""

    def __init__(self, away: Path, **copying: Any) -> None:
        super().__init__(**copying)
        self.broadcast = (f"{self.name}-settings",)
        self.restore = (f"{self.name}-state",)
        self._away = away
        self._setting = b"none"
        self._counted: dict[int, Counter[bytes]] = {}

    def handle(self, batch: Batch, now: float) -> Outcome:
        """Process the records one by one, as the module describes."""
        if self._away.exists():
            raise Retryable("the world is away")
        outcome = Outcome({self._sink: [], self.restore[0]: []})
        counted = self._counted.setdefault(batch.partition, Counter())
        for i, (key, value) in enumerate(zip(batch.keys, batch.values, strict=True)):
            self._take(outcome, counted, (i, key or b"", value or b""), batch.partition)
        outcome.after_commit.append(lambda: self._note(batch.offsets[-1]))
        return outcome

    def _take(self, outcome: Outcome, counted: Counter[bytes], record: tuple[int, bytes, bytes], partition: int) -> None:
        i, key, value = record
        while value == b"hang":
            time.sleep(1)
        if value == b"bad":
            outcome.dead.append(DeadRecord(i, "UNDECODABLE", "says bad"))
        elif value == b"drop":
            outcome.dropped["ASKED"] += 1
            outcome.counts[CountCell(0, "test", "drop", "dropped:ASKED")] += 1
        else:
            counted[key] += 1
            number = b"%d" % counted[key]
            outcome.out[self._sink].append((key, value + b"|" + number + b"|" + self._setting, BY_KEY))
            outcome.out[self.restore[0]].append((key, number, partition))
            outcome.passed += 1

    def _note(self, offset: int) -> None:
        with self._away.with_suffix(".hooks").open("a") as notes:
            notes.write(f"{offset}\n")

    def on_broadcast(self, topic: str, records: KeyValues) -> None:
        """Keep the newest setting."""
        for _, value in records:
            self._setting = value or b"none"

    def on_restore(self, topic: str, partition: int, records: KeyValues) -> None:
        """Restore the counts of a partition."""
        counted = self._counted.setdefault(partition, Counter())
        for key, value in records:
            counted[key or b""] = int(value or 0)

    def on_revoke(self, partition: int) -> None:
        """Forget the counts of a revoked partition."""
        self._counted.pop(partition, None)

    def on_tick(self, now: float) -> Outcome:
        """Emit a record."""
        return Outcome({f"{self.name}-ticks": [(None, b"tick", BY_KEY)]})


if __name__ == "__main__":
    config = json.loads(sys.argv[1])
    passthrough.main(config, lambda **copying: Scripted(Path(config["away"]), **copying))
