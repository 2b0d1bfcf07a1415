"""The stage contract: a batch in; outputs, drops and dead letters out. Stages open no Kafka client, clock or socket."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one partition in offset order, as columns: `keys[i]`, `values[i]` and `offsets[i]` are one record."""

    topic: str
    partition: int
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    """None is a tombstone."""
    offsets: Sequence[int]
    """Ascending, with gaps where transaction markers lie."""
    topic_id: str = ""
    """Kafka's topic id. Store it beside any stored offset: a topic that is created again begins at 0."""

    def __len__(self) -> int:
        return len(self.values)


Output = tuple[bytes | None, bytes | None, int]
"""One output record: key, value and partition.

A plain tuple, because one is built per event and a NamedTuple takes four times as long.
"""
BY_KEY = -1
"""As partition: let Kafka's default partitioner (murmur2 of the key) choose."""


class DeadRecord(NamedTuple):
    """An unusable record: its index in the batch, a typed reason, and a detail that contains no value of the record."""

    at: int
    reason: str
    detail: str


IMPORTED = "imported:"
"""Before the outcome of an imported event in `stream.counts`: history is no part of the volume of the minute it arrives in."""


class CountCell(NamedTuple):
    """The key of a count in `stream.counts`. `minute`: start of the minute of collector time, milliseconds UTC."""

    minute: int
    source: str
    event_name: str
    outcome: str
    dimensions: tuple[tuple[str, str], ...] = ()
    """Further (name, value) pairs of low cardinality."""


@dataclass(slots=True)
class Outcome:
    """The result of one batch. In a one-to-one stage, records in = `passed` + dropped + dead."""

    out: dict[str, list[Output]] = field(default_factory=dict)
    """Output topic -> records, in order."""
    passed: int = 0
    """Input records that left through the stage's main exit, or that a stage without one accepted."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Lawful drops by reason (a closed enum of the stage)."""
    dead: list[DeadRecord] = field(default_factory=list)
    counts: Counter[CountCell] = field(default_factory=Counter)
    """Deltas for `stream.counts`; heartbeats are not counted."""
    after_commit: list[Callable[[], None]] = field(default_factory=list)
    """Called after the transaction is committed. A crash may skip them, so they must be optional."""

    def dead_letter(self, at: int, detail: str, now: float) -> None:
        """Add an unreadable record to `dead` and count it at `now` (seconds UTC), because its own time is unknown."""
        self.dead.append(DeadRecord(at, "UNDECODABLE", detail))
        self.counts[CountCell(int(now // 60) * 60_000, "", "", "dead:UNDECODABLE")] += 1


class Stage(Protocol):
    """A stream processor's logic. One thread at a time calls `handle`; effects outside Kafka are idempotent and monotone.

    Bad data goes to `Outcome.dead`; a service that does not answer raises `Retryable`, and the same batch comes again; any
    other exception is a bug and ends the worker.
    """

    name: str
    """The consumer group is `headwater.<name>`."""
    inputs: tuple[str, ...]
    """Topics read in the group; partitions of the same number are assigned to the same worker."""
    broadcast: tuple[str, ...]
    """Topics that every worker reads whole and follows, for settings and cache invalidation."""
    restore: tuple[str, ...]
    """Compacted topics whose partition p is read to its end before the first batch of partition p."""

    def handle(self, batch: Batch, now: float) -> Outcome:
        """Process one batch at time `now` (seconds UTC)."""
        ...

    def on_broadcast(self, topic: str, records: Iterable[tuple[bytes | None, bytes | None]]) -> None:
        """Apply (key, value) records of a broadcast topic. All existing records come before the first batch."""
        ...

    def on_restore(self, topic: str, partition: int, records: Iterable[tuple[bytes | None, bytes | None]]) -> None:
        """Apply (key, value) records of a restored partition, oldest first."""
        ...

    def on_revoke(self, partition: int) -> None:
        """Forget the state of a partition that this worker no longer holds."""
        ...

    def on_tick(self, now: float) -> Outcome:
        """Return outputs for the next transaction (e.g. snapshots); called about once a second between transactions."""
        ...
