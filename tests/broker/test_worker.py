"""The runtime around a stage: outputs, hooks, broadcasts, restore, waiting, halting, progress checks, stopping."""

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import confluent_kafka as ck
import pytest
from confluent_kafka.admin import AdminClient

from infra.clients.topic_ids import offset_metadata, topic_ids
from infra.errors import EXIT_FENCED, EXIT_HALTED
from infra.payload_keyring import PayloadKeyring
from infra.secrets import Secret
from infra.settings import Settings
from schemas.codec import decode
from schemas.registry import Registry
from streams.runtime.dead_letters.dead_letter import open_letter
from tests.broker.copying import PARTITIONS, Copying, behind, create_topics, read_committed, wait_for_stable_end
from tests.broker.groups import commit_offsets
from tests.broker.test_fencing import PATIENCE_S, wait_until
from tests.support.scale import FULL

SECRET = "for tests only, forty characters long..."
SESSION_TIMEOUT_S = 3
IDLE_RECORDS = 25 if FULL else 10


class House(Copying):
    """Topics of the scripted stage, and its workers."""

    _producer: Any = None

    def open(self) -> None:
        """Create all topics of the run."""
        create_topics(self.kafka, [self.source, self.sink, f"{self.run}-state", "events.dead"])
        create_topics(self.kafka, [f"{self.run}-settings", f"{self.run}-ticks", "stream.counts"], partitions=1)

    @property
    def away(self) -> Path:
        """While this file exists, the stage raises Retryable."""
        return self.folder / "away"

    def send(self, *values: bytes, topic: str = "", key: bytes = b"k") -> None:
        """Produce values in one transaction, so that a marker is the last offset, and wait for the marker."""
        if self._producer is None:
            self._producer = ck.Producer({"bootstrap.servers": self.kafka, "transactional.id": f"test-{self.run}"})
            self._producer.init_transactions(30)
        self._producer.begin_transaction()
        for value in values:
            self._producer.produce(topic or self.source, value, key)
        self._producer.commit_transaction(30)
        wait_for_stable_end(self.kafka, topic or self.source)

    def work(self, slot: str = "0") -> subprocess.Popen[bytes]:
        """Start a worker."""
        return self.start(slot, away=str(self.away))

    def seen(self) -> list[bytes]:
        """Return the committed values of the sink."""
        return [message.value() for message in read_committed(self.kafka, self.sink)]

    def behind(self) -> int:
        """Return the number of offsets that the group has not committed yet."""
        return behind(self.kafka, self.group, self.source)

    def idle(self) -> bool:
        """Return whether the group has committed everything."""
        return self.behind() == 0


@pytest.fixture
def house(kafka: str, tmp_path: Path) -> Iterator[House]:
    """Topics of the test's own; workers end with the test."""
    settings = {"session_timeout_s": SESSION_TIMEOUT_S, "transaction_timeout_s": 10}
    house = House(kafka, tmp_path, module="tests.broker.scripted", settings=settings)
    house.open()
    yield house
    house.stop()


def test_a_batch_leaves_outputs_a_dead_letter_counts_and_hooks(house: House, contracts_dir: Path) -> None:
    """All of a batch is committed, also past the source's transaction marker; then hooks run, and ticks without events."""
    house.send(b"a", b"bad", b"drop", b"b")
    house.work()
    wait_until(house.idle, PATIENCE_S)
    assert house.seen() == [b"a|1|none", b"b|2|none"]
    assert_dead_letter(house, contracts_dir)
    notes = house.away.with_suffix(".hooks")
    wait_until(notes.exists, 10)
    assert notes.read_text().split() == ["3"]
    wait_until(lambda: len(read_committed(house.kafka, f"{house.run}-ticks")) >= 2, PATIENCE_S)


def assert_dead_letter(house: House, contracts_dir: Path) -> None:
    """The dead letter contains the record's encrypted bytes, its position and the reason; the drop is counted."""
    registry, keyring = Registry(contracts_dir), PayloadKeyring(house.folder / "keyring", Secret(SECRET))
    letters = [decode(registry, message.value())[1] for message in read_committed(house.kafka, "events.dead")]
    (letter,) = [letter for letter in letters if letter["source_topic"] == house.source]
    assert (letter["stage"], letter["reason"], letter["source_offset"]) == (house.run, "UNDECODABLE", 1)
    assert b"bad" not in letter["payload"]
    assert open_letter(letter, keyring) == (b"k", b"bad")
    counts = [decode(registry, message.value())[1] for message in read_committed(house.kafka, "stream.counts")]
    assert [c["n"] for c in counts if c["stage"] == house.run and c["outcome"] == "dropped:ASKED"] == [1]


def test_state_is_restored_before_the_first_batch(house: House) -> None:
    """A worker continues counting from the last commit of a killed one, in the same slot or another."""
    house.send(b"a", b"b")
    first = house.work()
    wait_until(house.idle, PATIENCE_S)
    first.kill()
    first.wait()
    house.send(b"c")
    house.work("1")
    wait_until(house.idle, PATIENCE_S)
    assert [value.split(b"|")[1] for value in house.seen()] == [b"1", b"2", b"3"]


def test_a_partition_that_moves_takes_its_state_along(house: House) -> None:
    """Under load a second worker joins, and the first is killed and comes back: each key is counted without a gap."""
    keys = [b"k%d" % i for i in range(40)]
    per_key = 0

    def send_some() -> None:
        nonlocal per_key
        for key in keys:
            house.send(b"a", b"b", key=key)
        per_key += 2

    first = house.work("0")
    send_some()
    wait_until(house.idle, PATIENCE_S)
    house.work("1")
    for _ in range(4):  # the second joins and takes over meanwhile
        send_some()
    first.kill()
    first.wait()
    send_some()
    house.work("0")
    for _ in range(2):
        send_some()
    wait_until(house.idle, PATIENCE_S)
    counted: dict[bytes, list[int]] = {}
    for message in read_committed(house.kafka, house.sink):
        counted.setdefault(message.key(), []).append(int(message.value().split(b"|")[1]))
    assert counted == {key: list(range(1, per_key + 1)) for key in keys}


def test_every_worker_reads_broadcasts_before_its_first_batch_and_follows(house: House) -> None:
    """The first batch knows the broadcast topic, and later batches know its later records."""
    house.send(b"old", b"new", topic=f"{house.run}-settings")
    house.send(b"a")
    house.work()
    wait_until(house.idle, PATIENCE_S)
    house.send(b"newer", topic=f"{house.run}-settings")

    def sent_with_newer() -> bool:
        house.send(b"b")
        wait_until(house.idle, PATIENCE_S)
        return house.seen()[-1].endswith(b"|newer")

    wait_until(sent_with_newer, PATIENCE_S)
    assert house.seen()[0] == b"a|1|new"


def test_a_stage_waits_for_a_service_and_commits_nothing(house: House) -> None:
    """While a service is away the worker stays in its group and emits nothing; then it goes on."""
    house.away.touch()
    house.send(b"a")
    worker = house.work()
    wait_until(lambda: "waiting" in house.log("0"), PATIENCE_S)
    # Longer than the session timeout: without polling meanwhile the worker would leave the group.
    with pytest.raises(subprocess.TimeoutExpired):
        worker.wait(SESSION_TIMEOUT_S + 1)
    assert house.behind() == 2
    house.away.unlink()
    wait_until(house.idle, PATIENCE_S)
    assert house.seen() == [b"a|1|none"]
    assert worker.poll() is None


def test_mostly_dead_records_halt_the_stage(house: House) -> None:
    """When most of 1,000 records are dead the worker halts, commits none of that batch and names the setting."""
    house.send(*[b"bad"] * 1_200)
    assert house.work().wait(PATIENCE_S) == EXIT_HALTED
    assert "HEADWATER_DEAD_LETTER_LIMIT" in house.log("0")
    assert house.behind() == 1_201


def test_a_hanging_batch_ends_the_worker(house: House) -> None:
    """A batch that neither ends nor waits for a service ends the process, so that a supervisor can restart it."""
    house.settings["stuck_after_s"] = 3
    house.send(b"hang")
    assert house.work().wait(PATIENCE_S) == EXIT_FENCED
    assert "no progress" in house.log("0")


def test_a_record_for_an_idle_partition_ends_no_worker(house: House) -> None:
    """Some of these records arrive at the very moment at which an idle partition is checked."""
    house.settings["stuck_after_s"] = 0.5
    worker = house.work()
    for n in range(IDLE_RECORDS):
        house.send(b"%d" % n)
        time.sleep(0.55 + n / IDLE_RECORDS / 4)
    assert worker.poll() is None, house.log("0")
    wait_until(house.idle, PATIENCE_S)
    assert [value.split(b"|")[0] for value in house.seen()] == [b"%d" % n for n in range(IDLE_RECORDS)]


def test_a_group_without_offsets_halts(house: House) -> None:
    """Without a committed offset and an explicit first start the worker halts and names the option."""
    house.send(b"a")
    worker = house.start("0", away=str(house.away), begin="committed")
    assert worker.wait(PATIENCE_S) == EXIT_HALTED
    assert "--from earliest" in house.log("0")


def test_a_signal_stops_it_in_order(house: House) -> None:
    """SIGTERM commits whole batches, closes and exits with 0; the next worker repeats nothing."""
    house.send(*[b"%d" % i for i in range(5_000)])
    worker = house.work()
    wait_until(lambda: house.behind() < 5_001, PATIENCE_S)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE_S) == 0
    house.work()
    wait_until(house.idle, PATIENCE_S)
    assert [value.split(b"|")[0] for value in house.seen()] == [b"%d" % i for i in range(5_000)]


def recreate_topic(house: House, topic: str, partitions: int = PARTITIONS) -> None:
    """Delete a topic and create it again."""
    client, settings = AdminClient({"bootstrap.servers": house.kafka}), Settings(kafka=house.kafka)
    client.delete_topics([topic])[topic].result(20)
    wait_until(lambda: not topic_ids(settings, [topic]), PATIENCE_S)
    create_topics(house.kafka, [topic], partitions)
    wait_until(lambda: topic_ids(settings, [topic]), PATIENCE_S)


def test_a_recreated_source_is_read_from_its_first_record(house: House) -> None:
    """A consumer would go on at its old position: the worker halts, and `--from earliest` begins at the first record."""
    house.send(*[b"old"] * 10)
    worker = house.work()
    wait_until(house.idle, PATIENCE_S)
    recreate_topic(house, house.source)
    house.send(*[b"%d" % n for n in range(30)])
    assert worker.wait(PATIENCE_S) == EXIT_HALTED
    assert f"{house.source} was deleted and created again" in house.log("0")
    house.work()
    # Records that passed at the old position before the halt come twice; none is missing.
    wait_until(lambda: {b"%d" % n for n in range(30)} <= {value.split(b"|")[0] for value in house.seen()}, PATIENCE_S)


def test_a_recreated_broadcast_topic_is_read_from_its_beginning(house: House) -> None:
    """Its follower would go on at its old position: the worker ends, and the next one reads all of it."""
    settings = f"{house.run}-settings"
    house.send(b"old", b"older", b"oldest", topic=settings)
    house.send(b"a")
    worker = house.work()
    wait_until(house.idle, PATIENCE_S)
    recreate_topic(house, settings, partitions=1)
    house.send(b"new", topic=settings)
    assert worker.wait(PATIENCE_S) == EXIT_FENCED
    assert f"{settings} was deleted and created again" in house.log("0")
    house.send(b"b")
    house.work()
    wait_until(house.idle, PATIENCE_S)
    assert house.seen() == [b"a|1|oldest", b"b|2|new"]


def test_an_offset_with_another_topic_id_is_not_used(house: House) -> None:
    """An offset is committed with its topic's id; under another id the worker halts and skips nothing silently."""
    house.send(*[b"%d" % n for n in range(30)])
    stale = ck.TopicPartition(house.source, 0, 12, offset_metadata("of-an-older-topic"))
    places = [stale, *(ck.TopicPartition(house.source, partition, 0) for partition in range(1, PARTITIONS))]
    consumer = ck.Consumer({"bootstrap.servers": house.kafka, "group.id": house.group, "enable.auto.commit": False})
    commit_offsets(consumer, places)
    consumer.close()
    assert house.start("0", away=str(house.away), begin="committed").wait(PATIENCE_S) == EXIT_HALTED
    assert "--from earliest" in house.log("0")
    house.work()
    wait_until(house.idle, PATIENCE_S)
    assert [value.split(b"|")[0] for value in house.seen()] == [b"%d" % n for n in range(30)]


def test_an_offset_behind_the_end_is_not_usable(house: House) -> None:
    """It belongs to a deleted topic and was committed without a topic id: `--from earliest` begins at the first record."""
    house.send(*[b"%d" % n for n in range(30)])
    places = [ck.TopicPartition(house.source, partition, 500) for partition in range(PARTITIONS)]
    consumer = ck.Consumer({"bootstrap.servers": house.kafka, "group.id": house.group, "enable.auto.commit": False})
    commit_offsets(consumer, places)
    consumer.close()
    house.work()
    wait_until(house.idle, PATIENCE_S)
    assert [value.split(b"|")[0] for value in house.seen()] == [b"%d" % n for n in range(30)]
