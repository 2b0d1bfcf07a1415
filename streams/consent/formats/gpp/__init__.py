"""Decodes IAB GPP strings: header, US sections, US Privacy, the Canadian section; the European one is a TC string."""

from streams.consent.formats.gpp.canada import CanadianSection, evaluate_canadian_section
from streams.consent.formats.gpp.gpp_string import (
    MISSING_TC_STRING,
    GppString,
    InvalidGpp,
    decode,
)
from streams.consent.formats.gpp.us_privacy import parse_us_privacy
from streams.consent.formats.gpp.us_sections import UsSection, evaluate_us_section

__all__ = [
    "MISSING_TC_STRING",
    "CanadianSection",
    "GppString",
    "InvalidGpp",
    "UsSection",
    "decode",
    "evaluate_canadian_section",
    "evaluate_us_section",
    "parse_us_privacy",
]
