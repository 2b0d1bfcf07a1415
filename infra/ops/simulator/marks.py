"""Identifiers that can be searched for in the bytes of any layer: run ids, event ids, and markers planted in fields.

A marker is `<kind>-<run>-<event number>`, in letters alone, so that no scan mistakes it for a telephone number. Its kind says
which data may contain it: `an` analytics, `mk` marketing, `pz` personalization, `cl` none (it is part of a clear e-mail
address, account or cookie, which the collector replaces by pseudonyms), `dd` the payload of a dead letter.
"""

import random
import re
from typing import Literal

Kind = Literal["an", "mk", "pz", "cl", "dd"]

RUN_LETTERS = "abcdef"  # hexadecimal and no digits: a run id stands both in UUIDs and in markers
RUN_LENGTH = 8
_DIGITS = "0123456789abcdef"
_LETTERS = "abcdefghijklmnop"
_TO_LETTERS = str.maketrans(_DIGITS, _LETTERS)
_TO_DIGITS = str.maketrans(_LETTERS, _DIGITS)


def run_id(rng: random.Random) -> str:
    """Return a new run id."""
    return "".join(rng.choices(RUN_LETTERS, k=RUN_LENGTH))


def event_id(run: str, n: int) -> str:
    """Return the client's id of event `n`: a UUID, as Snowplow requires, that begins with the run."""
    return f"{run}-0000-4000-8000-{n:012x}"


def event_number(run: str, identifier: str) -> int | None:
    """Return the number in an event id of this run; None for any other id."""
    if len(identifier) != 36 or not identifier.startswith(run + "-0000-4000-8000-"):
        return None
    try:
        return int(identifier[24:], 16)
    except ValueError:
        return None


def marker(kind: Kind, run: str, n: int) -> str:
    """Return the marker of event (or person) `n`."""
    return f"{kind}-{run}-{format(n, '08x').translate(_TO_LETTERS)}"


class MarkerScan:
    """Finds the markers of one run in raw bytes."""

    def __init__(self, run: str) -> None:
        self._pattern = re.compile(rb"(an|mk|pz|cl|dd)-" + run.encode() + rb"-([a-p]{8})")

    def find(self, value: bytes) -> set[tuple[str, int]]:
        """Return (kind, number) of every marker in `value`."""
        return {(kind.decode(), int(n.decode().translate(_TO_DIGITS), 16)) for kind, n in self._pattern.findall(value)}
