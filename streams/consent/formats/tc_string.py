"""Decodes IAB TCF consent strings of version 2 (2.2 and 2.3), strictly: what is not exactly a TC string is refused. Pure.

Source: IAB Tech Lab, "Transparency and Consent String with Global Vendor & CMP List Formats", v2. Sets of vendors
are kept as the bits or ranges of the string, and unpacked on a look-up.
"""

import binascii
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from streams.consent.formats.reason import ConsentReason

SHORTEST, LONGEST = 44, 8_192
"""Characters."""
CORE_BITS = 213
"""Before the vendor sections."""
CORE_CHARACTERS = -(-CORE_BITS // 6)
DECISECOND_MS = 100
PURPOSES = 24

# Standard base64, with everything that is no base64url mapped to what strict decoding refuses.
_STANDARD = bytes.maketrans(b"-_+/=", b"+/!!!")
DISCLOSED, ALLOWED, PUBLISHER = 1, 2, 3
"""Types of segments behind the core. Allowed vendors are obsolete: read and ignored."""

Ranges = tuple[tuple[int, int], ...]
"""(first, last) ids, both included."""


class InvalidTcString(ValueError):
    """MALFORMED or VERSION, in `reason`."""

    def __init__(self, reason: ConsentReason) -> None:
        super().__init__(reason)
        self.reason = reason


class Restriction(NamedTuple):
    """A publisher's restriction of a purpose for some vendors. 0: not allowed; 1: consent only; 2: legitimate interest only."""

    type: int
    vendors: Ranges


class Vendors(NamedTuple):
    """A set of vendors."""

    largest: int
    bits: int = 0
    """One bit for each id; id 1 is the highest bit."""
    ranges: Ranges | None = None
    """Instead of bits, where the string has ranges."""

    def has(self, vendor: int) -> bool:
        """Whether the set has this vendor."""
        if self.ranges is not None:
            return any(first <= vendor <= last for first, last in self.ranges)
        return 1 <= vendor <= self.largest and bool(self.bits >> (self.largest - vendor) & 1)


class TcString(NamedTuple):
    """The fields of a string. Purposes are 24 bits, purpose 1 the highest: see `has_purpose`."""

    created_ms: int
    last_updated_ms: int
    cmp_id: int
    cmp_version: int
    gvl_version: int
    policy_version: int
    service_specific: bool
    special_features: int
    """12 bits, like purposes."""
    purposes_consent: int
    purposes_li: int
    purpose_one_treatment: bool
    vendors_consent: Vendors
    vendors_li: Vendors
    restrictions: Mapping[int, tuple[Restriction, ...]]
    """Purpose -> restrictions."""
    disclosed: Vendors | None
    """None where the string has no such segment."""


def has_purpose(bits: int, purpose: int) -> bool:
    """Whether a purpose is among 24 bits of purposes."""
    return 1 <= purpose <= PURPOSES and bool(bits >> (PURPOSES - purpose) & 1)


def decode(text: str) -> TcString:
    """Decode a TC string. InvalidTcString."""
    if not SHORTEST <= len(text) <= LONGEST or not text.isascii():
        raise InvalidTcString(ConsentReason.MALFORMED)
    core, *others = text.encode().split(b".")
    if len(core) < CORE_CHARACTERS:
        raise InvalidTcString(ConsentReason.MALFORMED)
    reader = Segment(core)
    head = reader.number(CORE_BITS)
    if head >> (CORE_BITS - 6) != 2:
        raise InvalidTcString(ConsentReason.VERSION)
    vendors_consent, vendors_li = reader.vendors(), reader.vendors()
    restrictions = reader.restrictions()
    reader.end()
    return TcString(
        (head >> 171 & 0xF_FFFF_FFFF) * DECISECOND_MS, (head >> 135 & 0xF_FFFF_FFFF) * DECISECOND_MS,
        head >> 123 & 0xFFF, head >> 111 & 0xFFF, head >> 81 & 0xFFF, head >> 75 & 0x3F, bool(head >> 74 & 1),
        head >> 61 & 0xFFF, head >> 37 & 0xFF_FFFF, head >> 13 & 0xFF_FFFF, bool(head >> 12 & 1),
        vendors_consent, vendors_li, restrictions, _segments(others),
    )  # fmt: skip


def _segments(segments: Iterable[bytes]) -> Vendors | None:
    """Read the disclosed vendors from the segments behind the core; None without that segment."""
    kinds: set[int] = set()
    disclosed = None
    for segment in segments:
        reader = Segment(segment)
        kind = reader.number(3)
        if kind in kinds or kind not in (DISCLOSED, ALLOWED, PUBLISHER):
            raise InvalidTcString(ConsentReason.MALFORMED)
        kinds.add(kind)
        if kind == PUBLISHER:
            reader.number(48)
            reader.number(2 * reader.number(6))
        else:
            vendors = reader.vendors()
            disclosed = vendors if kind == DISCLOSED else disclosed
        reader.end()
    return disclosed


class Segment:
    """Reads the bits of one segment, six a character. InvalidTcString past the end."""

    def __init__(self, segment: bytes) -> None:
        spare = -len(segment) % 4
        try:
            decoded = binascii.a2b_base64(segment.translate(_STANDARD) + b"A" * spare, strict_mode=True)
        except binascii.Error:
            raise InvalidTcString(ConsentReason.MALFORMED) from None
        self._bits = int.from_bytes(decoded) >> 6 * spare
        self._unread = 6 * len(segment)

    def number(self, width: int) -> int:
        """Read the next bits as a number."""
        self._unread -= width
        if self._unread < 0:
            raise InvalidTcString(ConsentReason.MALFORMED)
        return self._bits >> self._unread & (1 << width) - 1

    def unread(self) -> int:
        """How many bits have not been read."""
        return self._unread

    def end(self) -> None:
        """Check that only padding follows."""
        if self._bits & (1 << self._unread) - 1:
            raise InvalidTcString(ConsentReason.MALFORMED)

    def vendors(self) -> Vendors:
        """Read a vendor section: a bit field, or ranges."""
        head = self.number(17)
        largest = head >> 1
        if head & 1:
            return Vendors(largest, 0, self.ranges(largest))
        return Vendors(largest, self.number(largest))

    def ranges(self, largest: int) -> Ranges:
        """Read a list of ids and ranges of ids, 1 <= first <= last <= largest."""
        count = self.number(12)
        # Zeros behind the end, so that every entry can be read as a range: flag, first, last.
        bits, remaining, ranges = self._bits << 33, self._unread, []
        for _ in range(count):
            entry = bits >> remaining & 0x1_FFFF_FFFF
            first = entry >> 16 & 0xFFFF
            if entry >> 32:
                last = entry & 0xFFFF
                remaining -= 33
            else:
                last = first
                remaining -= 17
            if remaining < 0 or not 1 <= first <= last <= largest:
                raise InvalidTcString(ConsentReason.MALFORMED)
            ranges.append((first, last))
        self._unread = remaining
        return tuple(ranges)

    def restrictions(self) -> dict[int, tuple[Restriction, ...]]:
        """Read the publisher's restrictions, by purpose."""
        restrictions: dict[int, tuple[Restriction, ...]] = {}
        for _ in range(self.number(12)):
            head = self.number(8)
            purpose, kind = head >> 2, head & 3
            if not 1 <= purpose <= PURPOSES or kind > 2:
                raise InvalidTcString(ConsentReason.MALFORMED)
            restrictions[purpose] = (*restrictions.get(purpose, ()), Restriction(kind, self.ranges(0xFFFF)))
        return restrictions


__all__ = ["InvalidTcString", "Ranges", "Restriction", "Segment", "TcString", "Vendors", "decode", "has_purpose"]
