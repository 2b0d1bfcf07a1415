"""IAB TCF consent strings, version 2 (2.2 and 2.3), decoded strictly: what is not exactly a TC string is refused. Pure.

Source: IAB Tech Lab, "Transparency and Consent String with Global Vendor & CMP List Formats", v2. Sets of ids are integers:
bit n stands for id n.
"""

import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from streams.consent.reason import Reason

SHORTEST, LONGEST = 44, 8_192
"""Characters."""
CORE_BITS = 213
"""Before the vendor sections."""
CORE_CHARACTERS = -(-CORE_BITS // 6)
DECISECOND_MS = 100

_SEGMENTS = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_STANDARD = str.maketrans("-_", "+/")
DISCLOSED, ALLOWED, PUBLISHER = 1, 2, 3
"""Types of segments behind the core. Allowed vendors are obsolete: read and ignored."""

Ranges = tuple[tuple[int, int], ...]
"""(first, last) ids, both included."""


class InvalidTcString(ValueError):
    """MALFORMED or VERSION, in `reason`."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class Restriction(NamedTuple):
    """What the publisher says of a purpose to some vendors. 0: not allowed; 1: consent only; 2: legitimate interest only."""

    type: int
    vendors: Ranges


@dataclass(frozen=True, slots=True)
class TcString:
    """What a string says."""

    created_ms: int
    last_updated_ms: int
    cmp_id: int
    cmp_version: int
    gvl_version: int
    policy_version: int
    service_specific: bool
    special_features: int
    purposes_consent: int
    purposes_li: int
    purpose_one_treatment: bool
    vendors_consent: int
    vendors_li: int
    restrictions: Mapping[int, tuple[Restriction, ...]]
    """Purpose -> restrictions."""
    disclosed: int | None
    """None where the string has no such segment."""


def decode(text: str) -> TcString:
    """The content of a TC string. InvalidTcString for everything that is none."""
    if not SHORTEST <= len(text) <= LONGEST or not _SEGMENTS.fullmatch(text):
        raise InvalidTcString(Reason.MALFORMED)
    core, *others = text.split(".")
    if len(core) < CORE_CHARACTERS:
        raise InvalidTcString(Reason.MALFORMED)
    bits = _bits(core)
    head = int(bits[:CORE_BITS], 2)
    if head >> (CORE_BITS - 6) != 2:
        raise InvalidTcString(Reason.VERSION)
    reader = _Reader(bits, CORE_BITS)
    vendors_consent, vendors_li = reader.vendors(), reader.vendors()
    restrictions = reader.restrictions()
    reader.end()
    return TcString(
        (head >> 171 & 0xF_FFFF_FFFF) * DECISECOND_MS, (head >> 135 & 0xF_FFFF_FFFF) * DECISECOND_MS,
        head >> 123 & 0xFFF, head >> 111 & 0xFFF, head >> 81 & 0xFFF, head >> 75 & 0x3F, bool(head >> 74 & 1),
        _ids(bits[140:152]), _ids(bits[152:176]), _ids(bits[176:200]), bool(head >> 12 & 1),
        vendors_consent, vendors_li, restrictions, _segments(others),
    )  # fmt: skip


def _segments(segments: Iterable[str]) -> int | None:
    """Disclosed vendors, from the segments behind the core; None without that segment."""
    seen: set[int] = set()
    disclosed = None
    for segment in segments:
        reader = _Reader(_bits(segment), 0)
        kind = reader.number(3)
        if kind in seen or kind not in (DISCLOSED, ALLOWED, PUBLISHER):
            raise InvalidTcString(Reason.MALFORMED)
        seen.add(kind)
        if kind == PUBLISHER:
            reader.skip(48)
            reader.skip(2 * reader.number(6))
        else:
            vendors = reader.vendors()
            disclosed = vendors if kind == DISCLOSED else disclosed
        reader.end()
    return disclosed


def _bits(segment: str) -> str:
    """The segment as zeros and ones, six a character."""
    padded = segment.translate(_STANDARD) + "A" * (-len(segment) % 4)
    number = int.from_bytes(b"\x01" + binascii.a2b_base64(padded))
    return bin(number)[3 : 3 + 6 * len(segment)]


def _ids(bits: str) -> int:
    """Bits whose first stands for id 1."""
    return int(bits[::-1] + "0", 2) if bits else 0


class _Reader:
    """Reads zeros and ones from a place on, never past their end."""

    def __init__(self, bits: str, at: int) -> None:
        self._bits = bits
        self._at = at

    def number(self, width: int) -> int:
        """The next bits as a number."""
        self.skip(width)
        return int(self._bits[self._at - width : self._at], 2)

    def skip(self, width: int) -> None:
        """Pass over bits; MALFORMED where there are none."""
        self._at += width
        if self._at > len(self._bits):
            raise InvalidTcString(Reason.MALFORMED)

    def end(self) -> None:
        """Only padding may follow."""
        if "1" in self._bits[self._at :]:
            raise InvalidTcString(Reason.MALFORMED)

    def vendors(self) -> int:
        """A vendor section: a bit field, or ranges."""
        largest = self.number(16)
        if not self.number(1):
            start = self._at
            self.skip(largest)
            return _ids(self._bits[start : self._at])
        marked = bytearray(b"0" * (largest + 1))
        end = 0
        for first, last in sorted(self.ranges(largest)):
            # Overlapping ranges are written once, so that the work is bounded by the largest id.
            start = max(first, end)
            if start <= last:
                marked[start : last + 1] = b"1" * (last + 1 - start)
                end = last + 1
        return int(marked[::-1], 2)

    def ranges(self, largest: int) -> list[tuple[int, int]]:
        """A list of ids and ranges of ids, 1 <= first <= last <= largest."""
        found = []
        for _ in range(self.number(12)):
            if self.number(1):
                both = self.number(32)
                first, last = both >> 16, both & 0xFFFF
            else:
                first = last = self.number(16)
            if not 1 <= first <= last <= largest:
                raise InvalidTcString(Reason.MALFORMED)
            found.append((first, last))
        return found

    def restrictions(self) -> dict[int, tuple[Restriction, ...]]:
        """The publisher's restrictions."""
        found: dict[int, tuple[Restriction, ...]] = {}
        for _ in range(self.number(12)):
            purpose, kind = self.number(6), self.number(2)
            if not 1 <= purpose <= 24 or kind > 2:
                raise InvalidTcString(Reason.MALFORMED)
            found[purpose] = (*found.get(purpose, ()), Restriction(kind, tuple(self.ranges(0xFFFF))))
        return found


__all__ = ["InvalidTcString", "Restriction", "TcString", "decode"]
