"""Where a visitor is, as ISO 3166 writes it: a country (`DE`), or a part of one (`US-CA`)."""

import re

REGION = r"[A-Z]{2}(-[A-Z0-9]{1,3})?"


def region_of(text: str) -> str:
    """The region that a text names, in capitals; empty where it names none.

    A longer word must not count as the region that it begins with: `Austria` is not `AU`, which is Australia.
    """
    found = text.strip().upper()
    return found if re.fullmatch(REGION, found) else ""


__all__ = ["REGION", "region_of"]
