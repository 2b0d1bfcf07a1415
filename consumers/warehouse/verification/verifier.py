"""Verifies partitions slice by slice, and writes the results."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from consumers.warehouse.schema.tables import TABLES
from consumers.warehouse.store import Store
from consumers.warehouse.topic_partition import TopicPartition
from consumers.warehouse.verification.compare import Comparer
from consumers.warehouse.verification.contents import drop_leftovers
from consumers.warehouse.verification.known_topics import record_topics
from consumers.warehouse.verification.record_source import CommittedOffset, KafkaRecords, Slice
from consumers.warehouse.verification.results import (
    OffsetRange,
    Verification,
    fault_ranges,
    fault_ranges_of_records,
    verified_ends,
    write_results,
)
from consumers.warehouse.verification.segments import merged, segments, total
from infra.settings import Settings
from schemas.registry import Registry

DEAD_LETTERS = "events.dead"
LETTERS_S = 15.0
MUTATIONS_S = 60.0
"""How long dead letters and mutations are waited for, seconds."""
POLL_S = 0.2


AfterSlice = Callable[[float, int], None]
"""Called after each slice with its duration in seconds and its number of records; may wait, or raise to end the run."""


def continue_at_once(_seconds: float, _records: int) -> None:
    """Start the next slice without a pause."""


class EarlierResults(NamedTuple):
    """What earlier verifications found, by partition: the offset they reached, and the ranges that are wrong."""

    ends: dict[TopicPartition, int]
    faults: dict[TopicPartition, list[OffsetRange]]


class Verifier:
    """Compares committed offsets with Kafka's records. Retryable and ConfigError as its services raise them."""

    def __init__(
        self, settings: Settings, store: Store, registry: Registry, after_slice: AfterSlice = continue_at_once
    ) -> None:
        self._store = store
        self._registry = registry
        self._after_slice = after_slice
        self._awaits_letters = True
        self.accepts_losses = False
        """Whether wrong ranges that Kafka no longer has stop being reported."""
        self.records = KafkaRecords(settings)
        self._comparer: Comparer | None = None
        self._earlier: EarlierResults | None = None
        self._idle: dict[str, list[Verification]] = {}
        """Kind -> results of partitions that had nothing to compare."""

    def close(self) -> None:
        """Close the Kafka client."""
        self.records.close()

    def prepare(self) -> list[CommittedOffset]:
        """Prepare a run: record topic ids, drop leftovers; return the loader's offset of every partition."""
        positions = self.records.committed()
        first_seen = record_topics(self._store, [position.source for position in positions])
        drop_leftovers(self._store)
        self._awaits_letters = True
        self._earlier = None
        self._idle.clear()
        self._comparer = Comparer(self._store, self._registry, first_seen, self._await_pending)
        return positions

    @property
    def comparer(self) -> Comparer:
        """Comparer of the partitions of the last `prepare`."""
        if self._comparer is None:
            self.prepare()
        assert self._comparer is not None  # noqa: S101 - set by `prepare`
        return self._comparer

    @property
    def earlier(self) -> EarlierResults:
        """Earlier results of all partitions, read at once: most partitions of a run have no new records and write none."""
        if self._earlier is None:
            self._earlier = EarlierResults(verified_ends(self._store), fault_ranges(self._store))
        return self._earlier

    def incremental(self, position: CommittedOffset, kind: str) -> Verification:
        """Compare offsets that were not compared before, and again the ranges that were wrong."""
        return self.verify(position, OffsetRange(self.earlier.ends.get(position.source, 0), position.offset), kind)

    def full(self, position: CommittedOffset, kind: str) -> Verification:
        """Compare all offsets that Kafka has, and count those that it deleted before they were compared."""
        first = min(self.records.low(position.source), self.earlier.ends.get(position.source, 0))
        return self.verify(position, OffsetRange(first, position.offset), kind)

    def verify(self, position: CommittedOffset, requested: OffsetRange, kind: str) -> Verification:
        """Compare a range, and again every wrong range of the partition; write results as they come, and return their sum."""
        source = position.source
        results = []
        for result in self._results(position, requested):
            write_results(self._store, [result], kind)
            results.append(result)
            self._earlier = None
        whole = total(results)
        if whole is None:
            at = max(0, min(requested.first, position.offset))
            whole = Verification(source.topic, source.partition, topic_id=source.topic_id, from_offset=at, to_offset=at)
            self._idle.setdefault(kind, []).append(whole)
        return whole

    def record_idle(self) -> None:
        """Write results of partitions that had nothing to compare, for their time, in one insert. Retryable."""
        for kind, results in self._idle.items():
            write_results(self._store, results, kind)
        self._idle.clear()

    def _results(self, position: CommittedOffset, requested: OffsetRange) -> Iterator[Verification]:
        source = position.source
        for reach, was_wrong in segments(requested, self.earlier.faults.get(source, []), position.offset):
            if was_wrong and self._is_lost(source, reach):
                continue
            compared = self._compare(source, reach)
            if was_wrong:  # as a whole, so that it replaces the earlier result
                whole = total(compared)
                assert whole is not None  # noqa: S101 - a range that is wrong is not empty
                yield whole
            else:
                yield from merged(compared)

    def _is_lost(self, source: TopicPartition, reach: OffsetRange) -> bool:
        """Whether Kafka no longer has the records of a wrong range: it is reported until somebody accepts the loss."""
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
            self._after_slice(time.monotonic() - begun, len(piece.offsets))

    def _compare_slice(self, source: TopicPartition, piece: Slice) -> Iterator[Verification]:
        result = self.comparer.compare(source, piece).result
        low = piece.first if result.exact else self.records.low(source)
        if low <= piece.first:
            yield result
            return
        # Retention deleted records meanwhile: their rows are not unexpected.
        yield self.comparer.unverifiable(source, piece.first, min(low, piece.end))
        if low < piece.end:
            yield self.comparer.compare(source, piece.since(low)).result

    def _await_pending(self, topic: str) -> None:
        """Wait until written dead letters are loaded and mutations of the topic's table have ended."""
        deadline = time.monotonic() + LETTERS_S
        written = {position.source: self.records.high(position.source) for position in self.records.committed((DEAD_LETTERS,))}
        while self._awaits_letters and not self._dead_letters_loaded(written):
            if time.monotonic() > deadline:
                self._awaits_letters = False  # no loader runs: wait once, not for each slice
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
