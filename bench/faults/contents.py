"""Events of unequal contents: every field of the contract varies, and an event's number can be read from its id."""

import random
import time
from array import array
from hashlib import blake2b
from typing import Any

from schemas.codec import HEADER_BYTES, encode
from schemas.contract import Contract

POOL = 1_500
"""Different records that events are made from; ids, times, values and properties are each event's own."""
MONTH_MS = 30 * 86_400_000
TEXTS = ("", "a", "Grüße", 'it\'s "quoted"', "tab\tand\nline", "日本語", "\\back\\slash", "NULL", "0", "x" * 70)


def event_id(number: int) -> str:
    """The id of an event by its number."""
    return f"{number:032x}"


class EventFactory:
    """Makes the `n`th event of a seed. Not thread-safe."""

    def __init__(self, contract: Contract, seed: int) -> None:
        self._contract = contract
        self._random = random.Random(seed)
        self._now = int(time.time() * 1000)
        self._pool = [self._record() for _ in range(POOL)]

    def value(self, number: int) -> bytes:
        """One encoded event."""
        rng = self._random
        # Late events make inserts of several months, that is of several parts.
        late = MONTH_MS if rng.random() < 0.02 else 0
        record = self._pool[int(rng.random() * POOL)] | {
            "event_id": event_id(number),
            "collector_ts": self._now + number % 600_000 - late,
            "event_ts": self._now + int(rng.random() * 1e6) - 500_000,
            "value": rng.random() * 1_000 - 100,
            "properties": {"n": str(number), "text": TEXTS[number % len(TEXTS)], "r": str(rng.random())},
        }
        return encode(self._contract, record)

    def _record(self) -> dict[str, Any]:
        return {field["name"]: self._field(field["type"]) for field in self._contract.schema["fields"]}

    def _field(self, kind: Any) -> Any:
        rng = self._random
        if isinstance(kind, dict):
            if kind["type"] == "map":
                return {f"k{n}": self._field(kind["values"]) for n in range(rng.randrange(4))}
            if kind["type"] == "array":
                return [self._field(kind["items"]) for _ in range(rng.randrange(4))]
            return self._now
        return {
            "string": rng.choice(TEXTS) + rng.choice(("", str(rng.randrange(10)))),
            "int": rng.randrange(8),
            "long": rng.randrange(-(1 << 62), 1 << 62),
            "boolean": rng.random() < 0.5,
            "double": rng.choice((0.0, -0.0, 1e300, -2.5, rng.random())),
            "float": float(rng.randrange(100)),
            "bytes": rng.randbytes(rng.randrange(8)),
        }[kind]


def digest(value: bytes) -> int:
    """Hash of an encoded event's datum, 64 bits."""
    return int.from_bytes(blake2b(value[HEADER_BYTES:], digest_size=8).digest(), "little")


class SentEvents:
    """State of each event by number, as the producer knows it: the reference of the proof."""

    UNSENT, COMMITTED, ABORTED = range(3)

    def __init__(self) -> None:
        self.digests = array("Q")
        self.states = bytearray()

    def add(self, value: bytes) -> None:
        """The next event, sent in a transaction whose end is open."""
        self.digests.append(digest(value))
        self.states.append(self.UNSENT)

    def settle(self, first: int, state: int) -> None:
        """Every event from `first` on was committed or aborted."""
        self.states[first:] = bytes([state]) * (len(self.states) - first)

    @property
    def committed(self) -> int:
        """Events of committed transactions."""
        return self.states.count(self.COMMITTED)

    @property
    def aborted(self) -> int:
        """Events of aborted transactions."""
        return self.states.count(self.ABORTED)

    def number_of(self, identifier: str) -> int:
        """The number in an event id; -1 for one that was never made."""
        try:
            number = int(identifier, 16)
        except ValueError:
            return -1
        return number if number < len(self.states) and identifier == event_id(number) else -1
