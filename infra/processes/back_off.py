"""Pauses before another try."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count


@dataclass(frozen=True)
class BackOff:
    """Pauses that double with each failure in a row, from the shortest to the longest, seconds."""

    shortest_s: float
    longest_s: float

    def pause_s(self, failures: int) -> float:
        """Return the pause after so many failures in a row, the first being 1."""
        doublings = min(failures - 1, 64)  # further ones would only overflow
        return min(self.longest_s, self.shortest_s * 2.0**doublings)

    def pauses(self) -> Iterator[float]:
        """Return the pauses of a new row of failures, without end."""
        return map(self.pause_s, count(1))
