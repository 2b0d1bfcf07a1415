"""The stage contract: a batch in, three trays out. Stages never see Kafka, clocks or sockets of their own making."""

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
    """Growing, but not gapless: transactions leave holes."""
    topic_id: str = ""
    """Kafka's id of the topic. Whoever remembers an offset remembers it too: a topic made anew begins at 0 again."""

    def __len__(self) -> int:
        return len(self.values)


Output = tuple[bytes | None, bytes | None, int]
"""One record for an exit: key, value and partition. It carries nothing of its input but what the stage puts there.

A plain tuple, because one is made and taken apart for each event, and a named one takes four times as long.
"""
BY_KEY = -1
"""As partition: where Kafka's default partitioner (murmur2 of the key) puts the record."""


class DeadRecord(NamedTuple):
    """One record nobody can use: its position in the batch, a typed reason, and a detail that holds no value of it."""

    at: int
    reason: str
    detail: str


class CountCell(NamedTuple):
    """What `stream.counts` counts by. `minute` is the start of the minute of collector time, milliseconds UTC."""

    minute: int
    source: str
    event_name: str
    outcome: str
    dimensions: tuple[tuple[str, str], ...] = ()
    """Further (name, value) pairs, few-valued."""


@dataclass(slots=True)
class Outcome:
    """What became of one batch. A one-to-one stage conserves: records in = `passed` + dropped + dead."""

    out: dict[str, list[Output]] = field(default_factory=dict)
    """Exit (topic) -> records, in order."""
    passed: int = 0
    """Input records that left through the stage's main exit, or were taken in by a stage that has none."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Lawful drops by reason (a closed enum of the room)."""
    dead: list[DeadRecord] = field(default_factory=list)
    counts: Counter[CountCell] = field(default_factory=Counter)
    """Deltas for `stream.counts`; heartbeats are not counted."""
    after_commit: list[Callable[[], None]] = field(default_factory=list)
    """Called once the transaction is committed (a broker's ack is not a commit). May be lost in a crash: must be optional."""

    def bury(self, at: int, detail: str, now: float) -> None:
        """A record that cannot be read: dead, and counted at `now` (seconds), because its own time cannot be known."""
        self.dead.append(DeadRecord(at, "UNDECODABLE", detail))
        self.counts[CountCell(int(now // 60) * 60_000, "", "", "dead:UNDECODABLE")] += 1


class Stage(Protocol):
    """One room's work. `handle` is called from one thread at a time; what it does outside Kafka is idempotent and monotone.

    Data at fault goes to the dead tray; the world at fault raises `Retryable` (the same batch comes again); anything
    else that is raised is our own fault and ends the worker.
    """

    name: str
    """Stage and consumer group are called `headwater.<name>`."""
    inputs: tuple[str, ...]
    """Topics read in the group; partitions of equal number meet in one worker."""
    broadcast: tuple[str, ...]
    """Topics that every worker reads whole and keeps following, for settings and cache invalidation."""
    restore: tuple[str, ...]
    """Compacted topics whose partition p is read to its end before the first batch of partition p."""

    def handle(self, batch: Batch, now: float) -> Outcome:
        """Work on one batch at time `now` (seconds since the epoch, UTC)."""
        ...

    def on_broadcast(self, topic: str, records: Iterable[tuple[bytes | None, bytes | None]]) -> None:
        """Take in (key, value) records of a broadcast topic; called before the first batch with all there is."""
        ...

    def on_restore(self, topic: str, partition: int, records: Iterable[tuple[bytes | None, bytes | None]]) -> None:
        """Take in (key, value) records of a restored partition, oldest first."""
        ...

    def on_revoke(self, partition: int) -> None:
        """Forget what was restored or kept for a partition that this worker no longer holds."""
        ...

    def on_tick(self, now: float) -> Outcome:
        """Called between transactions about once a second; its outputs join the next transaction (e.g. snapshots)."""
        ...
