"""Buffered records of one partition, and when the next insert is due."""

from bisect import bisect_right
from dataclasses import dataclass, field

from consumers.warehouse.loader.intent import Intent
from consumers.warehouse.topic_partition import TopicPartition
from infra.processes.back_off import BackOff

MAX_ROWS = 50_000
"""Of one insert."""
MAX_BYTES = 16 * 1024 * 1024
BACK_OFF = BackOff(0.25, 10.0)
LINGER_S = 1.0
"""An insert is due once its first record has waited this long, seconds."""


@dataclass
class PartitionBuffer:
    """Records of one partition that were read and are not committed yet. Times are monotonic seconds."""

    source: TopicPartition
    committed: int
    """Offset of the last commit; -1 before the first."""
    intent: Intent | None = None
    """What a predecessor was about to insert when it ended: the first batch ends at the same offset."""
    end: int = -1
    """Offset up to which everything was read, transaction markers included."""
    highest: int | None = None
    """Highest offset in the table when the partition was assigned; None until it is looked up."""
    uncertain: bool = False
    """Whether rows of these records may have been inserted: the next insert checks first which are present."""
    waiting: str = ""
    """Why the last insert failed; empty once one succeeds."""
    service: str = ""
    """Which service the failed insert waits for."""
    in_flight: "InsertBatch | None" = None
    """The batch that is being inserted. Its records stay at the front of the lists until it is committed."""
    offsets: list[int] = field(default_factory=list)
    keys: list[bytes | None] = field(default_factory=list)
    values: list[bytes] = field(default_factory=list)
    size: int = 0
    since: float = 0.0
    retry_at: float = 0.0
    failures: int = 0
    """Failed inserts in a row."""
    paused: bool = False

    def extend(self, offsets: list[int], keys: list[bytes | None], values: list[bytes], now: float) -> None:
        """Append at least one record. ValueError for an offset that is not above the last one: it would be inserted twice."""
        if self.offsets and offsets[0] <= self.offsets[-1]:
            raise ValueError(f"offset {offsets[0]} of {self.source} came after {self.offsets[-1]}")
        if self._first_waiting == len(self.offsets):
            self.since = now
        self.offsets += offsets
        self.keys += keys
        self.values += values
        self.size += sum(map(len, values))
        self.end = offsets[-1] + 1

    @property
    def _first_waiting(self) -> int:
        """Position of the first record that is not in flight."""
        return len(self.in_flight.offsets) if self.in_flight else 0

    def due(self, now: float) -> bool:
        """Whether to insert now: the batch is full or has waited for `LINGER_S`, and a replayed batch is read to its end."""
        if now < self.retry_at or self.in_flight is not None:
            return False
        if self.intent is not None:
            return self.end > self.intent.last
        if not self.offsets:
            return False
        return self.full or now - self.since >= LINGER_S

    @property
    def complete(self) -> bool:
        """Whether to stop reading: the batch is full, and a replayed batch is read to its end."""
        return self.full and (self.intent is None or self.end > self.intent.last)

    @property
    def ready(self) -> bool:
        """Whether it holds records, including all of a replayed batch."""
        return bool(self.offsets) and (self.intent is None or self.end > self.intent.last)

    @property
    def full(self) -> bool:
        """Whether the batch after the one in flight has reached `MAX_ROWS` or `MAX_BYTES`."""
        flying = self.in_flight
        rows = len(self.offsets) - self._first_waiting
        return rows >= MAX_ROWS or self.size - (flying.size if flying else 0) >= MAX_BYTES

    def next_batch(self) -> "InsertBatch":
        """The next batch to insert: up to `MAX_ROWS` records, or exactly those of the intent."""
        n = min(len(self.offsets), MAX_ROWS) if self.intent is None else bisect_right(self.offsets, self.intent.last)
        rest = self.offsets[n] if n < len(self.offsets) else self.end
        values = self.values[:n]
        return InsertBatch(self.source, self.offsets[:n], self.keys[:n], values, sum(map(len, values)), rest, self.intent)

    def mark_committed(self, batch: "InsertBatch", now: float) -> None:
        """Drop the records of a committed batch."""
        n = len(batch.offsets)
        del self.offsets[:n], self.keys[:n], self.values[:n]
        self.size -= batch.size
        self.committed, self.since = batch.next, now
        self.in_flight, self.intent, self.uncertain, self.waiting = None, None, False, ""
        self.retry_at, self.failures = 0.0, 0

    def mark_failed(self, batch: "InsertBatch", reason: str, now: float, service: str = "") -> None:
        """Schedule another try with the same rows and token, which first checks which rows are present."""
        self.in_flight, self.intent, self.uncertain = None, batch.intent, True
        self.waiting, self.service = reason, service
        self.failures += 1
        self.retry_at = now + BACK_OFF.pause_s(self.failures)


@dataclass(frozen=True)
class InsertBatch:
    """Records of one insert and of the commit that follows it."""

    source: TopicPartition
    offsets: list[int]
    keys: list[bytes | None]
    values: list[bytes]
    size: int
    """Bytes of the values."""
    next: int
    """Offset to commit afterwards."""
    replayed: Intent | None

    @property
    def intent(self) -> Intent:
        """The intent to commit before the insert."""
        return self.replayed or Intent(self.offsets[0], self.offsets[-1])
