"""Counts are deltas and bounded."""

from collections import Counter
from pathlib import Path

import pytest

from schemas.codec import decode
from schemas.registry import Registry
from streams.runtime.counts import CELLS_A_MINUTE, MINUTES_REMEMBERED, CellCounts
from streams.runtime.stage import CountCell


@pytest.fixture
def registry(contracts_dir: Path) -> Registry:
    """The packaged contracts."""
    return Registry(contracts_dir)


def test_counts_are_deltas(registry: Registry) -> None:
    """Drained counts are not returned again, and no counts give no record."""
    counts = CellCounts(registry, "consent")
    cell = CountCell(60_000, "web", "page_view", "pass")
    counts.add(Counter({cell: 2}))
    counts.add(Counter({cell: 3}))
    ((key, value, _),) = counts.drain()["stream.counts"]
    _, record = decode(registry, value or b"")
    assert (key, record["n"], record["minute"], record["outcome"]) == (b"consent", 5, 60_000, "pass")
    assert counts.drain() == {}


def test_past_the_limit_events_are_counted_as_other(registry: Registry) -> None:
    """The number of cells a minute is bounded, every event is counted, and the number of folded ones is returned."""
    counts = CellCounts(registry, "consent")
    cells = [CountCell(0, "web", f"event-{i}", "pass") for i in range(CELLS_A_MINUTE + 10)]
    assert counts.add(dict.fromkeys(cells, 1)) == 10
    records = [decode(registry, value or b"")[1] for _, value, _ in counts.drain()["stream.counts"]]
    assert sum(record["n"] for record in records) == len(cells)
    assert [record["n"] for record in records if record["event_name"] == "other"] == [10]


def test_old_minutes_are_forgotten(registry: Registry) -> None:
    """Memory is bounded over many minutes."""
    counts = CellCounts(registry, "consent")
    for minute in range(MINUTES_REMEMBERED * 3):
        counts.add({CountCell(minute * 60_000, "web", "page_view", "pass"): 1})
    assert len(counts._seen) == MINUTES_REMEMBERED
