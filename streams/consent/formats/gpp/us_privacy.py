"""US Privacy strings: section 6 of GPP, and the older `us_privacy` signal. Pure.

Source: IAB Tech Lab, "U.S. Privacy String", version 1: the version, then notice given, opted out of sale, covered by the
Limited Service Provider Agreement, each Y, N or - (does not apply).
"""

import re

from streams.consent.formats.consent_value import ConsentValue

USP = re.compile(r"1[YN-]{3}", re.ASCII)


def parse_us_privacy(text: str) -> ConsentValue:
    """Whether personal data may be sold. Case and surrounding blanks are ignored.

    UNKNOWN for an empty string; INVALID for what is no US Privacy string of version 1.
    """
    usp = text.strip().upper()
    if not usp:
        return ConsentValue.UNKNOWN
    if not USP.fullmatch(usp):
        return ConsentValue.INVALID
    notice, opted_out = usp[1], usp[2]
    if opted_out == "Y" or notice == "N":
        return ConsentValue.DENY  # a right without notice cannot have been waived
    return ConsentValue.GRANT if opted_out == "N" else ConsentValue.UNKNOWN


__all__ = ["USP", "parse_us_privacy"]
