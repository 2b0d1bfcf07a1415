"""Inserts in threads beside the loop, so that Kafka is polled and signals are obeyed while ClickHouse takes its time."""

import queue
import threading
import time
from dataclasses import dataclass, field

from consumers.warehouse.loader.batch import InsertBatch, PartitionBuffer
from consumers.warehouse.loader.rows import RejectedRecord, RowLoader

THREADS = 2
"""One packs rows while the other waits for the engine."""


@dataclass
class Insertion:
    """One batch on its way into ClickHouse. `error` or `bad` is set once it is done."""

    buffer: PartitionBuffer
    batch: InsertBatch
    begun: float = field(default_factory=time.monotonic)
    bad: list[RejectedRecord] = field(default_factory=list)
    error: BaseException | None = None


class Inserter:
    """Threads that end with the process: one that hangs in a request to ClickHouse keeps nothing from stopping."""

    def __init__(self, loader: RowLoader) -> None:
        self._loader = loader
        self._waiting: queue.SimpleQueue[Insertion] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Insertion] = queue.SimpleQueue()
        self.in_flight: list[Insertion] = []
        """What was submitted and not collected yet, oldest first."""
        for number in range(THREADS):
            threading.Thread(target=self._run, name=f"insert-{number}", daemon=True).start()

    def submit(self, buffer: PartitionBuffer, batch: InsertBatch) -> None:
        """Begin to insert a batch; its intent is committed already."""
        insertion = Insertion(buffer, batch)
        self.in_flight.append(insertion)
        self._waiting.put(insertion)

    def collect(self) -> list[Insertion]:
        """What is done since the last call."""
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
                insertion.bad = self._insert(insertion.buffer, insertion.batch)
            except BaseException as error:  # the loop's to judge, whatever it is
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
