"""`headwater dead replay` on a real broker: killed, raced, rate-limited, and with recreated topics."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import confluent_kafka as ck
import pytest
from confluent_kafka.admin import NewTopic
from hypothesis import given
from hypothesis import strategies as st

from infra.clients.kafka import admin, producer
from infra.clients.topic_ids import topic_ids
from infra.errors import Retryable
from infra.ops.topics import apply
from infra.payload_keyring import PayloadKeyring
from infra.settings import Settings
from infra.telemetry.metrics import Metrics
from schemas.registry import Registry
from streams.runtime.dead_letters.dead_letter import DeadLetterCause, DeadLetters, RecordPosition
from streams.runtime.dead_letters.replay import CATCH_UP_S, DEAD, REPLAYS, LetterPosition, LetterSet, Replay, read_replayed
from streams.runtime.follow import stable_end
from tests.broker.copying import read_committed
from tests.broker.test_fencing import wait_until
from tests.support.shared_kafka import SharedKafka

SECRET = "for tests only, forty characters long..."
ROOT = Path(__file__).parents[2]
RAW = "events.raw"
POSITIONS = st.builds(LetterPosition, st.integers(0, 3), st.integers(0, 5_000))


@pytest.fixture
def settings(shared_kafka: SharedKafka, tmp_path: Path) -> Settings:
    """An installation with new topics, which a test may delete."""
    installation = Settings(kafka=shared_kafka.fresh(), state_dir=tmp_path, secret=SECRET, partitions=3)
    apply(installation)
    return installation


def publish_dead_letters(settings: Settings, values: list[bytes], topic: str = RAW) -> None:
    """Publish a dead letter of the consent stage about each value."""
    letters = DeadLetters(
        Registry(settings.contracts), PayloadKeyring(settings.keyring_dir, settings.master), "consent", Metrics()
    )
    client, now = producer(settings), time.time()
    for n, value in enumerate(values):
        key, letter, _ = letters.build(
            DeadLetterCause("UNDECODABLE", "no frame", RecordPosition(topic, n % 3, n)), value, value, now
        )
        client.produce(DEAD, letter, key)
    assert client.flush(20) == 0


def start(settings: Settings, *words: str) -> subprocess.Popen[bytes]:
    """Start `headwater dead replay --send`."""
    environment = {**os.environ, "HEADWATER_SECRET": SECRET, "HEADWATER_STATE_DIR": str(settings.state_dir)}
    environment["HEADWATER_KAFKA"] = settings.kafka
    command = [sys.executable, "-c", "from infra.ops.cli import main; main()", "dead", "replay", "--send", *words]
    return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def sent(settings: Settings, topic: str = RAW) -> Counter[bytes]:
    """Count the committed values of a topic."""
    return Counter(message.value() for message in read_committed(settings.kafka, topic))


def written(settings: Settings, topic: str) -> int:
    """Return the number of offsets of a topic, committed or not."""
    consumer = ck.Consumer({"bootstrap.servers": settings.kafka, "group.id": "t", "isolation.level": "read_uncommitted"})
    try:
        return sum(stable_end(consumer, topic, p)[1] for p in consumer.list_topics(topic, timeout=20).topics[topic].partitions)
    finally:
        consumer.close()


def recreate_topic(settings: Settings, topic: str) -> None:
    """Delete a topic and create it again."""
    client = admin(settings)
    client.delete_topics([topic])[topic].result(20)
    wait_until(lambda: not topic_ids(settings, [topic]), 20)
    client.create_topics([NewTopic(topic, 3, 1)])[topic].result(20)
    apply(settings)


def test_a_replay_that_is_killed_sends_no_letter_twice(settings: Settings) -> None:
    """After three killed runs and two complete ones each record is on its topic once."""
    values = [b"%d" % n for n in range(4_000)]
    publish_dead_letters(settings, values)
    for _ in range(3):
        before, run = written(settings, RAW), start(settings, "--rate", "1500")
        wait_until(lambda before=before, run=run: written(settings, RAW) > before + 400 or run.poll() is not None, 60)
        assert run.poll() is None, run.communicate()
        run.kill()
        run.communicate()
    last = start(settings, "--rate", "0")
    output = last.communicate(timeout=60)[0].decode()
    assert last.returncode == 0, output
    assert sent(settings) == Counter(values)
    assert 0 < len(read_replayed(settings)) == len(values)
    again = start(settings, "--json").communicate(timeout=60)[0]
    assert json.loads(again)["outcomes"] == [{"outcome": "sent_before", "topic": RAW, "letters": 4_000}]
    assert sent(settings) == Counter(values)


def test_a_second_replay_ends_the_first(settings: Settings) -> None:
    """The first run's open transaction is aborted, and the second run sends its letters."""
    with Replay(settings, 0) as first:
        first.send(LetterPosition(0, 1), RAW, b"k", b"one")
        first.commit()
        first.send(LetterPosition(0, 2), RAW, b"k", b"two")
        with Replay(settings, 0) as second:
            assert LetterPosition(0, 1) in second.replayed
            assert LetterPosition(0, 2) not in second.replayed
            second.send(LetterPosition(0, 2), RAW, b"k", b"two")
        with pytest.raises(Retryable, match="another replay has begun"):
            first.commit()
        first._pending = {}
    assert sent(settings) == {b"one": 1, b"two": 1}


def test_a_fenced_replay_names_the_cause(settings: Settings) -> None:
    """The client is fenced in the background and fails the next call with a bare "fatal"; the error names the cause."""
    with Replay(settings, 0) as first:
        with Replay(settings, 0):
            pass
        first.send(LetterPosition(0, 1), RAW, b"k", b"one")
        time.sleep(1)
        with pytest.raises(Retryable, match="another replay has begun"):
            first.commit()
        first._pending = {}
    assert sent(settings) == {}


def test_records_and_marks_are_one_transaction(settings: Settings) -> None:
    """After an exception neither the record nor its mark is committed."""
    with pytest.raises(KeyboardInterrupt), Replay(settings, 0) as run:  # noqa: PT012 - the second statement is what is tested
        run.send(LetterPosition(2, 5), RAW, b"k", b"value")
        raise KeyboardInterrupt
    assert sent(settings) == {}
    assert len(read_replayed(settings)) == 0
    assert read_committed(settings.kafka, REPLAYS) == []


def test_the_rate_is_a_limit(settings: Settings) -> None:
    """40 letters at 20 a second take two seconds, and some are committed before the end."""
    began = time.monotonic()
    with Replay(settings, 20) as run:
        for n in range(40):
            run.send(LetterPosition(0, n), RAW, b"k", b"%d" % n)
        assert run.sent > 0
    assert time.monotonic() - began >= 39 / 20 - CATCH_UP_S
    assert run.sent == 40


def test_letters_about_recreated_and_deleted_topics(settings: Settings) -> None:
    """Letters about a recreated topic go to the new one; letters about a deleted topic stay and are reported."""
    publish_dead_letters(settings, [b"a", b"b"])
    publish_dead_letters(settings, [b"c"], "events.gone")
    recreate_topic(settings, RAW)
    output = start(settings).communicate(timeout=60)[0].decode()
    assert "2  sent to events.raw" in output
    assert "1  about events.gone, which is not there" in output
    assert sent(settings) == {b"a": 1, b"b": 1}


def test_letters_on_a_recreated_topic_were_not_sent_before(settings: Settings) -> None:
    """Letters on a recreated events.dead have the positions of letters that were sent."""
    publish_dead_letters(settings, [b"a", b"b", b"c"])
    assert b"3  sent to events.raw" in start(settings).communicate(timeout=60)[0]
    recreate_topic(settings, DEAD)
    publish_dead_letters(settings, [b"d", b"e", b"f"])
    assert b"3  sent to events.raw" in start(settings).communicate(timeout=60)[0]
    assert sent(settings) == Counter([b"a", b"b", b"c", b"d", b"e", b"f"])


@given(st.sets(POSITIONS, max_size=60), st.sets(POSITIONS, max_size=60))
def test_a_letter_set_contains_the_added_positions(added: set[LetterPosition], others: set[LetterPosition]) -> None:
    """A set contains exactly the added positions."""
    letters = LetterSet()
    for position in added:
        letters.add(position)
    assert len(letters) == len(added)
    assert {position for position in added | others if position in letters} == added
