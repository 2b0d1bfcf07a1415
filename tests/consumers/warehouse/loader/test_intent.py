"""Metadata of commits, and buffers of partitions."""

import pytest

from consumers.warehouse.loader.batch import PartitionBuffer
from consumers.warehouse.loader.intent import CommitMetadata, Intent, read_metadata, token
from consumers.warehouse.topic_partition import TopicPartition

SOURCE = TopicPartition("events.resolved", 3, "AAAAAAAAQACAAAAAAAAAAA")


def test_metadata_comes_back_from_its_text() -> None:
    """Topic id, intent and reason are written and read again; the token contains the topic id."""
    metadata = CommitMetadata(SOURCE.topic_id, Intent(10, 25), "ClickHouse: its disk is full")
    assert read_metadata(10, metadata.text) == metadata
    assert read_metadata(26, CommitMetadata(SOURCE.topic_id).text) == CommitMetadata(SOURCE.topic_id)
    assert token(SOURCE, Intent(10, 25), 7) == "events.resolved:AAAAAAAAQACAAAAAAAAAAA:3:10-25:7"


def test_metadata_of_an_older_version_is_understood() -> None:
    """An insert that an older version began is replayed after an upgrade."""
    assert read_metadata(10, "v1:10-25") == CommitMetadata("", Intent(10, 25))


@pytest.mark.parametrize(
    "text",
    [
        None, "", "v1:10-9", "v2:10-25", "v1:11-25", "v1:10-25 ", "something else", "[]", "7", "null", '{"intent": 3}',
        '{"intent": [10, 9]}', '{"intent": [11, 25]}', '{"intent": ["10", "25"]}', '{"intent": [10, 25, 30]}', '{"intent": [10',
    ],
)  # fmt: skip
def test_other_metadata_is_no_intent(text: str | None) -> None:
    """Metadata of another form or for another offset is ignored."""
    assert read_metadata(10, text).intent is None


def test_a_text_that_is_waited_for_is_bounded() -> None:
    """A broker refuses metadata of more than 4,096 bytes."""
    assert len(CommitMetadata("x" * 22, Intent(10**18 - 1, 10**18 - 1), "\u20ac" * 5_000).text) < 4_096


def test_a_replayed_batch_ends_where_the_intent_does() -> None:
    """Records after the intent wait for the next batch, and a gap at its end does not delay it."""
    buffer = PartitionBuffer(SOURCE, 10, Intent(10, 14))
    for offset in (10, 11, 13):
        buffer.extend([offset], [None], [b"x"], 0.0)
    assert not buffer.due(100.0)
    buffer.extend([16], [None], [b"y"], 0.0)
    assert buffer.due(0.0)
    batch = buffer.next_batch()
    assert (batch.offsets, batch.next, batch.intent) == ([10, 11, 13], 16, Intent(10, 14))
    buffer.mark_committed(batch, 1.0)
    assert (buffer.offsets, buffer.intent, buffer.committed) == ([16], None, 16)


def test_a_failed_batch_is_doubted_and_waits_longer_each_time() -> None:
    """After a failure the buffer is not due before its pause, which doubles up to ten seconds."""
    buffer = PartitionBuffer(SOURCE, 0)
    buffer.extend([0], [None], [b"x"], 0.0)
    assert buffer.due(2.0)
    pauses = []
    for _ in range(8):
        batch = buffer.next_batch()
        buffer.in_flight = batch
        buffer.mark_failed(batch, "ClickHouse does not answer", 2.0)
        assert buffer.uncertain
        assert buffer.intent == Intent(0, 0)
        assert not buffer.due(buffer.retry_at - 0.01)
        assert buffer.due(buffer.retry_at + 2)
        pauses.append(buffer.retry_at - 2.0)
    assert pauses == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_reading_goes_on_while_a_batch_is_in_flight() -> None:
    """Records that arrive meanwhile are the next batch, which is not due before the first has ended."""
    buffer = PartitionBuffer(SOURCE, 0)
    for offset in range(3):
        buffer.extend([offset], [None], [b"xyz"], 0.0)
    batch = buffer.next_batch()
    buffer.in_flight = batch
    buffer.extend([3], [None], [b"x"], 50.0)
    assert not buffer.due(100.0)
    assert (buffer.size, buffer.since) == (10, 50.0)
    buffer.mark_committed(batch, 51.0)
    assert (buffer.offsets, buffer.size) == ([3], 1)
    assert buffer.due(52.0)


def test_a_partition_that_waits_is_read_no_further() -> None:
    """A buffer holds what its intent covers; a predecessor's intent is read to its end before the partition is paused."""
    buffer = PartitionBuffer(SOURCE, 10, Intent(10, 14), uncertain=True)
    assert not buffer.ready
    buffer.extend([10, 11], [None, None], [b"x", b"x"], 0.0)
    assert not buffer.ready
    buffer.extend([20], [None], [b"x"], 0.0)
    assert buffer.ready
