"""A pair of topics and workers of the pass-through stage that copy records from one to the other."""

import json
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import confluent_kafka as ck
from confluent_kafka.admin import AdminClient, NewTopic

from streams.runtime.follow import stable_end

SHARED = ("events.dead", "stream.counts")
PARTITIONS = 4
COORDINATOR_MOVES = (ck.KafkaError.NOT_COORDINATOR, ck.KafkaError.COORDINATOR_LOAD_IN_PROGRESS)


def create_topics(kafka: str, topics: Iterable[str], partitions: int = PARTITIONS) -> None:
    """Create missing topics."""
    admin = AdminClient({"bootstrap.servers": kafka})
    for future in admin.create_topics([NewTopic(topic, partitions, 1) for topic in topics]).values():
        try:
            future.result()
        except ck.KafkaException as error:
            if error.args[0].code() != ck.KafkaError.TOPIC_ALREADY_EXISTS:
                raise


def committed_sum(kafka: str, group: str, topic: str, partitions: int = PARTITIONS) -> int:
    """Return the sum of a group's committed offsets on a topic. Waits while the group coordinator moves."""
    consumer = ck.Consumer({"bootstrap.servers": kafka, "group.id": group})
    tps = [ck.TopicPartition(topic, partition) for partition in range(partitions)]
    deadline = time.monotonic() + 20
    try:
        while True:
            try:
                return sum(max(0, int(tp.offset)) for tp in consumer.committed(tps, timeout=20))
            except ck.KafkaException as error:
                if error.args[0].code() not in COORDINATOR_MOVES or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
    finally:
        consumer.close()


def behind(kafka: str, group: str, topic: str, partitions: int = PARTITIONS) -> int:
    """Return the offsets between a group's committed offsets and the ends of a topic, transaction markers included."""
    # Uncommitted: a producer is told of its commit before the partitions have the marker, so the stable end may still be 0.
    consumer = ck.Consumer({"bootstrap.servers": kafka, "group.id": group, "isolation.level": "read_uncommitted"})
    try:
        end = sum(stable_end(consumer, topic, p)[1] for p in range(partitions))
        return end - committed_sum(kafka, group, topic, partitions)
    finally:
        consumer.close()


@dataclass
class Counted:
    """How the committed records of a topic differ from the numbers 0..n-1."""

    lost: int
    doubled: int
    out_of_order: int


@dataclass
class Copying:
    """One run, with topics and a group of its own on a shared broker."""

    kafka: str
    folder: Path
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    module: str = "bench.passthrough"
    options: dict[str, Any] = field(default_factory=dict)
    """More for the worker's configuration, e.g. `sleep_s`."""
    settings: dict[str, Any] = field(default_factory=dict)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def source(self) -> str:
        """Topic that is copied."""
        return f"in-{self.run}"

    @property
    def sink(self) -> str:
        """Topic it is copied to."""
        return f"out-{self.run}"

    @property
    def group(self) -> str:
        """Consumer group of the workers."""
        return f"headwater.{self.run}"

    def fill(self, records: int) -> None:
        """Produce the numbers 0..records-1 under 1,000 keys, each key on one partition."""
        create_topics(self.kafka, [self.source, self.sink, *SHARED])
        # Idempotent, because a plain producer's retry on a topic just created may swap two of its batches.
        options = {"enable.idempotence": True, "linger.ms": 20, "queue.buffering.max.messages": 2_000_000}
        producer = ck.Producer({"bootstrap.servers": self.kafka, **options})
        for i in range(records):
            producer.produce(self.source, b"%d" % i, b"k%d" % (i % 1000), partition=i % PARTITIONS)
            if i % 5000 == 0:
                producer.poll(0)
        producer.flush()

    def start(self, slot: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a worker in `slot`."""
        settings = {
            "kafka": self.kafka,
            "state_dir": str(self.folder),
            "secret": "for tests only, forty characters long...",
            "slot": slot,
            **self.settings,
        }
        config = {"name": self.run, "source": self.source, "sink": self.sink, "settings": settings, **self.options, **options}
        log = (self.folder / f"worker-{slot}.log").open("ab")
        process = subprocess.Popen([sys.executable, "-m", self.module, json.dumps(config)], stdout=log, stderr=log)
        log.close()
        self.processes.append(process)
        return process

    def stop(self) -> None:
        """Kill the remaining workers."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()

    def lag(self, records: int) -> int:
        """Return the number of records that the group has not committed yet."""
        return records - committed_sum(self.kafka, self.group, self.source)

    def drained(self, records: int, deadline_s: float) -> bool:
        """Return whether the group commits all records within the deadline."""
        deadline = time.monotonic() + deadline_s
        while time.monotonic() < deadline:
            if self.lag(records) == 0:
                return True
            time.sleep(0.2)
        return False

    def counted(self, records: int) -> Counted:
        """Count the committed records of the sink, up to its end, which is known once open transactions have ended."""
        return count_numbers(self.kafka, self.sink, records)

    def log(self, slot: str) -> str:
        """Return the log of the workers in a slot."""
        return (self.folder / f"worker-{slot}.log").read_text()


def read_committed(kafka: str, topic: str) -> list[ck.Message]:
    """Return all committed records of a topic, after open transactions have ended."""
    options = {"bootstrap.servers": kafka, "group.id": uuid.uuid4().hex, "auto.offset.reset": "earliest"}
    wait_for_stable_end(kafka, topic)
    reader = ck.Consumer({**options, "isolation.level": "read_committed", "enable.partition.eof": True})
    partitions = sorted(reader.list_topics(topic, timeout=20).topics[topic].partitions)
    reader.assign([ck.TopicPartition(topic, p, ck.OFFSET_BEGINNING) for p in partitions])
    records: list[ck.Message] = []
    ended: set[int] = set()
    deadline = time.monotonic() + 60
    while len(ended) < len(partitions):
        assert time.monotonic() < deadline, f"{topic} could not be read to its end"
        for message in reader.consume(10_000, 0.1):
            if message.error() is None:
                records.append(message)
            elif message.error().code() == ck.KafkaError._PARTITION_EOF:
                ended.add(message.partition())
    reader.close()
    return records


def wait_for_stable_end(kafka: str, topic: str, deadline_s: float = 60) -> None:
    """Wait until no transaction is open on any partition of a topic, so that its last stable offset is its end."""
    deadline = time.monotonic() + deadline_s
    options = {"bootstrap.servers": kafka, "group.id": uuid.uuid4().hex}
    stable = ck.Consumer({**options, "isolation.level": "read_committed"})
    all_of_it = ck.Consumer({**options, "isolation.level": "read_uncommitted"})
    try:
        for partition in stable.list_topics(topic, timeout=20).topics[topic].partitions:
            while stable_end(stable, topic, partition) != stable_end(all_of_it, topic, partition):
                assert time.monotonic() < deadline, f"a transaction stays open on {topic}:{partition}"
                time.sleep(0.2)
    finally:
        stable.close()
        all_of_it.close()


def count_numbers(kafka: str, topic: str, records: int) -> Counted:
    """Compare the numbers on a topic with 0..records-1, each once and ascending per key."""
    occurrences: Counter[int] = Counter()
    last: dict[bytes | None, int] = {}
    out_of_order = 0
    for message in read_committed(kafka, topic):
        value = int(message.value())
        occurrences[value] += 1
        out_of_order += last.get(message.key(), -1) > value
        last[message.key()] = value
    return Counted(records - len(occurrences), occurrences.total() - len(occurrences), out_of_order)
