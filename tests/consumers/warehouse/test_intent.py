"""What a commit's metadata says about an insert."""

import pytest

from consumers.warehouse.batch import Buffer
from consumers.warehouse.intent import Intent, read_intent, token


def test_an_intent_comes_back_from_the_metadata() -> None:
    """Written and read again."""
    intent = Intent(10, 25)
    assert intent.metadata == "v1:10-25"
    assert read_intent(10, intent.metadata) == intent
    assert token("events.resolved", 3, intent, 7) == "events.resolved:3:10-25:7"


@pytest.mark.parametrize("metadata", [None, "", "v1:10-9", "v2:10-25", "v1:11-25", "v1:10-25 ", "something else"])
def test_other_metadata_is_no_intent(metadata: str | None) -> None:
    """Nothing is guessed from metadata of another form, or of another offset."""
    assert read_intent(10, metadata) is None


def test_a_replayed_batch_ends_where_the_intent_does() -> None:
    """Records after the intent wait for the next batch, and a hole at its end is no reason to wait."""
    buffer = Buffer("t", 0, 10, Intent(10, 14))
    for offset in (10, 11, 13):
        buffer.add(offset, None, b"x", 0.0)
    assert not buffer.due(100.0)
    buffer.add(16, None, b"y", 0.0)
    assert buffer.due(0.0)
    batch = buffer.batch()
    assert (batch.offsets, batch.next, batch.intent) == ([10, 11, 13], 16, Intent(10, 14))
    buffer.done(batch, 1.0)
    assert (buffer.offsets, buffer.intent, buffer.committed) == ([16], None, 16)


def test_a_failed_batch_is_doubted_and_waits_longer_each_time() -> None:
    """After a failure the buffer is not due before its pause, which doubles up to ten seconds."""
    buffer = Buffer("t", 0, 0)
    buffer.add(0, None, b"x", 0.0)
    assert buffer.due(2.0)
    pauses = []
    for _ in range(8):
        buffer.failed(2.0)
        assert buffer.doubtful
        assert not buffer.due(buffer.retry_at - 0.01)
        assert buffer.due(buffer.retry_at + 2)
        pauses.append(buffer.pause_s)
    assert pauses == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
