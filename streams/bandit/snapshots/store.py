"""The snapshot store that decisions read: an immutable blob per version, and a pointer that only moves forward."""

from typing import Any, Protocol

import redis

from infra.errors import Retryable

KEPT = 50
"""Number of versions whose blobs stay, for a rollback."""

# One key only, so that it works on a cluster. Moves the pointer to a higher version only; returns the version in force.
MOVE = """
local held = tonumber(redis.call('GET', KEYS[1]) or '0')
local new = tonumber(ARGV[1])
if new > held then redis.call('SET', KEYS[1], ARGV[1]) return new end
return held
"""


def pointer_key(experiment: str) -> str:
    """Return the Redis key of the version in force."""
    return f"bandit:{{{experiment}}}:current"


def blob_key(experiment: str, version: int) -> str:
    """Return the Redis key of one version: the framed record of `bandit.snapshots`."""
    return f"bandit:{{{experiment}}}:{version}"


class SnapshotStore(Protocol):
    """Idempotent and monotone: publishing a version again, or an older one, changes nothing."""

    def publish(self, experiment: str, version: int, blob: bytes) -> int:
        """Store a version, move the pointer forward, and return the version in force. Retryable while the store is away."""
        ...


class MemorySnapshotStore:
    """A store in memory, for tests."""

    def __init__(self) -> None:
        self.blobs: dict[tuple[str, int], bytes] = {}
        self.pointers: dict[str, int] = {}

    def publish(self, experiment: str, version: int, blob: bytes) -> int:
        """Store a version, move the pointer forward, and return the version in force."""
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
        """Store a version, move the pointer forward, and return the version in force. Retryable while Redis is away."""
        try:
            # The blob first, so that a visible pointer always has its blob.
            self._redis.set(blob_key(experiment, version), blob, nx=True)
            in_force = int(self._move(keys=[pointer_key(experiment)], args=[version]))
            if version > KEPT:
                self._redis.unlink(blob_key(experiment, version - KEPT))
        except redis.RedisError as error:
            raise Retryable(f"Redis: {type(error).__name__}") from error
        return in_force
