"""Regions of visitors by ISO 3166: a country (`DE`) or a subdivision (`US-CA`)."""

import re

REGION = r"[A-Z]{2}(-[A-Z0-9]{1,3})?"


def region_of(text: str) -> str:
    """Return the region that a text names, in capitals; empty where it names none.

    A longer word must not count as the region that it begins with: `Austria` is not `AU`, which is Australia. Only ASCII folds:
    capitals of other letters may be a region's (`ß` is `SS`, the dotless `ı` is `I`).
    """
    region = text.strip()
    if not region.isascii():
        return ""
    region = region.upper()
    return region if re.fullmatch(REGION, region) else ""


def region_within(country: str, part: str) -> str:
    """Return the region of a country and a subdivision (`CA`, `US-CA`, `USCA`); the country where the latter is unreadable.

    Empty where the country is unreadable, or the part names another country's.
    """
    outer = region_of(country)
    if not outer:
        return ""
    nation, _, own_part = outer.partition("-")
    inner = part.strip().upper() if part.isascii() else ""
    if "-" in inner and region_of(inner):
        if not inner.startswith(f"{nation}-"):
            return ""
        inner = inner.partition("-")[2]
    elif len(inner) > 3 and inner.startswith(nation):
        inner = inner[2:]
    if inner == nation or not re.fullmatch(r"[A-Z0-9]{1,3}", inner):
        return outer
    return f"{nation}-{inner}" if own_part in ("", inner) else nation


__all__ = ["REGION", "region_of", "region_within"]
