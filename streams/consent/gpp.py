"""IAB GPP strings, decoded strictly: header, US Privacy, US national and California sections, their GPC segments. Pure.

Source: IAB Tech Lab, "Global Privacy Platform" and its "Sections" specifications. The European section is handed on as the TC
string that it is; sections that are not read are named by their ids.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from streams.consent.signals import Word, strictest
from streams.consent.tcstring import InvalidTcString, Segment

LONGEST = 8_192
MOST_SECTIONS = 64
TCF_EU, USP_V1, US_NATIONAL, US_CALIFORNIA = 2, 6, 7, 8
HEADER_TYPE, HEADER_VERSION = 3, 1
GPC_SEGMENT = 1
YES, NO = 1, 2
"""Of two bits; 0 = does not apply."""
USP = re.compile(r"1[YN-]{3}")


class InvalidGpp(ValueError):
    """Not a GPP string, or one that breaks its own rules."""


class UsSection(NamedTuple):
    """What a US section says. Fields of two bits: 0 does not apply, 1 yes, 2 no."""

    id: int
    version: int
    notices: tuple[int, ...]
    """Of the right to opt out of sale, sharing and targeted advertising, as far as the section has them. 2 = was not given."""
    opt_outs: tuple[int, ...]
    """Of sale, sharing and targeted advertising. 1 = opted out."""
    sensitive: tuple[int, ...]
    children: tuple[int, ...]
    """Consents for known children. 1 = no consent."""
    personal: int
    """Consent to further use of personal data. 1 = no consent."""
    mspa: tuple[int, ...]
    """Covered transaction, opt-out option mode, service provider mode."""
    gpc: bool | None
    """Global Privacy Control; None without that segment."""


class GppString(NamedTuple):
    """What a string says."""

    us: tuple[UsSection, ...]
    usp: str
    """US Privacy string of section 6; empty = none."""
    tc_string: str
    """Section 2; empty = none."""
    unread: tuple[int, ...]
    """Ids of sections that are not read."""


def decode(text: str) -> GppString:
    """The content of a GPP string. InvalidGpp for everything that is none."""
    if len(text) > LONGEST or not text.isascii():
        raise InvalidGpp("too long, or not ASCII")
    header, *sections = text.split("~")
    try:
        ids = _ids(header)
        if len(ids) != len(sections):
            raise InvalidGpp("the header announces other sections")
        found = dict(zip(ids, sections, strict=True))
        us = tuple(_us(one, found[one]) for one in (US_NATIONAL, US_CALIFORNIA) if one in found)
    except InvalidTcString:
        raise InvalidGpp("bits that cannot be read") from None
    usp = found.get(USP_V1, "")
    if USP_V1 in found and not USP.fullmatch(usp):
        raise InvalidGpp("no US Privacy string")
    if found.get(TCF_EU) == "":
        raise InvalidGpp("an empty section")
    return GppString(us, usp, found.get(TCF_EU, ""), tuple(one for one in ids if one not in READ))


READ = frozenset({TCF_EU, USP_V1, US_NATIONAL, US_CALIFORNIA})


def _ids(header: str) -> list[int]:
    """Section ids, ascending: Fibonacci-coded steps from one to the next."""
    segment = Segment(header.encode())
    if segment.number(6) != HEADER_TYPE or segment.number(6) != HEADER_VERSION:
        raise InvalidGpp("no GPP header of version 1")
    found: list[int] = []
    last = 0
    for _ in range(segment.number(12)):
        is_range = segment.number(1)
        first = last + _fibonacci(segment)
        last = first + _fibonacci(segment) if is_range else first
        if len(found) + last - first >= MOST_SECTIONS:
            raise InvalidGpp("too many sections")
        found.extend(range(first, last + 1))
    segment.end()
    return found


def _fibonacci(segment: Segment) -> int:
    """A number of at least 1: a sum of Fibonacci numbers, its bits from the smallest on, ended by two ones."""
    total, one, two, before = 0, 1, 2, 0
    while True:
        bit = segment.number(1)
        if bit and before:
            return total
        total += one * bit
        one, two, before = two, one + two, bit


def _us(section: int, text: str) -> UsSection:
    core, *others = text.split(".")
    segment = Segment(core.encode())
    version = segment.number(6)
    if section == US_NATIONAL:
        if version not in (1, 2):
            raise InvalidGpp("a version that is not known")
        sensitive, children = (12, 2) if version == 1 else (16, 3)
        _, *notices, _, _ = _pairs(segment, 6)
        opt_outs = _pairs(segment, 3)
    else:
        if version != 1:
            raise InvalidGpp("a version that is not known")
        sensitive, children = 9, 2
        *notices, _ = _pairs(segment, 3)
        opt_outs = _pairs(segment, 2)
    found = UsSection(
        section, version, tuple(notices), opt_outs, _pairs(segment, sensitive), _pairs(segment, children),
        _pairs(segment, 1)[0], _pairs(segment, 3), _gpc(others),
    )  # fmt: skip
    segment.end()
    return found


def _pairs(segment: Segment, n: int) -> tuple[int, ...]:
    found = tuple(segment.number(2) for _ in range(n))
    if 3 in found:
        raise InvalidGpp("a value that does not exist")
    return found


def _gpc(segments: Sequence[str]) -> bool | None:
    if len(segments) > 1:
        raise InvalidGpp("a segment twice")
    for text in segments:
        segment = Segment(text.encode())
        if segment.number(2) != GPC_SEGMENT:
            raise InvalidGpp("a segment that is not known")
        gpc = bool(segment.number(1))
        segment.end()
        return gpc
    return None


def sale_and_sharing(gpp: GppString) -> Word:
    """Whether personal data may be sold, shared or used for targeted advertising, by all sections together; strictest first.

    A section that is not read may hold an objection, so it denies.
    """
    words = [_us_word(section) for section in gpp.us]
    if gpp.usp:
        words.append(_usp_word(gpp.usp))
    if gpp.unread:
        words.append(Word.DENY)
    return strictest(words)


def _us_word(section: UsSection) -> Word:
    if section.gpc or YES in section.opt_outs:
        return Word.DENY
    if NO in section.notices:
        return Word.DENY  # who was not told of her right cannot have waived it
    if YES in section.children or section.personal == YES:
        return Word.DENY
    return Word.GRANT if NO in section.opt_outs else Word.UNKNOWN


def _usp_word(usp: str) -> Word:
    """US Privacy: version, notice given, opted out of sale, covered by a service provider agreement."""
    if usp[2] == "Y" or usp[1] == "N":
        return Word.DENY
    return Word.GRANT if usp[2] == "N" else Word.UNKNOWN


__all__ = ["GppString", "InvalidGpp", "UsSection", "decode", "sale_and_sharing"]
