"""Reads the bits of GPP: padding, and Fibonacci-coded ranges in the header and in the Canadian section. Pure.

Source: IAB Tech Lab, "Global Privacy Platform", "Consent String Specification", "Range (Fibonacci)": entries of a flag and one
or two numbers, each a step from the id before.
"""

import re
from functools import lru_cache

from streams.consent.formats.tc_string import Segment

PADDING_BITS = 12
"""Encoders fill up to 6 bits, or to 8 and then 6: fewer than this many zeros may follow a segment's fields."""
COUNT_BITS = 12
# A number has no two ones in a row but at its end; 24 bits hold all ids of 16.
_NUMBER = r"((?:0|10){0,22}+11)"
ENTRY = re.compile(rf"0{_NUMBER}|1{_NUMBER}{_NUMBER}", re.ASCII)


class UnreadableSection(ValueError):
    """A section of an unknown version, or one that breaks its layout."""


def unread_bits(segment: Segment) -> str:
    """The unread bits of a segment, as zeros and ones."""
    width = segment.unread()
    return f"{segment.number(width):0{width}b}" if width else ""


def check_end(bits: str, at: int) -> None:
    """Check that only padding follows. UnreadableSection otherwise, and where `at` is past the end."""
    if not 0 <= len(bits) - at < PADDING_BITS or "1" in bits[at:]:
        raise UnreadableSection("too short, or something behind the end")


def check_segment_end(segment: Segment) -> None:
    """Check that only padding follows in a segment. UnreadableSection."""
    check_end(unread_bits(segment), 0)


@lru_cache(4_096)
def fibonacci(code: str) -> int:
    """Decode a Fibonacci code: bits from the smallest Fibonacci number on, ended by two ones."""
    total, term, following = 0, 1, 2
    for bit in code[:-1]:
        if bit == "1":
            total += term
        term, following = following, term + following
    return total


def read_ranges(bits: str, at: int, most: int) -> tuple[list[tuple[int, int]], int]:
    """(first, last) of each entry, ascending, and the offset behind the list. UnreadableSection beyond id `most`."""
    count, at, last = number(bits, at, COUNT_BITS), at + COUNT_BITS, 0
    ranges = []
    for _ in range(count):
        entry = ENTRY.match(bits, at)
        if entry is None:
            raise UnreadableSection("no Fibonacci-coded number")
        single, start, length = entry.groups()
        first = last + fibonacci(single or start)
        last = first if single else first + fibonacci(length)
        ranges.append((first, last))
        at = entry.end()
    if last > most:
        raise UnreadableSection("an id beyond the largest")
    return ranges, at


def number(bits: str, at: int, width: int) -> int:
    """Read bits as a number. UnreadableSection past the end."""
    part = bits[at : at + width]
    if len(part) < width:
        raise UnreadableSection("too short")
    return int(part, 2)


__all__ = ["UnreadableSection", "check_end", "check_segment_end", "fibonacci", "number", "read_ranges", "unread_bits"]
