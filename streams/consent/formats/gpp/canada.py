"""The Canadian section of GPP (5, TCF Canada version 1): express and implied consent to TCF purposes. Pure.

Source: IAB Tech Lab, "GPP Extension: IAB Canada TCF". Lists of vendors are validated and not kept: restrictions name
vendors as well, so a purpose that any of them restricts is not granted.
"""

import contextlib
from collections.abc import Iterable
from typing import NamedTuple

from streams.consent.formats.consent_value import ConsentValue
from streams.consent.formats.gpp.bits import UnreadableSection, check_end, check_segment_end, number, read_ranges, unread_bits
from streams.consent.formats.tc_string import (
    DECISECOND_MS,
    DISCLOSED,
    PUBLISHER,
    PURPOSES,
    InvalidTcString,
    Segment,
    has_purpose,
)

VERSION = 1
LONGEST = 2_048
"""Characters: three times what all vendors of a list take."""
HEAD_BITS = 199
"""Before the lists of vendors."""
SETUP_BITS = 12 + 6 + 12 + 12 + 6 + 1 + 12
"""CMP version, screen, language, vendor list, policy, stacks, special features: between the CMP's id and the purposes."""
UNUSED_PURPOSE = 1
"""Storage on the device: TCF Canada does not use its bit."""


class CanadianSection(NamedTuple):
    """The fields of the section that are evaluated. Purposes are 24 bits, the first purpose's the highest."""

    created_ms: int
    last_updated_ms: int
    cmp_id: int
    express: int
    """Purposes with express consent."""
    implied: int
    """Purposes with implied consent, to which the visitor has not objected."""
    restricted: frozenset[int]
    """Purposes that the publisher restricts for some vendor."""


def evaluate_canadian_section(section: CanadianSection, purposes: Iterable[int]) -> ConsentValue:
    """Whether a section grants all of these TCF purposes, by express or implied consent. UNKNOWN where none applies."""
    needed = [purpose for purpose in purposes if purpose != UNUSED_PURPOSE]
    if not needed:
        return ConsentValue.UNKNOWN
    consented = section.express | section.implied
    granted = all(has_purpose(consented, purpose) and purpose not in section.restricted for purpose in needed)
    return ConsentValue.GRANT if granted else ConsentValue.DENY


def read_canadian_section(text: str) -> CanadianSection:
    """Decode the section. UnreadableSection, or InvalidTcString for broken bits."""
    if len(text) > LONGEST:
        raise UnreadableSection("too long")
    core, *others = text.split(".")
    segment = Segment(core.encode())
    if segment.number(6) != VERSION:
        raise UnreadableSection("unknown version")
    created, last_updated = segment.number(36) * DECISECOND_MS, segment.number(36) * DECISECOND_MS
    cmp_id = segment.number(12)
    segment.number(SETUP_BITS)
    express, implied = segment.number(PURPOSES), segment.number(PURPOSES)
    if cmp_id <= 1 or created > last_updated:
        raise UnreadableSection("no registered CMP, or created after its last update")
    restricted = _restricted_purposes(core)
    _check_segments(others)
    return CanadianSection(created, last_updated, cmp_id, express, implied, restricted)


def _restricted_purposes(core: str) -> frozenset[int]:
    """Read the purposes with publisher restrictions, which follow two lists of vendors.

    The specification codes ranges in Fibonacci numbers; older releases of the official library wrote them as the European
    section has them. A string that both readings fit counts with the restrictions of both.
    """
    readings: list[frozenset[int]] = []
    for read_restrictions in (_fibonacci_restrictions, _fixed_restrictions):
        segment = Segment(core.encode())
        segment.number(HEAD_BITS)
        with contextlib.suppress(InvalidTcString, UnreadableSection):
            readings.append(read_restrictions(segment))
    if not readings:
        raise UnreadableSection("lists of vendors that cannot be read")
    return frozenset[int]().union(*readings)


def _fibonacci_restrictions(segment: Segment) -> frozenset[int]:
    bits = unread_bits(segment)
    at = _skip_vendors(bits, _skip_vendors(bits, 0))
    count = number(bits, at, 12)
    at += 12
    purposes = set()
    for _ in range(count):
        purpose, kind = number(bits, at, 6), number(bits, at + 6, 2)
        if not 1 <= purpose <= PURPOSES or kind > 2:
            raise UnreadableSection("a restriction that does not exist")
        purposes.add(purpose)
        at = _skip_vendors(bits, at + 8)
    check_end(bits, at)
    return frozenset(purposes)


def _fixed_restrictions(segment: Segment) -> frozenset[int]:
    segment.vendors()
    segment.vendors()
    purposes = frozenset(segment.restrictions())
    check_segment_end(segment)
    return purposes


def _check_segments(texts: Iterable[str]) -> None:
    """Validate the segments of disclosed vendors and publisher purposes, each at most once."""
    kinds = []
    for text in texts:
        segment = Segment(text.encode())
        kind = segment.number(3)
        if kind in kinds or kind not in (DISCLOSED, PUBLISHER):
            raise UnreadableSection("a sub-section twice, or an unknown one")
        kinds.append(kind)
        if kind == PUBLISHER:
            segment.number(2 * PURPOSES)
            segment.number(2 * segment.number(6))
            check_segment_end(segment)
        else:
            _check_disclosed(segment, text)


def _check_disclosed(segment: Segment, text: str) -> None:
    bits = unread_bits(segment)
    try:
        check_end(bits, _skip_vendors(bits, 0))
    except UnreadableSection:
        fixed = Segment(text.encode())
        fixed.number(3)
        fixed.vendors()
        check_segment_end(fixed)


def _skip_vendors(bits: str, at: int) -> int:
    """The offset behind a set of vendors: a bit field, or ranges."""
    largest, coded = number(bits, at, 16), number(bits, at + 16, 1)
    return read_ranges(bits, at + 17, largest)[1] if coded else at + 17 + largest


__all__ = ["CanadianSection", "evaluate_canadian_section", "read_canadian_section"]
