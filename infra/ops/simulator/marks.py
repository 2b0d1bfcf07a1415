"""Names that can be found again in any layer's bytes: run ids, event ids, and secret markers planted in fields.

A marker is `<kind>-<run>-<event number>`, in letters alone, so that no scan takes it for a telephone number. Its kind says
what may carry it: `an` analytics, `mk` marketing, `pz` personalization, `cl` nothing at all (it is part of a clear e-mail
address, account or cookie, which pseudonyms replace at the door), `dd` the payload of a dead letter.
"""

import random
import re
from typing import Literal

Kind = Literal["an", "mk", "pz", "cl", "dd"]

RUN_LETTERS = "abcdef"  # hexadecimal and no digits: a run id stands both in UUIDs and in markers
RUN_LENGTH = 8
NUMBER_LENGTH = 8
_DIGITS = "0123456789abcdef"
_LETTERS = "abcdefghijklmnop"
_TO_LETTERS = str.maketrans(_DIGITS, _LETTERS)
_TO_DIGITS = str.maketrans(_LETTERS, _DIGITS)


def run_id(rng: random.Random) -> str:
    """A fresh run id."""
    return "".join(rng.choices(RUN_LETTERS, k=RUN_LENGTH))


def event_id(run: str, n: int) -> str:
    """The client's id of event `n`: a UUID, because Snowplow demands one, that begins with the run."""
    return f"{run}-0000-4000-8000-{n:012x}"


def event_number(run: str, identifier: str) -> int | None:
    """The number in an event id of this run; None for another's."""
    if len(identifier) != 36 or not identifier.startswith(run + "-0000-4000-8000-"):
        return None
    try:
        return int(identifier[24:], 16)
    except ValueError:
        return None


def marker(kind: Kind, run: str, n: int) -> str:
    """The marker of event (or person) `n`."""
    return f"{kind}-{run}-{format(n, '08x').translate(_TO_LETTERS)}"


class MarkerScan:
    """Finds the markers of one run in raw bytes."""

    def __init__(self, run: str) -> None:
        self._pattern = re.compile(rb"(an|mk|pz|cl|dd)-" + run.encode() + rb"-([a-p]{8})")

    def find(self, value: bytes) -> set[tuple[str, int]]:
        """(kind, number) of every marker in `value`."""
        return {(kind.decode(), int(n.decode().translate(_TO_DIGITS), 16)) for kind, n in self._pattern.findall(value)}
