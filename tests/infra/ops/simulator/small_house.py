"""Hand-written layers of eight events, as a correct and drained installation has them, and functions to add faults."""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import clickhouse_connect
import confluent_kafka as ck
import orjson

from infra.clients.kafka import admin, producer, reader
from infra.clients.topic_ids import topic_ids
from infra.ops.simulator.ledger import DecisionLine, EndLine, EventLine, RunLine, Writer
from infra.ops.simulator.marks import event_id, marker
from infra.ops.simulator.reconcile.compare import LayerVerdict
from infra.ops.simulator.reconcile.drain import GROUPS, end_offsets
from infra.ops.simulator.reconcile.layers import ranges
from infra.payload_keyring import PayloadKeyring
from infra.settings import Settings
from infra.telemetry.metrics import Metrics
from schemas.codec import Record, encode
from schemas.registry import Registry
from streams.consent.redaction.reference import random_id
from streams.runtime.dead_letters.dead_letter import DeadLetterCause, DeadLetters, RecordPosition
from tests.broker.groups import commit_offsets

RUN = "fedabcde"
DECISION = "0199aaaa-0000-7000-8000-000000000001"
PROFILE = "2" + "ab" * 16
MASKS = {0: 7, 1: 1, 3: 7, 7: 7}
NAMES = {3: "widget_viewed", 7: "purchase"}


@dataclass
class SmallHouse:
    """Topics and settings; `populate` writes every Kafka layer correctly."""

    settings: Settings
    ledger: Path
    now: int = field(default_factory=lambda: int(time.time() * 1000))

    def __post_init__(self) -> None:
        self.registry = Registry(self.settings.contracts)
        self._producer = producer(self.settings)
        keyring = PayloadKeyring(self.settings.keyring_dir, self.settings.master)
        self._door = DeadLetters(self.registry, keyring, "collector", Metrics())
        self._gate = DeadLetters(self.registry, keyring, "consent", Metrics())
        self.letters: list[RecordPosition] = []
        self.anonymous_id = ""
        """What event 2 is called behind the gate."""
        self.last: dict[str, LayerVerdict] = {}
        """The last verdict: what the next fault is compared with."""
        self.place = (0, 0)
        """Partition and offset at which rows are inserted: one that holds a record of `events.resolved`."""

    def raw(self, n: int) -> Record:
        """Event `n` as the collector wrote it."""
        return {
            "event_id": event_id(RUN, n),
            "event_name": NAMES.get(n, "page_view"),
            "source": "demo",
            "site": "shop.example",
            "heartbeat": False,
            "collector_ts": self.now,
            "region": "DE",
            "signals": {},
            "identifiers": [PROFILE],
            "decision_token": "",
            "order_id": "",
            "value": 0.0,
            "currency": "",
            "event_ts": self.now,
            "event_ts_source": "device",
            "protocol": "headwater",
            "tag_version": "",
            "page_url": "",
            "page_title": marker("an", RUN, n),
            "page_referrer": "",
            "user_agent": "",
            "device_class": "",
            "bot": False,
            "ip_prefix": "",
            "click_ids": {"gclid": marker("mk", RUN, n)},
            "match_tokens": {},
            "properties": {},
        }

    def consented(self, n: int) -> Record:
        """Return event `n` as the consent stage writes it."""
        mask = MASKS[n]
        columns = {"consent_outcome": "pass" if mask == 7 else "strip", "consent_purposes": mask, "consent_reasons": ""}
        fields = self.raw(n) if mask & 2 else {**self.raw(n), "click_ids": {}}
        return {**columns, "consent_policy": "p", "consent_evidence": "e", **fields}

    def resolved(self, n: int) -> Record:
        """Event `n` with its identity."""
        return {"profile_id": PROFILE, "node": PROFILE, "identity_state": "resolved", **self.consented(n)}

    def anonymised(self) -> Record:
        """Return the anonymised event 2."""
        columns = {"consent_outcome": "anonymise", "consent_purposes": 0, "consent_reasons": ""}
        fields = {**self.raw(2), "event_id": self.anonymous_id, "identifiers": [], "click_ids": {}, "page_title": ""}
        return {**columns, "consent_policy": "p", "consent_evidence": "e", **fields}

    def anonymous(self) -> Record:
        """Return the anonymised event 2 as the identity stage writes it."""
        return {"profile_id": "", "node": "", "identity_state": "anonymous", **self.anonymised()}

    def rows(self) -> list[Record]:
        """What ClickHouse must hold."""
        return [*(self.resolved(n) for n in MASKS), self.anonymous()]

    def put(self, topic: str, *records: Record) -> None:
        """Write records of a topic's contract."""
        for record in records:
            self._producer.produce(topic, encode(self.registry.latest(topic), record), b"key")
        assert self._producer.flush(20) == 0

    def put_letter(self, topic: str, offset: int, value: bytes) -> Any:
        """Write a dead letter: of the collector, or of the consent stage about a record of `topic`."""
        place = RecordPosition(topic, 0 if topic else -1, offset)
        letters = self._gate if topic else self._door
        key, written, _ = letters.build(DeadLetterCause("TEST", "", place), None, value, self.now / 1000)
        self._producer.produce("events.dead", written, key)
        assert self._producer.flush(20) == 0
        self.letters.append(place)
        return place

    def populate(self) -> None:
        """Write the ledger and every Kafka layer."""
        self.write_ledger()
        poison = b"\xff " + marker("dd", RUN, 5).encode()
        self.put("events.raw", *(self.raw(n) for n in (0, 1, 3, 7, 7)))
        self._producer.produce("events.raw", encode(self.registry.latest("events.raw"), self.raw(2)), on_delivery=self._named)
        self._producer.produce("events.raw", poison, b"key")
        assert self._producer.flush(20) == 0
        self.put("events.consented", *(self.consented(n) for n in (0, 1, 3, 7, 7)), self.anonymised())
        self.put("events.resolved", *self.rows())
        written = ranges(self.settings, "events.resolved", self.now - 60_000)
        self.place = next((partition, first) for partition, (first, end) in written.items() if end > first)
        self.put_letter("", 11, b'{"note": "' + marker("dd", RUN, 4).encode() + b'"}')
        self.put_letter("events.raw", 12, poison)
        self._put_bandit()
        for stage, outcome, n in (
            ("consent", "pass", 4),
            ("consent", "strip", 1),
            ("consent", "anonymise", 1),
            ("consent", "dead:UNDECODABLE", 1),
            ("identity", "resolved", 4),
            ("identity", "anonymous", 1),
            ("identity", "dropped:duplicate", 1),
        ):
            cell = {"stage": stage, "minute": self.now, "source": "demo", "event_name": "page_view", "outcome": outcome}
            self.put("stream.counts", {**cell, "dimensions": {}, "n": n})

    def _named(self, _error: object, message: ck.Message) -> None:
        key = self.settings.master.derive("consent/anonymous/v1")
        topic_id = topic_ids(self.settings, ["events.raw"])["events.raw"]
        self.anonymous_id = random_id(key, topic_id, message.partition(), message.offset())

    def _put_bandit(self) -> None:
        decision = {"decision_id": DECISION, "experiment": "hero-banner", "epoch": 1, "arm": "calm", "group": "bandit"}
        decided = {"visitor": "", "eligible": ["calm"], "reason": "ok", "snapshot_version": 1, "config_version": "1"}
        self.put("bandit.decisions", {**decision, "propensity": 0.5, "decided_ts": self.now, **decided})
        for kind, n in (("exposure", 3), ("reward", 7)):
            joined = {"kind": kind, "reward": 1.0, "event_id": event_id(RUN, n), "decided_ts": self.now, "event_ts": self.now}
            self.put("bandit.outcomes", {**decision, "propensity": 0.5, **joined})

    def write_ledger(self) -> None:
        """Write the ledger of the eight events."""
        fates = {2: "anonymised", 4: "dead", 5: "poison", 6: "refused"}
        with Writer(self.ledger, RunLine(RUN, 1, 8, self.now - 60_000)) as writer:
            writer.write("decision", DecisionLine(DECISION, "hero-banner", "calm", "bandit", True, True))
            for n in range(8):
                line = EventLine(
                    n=n,
                    id=event_id(RUN, n),
                    door="headwater",
                    name=NAMES.get(n, "page_view"),
                    attempts=2 if n == 7 else 1,
                    acked=0 if n == 6 else 1,
                    status=401 if n == 6 else 200,
                    fate=fates.get(n, "resolved"),
                    outcome="",
                    mask=MASKS.get(n, 0),
                    account="person-1" if n in (0, 1) else "",
                    decision=DECISION if n in NAMES else "",
                )
                writer.write("event", line)
            writer.write("end", EndLine(self.now, 8, 7, 0))

    def settle(self) -> None:
        """Commit the end offsets for every group."""
        client = admin(self.settings)
        for group, topics in GROUPS.items():
            consumer = reader(self.settings, group)
            places = [ck.TopicPartition(topic, p, end) for topic in topics for p, end in end_offsets(client, topic).items()]
            commit_offsets(consumer, places)
            consumer.close()

    # -- ClickHouse

    def clickhouse(self, statement: str) -> None:
        """Run a statement; `{db}` is the database."""
        client = clickhouse_connect.get_client(dsn=self.settings.clickhouse, autogenerate_session_id=False)
        client.command(statement.replace("{db}", self.settings.clickhouse_database))
        client.close()

    def load(self) -> None:
        """Fill the tables as the warehouse does."""
        self.insert(*self.rows())
        at = f"fromUnixTimestamp64Milli({self.now})"
        self.clickhouse(f"INSERT INTO {{db}}.bandit_decisions (decision_id, decided_ts) VALUES ('{DECISION}', {at})")
        for kind in ("exposure", "reward"):
            values = f"('{DECISION}', '{kind}', {at})"
            self.clickhouse(f"INSERT INTO {{db}}.bandit_outcomes (decision_id, kind, decided_ts) VALUES {values}")
        for place in self.letters:
            values = f"('x', '{place.topic}', {place.partition}, {place.offset}, fromUnixTimestamp64Milli({self.now}))"
            names = "stage, source_topic, source_partition, source_offset, dead_ts"
            self.clickhouse(f"INSERT INTO {{db}}.dead_letters ({names}) VALUES {values}")

    def insert(self, *rows: Record) -> None:
        """Insert rows of `events` at an offset that the topic has."""
        place: Record = {"_topic_id": topic_ids(self.settings, ("events.resolved",))["events.resolved"]}
        place |= {"_partition": self.place[0], "_offset": self.place[1]}
        located = [{**row, **place} for row in rows]
        for row in located:
            for name in ("collector_ts", "event_ts"):
                row[name] = datetime.fromtimestamp(row[name] / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        client = clickhouse_connect.get_client(dsn=self.settings.clickhouse, autogenerate_session_id=False)
        body = b"\n".join(orjson.dumps(row) for row in located)
        client.raw_insert(f"{self.settings.clickhouse_database}.events", insert_block=body, fmt="JSONEachRow")
        client.close()
