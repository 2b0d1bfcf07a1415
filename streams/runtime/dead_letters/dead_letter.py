"""Dead letters: what no room could use, with its bytes (encrypted), its place and a typed reason.

Payload, before encryption: key length (4 bytes, big-endian; 0xffffffff = no key), key, value.
"""

import secrets
from typing import NamedTuple

from infra.payload_keyring import PayloadKeyring
from infra.telemetry.metrics import Metrics
from schemas.codec import Record, encode
from schemas.registry import Registry
from streams.runtime.stage import BY_KEY, Output

CONTEXT = b"events.dead"
NO_KEY = 0xFFFFFFFF


class RecordPosition(NamedTuple):
    """Where the refused bytes lay."""

    topic: str
    partition: int
    offset: int

    @classmethod
    def at_door(cls) -> "RecordPosition":
        """The place of something that never became a record: a random one, so that no two letters share a key."""
        return cls("", -1, secrets.randbits(62))

    @property
    def key(self) -> bytes:
        """Kafka key of the dead letter: a second letter about the same record replaces none and is seen to be the same."""
        return f"{self.topic or 'door'}:{self.partition}:{self.offset}".encode()


class DeadLetterCause(NamedTuple):
    """Why something could not be used."""

    reason: str
    """Typed, in capitals, e.g. UNDECODABLE."""
    detail: str
    """What exactly was wrong; never a value of the event."""
    position: RecordPosition
    source: str = ""


class DeadLetters:
    """Builds and counts the dead letters of one stage or door."""

    def __init__(self, registry: Registry, keyring: PayloadKeyring, stage: str, metrics: Metrics) -> None:
        self._registry = registry
        self._keyring = keyring
        self._stage = stage
        self._metrics = metrics

    def build(self, cause: DeadLetterCause, key: bytes | None, value: bytes | None, now: float) -> Output:
        """Build the record for `events.dead` about these bytes, rejected at `now` (seconds UTC), and count it."""
        self._metrics.count("headwater_dead_total", stage=self._stage, reason=cause.reason)
        prefix = (NO_KEY if key is None else len(key)).to_bytes(4, "big")
        day, payload = self._keyring.seal(prefix + (key or b"") + (value or b""), now, CONTEXT)
        record = {
            "stage": self._stage,
            "reason": cause.reason,
            "detail": cause.detail,
            "source_topic": cause.position.topic,
            "source_partition": cause.position.partition,
            "source_offset": cause.position.offset,
            "source": cause.source,
            "dead_ts": int(now * 1000),
            "key_day": day,
            "payload": payload,
        }
        return cause.position.key, encode(self._registry.latest("events.dead"), record), BY_KEY


def open_letter(record: Record, keyring: PayloadKeyring) -> tuple[bytes | None, bytes]:
    """(key, value) of the refused record. KeyGone when its day's key was destroyed."""
    payload = keyring.open(record["key_day"], record["payload"], CONTEXT)
    length = int.from_bytes(payload[:4], "big")
    if length == NO_KEY:
        return None, payload[4:]
    return payload[4 : 4 + length], payload[4 + length :]
