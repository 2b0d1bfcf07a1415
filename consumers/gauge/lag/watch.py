"""The state between two rounds, and the reading of each round. Pure: the facts carry the time."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from consumers.gauge.lag.reading import GaugePartition, GroupFacts, GroupReading, KafkaFacts, LagReading, PartitionReading
from consumers.gauge.lag.rules import LagCase, LagLimits, LagState, LagVerdict, Sample, judge, moved, rates
from consumers.gauge.lag.timetable import TimeTable
from infra.clients.topic_ids import replaced_topics

PAUSE_S = 30.0
"""Shortest time between two rounds, seconds, that makes a gap in the tables."""
MAX_SAMPLES = 1_000

GroupPartition = tuple[str, GaugePartition]
Age = tuple[float | None, str]


@dataclass(slots=True)
class _GroupMemory:
    assignment: frozenset[tuple[str, tuple[GaugePartition, ...]]]
    rebalanced_at: float | None = None


@dataclass(slots=True)
class LagWatch:
    """Derives readings from rounds of facts: `update_tables`, fetch the returned records, `build_reading`."""

    limits: LagLimits = field(default_factory=LagLimits)
    interval_s: float = 10.0
    tables: dict[GaugePartition, TimeTable] = field(default_factory=dict)
    _samples: dict[GroupPartition, deque[Sample]] = field(default_factory=dict)
    _groups: dict[str, _GroupMemory] = field(default_factory=dict)
    _since: dict[GroupPartition, tuple[LagState, float]] = field(default_factory=dict)
    _record_times: dict[GroupPartition, tuple[int, int]] = field(default_factory=dict)
    _topic_ids: dict[str, str] = field(default_factory=dict)

    def update_tables(self, facts: KafkaFacts) -> list[tuple[GaugePartition, int]]:
        """Add a round to the time tables.

        Returns (partition, offset) of the records whose timestamps the tables do not know, most lag first.
        """
        self._forget_replaced(facts.topic_ids)
        pause_ms = round(max(PAUSE_S, 3 * self.interval_s) * 1000)
        for partition, ends in facts.ends.items():
            table = self.tables.setdefault(partition, TimeTable(topic_id=self._topic_ids.get(partition.topic, "")))
            table.add(ends.stable, round(facts.at * 1000), pause_ms)
        self._forget(facts)
        lags = {}
        for group, partition, committed in _group_partitions(facts):
            ends = facts.ends[partition]
            cached = self._record_times.get((group.name, partition))
            if (
                committed < ends.stable
                and self.tables[partition].time_of(committed) is None
                and (not cached or cached[0] != committed)
            ):
                lags[partition, committed] = ends.stable - committed
        return sorted(lags, key=lambda key: -lags[key])

    def build_reading(self, facts: KafkaFacts, record_times: Mapping[tuple[GaugePartition, int], int]) -> LagReading:
        """Return the reading of this round. `record_times`: timestamps of fetched records, milliseconds UTC."""
        for group, partition, committed in _group_partitions(facts):
            if (partition, committed) in record_times:
                self._record_times[group.name, partition] = (committed, record_times[partition, committed])
            self._add_sample(group, partition, committed, facts)
        groups = tuple(self._read_group(group, facts) for group in facts.groups)
        return LagReading(facts.at, groups, facts.ends)

    def age(self, group: str, partition: GaugePartition, committed: int, facts: KafkaFacts) -> Age:
        """Return (age of the first unread record in seconds, source of the age)."""
        if committed >= facts.ends[partition].stable:
            return 0.0, "none"
        cached = self._record_times.get((group, partition))
        written, source = self.tables[partition].time_of(committed), "table"
        if written is None and cached and cached[0] == committed:
            written, source = cached[1], "record"
        if written is None:
            written, source = self.tables[partition].oldest(), "at_least"
        return (None, source) if written is None else (max(0.0, facts.at - written / 1000), source)

    def _add_sample(self, group: GroupFacts, partition: GaugePartition, committed: int, facts: KafkaFacts) -> None:
        start, stable, high = facts.ends[partition]
        age, source = self.age(group.name, partition, committed, facts)
        samples = self._samples.setdefault((group.name, partition), deque(maxlen=MAX_SAMPLES))
        behind = age if source != "at_least" else None
        samples.append(Sample(facts.at, start, stable, high, committed, behind))
        begin = facts.at - self.limits.remember_s
        while len(samples) > 1 and samples[1].at <= begin:
            samples.popleft()

    def _read_group(self, group: GroupFacts, facts: KafkaFacts) -> GroupReading:
        rebalanced_at = self._last_rebalance(group, facts.at)
        partitions = sorted(partition for partition in group.committed if partition in facts.ends)
        active = {partition for partition in partitions if moved(self._samples[group.name, partition], self.limits.stalled_s)}
        readings = []
        for partition in partitions:
            samples = tuple(self._samples[group.name, partition])
            sibling_moved = any(other.topic == partition.topic and other != partition for other in active)
            verdict = judge(LagCase(samples, group.members, rebalanced_at, sibling_moved, self.limits))
            readings.append(self._read_partition(group, partition, verdict, facts))
        return GroupReading(group.name, group.members, tuple(readings))

    def _read_partition(
        self, group: GroupFacts, partition: GaugePartition, verdict: LagVerdict, facts: KafkaFacts
    ) -> PartitionReading:
        samples = self._samples[group.name, partition]
        now = samples[-1]
        age, source = self.age(group.name, partition, now.committed, facts)
        state, since = self._since.get((group.name, partition), (None, facts.at))
        if state is not verdict.state:
            since = facts.at
            self._since[group.name, partition] = (verdict.state, since)
        waiting = group.waiting.get(partition) if now.lag else None
        rate_in, rate_out = rates(samples, self.limits.rate_s)
        return PartitionReading(
            topic=partition.topic,
            partition=partition.partition,
            state=verdict.state,
            detail=f"waits: {waiting}" if waiting else verdict.detail,
            eta_s=verdict.eta_s,
            since=since,
            start=now.start,
            end=now.stable,
            committed=group.committed[partition],
            lag=now.lag,
            time_lag_s=age,
            time_lag_from=source,
            rate_in=rate_in,
            rate_out=rate_out,
        )

    def _last_rebalance(self, group: GroupFacts, now: float) -> float | None:
        memory = self._groups.get(group.name)
        if memory is None:
            memory = self._groups[group.name] = _GroupMemory(group.assignment)
        if group.rebalancing or memory.assignment != group.assignment:
            memory.assignment, memory.rebalanced_at = group.assignment, now
        return memory.rebalanced_at

    def _forget_replaced(self, topic_ids: Mapping[str, str]) -> None:
        """Discard the state of recreated topics: their offsets are other records', and no group has gone back on them.

        A table loaded from the store is used only under the topic id that it was saved with.
        """
        replaced = set(replaced_topics(self._topic_ids, topic_ids))
        self._topic_ids.update(topic_ids)
        for memory in (self._samples, self._since, self._record_times):
            for key in [key for key in memory if key[1].topic in replaced]:
                del memory[key]
        for partition, table in list(self.tables.items()):
            if table.topic_id != self._topic_ids.get(partition.topic, table.topic_id):
                del self.tables[partition]

    def _forget(self, facts: KafkaFacts) -> None:
        """Discard points that no group needs any more, and groups and partitions that are gone."""
        slowest: dict[GaugePartition, int] = {}
        for _, partition, committed in _group_partitions(facts):
            slowest[partition] = min(committed, slowest.get(partition, committed))
        for partition, offset in slowest.items():
            self.tables[partition].forget_before(offset)
        group_partitions = {(group.name, partition) for group in facts.groups for partition in group.committed}
        for memory in (self._samples, self._since, self._record_times):
            for key in [key for key in memory if key not in group_partitions]:
                del memory[key]
        for name in [name for name in self._groups if name not in {group.name for group in facts.groups}]:
            del self._groups[name]
        current = {partition for _, partition in group_partitions}
        for topic in self._topic_ids.keys() - {partition.topic for partition in current}:
            del self._topic_ids[topic]
        for partition in [partition for partition in self.tables if partition not in current]:
            del self.tables[partition]


def _group_partitions(facts: KafkaFacts) -> Iterable[tuple[GroupFacts, GaugePartition, int]]:
    """Yield (group, partition, first unread offset) of all partitions that answered."""
    for group in facts.groups:
        for partition, committed in group.committed.items():
            ends = facts.ends.get(partition)
            if ends is not None:
                yield group, partition, ends.start if committed is None else committed
