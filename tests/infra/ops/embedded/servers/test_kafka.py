"""The embedded broker is a real one: it keeps what it acknowledged, over a crash too."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import confluent_kafka as ck
import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from infra.ops.embedded.servers.kafka import EmbeddedKafka


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """A broker of this module's own, because it is killed."""
    with EmbeddedKafka(tmp_path_factory.mktemp("killed")) as broker:
        yield broker


def create(address: str, topic: str) -> None:
    """Make a topic of one partition."""
    client = AdminClient({"bootstrap.servers": address})
    for future in client.create_topics([NewTopic(topic, 1, 1)]).values():
        future.result(20)


def write(address: str, topic: str, values: list[bytes]) -> None:
    """Write values in one transaction."""
    producer = ck.Producer({"bootstrap.servers": address, "transactional.id": f"t-{topic}"})
    producer.init_transactions(20)
    producer.begin_transaction()
    for value in values:
        producer.produce(topic, value)
    producer.commit_transaction(20)


def read(address: str, topic: str, count: int) -> list[bytes]:
    """Read the first values of a topic, committed ones only; fewer when they do not come within 20 seconds."""
    consumer = ck.Consumer({"bootstrap.servers": address, "group.id": "any", "isolation.level": "read_committed"})
    try:
        consumer.assign([ck.TopicPartition(topic, 0, 0)])
        values: list[bytes] = []
        deadline = time.monotonic() + 20
        while len(values) < count and time.monotonic() < deadline:
            message = consumer.poll(0.2)
            if message is not None and message.error() is None:
                values.append(message.value() or b"")
        return values
    finally:
        consumer.close()


def test_transaction_survives_kill_and_restart(broker: EmbeddedKafka) -> None:
    """What a transaction committed is there after kill -9 of the broker, on the same port."""
    create(broker.address, "kept")
    write(broker.address, "kept", [b"one", b"two"])
    assert read(broker.address, "kept", 2) == [b"one", b"two"]
    address, pid = broker.address, broker.pid
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while broker.running and time.monotonic() < deadline:
        time.sleep(0.01)
    broker.start()
    assert broker.address == address
    assert broker.pid != pid
    assert read(address, "kept", 2) == [b"one", b"two"]
    write(address, "kept", [b"three"])
    assert read(address, "kept", 3) == [b"one", b"two", b"three"]


def test_start_of_running_broker_changes_nothing(broker: EmbeddedKafka) -> None:
    """Starting twice leaves the one broker running."""
    pid = broker.start().pid
    assert broker.start().pid == pid


def test_unknown_topics_are_not_made(broker: EmbeddedKafka) -> None:
    """A misspelt topic is an error, not a new topic."""
    producer = ck.Producer({"bootstrap.servers": broker.address, "topic.metadata.propagation.max.ms": 500})
    errors: list[ck.KafkaError | None] = []
    producer.produce("misspelt", b"", on_delivery=lambda error, _: errors.append(error))
    producer.flush(10)
    assert errors
    assert errors[0] is not None
    assert errors[0].code() == ck.KafkaError.UNKNOWN_TOPIC_OR_PART


def test_half_a_format_does_not_count(tmp_path: Path) -> None:
    """A folder left by a format that was killed is formatted again."""
    (tmp_path / "logs.new").mkdir()
    (tmp_path / "logs.new" / "meta.properties").write_text("half")
    program = EmbeddedKafka(tmp_path).prepare()
    assert "cluster.id" in (tmp_path / "logs" / "meta.properties").read_text()
    assert not (tmp_path / "logs.new").exists()
    assert program.command[-1] == str(tmp_path / "server.properties")
