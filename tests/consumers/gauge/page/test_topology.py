"""The drawings match the pipeline."""

import re

import pytest

from consumers.gauge.lag.reading import GroupReading, LagReading, PartitionReading
from consumers.gauge.lag.rules import LagState
from consumers.gauge.page.topology import NARROW, WIDE, Drawing, edge_readings
from schemas.topics import TOPICS


@pytest.mark.parametrize("drawing", [WIDE, NARROW], ids=lambda drawing: drawing.name)
def test_a_drawing_stays_on_its_paper_and_names_real_topics(drawing: Drawing) -> None:
    """Rooms, paths and labels lie inside; every topic is in the table of topics."""
    for room in drawing.rooms:
        assert 0 <= room.x <= room.x + room.w <= drawing.width
        assert 0 <= room.y <= room.y + room.h <= drawing.height
    for edge in drawing.edges:
        assert set(edge.topics) <= set(TOPICS)
        assert edge.y + 44 <= drawing.height
        assert all(float(n) <= max(drawing.width, drawing.height) for n in re.findall(r"[\d.]+", edge.path))


def test_both_drawings_show_the_same_streams() -> None:
    """The narrow one leaves out only the path of dead letters into the warehouse, which the table has."""
    wide = {(edge.group, edge.topics) for edge in WIDE.edges}
    narrow = {(edge.group, edge.topics) for edge in NARROW.edges}
    assert wide - narrow == {("headwater.warehouse", ("events.dead",))}
    assert narrow <= wide
    assert {room.name for room in WIDE.rooms} == {room.name for room in NARROW.rooms}


def test_an_edge_is_as_bad_as_its_worst_partition() -> None:
    """Rates and lags add up; state and age are the worst; an edge without a group has no state."""
    rows = [(0, LagState.OK, 5, 1.0), (1, LagState.STALLED, 70, 200.0)]
    parts = tuple(
        PartitionReading("events.raw", p, s, "why", None, 0, 0, 9, 9, lag, age, "table", 10, 9) for p, s, lag, age in rows
    )
    reading = LagReading(0, (GroupReading("headwater.consent", 1, parts),), {})
    first, *others = edge_readings(WIDE, reading)
    assert (first.state, first.rate, first.lag, first.time_lag_s) == (LagState.STALLED, 20, 75, 200.0)
    assert {other.state for other in others} == {None}
