"""Fills in missing rows below the loader's committed offsets, while loaders run."""

import time
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from typing import NamedTuple

from consumers.warehouse.loader.batch import InsertBatch
from consumers.warehouse.loader.rows import RowLoader
from consumers.warehouse.schema.tables import TABLES
from consumers.warehouse.store import Store
from consumers.warehouse.topic_partition import TopicPartition
from consumers.warehouse.verification.record_source import CommittedOffset, Slice
from consumers.warehouse.verification.repair_lock import RepairLock
from consumers.warehouse.verification.results import REPLAY, OffsetRange, Verification
from consumers.warehouse.verification.verifier import Verifier
from infra.errors import ConfigError, Retryable
from infra.parsing.times import parse_age, parse_time
from infra.telemetry.metrics import Metrics
from schemas.registry import Registry

MAX_OFFSET_DIGITS = 12
RUNNING_S = 120.0
"""How long running inserts of the same offsets are waited for, seconds."""
POLL_S = 0.2


class ReplayBound(NamedTuple):
    """One end of a replay: an offset, or a time (milliseconds UTC) at which records were written to Kafka."""

    offset: int | None = None
    time_ms: int | None = None


@dataclass(frozen=True)
class ReplayScope:
    """What to replay; by default all topics and partitions, up to the loader's offsets. ConfigError for a contradiction."""

    begin: ReplayBound
    end: ReplayBound | None = None
    topic: str | None = None
    partition: int | None = None

    def __post_init__(self) -> None:
        if self.topic is not None and self.topic not in TABLES:
            raise ConfigError(f"--topic {self.topic}: no table is loaded from it; one of {', '.join(TABLES)}")
        offsets = self.begin.offset is not None or (self.end is not None and self.end.offset is not None)
        if self.topic is None and (offsets or self.partition is not None):
            raise ConfigError("offsets and partitions mean something only within one topic: add --topic")


@dataclass
class ReplayResult:
    """Figures of a replay."""

    records: int = 0
    filled: int = 0
    unreadable: int = 0
    """Records that cannot become rows and have no dead letter: they stay missing."""
    proof: list[Verification] = field(default_factory=list)
    """Verification of the replayed ranges, one result a partition."""

    @property
    def missing(self) -> int:
        """Records that still have no row."""
        return sum(result.missing for result in self.proof)


def parse_bound(text: str, now_ms: int) -> ReplayBound:
    """Parse an offset (`1500`), an age (`2h`, `3d`) or a time in ISO 8601. ConfigError for anything else."""
    text = text.strip()
    if text.isdigit() and text.isascii() and len(text) <= MAX_OFFSET_DIGITS:
        return ReplayBound(offset=int(text))
    age_ms = parse_age(text)
    if age_ms is not None:
        return ReplayBound(time_ms=now_ms - age_ms)
    moment = parse_time(text) if "-" in text else None
    if moment is None:
        raise ConfigError(
            f"{text[:40]!r} is no offset and no time: give an offset (1500), a time (2026-05-01T12:00:00Z) or an age (90m, 2h)"
        )
    return ReplayBound(time_ms=moment)


def replay_ranges(verifier: Verifier, scope: ReplayScope) -> list[tuple[CommittedOffset, OffsetRange]]:
    """The partitions of a scope, each with its range below the loader's offset. ConfigError for an unknown partition."""
    chosen = [
        position
        for position in verifier.prepare()
        if scope.topic in (None, position.source.topic) and scope.partition in (None, position.source.partition)
    ]
    if not chosen:
        raise ConfigError(f"--topic {scope.topic} --partition {scope.partition}: Kafka has no such partition")
    sources = [position.source for position in chosen]
    begins, ends = _offsets(verifier, sources, scope.begin), _offsets(verifier, sources, scope.end)
    covered = []
    for position, begin, end in zip(chosen, begins, ends, strict=True):
        first = position.offset if begin is None else max(begin, verifier.records.low(position.source))
        last = position.offset if end is None else min(end, position.offset)
        if first < last:
            covered.append((position, OffsetRange(first, last)))
    return covered


def replay(  # noqa: PLR0913, PLR0917 - the services that a repair needs
    verifier: Verifier,
    store: Store,
    registry: Registry,
    lock: RepairLock,
    covered: Sequence[tuple[CommittedOffset, OffsetRange]],
    progress: Callable[[int, int], None] = lambda _offsets, _records: None,
) -> ReplayResult:
    """Insert the missing rows of these ranges, then verify them. Retryable: run it again. Halted where the lock is lost.

    `progress` is called with the offsets and records of each slice.
    """
    result = ReplayResult()
    loader = RowLoader(store, registry, Metrics())
    for position, reach in covered:
        for piece in verifier.records.slices(position.source, reach.first, reach.end):
            lock.check()
            missing = verifier.comparer.compare(position.source, piece).missing
            if missing:
                _wait_for_inserts(store, position.source, min(missing), max(missing))
                lock.check()
                batch = _batch(position.source, piece, missing)
                unreadable = len(loader.reload(batch))
                result.filled += len(missing) - unreadable
                result.unreadable += unreadable
            result.records += len(piece.offsets)
            progress(piece.end - piece.first, len(piece.offsets))
    result.proof = [verifier.verify(position, reach, REPLAY) for position, reach in covered]
    return result


def _batch(source: TopicPartition, piece: Slice, missing: Set[int]) -> InsertBatch:
    rows = [(offset, value) for offset, value in zip(piece.offsets, piece.values, strict=True) if offset in missing]
    offsets, values = [offset for offset, _ in rows], [value for _, value in rows]
    return InsertBatch(source, offsets, [None] * len(rows), values, sum(map(len, values)), offsets[-1] + 1, None)


def _wait_for_inserts(store: Store, source: TopicPartition, first: int, last: int) -> None:
    """Wait until no insert of these offsets runs: a loader or replay that was killed may have started one. Retryable."""
    start = f"{source.topic}:{source.topic_id}:{source.partition}:"
    deadline = time.monotonic() + RUNNING_S
    while any(_overlaps(token.removeprefix(start), first, last) for token in store.inserts_running(start)):
        if time.monotonic() > deadline:
            raise Retryable(f"an insert of the same offsets of {source} has been running for {RUNNING_S:.0f} s")
        time.sleep(POLL_S)


def _overlaps(rest: str, first: int, last: int) -> bool:
    begin, _, end = rest.split(":", maxsplit=1)[0].partition("-")
    return int(begin) <= last and first <= int(end)


def _offsets(verifier: Verifier, sources: Sequence[TopicPartition], bound: ReplayBound | None) -> list[int | None]:
    """The offset of a bound in each partition; None where no record is that late."""
    if bound is None:
        return [None] * len(sources)
    if bound.offset is not None:
        return [bound.offset] * len(sources)
    assert bound.time_ms is not None  # noqa: S101 - a bound is one or the other
    return verifier.records.offsets_at(sources, bound.time_ms)
