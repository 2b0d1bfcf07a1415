"""A withdrawal, end to end: it applies to every linked id, every room acknowledges it, and the audit proves it."""

import json
import time
import uuid
from typing import Any

import pytest
import requests

from infra.secrets import Secret
from infra.settings import load_settings
from schemas.codec import decode
from schemas.registry import Registry
from streams.identity.nodes import NodeKeys, node
from tests.broker.copying import read_committed
from tests.house.standing import StandingHouse, wait_until

SITE = "shop.example"
GRANTED = {"cmp.analytics": "granted", "cmp.marketing": "granted", "cmp.personalization": "granted"}
SOON_S = 5


class Person:
    """Two devices and an account of a new visitor."""

    def __init__(self, house: StandingHouse) -> None:
        self._house = house
        name = uuid.uuid4().hex
        self.phone, self.laptop, self.account = f"phone-{name}", f"laptop-{name}", f"account-{name}"
        keys = NodeKeys.derive(Secret((house.state / "secret").read_text().strip()))
        self.nodes = {
            str(node(keys, kind, value))
            for kind, value in (("cookie", self.phone), ("cookie", self.laptop), ("user", self.account))
        }

    def visit(self, device: str, **fields: Any) -> str:
        """Send an event of one device; return its id."""
        event_id = uuid.uuid4().hex
        self.post("/v1/events", {
            "event_id": event_id, "event_name": "page_view", "client_id": device, "consent": GRANTED,
            "page_location": f"https://{SITE}/", **fields,
        })  # fmt: skip
        return event_id

    def post(self, path: str, body: Any) -> None:
        """Send a request to the collector."""
        headers = {"Authorization": f"Bearer {self._house.key}"}
        answer = requests.post(f"{self._house.settings['collector_url']}{path}", json=body, headers=headers, timeout=10)
        assert answer.status_code == 200, answer.text

    def arm(self, device: str) -> dict[str, Any]:
        """Request a decision for one device."""
        body: dict[str, Any] = {"experiment": "hero-banner", "visitor": device, "consent": GRANTED}
        answer = requests.post(f"{self._house.settings['decisions_url']}/v1/decide", json=body, timeout=10)
        decision: dict[str, Any] = answer.json()
        return decision


@pytest.fixture
def person(house: StandingHouse) -> Person:
    """A visitor with a login on both devices."""
    someone = Person(house)
    someone.visit(someone.phone, user_id=someone.account)
    last = someone.visit(someone.laptop, user_id=someone.account)
    house.rows(f"event_id = '{last}'", "event_id")
    return someone


def outputs(house: StandingHouse, nodes: set[str]) -> list[tuple[str, int]]:
    """Return (topic, collector time) of each event or decision after the consent stage whose bytes contain one of these ids."""
    settings = load_settings(state_dir=house.state)
    registry, events = Registry(house.contracts), []
    for topic in ("events.consented", "events.resolved", "bandit.decisions"):
        for message in read_committed(settings.kafka, topic):
            content = (message.key() or b"") + message.value()
            if any(node.encode() in content for node in nodes):
                record = decode(registry, message.value())[1]
                events.append((topic, record.get("collector_ts") or record["decided_ts"]))
    return events


def test_a_withdrawal_silences_every_linked_id(house: StandingHouse, person: Person) -> None:
    """Withdrawn on the phone, nothing of laptop or account leaves the gate 5 s later, though their pages still say granted."""
    assert outputs(house, person.nodes) != []
    assert house.run("experiments", "put", "example").returncode == 0
    wait_until(lambda: person.arm(person.laptop).get("reason") in ("ok", "stale"), 30, "the experiment")
    person.post("/v1/consent", {"client_id": person.phone, "kind": "withdrawal", "site": SITE, "platform": "privacy-form"})
    withdrawn = time.time()
    while time.time() < withdrawn + SOON_S + 2:
        for device in (person.phone, person.laptop):
            person.visit(device)
            person.visit(device, user_id=person.account)
        time.sleep(0.2)
    wait_until(lambda: person.arm(person.laptop)["reason"] == "no_consent", 15, "the decisions room to have heard of it")
    last = person.visit(person.laptop, event_name="after_the_withdrawal")
    wait_until(
        lambda: house.query("SELECT count() FROM headwater.events WHERE event_name = 'after_the_withdrawal'")[0][0],
        30,
        "the last",
    )
    assert house.query(f"SELECT count() FROM headwater.events WHERE event_id = '{last}'") == [(0,)]
    late = [(topic, at / 1000 - withdrawn) for topic, at in outputs(house, person.nodes) if at / 1000 > withdrawn + SOON_S]
    assert late == []
    assert_answered(house, person)


def assert_answered(house: StandingHouse, person: Person) -> None:
    """Assert that every room has acknowledged, and that the audit contains each id."""
    among = ", ".join(f"'{node}'" for node in sorted(person.nodes))
    query = (
        "SELECT room FROM headwater.privacy_acks WHERE request_id IN "
        f"(SELECT request_id FROM headwater.privacy_requests WHERE subject IN ({among}))"
    )
    wait_until(lambda: {room for (room,) in house.query(query)} == {"warehouse", "bandit", "decisions"}, 30, "the acks")
    status = house.run("privacy", "status", "--json")
    assert (status.returncode, json.loads(status.stdout)["open"]) == (0, []), status.stdout + status.stderr
    audit = f"SELECT DISTINCT subject, method FROM headwater.consent_audit WHERE outcome = 'withdrawn' AND subject IN ({among})"
    rows = wait_until(lambda: len(audit_rows := house.query(audit)) >= len(person.nodes) and audit_rows, 30, "the audit")
    assert {subject for subject, _ in rows} == person.nodes
    assert {method for _, method in rows} == {"webhook", "linked"}


def test_the_audit_verifies_and_a_changed_row_is_found(house: StandingHouse, person: Person) -> None:
    """The chains verify; a number changed in ClickHouse is detected, and once restored the chains verify again."""
    person.post("/v1/consent", {"client_id": person.phone, "kind": "withdrawal", "site": SITE})
    filter_sql = f"kind = 'state' AND subject IN ({', '.join(repr(item) for item in sorted(person.nodes))})"
    wait_until(
        lambda: house.query(f"SELECT count() FROM headwater.consent_audit WHERE {filter_sql}")[0][0] >= 3, 30, "the audit"
    )
    good = wait_until(
        lambda: (run := house.run("consent", "verify-audit", "--json")).returncode == 0 and run, 30, "a whole audit"
    )
    assert json.loads(good.stdout)["records"] > 0
    ((chain, seq),) = house.query(f"SELECT chain, seq FROM headwater.consent_audit WHERE {filter_sql} ORDER BY seq LIMIT 1")
    place = f"chain = {chain} AND seq = {seq}"
    for n in (7, 1):
        house.query(f"ALTER TABLE headwater.consent_audit UPDATE n = {n} WHERE {place} SETTINGS mutations_sync = 1")
        run = house.run("consent", "verify-audit", "--json")
        broken = json.loads(run.stdout)["broken"]
        assert (run.returncode, [(item["chain"], item["seq"]) for item in broken]) == (
            (1, [(chain, seq)]) if n == 7 else (0, [])
        )
