"""Inserts in threads of their own, so that Kafka is polled and signals are handled while ClickHouse is slow."""

import queue
import threading
import time
from dataclasses import dataclass, field

from consumers.warehouse.loader.batch import InsertBatch, PartitionBuffer
from consumers.warehouse.loader.rows import RejectedRecord, RowLoader

THREADS = 2
"""One packs rows while the other waits for ClickHouse."""


@dataclass
class Insertion:
    """One batch that is being inserted. `error` or `rejected` is set at its end."""

    buffer: PartitionBuffer
    batch: InsertBatch
    begun: float = field(default_factory=time.monotonic)
    rejected: list[RejectedRecord] = field(default_factory=list)
    error: BaseException | None = None


class Inserter:
    """Daemon threads that insert: one that hangs in a request to ClickHouse does not keep the process from ending."""

    def __init__(self, loader: RowLoader) -> None:
        self._loader = loader
        self._waiting: queue.SimpleQueue[Insertion] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Insertion] = queue.SimpleQueue()
        self.in_flight: list[Insertion] = []
        """Insertions that were submitted and not collected yet, oldest first."""
        for number in range(THREADS):
            threading.Thread(target=self._run, name=f"insert-{number}", daemon=True).start()

    def submit(self, buffer: PartitionBuffer, batch: InsertBatch) -> None:
        """Queue a batch whose intent is committed."""
        insertion = Insertion(buffer, batch)
        self.in_flight.append(insertion)
        self._waiting.put(insertion)

    def collect(self) -> list[Insertion]:
        """Insertions that ended since the last call."""
        finished = []
        while not self._done.empty():
            insertion = self._done.get()
            self.in_flight.remove(insertion)
            finished.append(insertion)
        return finished

    def _run(self) -> None:
        while True:
            insertion = self._waiting.get()
            try:
                insertion.rejected = self._insert(insertion.buffer, insertion.batch)
            except BaseException as error:  # the loop decides what it means
                insertion.error = error
            self._done.put(insertion)

    def _insert(self, buffer: PartitionBuffer, batch: InsertBatch) -> list[RejectedRecord]:
        if not batch.offsets:
            return []
        if buffer.highest is None:
            buffer.highest = self._loader.highest(batch.source)
        if buffer.uncertain or batch.offsets[0] <= buffer.highest:
            return self._loader.reload(batch)
        return self._loader.load(batch)
