"""What the gauge knows at one moment: what Kafka said (`KafkaFacts`) and what it means (`LagReading`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from consumers.gauge.lag.rules import SEVERITY, LagState


class GaugePartition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int


class PartitionEnds(NamedTuple):
    """Where a partition begins and ends. Offsets below `stable` can be read by those who read committed records only."""

    start: int
    stable: int
    high: int


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """One consumer group as its coordinator describes it."""

    name: str
    members: int | None
    """None where the coordinator did not say."""
    rebalancing: bool
    assignment: frozenset[tuple[str, tuple[GaugePartition, ...]]]
    """Which member holds what; a change is a rebalance."""
    committed: Mapping[GaugePartition, int | None]
    """Every partition the group reads; None where it has committed nothing."""
    waiting: Mapping[GaugePartition, str] = field(default_factory=dict)
    """What a partition waits for, where its commit says so."""


@dataclass(frozen=True, slots=True)
class KafkaFacts:
    """One round of questions to Kafka, asked at `at` (seconds UTC). Partitions that did not answer are absent."""

    at: float
    ends: Mapping[GaugePartition, PartitionEnds]
    groups: tuple[GroupFacts, ...]
    topic_ids: Mapping[str, str] = field(default_factory=dict)
    """Topic -> Kafka's id of it: offsets under another id are those of another topic of the same name."""


@dataclass(frozen=True, slots=True)
class PartitionReading:
    """One group on one partition. Rates are records a second over the last minute, transaction markers included."""

    topic: str
    partition: int
    state: LagState
    detail: str
    eta_s: float | None
    since: float
    start: int
    end: int
    committed: int | None
    lag: int
    time_lag_s: float | None
    time_lag_from: str
    """`table`, `record`, `at_least` (it may be more), or `none` where nothing waits."""
    rate_in: float
    rate_out: float


@dataclass(frozen=True, slots=True)
class GroupReading:
    """One group: its partitions, and the worst of them."""

    group: str
    members: int | None
    partitions: tuple[PartitionReading, ...]

    @property
    def worst(self) -> PartitionReading | None:
        """The partition that needs somebody most: by state, then by age; None for a group that reads nothing."""
        return max(self.partitions, key=lambda p: (SEVERITY.index(p.state), p.time_lag_s or 0.0, p.lag), default=None)

    @property
    def state(self) -> LagState:
        """The worst partition's state."""
        return self.worst.state if self.worst else LagState.OK

    @property
    def lag(self) -> int:
        """Records that wait, all partitions together."""
        return sum(p.lag for p in self.partitions)

    @property
    def time_lag_s(self) -> float | None:
        """Age of the oldest record that waits; None where nobody knows."""
        return max((p.time_lag_s for p in self.partitions if p.time_lag_s is not None), default=None)


@dataclass(frozen=True, slots=True)
class LagReading:
    """The whole house at `at` (seconds UTC)."""

    at: float
    groups: tuple[GroupReading, ...]
    ends: Mapping[GaugePartition, PartitionEnds]


def as_json(reading: LagReading) -> dict[str, Any]:
    """What `GET /lag` answers: plain values, times in milliseconds UTC, ages in seconds."""
    return {
        "at": round(reading.at * 1000),
        "lag_total": sum(group.lag for group in reading.groups),
        "groups": [_group_json(group) for group in reading.groups],
    }


def _group_json(group: GroupReading) -> dict[str, Any]:
    return {
        "group": group.group,
        "state": group.state.value,
        "members": group.members,
        "lag": group.lag,
        "time_lag_s": _rounded(group.time_lag_s),
        "partitions": [
            {
                "topic": p.topic,
                "partition": p.partition,
                "state": p.state.value,
                "detail": p.detail,
                "since": round(p.since * 1000),
                "eta_s": _rounded(p.eta_s),
                "start": p.start,
                "end": p.end,
                "committed": p.committed,
                "lag": p.lag,
                "time_lag_s": _rounded(p.time_lag_s),
                "time_lag_from": p.time_lag_from,
                "rate_in": _rounded(p.rate_in),
                "rate_out": _rounded(p.rate_out),
            }
            for p in group.partitions
        ],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
