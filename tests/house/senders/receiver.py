"""A collector that senders of this folder send to, and what arrives from it in Kafka."""

import signal
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import confluent_kafka as ck
import requests

from infra.ops.embedded.ports import free_port
from infra.settings import PACKAGED_CONTRACTS
from schemas.codec import decode
from schemas.registry import Registry
from streams.collector.write_keys import KeyKind, create_key
from tests.support.headwater_process import HeadwaterProcess

SECRET = "for tests only, forty characters long..."
ARRIVAL_S = 30.0


class Receiver:
    """`headwater collect` in a process of its own, and the records it has produced."""

    def __init__(self, kafka: str, folder: Path, kind: KeyKind, options: Sequence[str] = ()) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{self.address}"
        self.key = create_key(folder / "write-keys.json", "shop", site="localhost", kind=kind)
        self._registry = Registry(PACKAGED_CONTRACTS)
        self._records: dict[str, list[dict[str, Any]]] = {"events.raw": [], "events.dead": [], "consent.signals": []}
        self._log = folder / "collector.log"
        environment = {"HEADWATER_KAFKA": kafka, "HEADWATER_STATE_DIR": str(folder), "HEADWATER_SECRET": SECRET}
        words = ["collect", "--port", self.address.rpartition(":")[2], *options]
        self._process = HeadwaterProcess(words, environment, self._log)
        self._consumer = ck.Consumer(
            {"bootstrap.servers": kafka, "group.id": uuid.uuid4().hex, "auto.offset.reset": "earliest"}
        )
        self._consumer.assign(
            [
                ck.TopicPartition(topic, partition, ck.OFFSET_BEGINNING)
                for topic in self._records
                for partition in self._consumer.list_topics(topic, timeout=20).topics[topic].partitions
            ]
        )

    def wait_ready(self) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + 60
        while True:
            assert self._process.poll() is None, self._log.read_text()
            try:
                if requests.get(f"{self.url}/health/live", timeout=1).ok:
                    return
            except requests.ConnectionError:
                assert time.monotonic() < deadline, self._log.read_text()
                time.sleep(0.05)

    def events(self, case: str, count: int) -> list[dict[str, Any]]:
        """Return the events of the pages of a case, at least `count` unless they did not come in time."""
        deadline = time.monotonic() + ARRIVAL_S
        while True:
            events = [event for event in self.records("events.raw") if _case_of(event) == case]
            if len(events) >= count or time.monotonic() > deadline:
                return events

    def named_events(self, case: str, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the events of the pages of a case by name. They must be these, each exactly once."""
        events = self.events(case, len(names))
        assert sorted(event["event_name"] for event in events) == sorted(names)
        return {event["event_name"]: event for event in events}

    def wait_for(self, topic: str, count: int) -> list[dict[str, Any]]:
        """Return the records of a topic, at least `count` unless they did not come in time."""
        deadline = time.monotonic() + ARRIVAL_S
        while len(self.records(topic)) < count and time.monotonic() < deadline:
            pass
        return self._records[topic]

    def records(self, topic: str) -> list[dict[str, Any]]:
        """Return the records of a topic that have arrived so far."""
        for message in self._consumer.consume(1_000, 0.1):
            if (name := message.topic()) and message.error() is None:
                self._records[name].append(decode(self._registry, message.value())[1])
        return self._records[topic]

    def stop(self) -> None:
        """Stop the process, which must end by itself."""
        self._consumer.close()
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait() == 0, self._log.read_text()


def _case_of(event: dict[str, Any]) -> str:
    """Return the parameter `case` of an event's page."""
    address: str = event["page_url"]
    return parse_qs(urlsplit(address).query).get("case", [""])[0]


__all__ = ["Receiver"]
