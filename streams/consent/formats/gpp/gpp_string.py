"""Decodes IAB GPP strings strictly, each section by itself: a broken section does not affect the others. Pure.

Source: IAB Tech Lab, "Global Privacy Platform", "Consent String Specification": a header that lists the ids of sections, then
the sections. The European section is returned as the TC string that it is.
"""

from collections.abc import Iterable
from typing import NamedTuple

from streams.consent.formats.gpp.bits import UnreadableSection, check_end, read_ranges, unread_bits
from streams.consent.formats.gpp.canada import CanadianSection, read_canadian_section
from streams.consent.formats.gpp.us_privacy import USP
from streams.consent.formats.gpp.us_sections import LAYOUTS, UsSection, read_us_section
from streams.consent.formats.tc_string import SHORTEST, InvalidTcString, Segment

LONGEST = 8_192
"""Characters."""
LONGEST_HEADER = 512
"""Characters: more than `MAX_SECTIONS` take."""
MAX_SECTIONS = 64
LARGEST_ID = 1_023
"""Of sections; the published ones end at 27."""
HEADER = 0
"""Stands for the header, or the number of its sections, where section ids are listed."""
TCF_EU, TCF_CA, USP_V1 = 2, 5, 6
HEADER_TYPE, HEADER_VERSION = 3, 1
MISSING_TC_STRING = "~"
"""Stands for a European section that the header announces and the string lacks: it denies as a broken one does."""


class InvalidGpp(ValueError):
    """Nothing of it can be read as a GPP string."""


class GppString(NamedTuple):
    """The readable sections of a string."""

    us: tuple[UsSection, ...]
    """Sections 7 to 27."""
    usp: str
    """US Privacy string of section 6; empty = none."""
    tc_string: str
    """Section 2; empty = none."""
    unreadable: tuple[int, ...]
    """Ids of sections that cannot be read, in order; HEADER for the header."""
    canada: CanadianSection | None = None
    """Section 5."""


def decode(text: str) -> GppString:
    """Decode what can be read of a GPP string; surrounding blanks are ignored. InvalidGpp where nothing can.

    `unreadable` lists sections of an unknown id or version, or with broken bits.
    """
    text = text.strip()
    if len(text) > LONGEST:
        raise InvalidGpp("too long")
    if not text.isascii():
        text = text.encode("ascii", "replace").decode()  # a question mark breaks the section in which it stands, and no other
    header, *texts = text.split("~")
    try:
        ids = _section_ids(header)
    except (InvalidTcString, UnreadableSection):
        return _without_header((header, *texts), announced=())
    if len(ids) != len(texts):
        return _without_header(texts, announced=ids)
    return _read_sections(zip(ids, texts, strict=True))


def _read_sections(sections: Iterable[tuple[int, str]]) -> GppString:
    us: list[UsSection] = []
    unreadable: list[int] = []
    usp = tc_string = ""
    canada = None
    for section_id, text in sections:
        try:
            if section_id in LAYOUTS:
                us.append(read_us_section(section_id, text))
            elif section_id == TCF_CA:
                canada = read_canadian_section(text)
            elif section_id == USP_V1 and USP.fullmatch(text):
                usp = text
            elif section_id == TCF_EU and text:
                tc_string = text  # judged by the rules of the TCF, and refused by them where it is none
            else:
                unreadable.append(section_id)
        except (InvalidTcString, UnreadableSection):
            unreadable.append(section_id)
    if TCF_EU in unreadable:
        tc_string = MISSING_TC_STRING
    return GppString(tuple(us), usp, tc_string, tuple(unreadable), canada)


def _without_header(texts: Iterable[str], announced: Iterable[int]) -> GppString:
    """Decode sections without a valid header: TC strings and US Privacy strings are recognised by their form.

    InvalidGpp where there is neither, and no header.
    """
    usps = [text for text in texts if USP.fullmatch(text)]
    # US national sections begin with the same letter, and are shorter than any TC string.
    tc_strings = [text for text in texts if text.startswith("C") and len(text) >= SHORTEST]
    if not (usps or tc_strings or announced):
        raise InvalidGpp("no GPP header of version 1")
    # Two TC strings are joined to one that is invalid: which of them counts is not known.
    tc_string = "~".join(tc_strings) or (MISSING_TC_STRING if TCF_EU in announced else "")
    return GppString((), usps[0] if usps else "", tc_string, (HEADER,))


def _section_ids(header: str) -> list[int]:
    """Section ids, ascending: Fibonacci-coded steps from one to the next."""
    if len(header) > LONGEST_HEADER:
        raise UnreadableSection("a header too long")
    segment = Segment(header.encode())
    if segment.number(6) != HEADER_TYPE or segment.number(6) != HEADER_VERSION:
        raise UnreadableSection("no GPP header of version 1")
    bits = unread_bits(segment)
    ranges, end = read_ranges(bits, 0, LARGEST_ID)
    check_end(bits, end)
    ids = [section_id for first, last in ranges for section_id in range(first, last + 1)]
    if len(ids) > MAX_SECTIONS:
        raise UnreadableSection("too many sections")
    return ids


__all__ = ["HEADER", "MISSING_TC_STRING", "GppString", "InvalidGpp", "decode"]
