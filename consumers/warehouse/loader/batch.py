"""Records of one partition on their way, and when they are due."""

from bisect import bisect_right
from dataclasses import dataclass, field

from consumers.warehouse.loader.intent import Intent
from consumers.warehouse.topic_partition import TopicPartition

MAX_ROWS = 50_000
MAX_BYTES = 16 * 1024 * 1024
LINGER_S = 1.0


@dataclass
class PartitionBuffer:
    """What was read of one partition and is not committed yet."""

    source: TopicPartition
    committed: int
    """Offset of the last commit; -1 before the first."""
    intent: Intent | None = None
    """What a predecessor was about to insert when it ended: the first batch ends where that one did."""
    end: int = -1
    """Offset up to which everything was read (after transaction markers)."""
    highest: int | None = None
    """Highest offset that was in the table when this partition was assigned; None until asked."""
    uncertain: bool = False
    """An insert of these records may have happened, in part or whole: ask which rows are there before the next one."""
    waiting: str = ""
    """Why the last insert failed; empty once one succeeds."""
    service: str = ""
    """Which service that was about."""
    in_flight: "InsertBatch | None" = None
    """The batch that is being inserted. Its records stay at the front of the lists until it is committed."""
    offsets: list[int] = field(default_factory=list)
    keys: list[bytes | None] = field(default_factory=list)
    values: list[bytes] = field(default_factory=list)
    size: int = 0
    since: float = 0.0
    retry_at: float = 0.0
    pause_s: float = 0.0
    paused: bool = False

    def extend(self, offsets: list[int], keys: list[bytes | None], values: list[bytes], now: float) -> None:
        """Records that follow, at least one. ValueError for one that was here already: inserting it again would double it."""
        if self.offsets and offsets[0] <= self.offsets[-1]:
            raise ValueError(f"offset {offsets[0]} of {self.source} came after {self.offsets[-1]}")
        if self._next == len(self.offsets):
            self.since = now
        self.offsets += offsets
        self.keys += keys
        self.values += values
        self.size += sum(map(len, values))
        self.end = offsets[-1] + 1

    @property
    def _next(self) -> int:
        """Position of the first record that is not in flight."""
        return len(self.in_flight.offsets) if self.in_flight else 0

    def due(self, now: float) -> bool:
        """Whether to insert now."""
        if now < self.retry_at or self.in_flight is not None:
            return False
        if self.intent is not None:
            return self.end > self.intent.last
        if not self.offsets:
            return False
        return self.full or now - self.since >= LINGER_S

    @property
    def complete(self) -> bool:
        """Whether nothing more should be read for now: a batch has its size, and a replayed one is here to its end."""
        return self.full and (self.intent is None or self.end > self.intent.last)

    @property
    def settled(self) -> bool:
        """Whether it holds records, and all of those that a replayed batch needs."""
        return bool(self.offsets) and (self.intent is None or self.end > self.intent.last)

    @property
    def full(self) -> bool:
        """Whether the batch after the one in flight has its size."""
        flying = self.in_flight
        rows = len(self.offsets) - self._next
        return rows >= MAX_ROWS or self.size - (flying.size if flying else 0) >= MAX_BYTES

    def batch(self) -> "InsertBatch":
        """What the next insert takes: all, or what the intent says."""
        n = min(len(self.offsets), MAX_ROWS) if self.intent is None else bisect_right(self.offsets, self.intent.last)
        rest = self.offsets[n] if n < len(self.offsets) else self.end
        values = self.values[:n]
        return InsertBatch(self.source, self.offsets[:n], self.keys[:n], values, sum(map(len, values)), rest, self.intent)

    def done(self, batch: "InsertBatch", now: float) -> None:
        """A batch is committed."""
        n = len(batch.offsets)
        del self.offsets[:n], self.keys[:n], self.values[:n]
        self.size -= batch.size
        self.committed, self.since = batch.next, now
        self.in_flight, self.intent, self.uncertain, self.waiting = None, None, False, ""
        self.retry_at = self.pause_s = 0.0

    def failed(self, batch: "InsertBatch", reason: str, now: float, service: str = "") -> None:
        """Try again later, as a successor would: the same rows under the same token, and ask first which are there."""
        self.in_flight, self.intent, self.uncertain = None, batch.intent, True
        self.waiting, self.service = reason, service
        self.pause_s = min(10.0, self.pause_s * 2 or 0.25)
        self.retry_at = now + self.pause_s


@dataclass(frozen=True)
class InsertBatch:
    """What one commit covers."""

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
        """What to write into the commit before the insert."""
        return self.replayed or Intent(self.offsets[0], self.offsets[-1])
