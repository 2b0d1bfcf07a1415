"""Verifies partitions: which ranges are due, slice by slice, and writes down what came of them."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from consumers.warehouse.schema.tables import TABLES
from consumers.warehouse.store import Store
from consumers.warehouse.topic_partition import TopicPartition
from consumers.warehouse.verification.compare import Comparer
from consumers.warehouse.verification.contents import drop_leftovers
from consumers.warehouse.verification.known_topics import remember
from consumers.warehouse.verification.record_source import CommittedOffset, KafkaRecords, Slice
from consumers.warehouse.verification.results import (
    OffsetRange,
    Verification,
    fault_ranges,
    fault_ranges_of_records,
    verified_to,
    write,
)
from consumers.warehouse.verification.segments import merged, segments, total
from infra.settings import Settings
from schemas.registry import Registry

DEAD_LETTERS = "events.dead"
LETTERS_S = 15.0
MUTATIONS_S = 60.0
POLL_S = 0.2


class SliceDone(NamedTuple):
    """Called after each slice with the seconds that it took and its records; may wait, or raise to end the run."""

    after_slice: Callable[[float, int], None] = lambda _seconds, _records: None


class Verifier:
    """Compares what the loader has committed with what Kafka delivers. Retryable and ConfigError as its services raise them."""

    def __init__(self, settings: Settings, store: Store, registry: Registry, pace: SliceDone | None = None) -> None:
        self._store = store
        self._registry = registry
        self._pace = pace or SliceDone()
        self._settle_letters = True
        self.accepts_losses = False
        """Whether ranges that were wrong and that Kafka no longer has stop being reported."""
        self.records = KafkaRecords(settings)
        self._comparer: Comparer | None = None

    def close(self) -> None:
        """Close the Kafka client."""
        self.records.close()

    def positions(self) -> list[CommittedOffset]:
        """Every partition of the tables' topics, and how far the loader is."""
        positions = self.records.committed()
        first_seen = remember(self._store, [position.source for position in positions])
        drop_leftovers(self._store)
        self._settle_letters = True
        self._comparer = Comparer(self._store, self._registry, first_seen, self._settle)
        return positions

    @property
    def comparer(self) -> Comparer:
        """What compares slices of the partitions that were asked for last."""
        if self._comparer is None:
            self.positions()
        assert self._comparer is not None  # noqa: S101 - `positions` makes it
        return self._comparer

    def incremental(self, position: CommittedOffset, kind: str) -> Verification:
        """Compare what was not compared before, and again what was wrong."""
        return self.verify(position, OffsetRange(verified_to(self._store, position.source) or 0, position.offset), kind)

    def full(self, position: CommittedOffset, kind: str) -> Verification:
        """Compare all that Kafka has, and count what it had lost before anybody compared it."""
        first = min(self.records.low(position.source), verified_to(self._store, position.source) or 0)
        return self.verify(position, OffsetRange(first, position.offset), kind)

    def verify(self, position: CommittedOffset, requested: OffsetRange, kind: str) -> Verification:
        """Compare a range, and again every range of the partition that was wrong; writes results as they come."""
        source = position.source
        results = []
        for result in self._results(position, requested):
            write(self._store, [result], kind)
            results.append(result)
        whole = total(results)
        if whole is None:
            at = max(0, min(requested.first, position.offset))
            whole = Verification(source.topic, source.partition, topic_id=source.topic_id, from_offset=at, to_offset=at)
            write(self._store, [whole], kind)  # that somebody looked
        return whole

    def _results(self, position: CommittedOffset, requested: OffsetRange) -> Iterator[Verification]:
        source = position.source
        for reach, was_wrong in segments(requested, fault_ranges(self._store, source), position.offset):
            if was_wrong and self._is_lost(source, reach):
                continue
            compared = self._compare(source, reach)
            if was_wrong:  # as a whole, so that it replaces what was written of it
                whole = total(compared)
                assert whole is not None  # noqa: S101 - a range that is wrong is not empty
                yield whole
            else:
                yield from merged(compared)

    def _is_lost(self, source: TopicPartition, reach: OffsetRange) -> bool:
        """Whether a range that was wrong can no longer be proved to be in order: it is reported until a person accepts it."""
        if self.accepts_losses or reach.first >= self.records.low(source):
            return False
        return reach in fault_ranges_of_records(self._store, source)

    def _compare(self, source: TopicPartition, reach: OffsetRange) -> Iterator[Verification]:
        low = self.records.low(source)
        if reach.first < low:
            yield self.comparer.unverifiable(source, reach.first, min(low, reach.end))
        if reach.end <= low:
            return
        for piece in self.records.slices(source, max(reach.first, low), reach.end):
            begun = time.monotonic()
            yield from self._compare_slice(source, piece)
            self._pace.after_slice(time.monotonic() - begun, len(piece.offsets))

    def _compare_slice(self, source: TopicPartition, piece: Slice) -> Iterator[Verification]:
        result = self.comparer.compare(source, piece).result
        low = piece.first if result.exact else self.records.low(source)
        if low <= piece.first:
            yield result
            return
        # Retention went by meanwhile: rows whose records were deleted from Kafka are in order.
        yield self.comparer.unverifiable(source, piece.first, min(low, piece.end))
        if low < piece.end:
            yield self.comparer.compare(source, piece.since(low)).result

    def _settle(self, topic: str) -> None:
        """Wait until the dead letters that were written are rows, and rewritings of the topic's table are done."""
        deadline = time.monotonic() + LETTERS_S
        written = {position.source: self.records.high(position.source) for position in self.records.committed((DEAD_LETTERS,))}
        while self._settle_letters and not self._dead_letters_loaded(written):
            if time.monotonic() > deadline:
                self._settle_letters = False  # no loader runs: wait once, not for each slice
            time.sleep(POLL_S)
        deadline = time.monotonic() + MUTATIONS_S
        running = (
            "SELECT count() FROM system.mutations "  # noqa: S608 - ours
            f"WHERE database = '{self._store.database}' AND table = '{TABLES[topic].name}' AND NOT is_done"
        )
        while self._store.rows(running)[0][0] and time.monotonic() < deadline:
            time.sleep(POLL_S)

    def _dead_letters_loaded(self, written: Mapping[TopicPartition, int]) -> bool:
        return all(position.offset >= written.get(position.source, 0) for position in self.records.committed((DEAD_LETTERS,)))
