"""A person is erased from a running installation: none of her data are left, others lose nothing, replays restore nothing."""

import json
import os
import signal
import uuid
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import pytest
import redis
import requests
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from typer.testing import CliRunner

from consumers.privacy.app import app
from infra.clients.kafka import admin, producer, reader
from infra.secrets import Secret
from infra.settings import Settings, load_settings
from schemas.codec import decode, encode
from schemas.registry import Registry
from streams.identity.nodes import NodeKeys, node
from streams.runtime.follow import partitions_of, stable_end
from streams.runtime.privacy.group_progress import GroupProgress
from tests.broker.copying import read_committed
from tests.house.standing import StandingHouse, wait_until

SITE = "shop.example"
GRANTED = {"cmp.analytics": "granted", "cmp.marketing": "granted", "cmp.personalization": "granted"}
TABLES = {
    "events": "node IN ({0}) OR profile_id IN ({0}) OR hasAny(identifiers, [{0}])", "bandit_decisions": "visitor IN ({0})",
    "consent_revocations": "subject IN ({0})", "privacy_requests": "subject IN ({0}) OR hasAny(nodes, [{0}])",
    "identity_merges": "node IN ({0}) OR parent IN ({0})", "identity_conflicts": "kept IN ({0}) OR node IN ({0})",
}  # fmt: skip
LANDED = ("events.resolved", "identity.merges", "identity.conflicts", "consent.revocations", "privacy.requests")
"""Topics of these tables, but for decisions."""


class People:
    """Ada with a phone, a laptop and an account, Bob with his; both have used one kiosk."""

    def __init__(self, house: StandingHouse) -> None:
        self.house = house
        self.settings = load_settings(state_dir=house.state, contracts=house.contracts)
        self.name = uuid.uuid4().hex
        self._keys = NodeKeys.derive(Secret((house.state / "secret").read_text().strip()))
        self.ada = {self.node("cookie", "phone"), self.node("cookie", "laptop"), self.node("user", "ada")}
        self.bob = {self.node("cookie", "tablet"), self.node("user", "bob")}
        self.kiosk = self.node("cookie", "kiosk")

    def value(self, label: str) -> str:
        """Return an identifier unique to this test."""
        return f"{label}-{self.name}"

    def node(self, kind: str, label: str) -> str:
        """Return the node of an identifier."""
        pseudonym = node(self._keys, kind, self.value(label))
        assert pseudonym
        return pseudonym

    def post(self, path: str, body: Any) -> None:
        """Send a request to the collector."""
        url, headers = f"{self.house.settings['collector_url']}{path}", {"Authorization": f"Bearer {self.house.key}"}
        answer = requests.post(url, json=body, headers=headers, timeout=10)
        assert answer.status_code == 200, answer.text

    def visit(self, device: str, person: str = "", event_name: str = "page_view", **fields: Any) -> str:
        """Send an event; return its id."""
        event_id = uuid.uuid4().hex
        body = {
            "event_id": event_id, "event_name": event_name, "client_id": self.value(device), "consent": GRANTED,
            "page_location": f"https://{SITE}/", **({"user_id": self.value(person)} if person else {}), **fields,
        }  # fmt: skip
        self.post("/v1/events", body)
        return event_id

    def rows(self, nodes: set[str]) -> dict[str, int]:
        """Return table -> number of rows that contain one of these nodes."""
        among = ", ".join(f"'{node}'" for node in sorted(nodes))
        count = "SELECT count() FROM headwater.{} WHERE {}"
        return {
            table: self.house.query(count.format(table, filter_sql.format(among)))[0][0] for table, filter_sql in TABLES.items()
        }

    def keys(self, nodes: set[str]) -> dict[str, int]:
        """Count Redis keys of these nodes by kind, without marks of an erasure, and other values that contain them."""
        counts = {"n": 0, "c": 0, "w": 0, "f": 0, "cs": 0, "named": 0}
        with redis.Redis.from_url(self.settings.redis, decode_responses=True) as client:
            for key in client.scan_iter(count=1_000):
                kind = key.partition(":")[0]
                hers = any(node in key for node in nodes)
                if kind == "n":
                    value = str(client.get(key))
                    counts["n"] += hers and "|erased|" not in value
                    counts["named"] += not hers and any(node in value for node in nodes)
                elif kind == "f":
                    counts["f"] += hers
                elif kind == "cs":
                    counts["cs"] += hers and set(json.loads(str(client.get(key)))) != {"erased"}
                elif kind in ("c", "w"):
                    members = client.smembers(key) if kind == "c" else client.zrange(key, 0, -1)
                    counts[kind] += hers
                    counts["named"] += any(node in member or node[1:13] == member for node in nodes for member in members)
        return counts

    def run(self, *words: str) -> tuple[int, Any]:
        """Run `headwater privacy`; return exit code and JSON."""
        run = CliRunner().invoke(app, words, env=self.house.environment)
        assert run.exit_code in (0, 1), run.output
        assert run.stdout, run.exception
        return run.exit_code, json.loads(run.stdout)

    def wait_processed(self) -> None:
        """Wait until identity and the warehouse have processed everything."""
        for group, topics in (
            ("headwater.consent", ["events.raw", "consent.signals"]),
            ("headwater.identity", ["events.consented", "consent.revocations"]),
            ("headwater.warehouse", list(LANDED)),
        ):
            passage = GroupProgress(self.settings, group, topics)
            wait_until(lambda passage=passage: passage.remaining() == 0, 60, group)  # type: ignore[misc] # a lambda with a default


@pytest.fixture
def people(own_house: StandingHouse) -> People:
    """Two people with choices, withdrawals, decisions, and a device that both have used."""
    house = own_house
    some = People(house)
    first = some.visit("kiosk", "ada")
    house.rows(f"event_id = '{first}'")
    for device in ("phone", "laptop"):
        some.visit(device, "ada")
    some.visit("tablet", "bob")
    some.visit("kiosk", "bob")
    some.visit("kiosk")
    some.visit("phone", event_name="consent_update")
    last = some.visit("tablet", event_name="consent_update")
    house.rows(f"event_id = '{last}'")
    assert house.run("experiments", "put", "example").returncode == 0
    for device in ("laptop", "tablet"):
        body = {"experiment": "hero-banner", "visitor": some.value(device), "consent": GRANTED}
        wait_until(lambda body=body: has_decision(house, body), 30, "a decision")  # type: ignore[misc] # as above
    for device in ("laptop", "tablet"):
        withdrawal = {"client_id": some.value(device), "kind": "withdrawal", "site": SITE, "purposes": ["marketing"]}
        some.post("/v1/consent", withdrawal)
    wait_until(lambda: some.rows(some.ada)["privacy_requests"] and some.rows(some.bob)["privacy_requests"], 30, "withdrawals")
    some.wait_processed()
    return some


def has_decision(house: StandingHouse, body: dict[str, Any]) -> bool:
    """Whether the decision API returns a personal decision for this visitor."""
    answer = requests.post(f"{house.settings['decisions_url']}/v1/decide", json=body, timeout=10)
    return answer.json().get("reason") in ("ok", "stale")


def test_a_person_is_erased_and_does_not_come_back(people: People) -> None:
    """No rows and keys of hers are left, all of Bob's and the kiosk's are; her raw events sent again change nothing."""
    house = people.house
    ada, bob = people.rows(people.ada), people.rows(people.bob)
    assert all(ada.values()), ada
    account = people.node("user", "ada")
    kiosk = house.query(f"SELECT count() FROM headwater.events WHERE node = '{people.kiosk}'")
    code, preview = people.run("erase", people.node("cookie", "laptop"), "--dry-run", "--json")
    assert (code, set(preview["nodes"]), preview["shared"]) == (0, people.ada, [people.kiosk])
    assert people.rows(people.ada) == ada
    assert people.run("verify", account, "--json")[0] == 1
    report = people.run("export", account)[1]
    assert set(report["slots"]) == people.ada
    assert {name: len(rows) for name, rows in report["tables"].items() if name in ada} == ada
    assert report["links"]
    assert report["consent_states"]

    erased = house.run("privacy", "erase", people.node("cookie", "laptop"), "--yes", "--json")
    assert erased.returncode == 0, erased.stderr
    proof = json.loads(erased.stdout)
    assert proof["counts"]["clickhouse.events"] == ada["events"]
    assert_erased(people, account)
    assert people.rows(people.bob) == bob
    assert house.query(f"SELECT count() FROM headwater.events WHERE node = '{people.kiosk}'") == kiosk
    replay_everything(people)
    assert_erased(people, account)
    assert people.rows(people.bob)["events"] == bob["events"]
    resend_raw_events(people)
    assert_erased(people, account)
    restart_redis(people)
    assert_erased(people, account)
    assert_new_visit_is_separate(people, account)
    assert_audit_chain(people, proof["request_id"])


def assert_erased(people: People, account: str) -> None:
    """Assert that none of her data are left, by direct counts and by the command."""
    assert set(people.rows(people.ada).values()) == {0}, people.rows(people.ada)
    assert set(people.keys(people.ada).values()) == {0}, people.keys(people.ada)
    for topic in ("identity.links", "consent.state", "privacy.requests", "privacy.erasures"):
        assert count_records(people.settings, topic, people.ada) == 0, topic
    assert count_records(people.settings, "identity.merges", people.ada) == len(people.ada), "that they are erased, and no more"
    code, verified = people.run("verify", account, "--json")
    assert (code, set(verified["left"].values())) == (0, {0}), verified
    report = people.run("export", account)[1]
    del report["tables"]["consent_audit"]
    assert [rows for rows in report["tables"].values() if rows] == []
    assert [report[name] for name in ("merges", "links", "consent_states", "requests")] == [[], [], [], []]


def replay_everything(people: People) -> None:
    """Process everything again from the earliest offsets, as after an operator's reset of the groups."""
    written = len(read_committed(people.settings.kafka, "events.consented"))
    reset_group(people, "consent", ("events.raw", "consent.signals"))
    reset_group(people, "identity", ("consent.revocations",))
    people.wait_processed()
    people.wait_processed()  # what consent and identity have written meanwhile
    assert len(read_committed(people.settings.kafka, "events.consented")) >= 2 * written


def reset_group(people: People, room: str, topics: Sequence[str]) -> None:
    """Reset a room's group to the first offsets of these topics."""
    before = people.house.pids()[room]
    os.kill(before, signal.SIGSTOP)  # the group is empty once the session of its one member has ended
    try:
        wait_until(lambda: reset_offsets(people.settings, f"headwater.{room}", topics), 60, "the group to be empty")
    finally:
        os.kill(before, signal.SIGCONT)
    wait_until(lambda: people.house.pids().get(room) not in (None, before), 60, "the worker to notice")


def reset_offsets(settings: Settings, group: str, topics: Sequence[str]) -> bool:
    """Set a group to the first offsets of these topics; return whether that succeeded."""
    with closing(reader(settings, "headwater.test")) as consumer:
        places = [
            TopicPartition(topic, partition, stable_end(consumer, topic, partition)[0])
            for topic in topics
            for partition in partitions_of(consumer, topic)
        ]
    client = admin(settings)  # an answer never comes to a client that is no more
    (answer,) = client.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, places)]).values()
    return all(place.error is None for place in answer.result(30).topic_partitions)


def resend_raw_events(people: People) -> None:
    """Send her raw events and choices again with their old times, under new ids so that they are no duplicates."""
    registry, settings = Registry(people.settings.contracts), people.settings
    count, raw_count, client = 0, 0, producer(settings)
    for topic in ("events.raw", "consent.signals"):
        for message in read_committed(settings.kafka, topic):
            if any(node.encode() in message.value() for node in people.ada):
                contract, record = decode(registry, message.value())
                record |= {"event_id": uuid.uuid4().hex} if topic == "events.raw" else {}
                client.produce(topic, encode(contract, record), message.key())
                count, raw_count = count + 1, raw_count + (topic == "events.raw")
    assert client.flush(30) == 0
    assert count > 5
    people.wait_processed()
    people.wait_processed()  # what consent and identity have written meanwhile
    dropped = "SELECT sum(n) FROM headwater.volume_1m WHERE stage = 'identity' AND outcome = 'dropped:ERASED'"
    wait_until(lambda: people.house.query(dropped)[0][0] >= raw_count, 30, "drops to be counted")


def restart_redis(people: People) -> None:
    """Restart Redis, so that the graph is rebuilt from its log, which still holds the old links for a while."""
    log, message = people.house.state / "logs" / "identity.log", "identity graph read back from its log"
    before = log.read_text().count(message)
    people.house.kill("redis")
    wait_until(lambda: log.read_text().count(message) > before, 60, "the graph")


def assert_new_visit_is_separate(people: People, account: str) -> None:
    """Assert that a new visit is not linked to the erased data, and that an export contains it."""
    event = people.visit("phone", "ada")
    people.house.rows(f"event_id = '{event}'")
    code, verified = people.run("verify", account, "--json")
    assert (code, set(verified["left"].values())) == (0, {0}), verified
    assert verified["since"]["clickhouse.events"] == 1
    assert [row["event_id"] for row in people.run("export", account)[1]["tables"]["events"]] == [event]


def assert_audit_chain(people: People, request_id: str) -> None:
    """Assert that the audit chain verifies, and that a changed number in ClickHouse is detected."""
    house = people.house
    verify = ("verify", request_id, "--json")
    wait_until(lambda: people.run(*verify)[0] == 0, 30, "the chain")
    change = "ALTER TABLE headwater.privacy_audit UPDATE erased_ts = erased_ts {} 1 WHERE request_id = '{}' {}"
    house.query(change.format("+", request_id, "SETTINGS mutations_sync = 1"))
    code, verification = people.run(*verify)
    assert (code, len(verification["broken"])) == (1, 1)
    house.query(change.format("-", request_id, "SETTINGS mutations_sync = 1"))
    assert people.run(*verify)[0] == 0
    assert people.run("status", "--json")[1]["open"] == []
    exact = house.run("warehouse", "verify", "--json")
    wrong = [
        partition
        for partition in json.loads(exact.stdout)["partitions"]
        if partition["missing"] or partition["duplicates"] or partition["unexpected"]
    ]
    assert wrong == []


def count_records(settings: Settings, topic: str, nodes: set[str]) -> int:
    """Return the number of newest records of a topic that contain one of these nodes."""
    newest: dict[tuple[int, bytes | None], bytes | None] = {}
    for message in read_committed(settings.kafka, topic):
        newest[message.partition(), message.key()] = message.value()
    return sum(value is not None and any(node.encode() in value for node in nodes) for value in newest.values())
