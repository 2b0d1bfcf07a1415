"""Parsing of senders' times to milliseconds UTC. Pure."""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite

MIN_S, MAX_S = 100_000_000, 4_102_444_800  # March 1973 and January 2100
"""Seconds since 1970 between which a time is plausible. The ranges of no two units overlap, so a number identifies its unit."""

YEAR_2000_MS, YEAR_2090_MS = 946_684_800_000, 3_786_739_200_000
"""An event's time lies between them. A number outside is in another unit, where the unit is given."""

PER_SECOND = (1, 1_000, 1_000_000, 1_000_000_000)
"""Units of numbers: seconds, milliseconds, microseconds, nanoseconds."""

UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}

MAX_TEXT = 128  # characters
_NUMBER = re.compile(r"[0-9]+(\.[0-9]*)?([eE]\+?[0-9]{1,2})?")
_AGE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*([smhdw])(?:\s*ago)?")
_ZONE = re.compile(r"\s*(?:UTC|GMT|(?:UTC|GMT)?([+-][0-9]{2}:?(?:[0-9]{2})?))(?:\s*\(.*\))?$", re.IGNORECASE)
_SCRIPT = re.compile(r"[A-Z][a-z]{2} ([A-Z][a-z]{2}) ([0-9]{1,2}) ([0-9]{4}) ([0-9]{2}:[0-9]{2}:[0-9]{2}) ?(.*)")


def parse_time(value: object) -> int | None:
    """Return milliseconds since 1970, UTC; None for anything that is no time between 1973 and 2100.

    Read are numbers and numeric texts in seconds, milliseconds, microseconds or nanoseconds (fractions too), ISO 8601 (with
    a blank for the `T` too; no zone is UTC; a date alone is its midnight), RFC 5322 dates, and what a script's `Date` prints.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return _from_number(value)
    if isinstance(value, float):
        return _from_number(value) if isfinite(value) else None
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        return None
    text = value.strip()
    if not text.isascii():
        return None
    if text[10:11] == "T" and text[-1] == "Z":  # what most senders write
        try:
            return _in_range(datetime.fromisoformat(text))
        except ValueError:
            pass
    if text[4:5] != "-" and _NUMBER.fullmatch(text):
        number = _from_number(int(text) if text.isdigit() else float(text))
        if number is not None:
            return number
    moment = _moment(text)
    return None if moment is None else _in_range(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def parse_moment(text: str, now_ms: int) -> int | None:
    """Return milliseconds since 1970, UTC, of a command-line argument: a time as `parse_time` reads it, or an age (`90s`,
    `30m`, `2h`, `3d`, `1w`). None for anything else."""
    age_ms = parse_age(text)
    return parse_time(text) if age_ms is None else now_ms - age_ms


def parse_age(text: str) -> int | None:
    """Milliseconds of an age as a person types it (`90s`, `30m`, `2h`, `3 d`, `1w ago`). None for anything else."""
    age = _AGE.fullmatch(text.strip().lower())
    return None if age is None else int(float(age[1]) * UNITS_MS[age[2]])


def _in_range(moment: datetime) -> int | None:
    seconds = moment.timestamp()
    return round(seconds * 1000) if MIN_S <= seconds < MAX_S else None


def _from_number(number: float) -> int | None:
    for per_second in PER_SECOND:
        if MIN_S * per_second <= number < MAX_S * per_second:
            if isinstance(number, int) and per_second >= 1000:  # a float has no digits left for nanoseconds
                return number // (per_second // 1000)
            return round(number * 1000 / per_second)
    return None


def _moment(text: str) -> datetime | None:
    """Return the moment of a written date; naive where it names no zone."""
    if text[:1].isdigit():
        iso = text.upper()
        if " " in iso or iso.endswith(("UTC", "GMT")):
            iso = _ZONE.sub(lambda match: match[1] or "Z", iso)
        try:
            return datetime.fromisoformat(iso)
        except ValueError:
            pass
    if script := _SCRIPT.fullmatch(text):
        month, day, year, clock, zone = script.groups()
        text = f"{day} {month} {year} {clock} {_ZONE.sub(lambda match: match[1] or '+0000', zone)}"
    try:
        return parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


__all__ = ["YEAR_2000_MS", "YEAR_2090_MS", "parse_age", "parse_moment", "parse_time"]
