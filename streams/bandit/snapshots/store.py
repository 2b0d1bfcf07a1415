"""Where decisions find snapshots: an immutable blob a version, and a pointer that only ever moves forward."""

from typing import Any, Protocol

import redis

from infra.errors import Retryable

KEPT = 50
"""Versions whose blobs stay, so that there is something to roll back to."""

# One key only, so that it works on a cluster: the pointer moves to a higher version or stays. Returns where it is.
MOVE = """
local held = tonumber(redis.call('GET', KEYS[1]) or '0')
local new = tonumber(ARGV[1])
if new > held then redis.call('SET', KEYS[1], ARGV[1]) return new end
return held
"""


def pointer_key(experiment: str) -> str:
    """Redis key of the version in force."""
    return f"bandit:{{{experiment}}}:current"


def blob_key(experiment: str, version: int) -> str:
    """Redis key of one version: the record of `bandit.snapshots`, framed."""
    return f"bandit:{{{experiment}}}:{version}"


class SnapshotStore(Protocol):
    """Idempotent and monotone: publishing a version again, or an older one, changes nothing."""

    def publish(self, experiment: str, version: int, blob: bytes) -> int:
        """Store a version and move the pointer forward. Returns the version in force. Retryable while it is away."""
        ...


class MemorySnapshotStore:
    """For tests and walks without Redis."""

    def __init__(self) -> None:
        self.blobs: dict[tuple[str, int], bytes] = {}
        self.pointers: dict[str, int] = {}

    def publish(self, experiment: str, version: int, blob: bytes) -> int:
        """See `SnapshotStore`."""
        self.blobs.setdefault((experiment, version), blob)
        self.blobs.pop((experiment, version - KEPT), None)
        self.pointers[experiment] = max(version, self.pointers.get(experiment, 0))
        return self.pointers[experiment]


class RedisSnapshotStore:
    """Snapshots in Redis."""

    def __init__(self, client: Any) -> None:
        self._redis = client
        self._move = client.register_script(MOVE)

    def publish(self, experiment: str, version: int, blob: bytes) -> int:
        """See `SnapshotStore`."""
        try:
            # The blob first: whoever sees the pointer finds what it points to.
            self._redis.set(blob_key(experiment, version), blob, nx=True)
            in_force = int(self._move(keys=[pointer_key(experiment)], args=[version]))
            if version > KEPT:
                self._redis.unlink(blob_key(experiment, version - KEPT))
        except redis.RedisError as error:
            raise Retryable(f"Redis: {type(error).__name__}") from error
        return in_force
