"""Kafka with a new, empty data folder while Redis keeps its data: what the stages remember of the old topics' offsets."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from infra.clients.kafka import producer
from infra.ops.embedded.servers.kafka import EmbeddedKafka
from infra.ops.topics import apply
from infra.settings import PACKAGED_CONTRACTS, Settings
from schemas.codec import Record, decode, encode
from schemas.registry import Registry
from streams.runtime.follow import read_topic
from tests.broker.test_fencing import wait_until
from tests.streams.consent.events import raw

SECRET = "for tests only, forty characters long..."
ROOT = Path(__file__).parents[2]
GRANTED = {"cmp.analytics": "1", "cmp.marketing": "1", "cmp.personalization": "1"}
DENIED = dict.fromkeys(GRANTED, "0")
REGISTRY = Registry(PACKAGED_CONTRACTS)
REFUSER, VISITOR, OTHER, SILENT = ("2" + two * 16 for two in ("a1", "b2", "c3", "d4"))


class House:
    """The consent and identity stages on one Kafka; the state folder and Redis outlive it."""

    def __init__(self, kafka: str, redis: str, folder: Path) -> None:
        self.settings = Settings(kafka=kafka, redis=redis, state_dir=folder, secret=SECRET, partitions=1)
        apply(self.settings)
        self._producer = producer(self.settings)

    @contextmanager
    def work(self) -> Iterator[None]:
        """Run both workers within the `with` statement."""
        environment = {**os.environ, "HEADWATER_SECRET": SECRET, "HEADWATER_STATE_DIR": str(self.settings.state_dir)}
        environment |= {"HEADWATER_KAFKA": self.settings.kafka, "HEADWATER_REDIS": self.settings.redis}
        words = [sys.executable, "-c", "from infra.ops.cli import main; main()", "worker"]
        workers = [
            subprocess.Popen([*words, room, "--from", "earliest"], env=environment, cwd=ROOT)
            for room in ("consent", "identity")
        ]
        try:
            yield
        finally:
            for worker in workers:
                worker.send_signal(signal.SIGTERM)
            for worker in workers:
                worker.wait(30)

    def send(self, event_id: str, subject: str, signals: dict[str, str]) -> None:
        """Produce one event, collected now. Without signals it comes from a region where that passes."""
        now = int(time.time() * 1000)
        fields = {"event_id": event_id, "identifiers": [subject], "signals": signals, "region": "DE" if signals else "US"}
        record = raw(**fields, collector_ts=now, event_ts=now)
        self._producer.produce("events.raw", encode(REGISTRY.latest("events.raw"), record), subject.encode())
        assert self._producer.flush(20) == 0

    def resolved(self) -> list[Record]:
        """Return the records of events.resolved in order."""
        values = [value for records in read_topic(self.settings, "events.resolved") for _, value in records]
        return [decode(REGISTRY, value or b"")[1] for value in values]

    def run(self, *events: tuple[str, str, dict[str, str]]) -> list[Record]:
        """Produce these events and return the resulting records."""
        for event in events:
            self.send(*event)
        with self.work():
            wait_until(lambda: len(self.resolved()) >= len(events), 60)
        return self.resolved()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The state folder, which outlives Kafka."""
    path = tmp_path / "state"
    path.mkdir()
    return path


def shown(record: Record) -> dict[str, Any]:
    """Return the fields of a record that show its decision."""
    return {name: record[name] for name in ("event_id", "consent_outcome", "identity_state") if name in record}


def test_a_recreated_kafka_works_with_the_old_redis(redis_url: str, tmp_path: Path, folder: Path) -> None:
    """No event of the new topics is dropped as a duplicate, anonymised ids are new, and a refusal still holds."""
    with EmbeddedKafka(tmp_path / "first") as broker:
        events = [("e-0", REFUSER, DENIED), ("e-1", VISITOR, GRANTED), ("e-2", VISITOR, GRANTED)]
        before = House(broker.address, redis_url, folder).run(*events)
    with EmbeddedKafka(tmp_path / "second") as broker:
        # An anonymised event at the offset of the old one, the same event ids at other offsets, and two without signals.
        events = [
            ("e-3", OTHER, DENIED),
            ("e-2", VISITOR, GRANTED),
            ("e-1", VISITOR, GRANTED),
            ("e-4", REFUSER, {}),
            ("e-5", SILENT, {}),
        ]
        after = House(broker.address, redis_url, folder).run(*events)
    assert [record["event_id"] for record in before if record["consent_outcome"] == "pass"] == ["e-1", "e-2"], before
    assert [record["event_id"] for record in after if record["consent_outcome"] == "pass"] == ["e-2", "e-1", "e-5"], after
    anonymised = [record["event_id"] for record in (*before, *after) if record["consent_outcome"] == "anonymise"]
    assert len(set(anonymised)) == 3, json.dumps([*map(shown, before), *map(shown, after)])
