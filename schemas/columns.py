"""Heads of many records at once, a field at a time: what takes a step for each record otherwise is a step for all of them.

As with `HeadSlicer` only offsets are looked at. What is rare is not read here but named, for somebody to read it alone: another
contract, texts of 8 KiB, arrays and maps of several blocks or of more than 63 items, heads with unions, and whatever is broken.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from schemas.codec import HEADER_BYTES, kind_of
from schemas.registry import Contract

Offsets: TypeAlias = NDArray[np.int64]

FEW = 100
"""Fewer heads are read one by one: reading them together takes as long as a hundred alone, however few they are."""
SINGLE_BYTES = 9
"""The longest number that is read here, encoded."""


class Columns(NamedTuple):
    """Of each field, in the contract's order, an array with one number a record; offsets count from the record's start."""

    sound: NDArray[np.bool_]
    """Whether a record was read; the other arrays mean nothing where it was not."""
    ends: list[Offsets]
    """Behind the field."""
    begins: list[Offsets]
    """Of the characters of a text; of the field itself otherwise."""
    numbers: dict[int, Offsets]
    """Field -> what it holds; of integers."""
    sizes: Offsets
    """Of the whole records, bytes."""


class HeadColumns:
    """Reads the fields of one contract up to `last_field`."""

    def __init__(self, contract: Contract, last_field: str) -> None:
        end = contract.names.index(last_field) + 1
        self._header = contract.header
        self._kinds = [kind_of(field["type"]) for field in contract.parsed["fields"][:end]]

    def read(self, values: Sequence[bytes]) -> Columns:
        """The heads of framed records."""
        walk = _FieldWalk(values, self._header)
        ends, begins, numbers = list[Offsets](), list[Offsets](), dict[int, Offsets]()
        for place, kind in enumerate(self._kinds):
            begin = walk.at
            if kind == "string":
                begin = walk.text()
            elif kind == "long":
                numbers[place] = walk.number()
            elif kind in ("map", "array"):
                walk.texts(2 if kind == "map" else 1)
            elif kind in ("boolean", "double"):
                walk.at = walk.at + (1 if kind == "boolean" else 8)
            else:
                walk.sound[:] = False
            begins.append(begin - walk.start)
            ends.append(walk.at - walk.start)
        return Columns(walk.sound & (walk.at <= walk.end), ends, begins, numbers, walk.end - walk.start)


class _FieldWalk:
    """All records, each at the same field. Who runs past its end reads its neighbours' bytes, and ends up past its end."""

    def __init__(self, values: Sequence[bytes], header: bytes) -> None:
        sizes = np.fromiter(map(len, values), np.int64, len(values))
        self._bytes = np.frombuffer(b"".join([*values, b"\0"]), np.uint8)
        self.end = sizes.cumsum()
        self.start = self.end - sizes
        self.sound: NDArray[np.bool_] = sizes >= HEADER_BYTES
        for place, byte in enumerate(header):
            self.sound &= self._byte(self.start + place) == byte
        self.at = self.start + HEADER_BYTES

    def _byte(self, at: Offsets) -> NDArray[np.uint8]:
        return self._bytes.take(at, mode="clip")

    def text(self) -> Offsets:
        """Step over a text; where its characters begin."""
        begin, self.at, sound = self._text()
        self.sound &= sound
        return begin

    def _text(self) -> tuple[Offsets, Offsets, NDArray[np.bool_] | bool]:
        """Where the characters of a text begin and end, and whether they do."""
        first = self._byte(self.at)
        begin = self.at + 1
        if not (first & 0x81).any():  # all of up to 63 bytes
            return begin, begin + (first >> 1), True
        second, long = self._byte(begin), first > 127
        size = np.where(long, first & 127 | second.astype(np.int64) << 7, first)
        begin = begin + long
        return begin, begin + (size >> 1), ~(long & (second > 127)) & (size & 1 == 0)

    def number(self) -> Offsets:
        """Step over an integer; what it is."""
        value = np.zeros(len(self.at), np.uint64)
        more = np.ones(len(self.at), np.bool_)
        for shift in range(0, 7 * SINGLE_BYTES, 7):
            byte = self._byte(self.at)
            value |= np.where(more, byte & 127, 0).astype(np.uint64) << np.uint64(shift)
            self.at = self.at + more
            more &= byte > 127
            if not more.any():
                break
        self.sound &= ~more
        return (value >> np.uint64(1)).view(np.int64) ^ -(value & np.uint64(1)).view(np.int64)

    def texts(self, each: int) -> None:
        """Step over a map or an array of one block, with so many texts an item."""
        count = self._byte(self.at)
        self.sound &= count & 0x81 == 0
        self.at = self.at + 1
        remaining: Any = np.where(self.sound, (count >> 1).astype(np.int64) * each, 0)
        while (going := remaining > 0).any():
            _, end, sound = self._text()
            self.at = np.where(going, end, self.at)
            self.sound &= sound | ~going
            remaining -= 1
        some = count > 0
        self.sound &= ~some | (self._byte(self.at) == 0)
        self.at = self.at + some
