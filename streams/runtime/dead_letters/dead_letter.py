"""Dead letters: records that a stage or door cannot use, with their encrypted bytes, position and a typed reason.

Payload before encryption: key length (4 bytes, big-endian; 0xffffffff = no key), key, value.
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
    """Position of the rejected record."""

    topic: str
    partition: int
    offset: int

    @classmethod
    def at_door(cls) -> "RecordPosition":
        """Return a random position for bytes that never became a record, so that no two letters share a key."""
        return cls("", -1, secrets.randbits(62))

    @property
    def key(self) -> bytes:
        """Kafka key of the dead letter: equal for letters about the same record."""
        return f"{self.topic or 'door'}:{self.partition}:{self.offset}".encode()


class DeadLetterCause(NamedTuple):
    """Why a record could not be used."""

    reason: str
    """Typed, in capitals, for example UNDECODABLE."""
    detail: str
    """The defect in words; never a value of the event."""
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
    """Return (key, value) of the rejected record. KeyDestroyed when the key of its day was destroyed."""
    payload = keyring.open(record["key_day"], record["payload"], CONTEXT)
    length = int.from_bytes(payload[:4], "big")
    if length == NO_KEY:
        return None, payload[4:]
    return payload[4 : 4 + length], payload[4 + length :]
