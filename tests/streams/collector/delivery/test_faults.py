"""Kafka and the collector fail under load, and the disk is full: what was answered 200 is on Kafka, in order."""

import os
import resource
import signal
import threading
import time
import uuid
from collections import defaultdict
from pathlib import Path

import requests

from infra.ops.embedded.servers.kafka import EmbeddedKafka
from infra.ops.topics import apply
from infra.settings import Settings
from tests.streams.collector.test_doors import Collector, refused, wait_until
from tests.support.scale import FULL

SUBJECTS = 6
EVENTS = 500 if FULL else 15
"""Events of each subject before, between and after the faults."""


class SteadySender(threading.Thread):
    """Sends one subject's events in order, and repeats each until it is answered 200."""

    def __init__(self, collector: Collector, subject: str, mark: str) -> None:
        super().__init__(daemon=True)
        self._collector, self._subject, self._mark = collector, subject, mark
        self._client_id = uuid.uuid4().hex  # no part of the event id, in which it would be masked
        self._stopping = threading.Event()
        self.accepted: list[str] = []

    def run(self) -> None:
        """Send until told to stop."""
        while not self._stopping.is_set():
            event_id = f"{self._subject}-{len(self.accepted):06d}-{self._mark}"
            event = {"event_name": "step", "event_id": event_id, "client_id": self._client_id, "mark": self._mark}
            try:
                answer = self._collector.send(event)
            except requests.RequestException:
                time.sleep(0.05)  # the process starts again
                continue
            if answer.status_code == 200:
                self.accepted.append(event_id)
            else:
                assert answer.status_code == 503, answer.text
                assert "Retry-After" in answer.headers

    def finish(self) -> None:
        """Stop after the event that is on its way."""
        self._stopping.set()
        self.join(60)
        assert not self.is_alive()


def send_more(senders: list[SteadySender]) -> None:
    """Wait until each sender has had this number of further events accepted."""
    goals = [len(sender.accepted) + EVENTS for sender in senders]
    wait_until(lambda: all(len(sender.accepted) >= goal for sender, goal in zip(senders, goals, strict=True)), 300)


def ids_by_subject(collector: Collector, mark: str) -> dict[str, list[str]]:
    """Return the event ids on Kafka by subject, in Kafka's order, each where it first occurs."""
    ids: dict[str, dict[str, None]] = defaultdict(dict)
    for event in collector.events(mark):
        ids[event["event_id"].partition("-")[0]][event["event_id"]] = None
    return {subject: list(seen_ids) for subject, seen_ids in ids.items()}


def test_everything_answered_200_survives_kafka_and_collector(tmp_path: Path) -> None:
    """Kafka is killed under load, then the collector; once both are back, every 200 is on Kafka, in order per subject."""
    broker = EmbeddedKafka(tmp_path / "kafka").start()
    collector = Collector(broker.address, tmp_path, "--budget", "0.5")
    try:
        apply(Settings(kafka=broker.address))
        collector.start()
        mark = uuid.uuid4().hex
        senders = [SteadySender(collector, f"s{number}", mark) for number in range(SUBJECTS)]
        for sender in senders:
            sender.start()
        send_more(senders)
        os.kill(broker.pid, signal.SIGKILL)
        broker.stop()
        send_more(senders)
        collector.process.kill()
        collector.process.wait()
        collector.start()
        send_more(senders)
        broker = EmbeddedKafka(tmp_path / "kafka", broker.port).start()
        send_more(senders)
        for sender in senders:
            sender.finish()
        promised = {f"s{number}": sender.accepted for number, sender in enumerate(senders)}

        def arrived() -> bool:
            stored = ids_by_subject(collector, mark)
            return all(set(ids) <= set(stored.get(subject, ())) for subject, ids in promised.items())

        wait_until(arrived, 90)
        stored = ids_by_subject(collector, mark)
        for subject, ids in promised.items():
            assert [event_id for event_id in stored[subject] if event_id in set(ids)] == ids
    finally:
        collector.stop()
        broker.stop()


def test_a_full_disk_is_answered_503(tmp_path: Path) -> None:
    """Without Kafka and without room on the disk it is 503 with Retry-After; once there is room, events are taken again."""
    with EmbeddedKafka(tmp_path / "kafka") as broker:
        apply(Settings(kafka=broker.address))
        collector = Collector(broker.address, tmp_path, "--budget", "0.5")
        collector.start()
        mark = uuid.uuid4().hex
        unlimited = resource.prlimit(collector.process.pid, resource.RLIMIT_FSIZE)
        names: list[str] = []
        try:
            assert collector.send({"event_name": "before", "client_id": "c", "mark": mark}).ok
            os.kill(broker.pid, signal.SIGSTOP)
            assert collector.send({"event_name": "spooled", "client_id": "c", "mark": mark}).ok
            resource.prlimit(collector.process.pid, resource.RLIMIT_FSIZE, (1_500, unlimited[1]))
            for _ in range(3):
                answer = collector.send({"event_name": "refused", "client_id": "c", "mark": mark, "text": "x" * 2_000})
                refused(answer, "FULL")
                assert int(answer.headers["Retry-After"]) > 0
            resource.prlimit(collector.process.pid, resource.RLIMIT_FSIZE, unlimited)
            assert collector.send({"event_name": "after", "client_id": "c", "mark": mark}).ok
            os.kill(broker.pid, signal.SIGCONT)

            def arrived() -> bool:
                names[:] = dict.fromkeys(event["event_name"] for event in collector.events(mark))
                return "after" in names

            wait_until(arrived, 60)
            assert [name for name in names if name != "refused"] == ["before", "spooled", "after"]
        finally:
            os.kill(broker.pid, signal.SIGCONT)
            collector.stop()
