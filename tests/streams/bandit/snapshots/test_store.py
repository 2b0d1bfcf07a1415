"""The snapshot store: memory and a real Redis behave alike."""

from collections.abc import Callable, Iterator

import pytest
import redis

from infra.errors import Retryable
from streams.bandit.snapshots.store import KEPT, MemorySnapshotStore, RedisSnapshotStore, SnapshotStore, blob_key, pointer_key

ReadBlob = Callable[[str, int], bytes | None]


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest) -> Iterator[tuple[SnapshotStore, ReadBlob]]:
    """A store and a function that reads its blobs."""
    if request.param == "memory":
        memory = MemorySnapshotStore()
        yield memory, lambda experiment, version: memory.blobs.get((experiment, version))
        return
    with redis.Redis.from_url(request.getfixturevalue("redis_url")) as client:
        client.flushdb()
        yield RedisSnapshotStore(client), lambda experiment, version: client.get(blob_key(experiment, version))


def test_the_pointer_only_moves_forward(store: tuple[SnapshotStore, ReadBlob]) -> None:
    """An older version, in any order, never replaces a newer one; each experiment has its own pointer."""
    snapshots, _ = store
    assert [snapshots.publish("hero", version, b"x") for version in (1, 3, 2, 3, 10, 9)] == [1, 3, 3, 3, 10, 10]
    assert snapshots.publish("other", 2, b"y") == 2


def test_a_version_is_immutable(store: tuple[SnapshotStore, ReadBlob]) -> None:
    """Publishing a version again keeps the bytes it was first published with."""
    snapshots, look = store
    snapshots.publish("hero", 1, b"first")
    snapshots.publish("hero", 1, b"second")
    assert look("hero", 1) == b"first"


def test_only_the_last_versions_stay(store: tuple[SnapshotStore, ReadBlob]) -> None:
    """Fifty versions stay, the one before is deleted."""
    snapshots, look = store
    for version in range(1, KEPT + 2):
        snapshots.publish("hero", version, b"x")
    assert look("hero", 1) is None
    assert look("hero", 2) == b"x"


def test_a_redis_that_is_away_is_retryable() -> None:
    """An unreachable Redis raises Retryable."""
    with redis.Redis.from_url("redis://127.0.0.1:1", socket_connect_timeout=0.2) as client, pytest.raises(Retryable):
        RedisSnapshotStore(client).publish("hero", 1, b"x")


def test_pointer_and_blobs_share_a_hash_slot() -> None:
    """On a cluster both lie on one node."""
    assert pointer_key("hero").split("}")[0] == blob_key("hero", 7).split("}")[0]
