"""A person is erased out of a standing house: nothing of hers is left, others lose nothing, no replay brings her back."""

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

    def value(self, what: str) -> str:
        """An identifier of this test alone."""
        return f"{what}-{self.name}"

    def node(self, kind: str, what: str) -> str:
        """Its node."""
        found = node(self._keys, kind, self.value(what))
        assert found
        return found

    def post(self, path: str, body: Any) -> None:
        """To a door of the collector."""
        url, headers = f"{self.house.settings['collector_url']}{path}", {"Authorization": f"Bearer {self.house.key}"}
        answer = requests.post(url, json=body, headers=headers, timeout=10)
        assert answer.status_code == 200, answer.text

    def visit(self, device: str, who: str = "", event_name: str = "page_view", **said: Any) -> str:
        """An event; its id."""
        event_id = uuid.uuid4().hex
        body = {
            "event_id": event_id, "event_name": event_name, "client_id": self.value(device), "consent": GRANTED,
            "page_location": f"https://{SITE}/", **({"user_id": self.value(who)} if who else {}), **said,
        }  # fmt: skip
        self.post("/v1/events", body)
        return event_id

    def rows(self, nodes: set[str]) -> dict[str, int]:
        """Table -> rows that name one of these."""
        among = ", ".join(f"'{one}'" for one in sorted(nodes))
        count = "SELECT count() FROM headwater.{} WHERE {}"
        return {table: self.house.query(count.format(table, where.format(among)))[0][0] for table, where in TABLES.items()}

    def keys(self, nodes: set[str]) -> dict[str, int]:
        """What Redis holds of these: keys by kind, slots and marks of an erasure aside, and places where they are named."""
        found = {"n": 0, "c": 0, "w": 0, "f": 0, "cs": 0, "named": 0}
        with redis.Redis.from_url(self.settings.redis, decode_responses=True) as client:
            for key in client.scan_iter(count=1_000):
                kind = key.partition(":")[0]
                hers = any(one in key for one in nodes)
                if kind == "n":
                    value = str(client.get(key))
                    found["n"] += hers and "|erased|" not in value
                    found["named"] += not hers and any(one in value for one in nodes)
                elif kind == "f":
                    found["f"] += hers
                elif kind == "cs":
                    found["cs"] += hers and set(json.loads(str(client.get(key)))) != {"erased"}
                elif kind in ("c", "w"):
                    members = client.smembers(key) if kind == "c" else client.zrange(key, 0, -1)
                    found[kind] += hers
                    found["named"] += any(one in member or one[1:13] == member for one in nodes for member in members)
        return found

    def run(self, *words: str) -> tuple[int, Any]:
        """Exit code and JSON of `headwater privacy`."""
        done = CliRunner().invoke(app, words, env=self.house.environment)
        assert done.exit_code in (0, 1), done.output
        assert done.stdout, done.exception
        return done.exit_code, json.loads(done.stdout)

    def passed(self) -> None:
        """Until all that is on its way has been through identity and into the warehouse."""
        for group, topics in (
            ("headwater.consent", ["events.raw", "consent.signals"]),
            ("headwater.identity", ["events.consented", "consent.revocations"]),
            ("headwater.warehouse", list(LANDED)),
        ):
            passage = GroupProgress(self.settings, group, topics)
            wait_until(lambda passage=passage: passage.remaining() == 0, 60, group)  # type: ignore[misc]


@pytest.fixture
def people(own_house: StandingHouse) -> People:
    """Known to the house, with choices, a withdrawal, decisions, and a kiosk that both have used."""
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
        wait_until(lambda body=body: decided(house, body), 30, "a decision")  # type: ignore[misc]
    for device in ("laptop", "tablet"):
        withdrawal = {"client_id": some.value(device), "kind": "withdrawal", "site": SITE, "purposes": ["marketing"]}
        some.post("/v1/consent", withdrawal)
    wait_until(lambda: some.rows(some.ada)["privacy_requests"] and some.rows(some.bob)["privacy_requests"], 30, "withdrawals")
    some.passed()
    return some


def decided(house: StandingHouse, body: dict[str, Any]) -> bool:
    """Whether a decision was made for this visitor that says who."""
    answer = requests.post(f"{house.settings['decisions_url']}/v1/decide", json=body, timeout=10)
    return answer.json().get("reason") in ("ok", "stale")


def test_a_person_is_erased_and_does_not_come_back(people: People) -> None:
    """Zero rows and keys of hers, all of Bob's and the kiosk's; her raw events sent again change nothing; the proof holds."""
    house = people.house
    ada, bob = people.rows(people.ada), people.rows(people.bob)
    assert all(ada.values()), ada
    account = people.node("user", "ada")
    kiosk = house.query(f"SELECT count() FROM headwater.events WHERE node = '{people.kiosk}'")
    code, found = people.run("erase", people.node("cookie", "laptop"), "--dry-run", "--json")
    assert (code, set(found["nodes"]), found["shared"]) == (0, people.ada, [people.kiosk])
    assert people.rows(people.ada) == ada
    assert people.run("verify", account, "--json")[0] == 1
    told = people.run("export", account)[1]
    assert set(told["slots"]) == people.ada
    assert {name: len(rows) for name, rows in told["tables"].items() if name in ada} == ada
    assert told["links"]
    assert told["consent_states"]

    erased = house.run("privacy", "erase", people.node("cookie", "laptop"), "--yes", "--json")
    assert erased.returncode == 0, erased.stderr
    proof = json.loads(erased.stdout)
    assert proof["counts"]["clickhouse.events"] == ada["events"]
    gone(people, account)
    assert people.rows(people.bob) == bob
    assert house.query(f"SELECT count() FROM headwater.events WHERE node = '{people.kiosk}'") == kiosk
    replayed(people)
    gone(people, account)
    assert people.rows(people.bob)["events"] == bob["events"]
    again(people)
    gone(people, account)
    rebuilt(people)
    gone(people, account)
    returned(people, account)
    proven(people, proof["request_id"])


def gone(people: People, account: str) -> None:
    """Nowhere anything of hers, by what we count ourselves and by what the command says."""
    assert set(people.rows(people.ada).values()) == {0}, people.rows(people.ada)
    assert set(people.keys(people.ada).values()) == {0}, people.keys(people.ada)
    for topic in ("identity.links", "consent.state", "privacy.requests", "privacy.erasures"):
        assert kept(people.settings, topic, people.ada) == 0, topic
    assert kept(people.settings, "identity.merges", people.ada) == len(people.ada), "that they are erased, and no more"
    code, verified = people.run("verify", account, "--json")
    assert (code, set(verified["left"].values())) == (0, {0}), verified
    told = people.run("export", account)[1]
    del told["tables"]["consent_audit"]
    assert [rows for rows in told["tables"].values() if rows] == []
    assert [told[name] for name in ("merges", "links", "consent_states", "requests")] == [[], [], [], []]


def replayed(people: People) -> None:
    """Everything from the earliest offsets again, as an operator who resets the groups would have it."""
    written = len(read_committed(people.settings.kafka, "events.consented"))
    reset(people, "consent", ("events.raw", "consent.signals"))
    reset(people, "identity", ("consent.revocations",))
    people.passed()
    people.passed()  # what consent and identity have written meanwhile
    assert len(read_committed(people.settings.kafka, "events.consented")) >= 2 * written


def reset(people: People, room: str, topics: Sequence[str]) -> None:
    """Let a room begin at the first offsets of these of its topics."""
    before = people.house.pids()[room]
    os.kill(before, signal.SIGSTOP)  # the group is empty once the session of its one member has ended
    try:
        wait_until(lambda: moved(people.settings, f"headwater.{room}", topics), 60, "the group to be empty")
    finally:
        os.kill(before, signal.SIGCONT)
    wait_until(lambda: people.house.pids().get(room) not in (None, before), 60, "the worker to notice")


def moved(settings: Settings, group: str, topics: Sequence[str]) -> bool:
    """Whether a group could be set to the first offsets of these topics."""
    with closing(reader(settings, "headwater.test")) as consumer:
        places = [
            TopicPartition(topic, partition, stable_end(consumer, topic, partition)[0])
            for topic in topics
            for partition in partitions_of(consumer, topic)
        ]
    client = admin(settings)  # an answer never comes to a client that is no more
    (answer,) = client.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, places)]).values()
    return all(place.error is None for place in answer.result(30).topic_partitions)


def again(people: People) -> None:
    """Her raw events and choices once more, as collected then, under new ids so that they are no duplicates."""
    registry, settings = Registry(people.settings.contracts), people.settings
    sent, raw, client = 0, 0, producer(settings)
    for topic in ("events.raw", "consent.signals"):
        for message in read_committed(settings.kafka, topic):
            if any(one.encode() in message.value() for one in people.ada):
                contract, record = decode(registry, message.value())
                record |= {"event_id": uuid.uuid4().hex} if topic == "events.raw" else {}
                client.produce(topic, encode(contract, record), message.key())
                sent, raw = sent + 1, raw + (topic == "events.raw")
    assert client.flush(30) == 0
    assert sent > 5
    people.passed()
    people.passed()  # what consent and identity have written meanwhile
    dropped = "SELECT sum(n) FROM headwater.volume_1m WHERE stage = 'identity' AND outcome = 'dropped:ERASED'"
    wait_until(lambda: people.house.query(dropped)[0][0] >= raw, 30, "drops to be counted")


def rebuilt(people: People) -> None:
    """The graph is read back from its log, as whenever Redis starts: for a while that holds what was linked before."""
    log, said = people.house.state / "logs" / "identity.log", "identity graph read back from its log"
    before = log.read_text().count(said)
    people.house.kill("redis")
    wait_until(lambda: log.read_text().count(said) > before, 60, "the graph")


def returned(people: People, account: str) -> None:
    """Who comes back is not who was erased; but what is collected since is hers, and she is told of it when she asks."""
    event = people.visit("phone", "ada")
    people.house.rows(f"event_id = '{event}'")
    code, verified = people.run("verify", account, "--json")
    assert (code, set(verified["left"].values())) == (0, {0}), verified
    assert verified["since"]["clickhouse.events"] == 1
    assert [row["event_id"] for row in people.run("export", account)[1]["tables"]["events"]] == [event]


def proven(people: People, request_id: str) -> None:
    """The request is answered and the chain holds; a number changed in ClickHouse, and the record is named."""
    house = people.house
    verify = ("verify", request_id, "--json")
    wait_until(lambda: people.run(*verify)[0] == 0, 30, "the chain")
    change = "ALTER TABLE headwater.privacy_audit UPDATE erased_ts = erased_ts {} 1 WHERE request_id = '{}' {}"
    house.query(change.format("+", request_id, "SETTINGS mutations_sync = 1"))
    code, told = people.run(*verify)
    assert (code, len(told["broken"])) == (1, 1)
    house.query(change.format("-", request_id, "SETTINGS mutations_sync = 1"))
    assert people.run(*verify)[0] == 0
    assert people.run("status", "--json")[1]["open"] == []
    exact = house.run("warehouse", "verify", "--json")
    wrong = [one for one in json.loads(exact.stdout)["partitions"] if one["missing"] or one["duplicates"] or one["unexpected"]]
    assert wrong == []


def kept(settings: Settings, topic: str, nodes: set[str]) -> int:
    """Newest records of a topic that name one of these."""
    newest: dict[tuple[int, bytes | None], bytes | None] = {}
    for message in read_committed(settings.kafka, topic):
        newest[message.partition(), message.key()] = message.value()
    return sum(value is not None and any(one.encode() in value for one in nodes) for value in newest.values())
