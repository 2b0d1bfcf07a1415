"""What a worker remembers of its own events while the store is unavailable."""

from streams.identity.recent import RecentEvents


def test_retries_are_known_and_replays_are_none() -> None:
    """Another position is a duplicate, the same position is not; holders by other workers are kept."""
    recent = RecentEvents()
    recent.remember({b"a": b"0:1"}, {})
    assert recent.find_duplicates({b"a": b"0:1", b"x": b"0:3"}) == {}
    assert recent.find_duplicates({b"a": b"0:2", b"x": b"0:3"}) == {b"a": b"0:1"}
    recent.remember({b"d": b"0:5"}, {b"d": b"1:5"})
    assert recent.find_duplicates({b"d": b"0:5"}) == {b"d": b"1:5"}
    assert recent.find_duplicates({b"d": b"1:5"}) == {}


def test_memory_is_bounded() -> None:
    """The older generation is dropped once the younger one is full."""
    recent = RecentEvents(most=10)
    for n in range(100):
        recent.remember({b"%d" % n: b"0:%d" % n}, {})
    assert len(recent._young) + len(recent._old) <= 22
    assert set(recent.find_duplicates({b"%d" % n: b"x" for n in range(100)})) >= {b"%d" % n for n in range(90, 100)}
