"""The drawing of the pipeline: rooms, the topics between them, and the state of each edge, for wide and narrow screens."""

from dataclasses import dataclass

from consumers.gauge.lag.reading import GroupReading, LagReading, PartitionReading
from consumers.gauge.lag.rules import SEVERITY, LagState


@dataclass(frozen=True, slots=True)
class RoomBox:
    """A box; position and size in the drawing's units."""

    name: str
    note: str
    x: int
    y: int
    w: int = 124
    h: int = 52


@dataclass(frozen=True, slots=True)
class Edge:
    """The topics that a group reads: an SVG path and the position of its label of three lines."""

    label: str
    group: str
    topics: tuple[str, ...]
    path: str
    x: int
    y: int
    anchor: str = "middle"


@dataclass(frozen=True, slots=True)
class Feedback:
    """A topic that every worker reads whole and without a group, so that it has no lag."""

    label: str
    path: str
    x: int
    y: int
    anchor: str = "middle"


@dataclass(frozen=True, slots=True)
class Branch:
    """The path on which a room's dead letters leave it."""

    stage: str
    path: str
    x: int
    y: int
    anchor: str = "start"


@dataclass(frozen=True, slots=True)
class Drawing:
    """One layout of the pipeline."""

    name: str
    width: int
    height: int
    rooms: tuple[RoomBox, ...]
    edges: tuple[Edge, ...]
    feedback: tuple[Feedback, ...]
    branches: tuple[Branch, ...]


@dataclass(frozen=True, slots=True)
class EdgeReading:
    """The partitions of an edge taken together. `state` is None where no group has ever read it."""

    edge: Edge
    state: LagState | None
    detail: str
    rate: float
    lag: int
    time_lag_s: float | None
    eta_s: float | None


CONSENT, IDENTITY, BANDIT, WAREHOUSE = "headwater.consent", "headwater.identity", "headwater.bandit", "headwater.warehouse"

WIDE = Drawing(
    "wide",
    1120,
    378,
    (
        RoomBox("collector", "HTTP doors", 12, 96),
        RoomBox("consent", "gate", 300, 96),
        RoomBox("identity", "profiles", 588, 96),
        RoomBox("warehouse", "ClickHouse", 876, 96, 232),
        RoomBox("decisions", "HTTP door", 300, 252),
        RoomBox("bandit", "learns", 588, 252),
    ),
    (
        Edge("events.raw", CONSENT, ("events.raw",), "M136 122H292", 212, 112),
        Edge("events.consented", IDENTITY, ("events.consented",), "M424 122H580", 500, 112),
        Edge("events.resolved", WAREHOUSE, ("events.resolved",), "M712 122H868", 788, 112),
        Edge("events.resolved", BANDIT, ("events.resolved",), "M650 148V244", 664, 180, "start"),
        Edge("bandit.outcomes", WAREHOUSE, ("bandit.outcomes",), "M712 278H908V156", 808, 268),
        Edge("bandit.decisions", WAREHOUSE, ("bandit.decisions",), "M362 304V350H1060V156", 1048, 230, "end"),
        Edge("events.dead", WAREHOUSE, ("events.dead",), "M74 24H1060V88", 1046, 44, "end"),
    ),
    (Feedback("bandit.snapshots", "M588 278H432", 506, 268),),
    (
        Branch("collector", "M74 96V24", 84, 62),
        Branch("consent", "M362 96V24", 372, 62),
        Branch("identity", "M650 96V24", 660, 62),
        Branch("decisions", "M300 278H280", 274, 282, "end"),
        Branch("bandit", "M650 304V320", 660, 324),
    ),
)

NARROW = Drawing(
    "narrow",
    344,
    660,
    (
        RoomBox("collector", "HTTP doors", 8, 8, 118),
        RoomBox("consent", "gate", 8, 140, 118),
        RoomBox("identity", "profiles", 8, 272, 118),
        RoomBox("bandit", "learns", 218, 272, 118),
        RoomBox("decisions", "HTTP door", 218, 8, 118),
        RoomBox("warehouse", "ClickHouse", 8, 600, 328),
    ),
    (
        Edge("events.raw", CONSENT, ("events.raw",), "M32 60V132", 44, 86, "start"),
        Edge("events.consented", IDENTITY, ("events.consented",), "M32 192V264", 44, 218, "start"),
        Edge("events.resolved", BANDIT, ("events.resolved",), "M126 312H210", 222, 342, "end"),
        Edge("events.resolved", WAREHOUSE, ("events.resolved",), "M32 324V592", 44, 412, "start"),
        Edge("bandit.outcomes", WAREHOUSE, ("bandit.outcomes",), "M236 324V592", 226, 484, "end"),
        Edge("bandit.decisions", WAREHOUSE, ("bandit.decisions",), "M324 60V592", 314, 550, "end"),
    ),
    (Feedback("snapshots", "M236 272V68", 228, 132, "end"),),
    (
        Branch("collector", "M126 34H138", 144, 38),
        Branch("consent", "M126 166H138", 144, 170),
        Branch("identity", "M126 290H138", 144, 294),
        Branch("bandit", "M262 272V256", 262, 248, "middle"),
        Branch("decisions", "M262 60V76", 262, 90, "middle"),
    ),
)


def edge_readings(drawing: Drawing, reading: LagReading | None) -> list[EdgeReading]:
    """Return the state of each edge of the drawing."""
    groups = {group.group: group for group in reading.groups} if reading else {}
    return [_edge(edge, groups.get(edge.group)) for edge in drawing.edges]


def _edge(edge: Edge, group: GroupReading | None) -> EdgeReading:
    parts = [p for p in group.partitions if p.topic in edge.topics] if group else []
    if not parts:
        return EdgeReading(edge, None, "nobody has read this yet", 0.0, 0, None, None)
    worst = max(parts, key=_urgency)
    return EdgeReading(
        edge,
        worst.state,
        worst.detail,
        sum(p.rate_in for p in parts),
        sum(p.lag for p in parts),
        max((p.time_lag_s for p in parts if p.time_lag_s is not None), default=None),
        max((p.eta_s for p in parts if p.eta_s is not None), default=None),
    )


def _urgency(p: PartitionReading) -> tuple[int, float]:
    return SEVERITY.index(p.state), p.time_lag_s or 0.0
