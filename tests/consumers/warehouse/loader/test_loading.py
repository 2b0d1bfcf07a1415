"""From Kafka into ClickHouse with real servers and a real loader process."""

import json
import random
import shutil
import time
from pathlib import Path
from typing import Any

import confluent_kafka as ck
import pytest

from consumers.warehouse.history.squash import squash
from consumers.warehouse.loader.loop import GROUP, Warehouse
from consumers.warehouse.loader.rows import RowLoader
from consumers.warehouse.loader.topic_check import TopicReplaced
from consumers.warehouse.verifying import verify
from infra.clients.kafka import producer, reader
from infra.telemetry.metrics import Metrics
from schemas.codec import encode
from schemas.registry import Registry, lock
from tests.consumers.warehouse.plant import Plant, event, wait
from tests.support.scale import FULL


def assert_exact(plant: Plant, records: int) -> None:
    """Each record of events.resolved has exactly one row."""
    results = verify(plant.settings)
    assert all(result.exact for result in results), [result.text for result in results if not result.exact]
    assert sum(result.records for result in results if result.topic == "events.resolved") == records


def test_rows_land_once_poison_becomes_a_letter_and_a_new_column_appears(plant: Plant, tmp_path: Path) -> None:
    """Records are loaded, a broken one becomes a dead letter, and a new contract adds its column."""
    contract = plant.registry.latest("events.resolved")
    good = [event(contract, n) for n in range(2_000)]
    broken = good[:10]
    broken[5] = broken[5][:-4]
    broken[3] += b"\x00"
    broken[7] = b"no frame at all"
    with plant.loading():
        plant.send(good)
        plant.wait_caught_up()
        plant.send(broken, partition=1)
        plant.wait_caught_up()
        assert plant.count("count()") == 2_007
        assert plant.count("countIf(reason = 'UNDECODABLE' AND source_partition = 1)", "dead_letters") == 3
        published = tmp_path / "contracts"
        shutil.copytree(plant.contracts, published)
        file = published / "events.raw.avsc"
        schema = json.loads(file.read_text())
        schema["fields"].append({"name": "basket", "type": "string", "purpose": "analytics", "doc": "New.", "default": ""})
        file.write_text(json.dumps(schema))
        lock(published)
        newest = Registry(published).latest("events.resolved")
        assert newest.id != contract.id
        plant.send([event(newest, n, basket="full") for n in range(100)], partition=2)
        plant.send(good[:100], partition=3)
        wait(lambda: bool(plant.count("count()") == 2_107), 30, plant.log)
        assert not plant.caught_up(), "the contract is unknown: its partition waits, the others go on"
        shutil.copytree(published, plant.contracts, dirs_exist_ok=True)
        plant.wait_caught_up()
        assert plant.count("(countIf(basket = 'full'), count())") == (100, 2_207)
    assert plant.count("count() = uniqExact(_partition, _offset)") == 1
    assert plant.count("any(purposes)") == ["analytics", "personalization"]
    assert plant.count("count()", "events_now") == 2_207
    assert_exact(plant, 2_210)


def test_a_hole_is_found_and_filled_and_nothing_doubles_when_read_again(plant: Plant) -> None:
    """Missing rows come back when the group is reset to the beginning, and no row is doubled."""
    before = plant.count("count()")
    plant.store.command("DELETE FROM headwater.events WHERE _partition = 0 AND _offset % 3 = 1")
    assert plant.count("count()") < before
    assert not all(result.exact for result in verify(plant.settings))
    consumer = reader(plant.settings, GROUP)
    offsets = [ck.TopicPartition("events.resolved", n, 0) for n in range(4)]
    wait(lambda: _commit(consumer, offsets), 20)
    consumer.close()
    with plant.loading():
        wait(lambda: bool(plant.count("count()") == before), 30, plant.log)
        plant.wait_caught_up()
    assert_exact(plant, 2_210)


def _commit(consumer: object, offsets: list[object]) -> bool:
    """False while the stopped loader is still a member of its group."""
    try:
        consumer.commit(offsets=offsets, asynchronous=False)  # type: ignore[attr-defined] # the client has no types
    except ck.KafkaException:
        return False
    return True


class MeetsRebalances:
    """A consumer with a rebalance after the first record of a read, which assigns the same partitions again, ten times."""

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse
        self._consumer: Any = warehouse._consumer
        self._polled: ck.Message | None = None
        self.met = 0

    def poll(self, timeout: float) -> ck.Message | None:
        """Poll the client and remember the record."""
        self._polled = self._consumer.poll(timeout)
        return self._polled

    def consume(self, n: int, timeout: float) -> list[ck.Message]:
        """Consume after a rebalance: its callback runs in the middle of the call."""
        if self.met < 10 and self._polled is not None and self._polled.error() is None:
            self.met += 1
            self._warehouse._assigned(self._consumer, self._consumer.assignment())
        messages: list[ck.Message] = self._consumer.consume(n, timeout)
        return messages

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)


def test_a_rebalance_in_the_middle_of_a_read_doubles_nothing(plant: Plant) -> None:
    """The record that was polled before the rebalance is read again and not buffered twice."""
    before = sum(result.records for result in verify(plant.settings) if result.topic == "events.resolved")
    contract = plant.registry.latest("events.resolved")
    warehouse = Warehouse(plant.settings, RowLoader(plant.store, plant.registry, Metrics()), plant.registry, Metrics())
    client = MeetsRebalances(warehouse)
    warehouse._consumer = client
    deadline, published = time.monotonic() + 60, 0

    def stopping() -> bool:
        nonlocal published
        if client.met < 10:
            plant.send([event(contract, n) for n in range(50)])
            published += 50
        return time.monotonic() > deadline or (client.met == 10 and plant.caught_up())

    warehouse.run(stopping)
    assert client.met == 10
    assert_exact(plant, before + published)


def test_a_topic_of_another_id_ends_the_loader_when_it_is_assigned(plant: Plant) -> None:
    """A client does not read the topic that replaced another: the process must start again."""
    warehouse = Warehouse(plant.settings, RowLoader(plant.store, plant.registry, Metrics()), plant.registry, Metrics())
    warehouse._topics.ids = {"events.resolved": "the id of the topic before"}
    deadline = time.monotonic() + 60
    with pytest.raises(TopicReplaced, match=r"events\.resolved"):
        warehouse.run(lambda: time.monotonic() > deadline)


def test_kill_9_at_random_moments_loses_and_doubles_nothing(plant: Plant) -> None:
    """Each record has one row after kills of the loader and of ClickHouse, under load, with aborted transactions."""
    chance = random.Random(7)
    contract = plant.registry.latest("events.resolved")
    before = sum(result.records for result in verify(plant.settings) if result.topic == "events.resolved")
    client = producer(plant.settings, transactional_id="flow")
    client.init_transactions(30)
    published, kills = 0, 0
    process = plant.start()
    next_kill = time.monotonic() + 3
    # At least six, one of ClickHouse, and until one has hit an insert: on a busy machine the first may all hit a start.
    while kills < (12 if FULL else 6) or (kills < 40 and "replaying" not in plant.log.read_text()):
        client.begin_transaction()
        for n in range(400):
            client.produce("events.resolved", event(contract, n), key=str(chance.random()).encode())
        if chance.random() < 0.2:
            # The broker refuses to end a transaction of which nothing has reached it, and nothing would be on the topic.
            assert client.flush(30) == 0
            client.abort_transaction(30)
        else:
            client.commit_transaction(30)
            published += 400
        if time.monotonic() > next_kill:
            kills += 1
            if kills % 4 == 0:
                assert process.poll() is None, plant.log.read_text()[-3000:]
                plant.kill_clickhouse()
            else:
                process.kill()
                process.wait()
                process = plant.start()
            next_kill = time.monotonic() + chance.uniform(1.2, 2.6)
        time.sleep(0.05)
    process.kill()
    process.wait()
    with plant.loading():
        plant.wait_caught_up()
    assert_exact(plant, before + published)
    assert "replaying" in plant.log.read_text(), "no kill hit an insert: the test proves little"


def test_history_follows_the_identity_graph_and_rewritten_rows_are_found_by_a_replay(plant: Plant) -> None:
    """The loader's process maps its rows; after a squash, resetting the group to the beginning doubles nothing."""
    before = sum(result.records for result in verify(plant.settings) if result.topic == "events.resolved")
    merges, events = plant.registry.latest("identity.merges"), plant.registry.latest("events.resolved")
    link = {"node": "2" + "c" * 32, "parent": "1" + "d" * 32, "event_id": "link", "evidence_ts": int(time.time() * 1000)}
    with plant.loading():
        plant.send([event(events, n, profile_id=link["node"]) for n in range(20)])
        plant.send([encode(merges, link)], "identity.merges")
        wait(lambda: bool(plant.count(f"countIf(profile_now = '{link['parent']}')", "events_now") == 20), 30, plant.log)
        plant.wait_caught_up()
    squashed = squash(plant.store, int(time.time() * 1000), -1, lambda: False)
    assert (squashed.rows, squashed.overrides) == (20, 0)
    assert plant.count(f"countIf(profile_id = '{link['parent']}')") == 20
    consumer = reader(plant.settings, GROUP)
    offsets = [ck.TopicPartition("events.resolved", n, 0) for n in range(4)]
    wait(lambda: _commit(consumer, offsets), 20)
    consumer.close()
    with plant.loading():
        plant.wait_caught_up()
    assert_exact(plant, before + 20)


def test_rows_past_their_time_to_live_halt_nothing(plant: Plant) -> None:
    """Rows that the TTL removes at once are skipped when they are read again. Runs last, because they stay away."""
    contract = plant.registry.latest("identity.merges")
    old = {"node": "2" + "a" * 32, "parent": "1" + "b" * 32, "epoch": 1, "event_id": "old", "evidence_ts": 1}
    records = [encode(contract, old), encode(contract, old | {"evidence_ts": int(time.time() * 1000)})]
    plant.send(records, "identity.merges", partition=0)
    with plant.loading():
        plant.wait_caught_up()
    # A merge takes such rows, and merges come when they like.
    plant.store.command("OPTIMIZE TABLE headwater.identity_merges FINAL")
    wait(lambda: plant.count("countIf(event_id = 'old')", "identity_merges") == 1, 20)
    consumer = reader(plant.settings, GROUP)
    wait(lambda: _commit(consumer, [ck.TopicPartition("identity.merges", 0, 0)]), 20)
    consumer.close()
    with plant.loading():
        plant.wait_caught_up()
    assert "rows too old to be kept" in plant.log.read_text()
    assert plant.count("countIf(event_id = 'old')", "identity_merges") == 1
