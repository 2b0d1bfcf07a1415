"""Records of one partition on their way, and when they are due."""

from bisect import bisect_right
from dataclasses import dataclass, field

from consumers.warehouse.intent import Intent

MAX_ROWS = 50_000
MAX_BYTES = 16 * 1024 * 1024
LINGER_S = 1.0


@dataclass
class Buffer:
    """What was read of one partition and is not committed yet."""

    topic: str
    partition: int
    committed: int
    """Offset of the last commit; -1 before the first."""
    intent: Intent | None = None
    """What a predecessor was about to insert when it ended: the first batch ends where that one did."""
    end: int = -1
    """Offset up to which everything was read (after transaction markers)."""
    highest: int | None = None
    """Highest offset that was in the table when this partition came to us; None until asked."""
    doubtful: bool = False
    """An insert of these records failed half-way, as far as we know: ask before trying again."""
    offsets: list[int] = field(default_factory=list)
    keys: list[bytes | None] = field(default_factory=list)
    values: list[bytes] = field(default_factory=list)
    size: int = 0
    since: float = 0.0
    retry_at: float = 0.0
    pause_s: float = 0.0
    paused: bool = False

    def add(self, offset: int, key: bytes | None, value: bytes, now: float) -> None:
        """One more record. ValueError for one that was here already: inserting it again would double it."""
        if self.offsets and offset <= self.offsets[-1]:
            raise ValueError(f"offset {offset} of {self.topic}:{self.partition} came after {self.offsets[-1]}")
        if not self.offsets:
            self.since = now
        self.offsets.append(offset)
        self.keys.append(key)
        self.values.append(value)
        self.size += len(value)
        self.end = offset + 1

    def due(self, now: float) -> bool:
        """Whether to insert now."""
        if now < self.retry_at:
            return False
        if self.intent is not None:
            return self.end > self.intent.last
        if not self.offsets:
            return False
        return self.full or now - self.since >= LINGER_S

    @property
    def complete(self) -> bool:
        """Whether nothing more should come for now: enough is here, and a replayed batch is here to its end."""
        return self.full and (self.intent is None or self.end > self.intent.last)

    @property
    def full(self) -> bool:
        """Whether a batch has its size."""
        return len(self.offsets) >= MAX_ROWS or self.size >= MAX_BYTES

    def batch(self) -> "Batch":
        """What the next insert takes: all, or what the intent says."""
        n = min(len(self.offsets), MAX_ROWS) if self.intent is None else bisect_right(self.offsets, self.intent.last)
        rest = self.offsets[n] if n < len(self.offsets) else self.end
        return Batch(self.topic, self.partition, self.offsets[:n], self.keys[:n], self.values[:n], rest, self.intent)

    def done(self, batch: "Batch", now: float) -> None:
        """A batch is committed."""
        n = len(batch.offsets)
        del self.offsets[:n], self.keys[:n], self.values[:n]
        self.size -= sum(map(len, batch.values))
        self.committed, self.since = batch.next, now
        self.intent, self.doubtful, self.retry_at, self.pause_s = None, False, 0.0, 0.0

    def failed(self, now: float) -> None:
        """Try again later, and then ask first what is there: the insert may have happened."""
        self.doubtful = True
        self.pause_s = min(10.0, self.pause_s * 2 or 0.25)
        self.retry_at = now + self.pause_s


@dataclass(frozen=True)
class Batch:
    """What one commit covers."""

    topic: str
    partition: int
    offsets: list[int]
    keys: list[bytes | None]
    values: list[bytes]
    next: int
    """Offset to commit afterwards."""
    replayed: Intent | None

    @property
    def intent(self) -> Intent:
        """What to write into the commit before the insert."""
        return self.replayed or Intent(self.offsets[0], self.offsets[-1])
