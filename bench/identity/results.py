"""The result of a contender, and how contenders are given their events."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bench.identity.metrics import Canonicals
from bench.identity.world import WorldEvent

BATCH = 500
"""Events that are resolved together; all events of a batch profit from what the batch reveals.

Two months pass here in so few events that 500 are two hours, so fewer profiles are stale than in a busy stream; with 1,
everything is learnt as late as possible.
"""
Advance = Callable[[int], None]
"""Called with the number of events that were processed."""


@dataclass(frozen=True)
class ContenderResult:
    """Result of a contender, without duplicates."""

    canonicals: Canonicals
    at_arrival: Canonicals | None
    """Profile of each event on arrival; None for methods that recompute everything."""
    seconds: float
    """For the resolution alone, without encoding, decoding and scoring."""
    nobodys: frozenset[str] = frozenset()
    """Canonicals that are declared to be no person's: events of shared nodes."""


def batches(events: Sequence[WorldEvent], advance: Advance, size: int) -> Iterator[Sequence[WorldEvent]]:
    """Yield the events, `size` at a time; progress is reported every `BATCH` events, so that it costs no time."""
    reported = 0
    for start in range(0, len(events), size):
        yield events[start : start + size]
        end = min(start + size, len(events))
        if end - reported >= BATCH or end == len(events):
            advance(end - reported)
            reported = end
