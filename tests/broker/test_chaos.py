"""The consent stage under attack loses and doubles nothing and keeps the order."""

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from bench.events import raw_events
from infra.clients.kafka import producer
from infra.ops.topics import apply
from infra.settings import Settings
from schemas.codec import HeadReader, decode
from schemas.registry import Registry
from streams.consent.decision.audit import ChainHead, find_breaks
from tests.broker.chaos import Chaos
from tests.broker.copying import behind, read_committed
from tests.support.scale import FULL

FAULTS = 50 if FULL else 15
EVENTS_PER_S = 1_500


class Load:
    """Produces events on events.raw at a steady rate until it is stopped."""

    def __init__(self, settings: Settings) -> None:
        self._producer = producer(settings)
        self._events = raw_events(Registry(settings.contracts), 1_000_000, chosen=0.1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.sent: list[tuple[bytes, bytes]] = []
        """(key, value) in the order of production; refused ones are removed by `stop`."""
        self._refused: dict[int, str] = {}

    def start(self) -> None:
        """Start."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, after all events are acknowledged."""
        self._stop.set()
        self._thread.join()
        assert self._producer.flush(30) == 0
        assert len(self._refused) < 100, self._refused
        self.sent = [pair for at, pair in enumerate(self.sent) if at not in self._refused]

    def _answered(self, at: int, error: Any) -> None:
        if error is not None:
            self._refused[at] = error.name()

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            for _ in range(EVENTS_PER_S // 10):
                key, value = next(self._events)
                at = len(self.sent)
                self.sent.append((key, value))
                self._producer.produce("events.raw", value, key, on_delivery=lambda error, _, at=at: self._answered(at, error))
            self._producer.poll(0)


def test_kills_stops_and_twins_neither_lose_nor_double(kafka: str, redis_url: str, tmp_path: Path) -> None:
    """Two consent workers survive many kills and stops (50 in full), and twins in one slot: each event passes once.

    The state changes on the ledger's topics are also written once, in audit chains that verify.
    """
    settings = Settings(kafka=kafka, state_dir=tmp_path, secret="for tests only, forty characters long...")
    apply(settings)
    environment = {
        **os.environ,
        "HEADWATER_KAFKA": kafka,
        "HEADWATER_REDIS": redis_url,
        "HEADWATER_STATE_DIR": str(tmp_path),
        "HEADWATER_SECRET": "for tests only, forty characters long...",
        "HEADWATER_SESSION_TIMEOUT_S": "3",
        "HEADWATER_TRANSACTION_TIMEOUT_S": "10",
        "HEADWATER_BATCH_RECORDS": "300",
    }

    def start(slot: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "infra.ops.cli", "worker", "consent", "--slot", slot, "--from", "earliest"]
        with (tmp_path / f"worker-{slot}.log").open("ab") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    load = Load(settings)
    chaos = Chaos(start, seed=20)
    try:
        load.start()
        chaos.attack(FAULTS)
        load.stop()
        chaos.calm()
        deadline = time.monotonic() + 90
        while behind(kafka, "headwater.consent", "events.raw", settings.partitions) and time.monotonic() < deadline:
            chaos.revive()
            time.sleep(0.5)
    finally:
        chaos.end()
    print(chaos.faults, chaos.exits, len(load.sent))  # noqa: T201 - pytest shows it when the test fails
    check(settings, load.sent)
    check_entries(settings)
    assert chaos.faults["kill"] + chaos.faults["stop"] >= FAULTS
    assert chaos.faults["twin"] > 0


def check(settings: Settings, produced: list[tuple[bytes, bytes]]) -> None:
    """Compare consented events with produced ones: each once, in order per subject. Anonymised ones have new ids."""
    registry = Registry(settings.contracts)
    read_id = HeadReader(registry, "event_id")
    order = {read_id.read(value)[1]["event_id"]: i for i, (_, value) in enumerate(produced)}
    occurrences: Counter[str] = Counter()
    last: dict[bytes | None, int] = {}
    out_of_order = 0
    for message in read_committed(settings.kafka, "events.consented"):
        event_id = read_id.read(message.value())[1]["event_id"]
        occurrences[event_id] += 1
        place = order.get(event_id, -1)
        if place >= 0:
            out_of_order += last.get(message.key(), -1) > place
            last[message.key()] = place
    assert (len(produced) - len(occurrences), occurrences.total() - len(occurrences), out_of_order) == (0, 0, 0)


def check_entries(settings: Settings) -> None:
    """Check that the audit chains verify up to their heads, and that every state was written once per change."""
    registry = Registry(settings.contracts)
    audit, states, heads = (
        [decode(registry, message.value())[1] for message in read_committed(settings.kafka, topic)]
        for topic in ("consent.audit", "consent.state", "consent.heads")
    )
    audit.sort(key=lambda record: (record["chain"], record["seq"]))
    last = {record["chain"]: ChainHead(record["seq"], record["hash"]) for record in heads}
    assert list(find_breaks(audit, last)) == []
    assert len(last) == settings.partitions
    changes = [record for record in audit if record["kind"] == "state"]
    assert len(changes) == len(states) > 20 * FAULTS
    occurrences = Counter((state["subject"], state["regulation"], tuple(sorted(state["times"].items()))) for state in states)
    assert max(occurrences.values()) == 1
