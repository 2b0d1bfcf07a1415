"""One broker for many test files: its start takes seconds, and emptying it a fraction of one."""

import time
from pathlib import Path

import confluent_kafka as ck
from confluent_kafka.admin import AdminClient

from infra.ops.embedded.servers.kafka import EmbeddedKafka

EMPTY_S = 15.0


class SharedKafka:
    """A broker that is emptied between files. Where a consumer group still has members, a new broker takes its place."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._broker: EmbeddedKafka | None = None
        self._starts = 0

    def fresh(self) -> str:
        """Return the bootstrap address of a broker without topics and consumer groups."""
        if self._broker is not None and not empty(self._broker.address):
            self.stop()
        if self._broker is None:
            self._starts += 1
            self._broker = EmbeddedKafka(self._folder / str(self._starts)).start()
        return self._broker.address

    def stop(self) -> None:
        """Stop the broker, if it runs."""
        if self._broker is not None:
            self._broker.stop()
            self._broker = None


def empty(address: str) -> bool:
    """Delete all topics and groups; return False where that is impossible, because a killed member has not expired yet."""
    admin = AdminClient({"bootstrap.servers": address})
    try:
        groups = [group.group_id for group in admin.list_consumer_groups().result(EMPTY_S).valid]
        if groups:
            for deletion in admin.delete_consumer_groups(groups).values():
                deletion.result(EMPTY_S)
        if topics := own_topics(admin):
            for deletion in admin.delete_topics(topics).values():
                deletion.result(EMPTY_S)
    except ck.KafkaException:
        return False
    deadline = time.monotonic() + EMPTY_S
    while own_topics(admin) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not own_topics(admin)


def own_topics(admin: AdminClient) -> list[str]:
    """Return the topics that are not Kafka's own."""
    return [topic for topic in admin.list_topics(timeout=EMPTY_S).topics if not topic.startswith("__")]
