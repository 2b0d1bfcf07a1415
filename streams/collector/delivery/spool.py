"""The spool: records that Kafka did not acknowledge in time, on disk, encrypted, in order. `append` returns after fsync.

Segments of framed records: length (4 bytes, big-endian), day of the key (10 bytes), nonce and ciphertext of one frame
(topic, key, value). A record truncated by a crash was never acknowledged to its sender, and is skipped.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from infra.payload_keyring import KeyDestroyed, PayloadKeyring
from infra.telemetry.logs import get_logger

CONTEXT = b"spool"
SEGMENT_BYTES = 8_388_608
DAY_BYTES = 10
MAX_REQUEST_BYTES = 2_097_152
LENGTHS = struct.Struct(">HI")


class SpoolFull(Exception):
    """The spool has no room: the sender must keep the records."""


class SpoolRecord(NamedTuple):
    """One record for Kafka."""

    topic: str
    key: bytes
    value: bytes


class Spool:
    """One collector's spool. `append` and `drop` are called from one thread at a time."""

    def __init__(self, folder: Path, keyring: PayloadKeyring, max_bytes: int) -> None:
        self._folder = folder
        self._keyring = keyring
        self._max_bytes = max_bytes
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._segments = sorted(folder.glob("*.spool"))
        self.bytes = sum(file.stat().st_size for file in self._segments)
        self._number = int(self._segments[-1].stem) if self._segments else 0
        self._open: int | None = None
        self._written = 0

    @property
    def empty(self) -> bool:
        """Whether no records wait."""
        return not self._segments

    @property
    def has_room(self) -> bool:
        """Whether a request of the largest allowed size fits."""
        return self.bytes + MAX_REQUEST_BYTES < self._max_bytes

    def append(self, records: Sequence[SpoolRecord], now: float) -> None:
        """Write the records and fsync. SpoolFull or OSError where they do not all fit; then none is written."""
        frames = b"".join(self._frame(record, now) for record in records)
        if self.bytes + len(frames) > self._max_bytes:
            raise SpoolFull
        if self._open is None or self._written >= SEGMENT_BYTES:
            self._next_segment()
        assert self._open is not None  # noqa: S101 - _next_segment opened it
        try:
            _write_all(self._open, frames)
            os.fsync(self._open)
        except OSError:
            self._remove_torn()
            raise
        self._written += len(frames)
        self.bytes += len(frames)

    def open_oldest(self) -> tuple[Path, Iterator[SpoolRecord]]:
        """Return the oldest segment and its records. It is closed to further records."""
        file = self._segments[0]
        if len(self._segments) == 1:
            self._close()
        return file, self._read(file)

    def drop(self, file: Path) -> None:
        """Delete a segment whose records Kafka has acknowledged."""
        self.bytes -= file.stat().st_size
        file.unlink()
        self._segments.remove(file)

    def _frame(self, record: SpoolRecord, now: float) -> bytes:
        topic = record.topic.encode()
        payload = LENGTHS.pack(len(topic), len(record.key)) + topic + record.key + record.value
        day, ciphertext = self._keyring.seal(payload, now, CONTEXT)
        return (DAY_BYTES + len(ciphertext)).to_bytes(4, "big") + day.encode() + ciphertext

    def _read(self, file: Path) -> Iterator[SpoolRecord]:
        with file.open("rb") as data:
            while len(prefix := data.read(4)) == 4:
                body = data.read(int.from_bytes(prefix, "big"))
                if len(body) < int.from_bytes(prefix, "big"):
                    return
                try:
                    payload = self._keyring.open(body[:DAY_BYTES].decode(), body[DAY_BYTES:], CONTEXT)
                except (KeyDestroyed, UnicodeDecodeError) as error:
                    get_logger().error("a spooled record cannot be read and is passed over", error=type(error).__name__)
                    continue
                topic_size, key_size = LENGTHS.unpack_from(payload)
                topic_end = LENGTHS.size + topic_size
                key_end = topic_end + key_size
                yield SpoolRecord(payload[LENGTHS.size : topic_end].decode(), payload[topic_end:key_end], payload[key_end:])

    def _next_segment(self) -> None:
        self._close()
        self._number += 1
        file = self._folder / f"{self._number:012d}.spool"
        self._open = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        folder = os.open(self._folder, os.O_RDONLY)
        os.fsync(folder)  # the file's name must survive a crash too
        os.close(folder)
        self._segments.append(file)

    def _remove_torn(self) -> None:
        """Remove what a failed write left behind: its length would swallow the records that are written after it."""
        assert self._open is not None  # noqa: S101 - append opened it
        try:
            os.ftruncate(self._open, self._written)
        except OSError:
            self._close()  # later records go to the next segment

    def _close(self) -> None:
        if self._open is not None:
            os.close(self._open)
            self._open = None
        self._written = 0

    def close(self) -> None:
        """Close the open segment."""
        self._close()


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]
