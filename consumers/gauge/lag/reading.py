"""The values of one round: Kafka's facts (`KafkaFacts`), the reading derived from them (`LagReading`), and its JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from consumers.gauge.lag.rules import SEVERITY, LagState


class GaugePartition(NamedTuple):
    """A topic and a partition number."""

    topic: str
    partition: int


class PartitionEnds(NamedTuple):
    """The offsets that bound a partition. Readers of committed records can read below `stable`."""

    start: int
    stable: int
    high: int


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """A consumer group as its coordinator describes it."""

    name: str
    members: int | None
    """None where the coordinator did not answer."""
    rebalancing: bool
    assignment: frozenset[tuple[str, tuple[GaugePartition, ...]]]
    """Member id -> its partitions; a change is a rebalance."""
    committed: Mapping[GaugePartition, int | None]
    """Every partition that the group reads; None where it has no committed offset."""
    waiting: Mapping[GaugePartition, str] = field(default_factory=dict)
    """Partition -> the reason for waiting that its commit's metadata gives."""


@dataclass(frozen=True, slots=True)
class KafkaFacts:
    """Kafka's answers at `at` (seconds UTC). Partitions that did not answer are absent."""

    at: float
    ends: Mapping[GaugePartition, PartitionEnds]
    groups: tuple[GroupFacts, ...]
    topic_ids: Mapping[str, str] = field(default_factory=dict)
    """Topic -> Kafka's topic id. Under another id, offsets belong to another topic of the same name."""


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
    """Source of `time_lag_s`: `table`, `record`, `at_least` (a lower bound), or `none` where nothing waits."""
    rate_in: float
    rate_out: float


@dataclass(frozen=True, slots=True)
class GroupReading:
    """One group and its partitions."""

    group: str
    members: int | None
    partitions: tuple[PartitionReading, ...]

    @property
    def worst(self) -> PartitionReading | None:
        """The most urgent partition, by state, then age, then lag; None for a group without partitions."""
        return max(self.partitions, key=lambda p: (SEVERITY.index(p.state), p.time_lag_s or 0.0, p.lag), default=None)

    @property
    def state(self) -> LagState:
        """The state of the worst partition."""
        return self.worst.state if self.worst else LagState.OK

    @property
    def lag(self) -> int:
        """Number of waiting records of all partitions."""
        return sum(p.lag for p in self.partitions)

    @property
    def time_lag_s(self) -> float | None:
        """Age of the oldest waiting record, seconds; None where it is unknown."""
        return max((p.time_lag_s for p in self.partitions if p.time_lag_s is not None), default=None)


@dataclass(frozen=True, slots=True)
class LagReading:
    """The state of all groups at `at` (seconds UTC)."""

    at: float
    groups: tuple[GroupReading, ...]
    ends: Mapping[GaugePartition, PartitionEnds]


def as_json(reading: LagReading) -> dict[str, Any]:
    """Return the body of `GET /lag`: times in milliseconds UTC, ages in seconds."""
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
