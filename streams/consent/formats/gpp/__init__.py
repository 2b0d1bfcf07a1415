"""IAB GPP strings: header, US sections, US Privacy, the Canadian section; the European one stays the TC string that it is."""

from streams.consent.formats.gpp.canada import CanadianSection, canadian_word
from streams.consent.formats.gpp.gpp_string import (
    MISSING_TC_STRING,
    GppString,
    InvalidGpp,
    decode,
    sale_and_sharing,
    stated_word,
)
from streams.consent.formats.gpp.us_privacy import usp_word
from streams.consent.formats.gpp.us_sections import UsSection, us_word

__all__ = [
    "MISSING_TC_STRING",
    "CanadianSection",
    "GppString",
    "InvalidGpp",
    "UsSection",
    "canadian_word",
    "decode",
    "sale_and_sharing",
    "stated_word",
    "us_word",
    "usp_word",
]
