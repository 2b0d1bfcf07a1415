"""A partition's (offset, time) table, from which the time of a record is interpolated; bounded without losing its shape."""

from bisect import bisect_right
from dataclasses import dataclass, field

import orjson

MAX_POINTS = 4_096


@dataclass(slots=True)
class TimeTable:
    """Points (end of the partition, milliseconds UTC at which it was observed), both ascending.

    A stretch without writes has two points with the same offset: its first and its last moment. A point with a gap before it
    was observed after a pause; times within the gap are unknown and never interpolated.
    """

    offsets: list[int] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    gaps: set[int] = field(default_factory=set)
    """Offsets of the points with a gap before them."""
    topic_id: str = ""
    """Kafka's id of the topic to which the offsets belong."""

    def __len__(self) -> int:
        return len(self.offsets)

    def add(self, offset: int, time_ms: int, longest_pause_ms: int, limit: int = MAX_POINTS) -> None:
        """Add an observation. A partition that shrinks was created again: its points are discarded."""
        if self.offsets and (offset < self.offsets[-1] or time_ms < self.times[-1]):
            self.offsets, self.times, self.gaps = [], [], set()
        if len(self) >= 2 and self.offsets[-1] == self.offsets[-2] == offset:
            self.times[-1] = time_ms
            return
        if self.offsets and offset > self.offsets[-1] and time_ms - self.times[-1] > longest_pause_ms:
            self.gaps.add(offset)
        self.offsets.append(offset)
        self.times.append(time_ms)
        if len(self) > limit:
            self._thin(limit)

    def time_of(self, offset: int) -> int | None:
        """Return when the record at `offset` was written, milliseconds UTC; None where the table does not cover it.

        For an offset at or past the end this is the time of the last observation.
        """
        after = bisect_right(self.offsets, offset)
        if after == 0:
            return None
        if after == len(self):
            return self.times[-1]
        if self.offsets[after] in self.gaps:
            return None
        return round(self._between(after - 1, after, offset + 0.5))

    def forget_before(self, offset: int) -> None:
        """Drop the points before `offset`, the first unread record of the slowest group."""
        keep = bisect_right(self.offsets, offset) - 1
        if keep > 0:
            del self.offsets[:keep], self.times[:keep]
            self.gaps.intersection_update(self.offsets[1:])

    def oldest(self) -> int | None:
        """Return the time of the first point, a lower bound for the age of earlier records; None for an empty table."""
        return self.times[0] if self.times else None

    def _between(self, before: int, after: int, offset: float) -> float:
        """Return the time at `offset` on the line through two points, given by their indexes."""
        width = self.offsets[after] - self.offsets[before]
        share = (offset - self.offsets[before]) / width if width else 0.0
        return self.times[before] + share * (self.times[after] - self.times[before])

    def _thin(self, limit: int) -> None:
        """Drop the points that interpolation reproduces best (Visvalingam and Whyatt 1993), down to 3/4 of `limit`."""
        while len(self) > limit * 3 // 4:
            errors = sorted(
                (abs(self._between(i - 1, i + 1, self.offsets[i]) - self.times[i]), i) for i in range(1, len(self) - 1)
            )
            drop: set[int] = set()
            for _, i in errors[: max(1, len(self) // 4)]:
                # Its error was measured against its neighbours, so two neighbours never go in the same round.
                if i - 1 not in drop and i + 1 not in drop and self._free_of_gaps(i):
                    drop.add(i)
            if not drop:  # only gaps are left, so the oldest points go
                drop = set(range(len(self) - limit * 3 // 4))
            self.offsets = [o for i, o in enumerate(self.offsets) if i not in drop]
            self.times = [t for i, t in enumerate(self.times) if i not in drop]
            self.gaps.intersection_update(self.offsets[1:])

    def _free_of_gaps(self, i: int) -> bool:
        return self.offsets[i] not in self.gaps and self.offsets[i + 1] not in self.gaps

    def pack(self) -> bytes:
        """Serialise the table for `unpack`."""
        return orjson.dumps(
            {"offsets": self.offsets, "times": self.times, "gaps": sorted(self.gaps), "topic_id": self.topic_id}
        )


def unpack(packed: bytes) -> TimeTable:
    """Deserialise a table. ValueError for other bytes."""
    try:
        raw = orjson.loads(packed)
        table = TimeTable(
            [int(o) for o in raw["offsets"]],
            [int(t) for t in raw["times"]],
            {int(g) for g in raw["gaps"]},
            str(raw.get("topic_id", "")),  # tables of older versions have none, and so match no topic
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError("not a time table") from error
    pairs_grow = table.offsets == sorted(table.offsets) and table.times == sorted(table.times)
    if len(table.offsets) != len(table.times) or not pairs_grow:
        raise ValueError("not a time table")
    return table
