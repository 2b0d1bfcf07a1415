"""Rows of a person are erased, rows of others stay, and no replay brings them back: on a real engine, with a real loader."""

import json
from typing import Any

import confluent_kafka as ck
import pytest

from consumers.warehouse.erasing import (
    IDENTIFIERS,
    ErasedPerson,
    count_rows,
    derived_conditions,
    erase_rows,
    export_rows,
    row_conditions,
)
from consumers.warehouse.loader.loop import GROUP
from consumers.warehouse.schema.migrating import migrate
from consumers.warehouse.schema.tables import TABLES
from consumers.warehouse.store import Store
from consumers.warehouse.verifying import verify
from infra.clients.kafka import reader
from schemas.codec import encode
from tests.consumers.warehouse.plant import NOW_MS, Plant, event, value_for, wait

REQUEST = "ab" * 16
ADA, COOKIE, KIOSK, BOB, ALIAS = ("0" + "a" * 32, "2" + "a" * 32, "1" + "c" * 32, "0" + "b" * 32, "0" + "e" * 32)
WHO = ErasedPerson([ADA, COOKIE], [ADA, COOKIE, KIOSK], [KIOSK], NOW_MS + 1_000)

EVENTS = {
    "hers": (COOKIE, COOKIE, [COOKIE]),
    "hers-as-user": (ADA, COOKIE, [ADA, COOKIE]),
    "under-the-kiosks-label": (ADA, KIOSK, [ADA, KIOSK]),
    "by-mail-on-the-kiosk": (KIOSK, COOKIE, [KIOSK, COOKIE]),
    "kiosk": (KIOSK, KIOSK, [KIOSK]),
    "bob": (BOB, BOB, [BOB]),
    "bob-beside-her": (BOB, BOB, [BOB, COOKIE]),
    "later": (COOKIE, ALIAS, [COOKIE]),
}
STAY = {"kiosk", "bob", "bob-beside-her", "later"}


def record(plant: Plant, topic: str, **more: Any) -> bytes:
    """A record with these fields and made-up values."""
    contract = plant.registry.latest(topic)
    fields = {field["name"]: value_for(field["type"]) for field in contract.schema["fields"]}
    return encode(contract, fields | more)


def fill(plant: Plant) -> None:
    """Load two persons and a kiosk into every table that names somebody."""
    contract = plant.registry.latest("events.resolved")
    events = [
        event(contract, n, event_id=name, node=node, profile_id=profile, identifiers=ids, decision_token="",
              collector_ts=NOW_MS + (5_000 if name == "later" else n))
        for n, (name, (node, profile, ids)) in enumerate(EVENTS.items())
    ]  # fmt: skip
    plant.send(events, partition=0)
    for visitor, name in ((COOKIE, "d-hers"), (BOB, "d-bobs"), ("", "d-nobodys")):
        plant.send([record(plant, "bandit.decisions", visitor=visitor, decision_id=name)], "bandit.decisions", 0)
        plant.send([record(plant, "bandit.outcomes", decision_id=name, event_id="x")], "bandit.outcomes", 0)
    for node in (COOKIE, BOB):
        plant.send([record(plant, "consent.revocations", subject=node)], "consent.revocations", 0)
        plant.send([record(plant, "privacy.requests", subject=node, nodes=[node], profiles=[node])], "privacy.requests", 0)
        plant.send([record(plant, "identity.merges", node=node, parent=KIOSK, state="")], "identity.merges", 0)
        plant.send([record(plant, "consent.audit", subject=node)], "consent.audit", 0)
    plant.send([record(plant, "identity.conflicts", node=KIOSK, kept=ADA, refused=BOB)], "identity.conflicts", 0)
    plant.send([record(plant, "identity.conflicts", node=KIOSK, kept=BOB, refused=BOB)], "identity.conflicts", 0)


def ids(store: Store, table: str, column: str) -> set[str]:
    """Values of a column."""
    return {row[0] for row in store.rows(f"SELECT {column} FROM headwater.{table}")}


def test_her_rows_go_and_no_replay_brings_them_back(plant: Plant) -> None:
    """Rows go by node and by stamped profile, those of others stay; exact before, after, and after a replay of everything."""
    with plant.loading():
        fill(plant)
        plant.wait_caught_up()
    for profile in (COOKIE, BOB):
        plant.store.command(f"INSERT INTO headwater.identity_stamped VALUES ('{profile}', {NOW_MS})")
        plant.store.command(f"INSERT INTO headwater.identity_overrides VALUES ('1{profile[1:]}', '{profile}', {NOW_MS})")
    before = count_rows(plant.store, WHO)
    # What the loader's own projector had made of the events by then is hers too.
    assert all(before.pop(table) >= 1 for table in derived_conditions(WHO))
    assert before == {
        "events": 4, "bandit_decisions": 1, "bandit_outcomes": 1, "consent_revocations": 1, "privacy_requests": 1,
        "identity_merges": 1, "identity_conflicts": 1, IDENTIFIERS: 1,
    }  # fmt: skip
    exported = [json.loads(line) for line in export_rows(plant.store, "events", WHO)]
    assert {row["event_id"] for row in exported} == set(EVENTS) - STAY
    assert erase_rows(plant.store, REQUEST, WHO) == before
    again = erase_rows(plant.store, REQUEST, WHO)
    assert again == {**before, IDENTIFIERS: 0}, "a second run says the same and does nothing"
    assert_erased(plant)
    consumer = reader(plant.settings, GROUP)
    starts = [ck.TopicPartition(topic, 0, 0) for topic in TABLES]
    wait(lambda: _commit(consumer, starts), 20)
    consumer.close()
    with plant.loading():
        plant.wait_caught_up()
    assert_erased(plant)


def assert_erased(plant: Plant) -> None:
    """Nothing of the person is left, everything of others is, and the warehouse equals Kafka without the erased rows."""
    store = plant.store
    assert set(count_rows(store, WHO).values()) == {0}
    assert ids(store, "events", "event_id") == STAY
    assert store.rows("SELECT identifiers FROM headwater.events WHERE event_id = 'bob-beside-her'") == [([BOB],)]
    for table in ("bandit_decisions", "bandit_outcomes"):
        assert ids(store, table, "decision_id") == {"d-bobs", "d-nobodys"}
    assert ids(store, "identity_merges", "node") == ids(store, "privacy_requests", "subject") == {BOB}
    assert ids(store, "consent_audit", "subject") == {COOKIE, BOB}, "the audit proves, and stays"
    assert store.rows("SELECT kept FROM headwater.identity_conflicts") == [(BOB,)]
    results = verify(plant.settings)
    assert [result.text for result in results if not result.exact] == []
    assert sum(result.erased for result in results) == 10


def test_a_crash_between_taking_down_and_removing_is_completed(plant: Plant) -> None:
    """Rows whose positions are written but that still exist are removed by the next run, with the same counts."""
    migrate(plant.settings)
    contract = plant.registry.latest("events.resolved")
    zoe = ErasedPerson(["2" + "d" * 32], ["2" + "d" * 32], [], NOW_MS + 1_000)
    with plant.loading():
        plant.send([event(contract, n, node=zoe.nodes[0], profile_id=zoe.nodes[0], identifiers=[]) for n in range(3)])
        plant.wait_caught_up()
    other = "cd" * 16
    plant.store.command(
        "INSERT INTO headwater.erased_rows (table_name, _topic_id, _partition, _offset, request_id) "
        f"SELECT 'events', _topic_id, _partition, _offset, '{other}' FROM headwater.events WHERE node = '{zoe.nodes[0]}'"
    )
    assert erase_rows(plant.store, other, zoe)["events"] == 3
    assert count_rows(plant.store, zoe)["events"] == 0
    assert all(result.exact for result in verify(plant.settings))


def test_no_id_that_is_none_gets_into_a_statement() -> None:
    """Text that is no node is refused before any query."""
    with pytest.raises(ValueError, match="id"):
        row_conditions("headwater", WHO._replace(nodes=["x') OR (1=1"]))


def _commit(consumer: ck.Consumer, offsets: list[ck.TopicPartition]) -> bool:
    try:
        consumer.commit(offsets=offsets, asynchronous=False)
    except ck.KafkaException:
        return False
    return True
