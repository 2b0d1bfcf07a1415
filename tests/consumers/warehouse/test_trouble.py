"""A loader with a ClickHouse in trouble, or one that was altered: nothing is lost, doubled or dead-lettered."""

import json
import shutil
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import confluent_kafka as ck
import psutil
import pytest

from consumers.warehouse.loader.loop import GROUP
from consumers.warehouse.schema.migrating import migrate
from consumers.warehouse.verifying import verify
from infra.clients.kafka import admin, reader
from infra.errors import EXIT_FENCED
from infra.ops import topics as topics_app
from infra.ops.embedded.ports import free_port
from infra.ops.embedded.servers.clickhouse import EmbeddedClickHouse
from infra.ops.embedded.servers.kafka import EmbeddedKafka
from schemas.codec import encode
from schemas.registry import Contract, Registry, lock
from tests.consumers.warehouse.plant import NOW_MS, Plant, event, value_for, wait

POLL_INTERVAL_S = 6


class MeasuredPlant(Plant):
    """Servers with a loader that serves its metrics."""

    port = 0

    def metric(self, line: str) -> float:
        """A sample of the loader's /metrics; 0 where there is none."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            page = answer.read().decode()
        return next((float(text.rpartition(" ")[2]) for text in page.splitlines() if text.startswith(line)), 0.0)

    def waits(self) -> bool:
        """Whether the metric says that the loader waits for ClickHouse."""
        return self.metric('headwater_waiting{service="clickhouse",stage="warehouse"}') == 1

    def waiting_reasons(self) -> set[str]:
        """Reasons in the metadata of the group's commits."""
        client = reader(self.settings, GROUP)
        try:
            positions = client.committed([ck.TopicPartition("events.resolved", n) for n in range(4)], timeout=10)
        finally:
            client.close()
        return {json.loads(position.metadata).get("waiting", "") for position in positions if position.metadata} - {""}

    def make_anew(self, topic: str) -> None:
        """Delete a topic and create it again."""
        client = admin(self.settings)
        for future in client.delete_topics([topic]).values():
            future.result(30)
        wait(lambda: topic not in client.list_topics(timeout=10).topics, 30)
        topics_app.apply(self.settings)

    def exact(self) -> None:
        """Each record has exactly one row, and there are no dead letters."""
        wrong = [result.text for result in verify(self.settings) if not result.exact]
        assert not wrong
        assert self.count("count()", "dead_letters") == 0


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeasuredPlant]:
    """Servers that no other module uses; the group evicts members that do not poll for six seconds."""
    folder = tmp_path_factory.mktemp("trouble")
    with EmbeddedKafka(folder / "kafka") as kafka, EmbeddedClickHouse(folder / "clickhouse") as clickhouse:
        plant = MeasuredPlant(kafka.address, clickhouse, folder)
        migrate(plant.settings)
        plant.port = free_port()
        plant.environment |= {
            "HEADWATER_METRICS_PORT": str(plant.port),
            "HEADWATER_KAFKA_OPTIONS": json.dumps(
                {"max.poll.interval.ms": f"{POLL_INTERVAL_S * 1000}", "session.timeout.ms": "3000"}
            ),
        }
        try:
            yield plant
        finally:
            plant.close()


def test_a_constraint_stops_its_table_until_it_is_dropped(troubled: MeasuredPlant) -> None:
    """The reason is in the metric and in the commit, other tables go on, and afterwards every row is loaded once."""
    events, counts = troubled.registry.latest("events.resolved"), troubled.registry.latest("stream.counts")
    with troubled.loading():
        troubled.send([event(events, n) for n in range(100)])
        troubled.wait_caught_up()
        troubled.store.command("ALTER TABLE headwater.events ADD CONSTRAINT few CHECK event_id NOT LIKE '%7'")
        troubled.send([event(events, n) for n in range(100, 200)])
        wait(troubled.waits, 30, troubled.log)
        wait(lambda: any("constraint few" in reason for reason in troubled.waiting_reasons()), 30, troubled.log)
        troubled.send([count_cell(counts, n) for n in range(10)], "stream.counts")
        wait(lambda: bool(troubled.count("count()", "volume_1m") == 10), 30, troubled.log)
        troubled.store.command("ALTER TABLE headwater.events DROP CONSTRAINT few")
        troubled.wait_caught_up()
        wait(lambda: not troubled.waits(), 30, troubled.log)
        assert not troubled.waiting_reasons()
    assert troubled.count("count()") == 200
    troubled.exact()


def test_a_computed_column_that_fails_buries_nothing(troubled: MeasuredPlant) -> None:
    """Rows that fit their contract wait for the table; none becomes a dead letter."""
    contract = troubled.registry.latest("events.resolved")
    before = troubled.count("count()")
    troubled.store.command("ALTER TABLE headwater.events ADD COLUMN number Int32 MATERIALIZED toInt32(event_name)")
    with troubled.loading():
        troubled.send([event(contract, n) for n in range(60)], partition=2)
        wait(lambda: any("MATERIALIZED" in reason for reason in troubled.waiting_reasons()), 30, troubled.log)
        assert troubled.waits()
        troubled.store.command("ALTER TABLE headwater.events DROP COLUMN number")
        troubled.wait_caught_up()
    assert troubled.count("count()") == before + 60
    troubled.exact()


def test_a_failing_view_of_somebody_else_costs_no_row(troubled: MeasuredPlant) -> None:
    """Rows land once while a materialised view throws; a working one beside it is filled."""
    contract = troubled.registry.latest("events.resolved")
    before = troubled.count("count()")
    for name, column in (("bad", "if(throwIf(endsWith(event_id, '9'), 'no') = 0, event_id, '')"), ("good", "event_id")):
        select = f"SELECT {column} AS event_id FROM headwater.events"
        troubled.store.command(f"CREATE MATERIALIZED VIEW headwater.{name} ENGINE = MergeTree ORDER BY event_id AS {select}")
    with troubled.loading():
        troubled.send([event(contract, n) for n in range(100)])
        troubled.wait_caught_up()
        assert troubled.metric('headwater_inserted_total{table="events"}') == 100, "rows of views are not counted"
    assert troubled.count("count()") == before + 100
    assert troubled.count("count()", "good") == 100
    troubled.exact()
    for name in ("bad", "good"):
        troubled.store.command(f"DROP VIEW headwater.{name}")


def test_an_incompatible_column_stops_its_table_and_is_named(troubled: MeasuredPlant) -> None:
    """The reason names column and types; other tables go on; after the repair the rows are loaded."""
    contract, counts = troubled.registry.latest("events.resolved"), troubled.registry.latest("stream.counts")
    before, counted = troubled.count("count()"), troubled.count("count()", "volume_1m")
    troubled.store.command("ALTER TABLE headwater.events DROP COLUMN page_title")
    troubled.store.command("ALTER TABLE headwater.events ADD COLUMN page_title UInt8")
    with troubled.loading():
        troubled.send([event(contract, n) for n in range(50)])
        troubled.send([count_cell(counts, n) for n in range(10)], "stream.counts")
        reason = "column page_title is UInt8, the contract needs String"
        wait(lambda: any(reason in text for text in troubled.waiting_reasons()), 30, troubled.log)
        wait(lambda: bool(troubled.count("count()", "volume_1m") == counted + 10), 30, troubled.log)
        troubled.store.command("ALTER TABLE headwater.events MODIFY COLUMN page_title String")
        troubled.wait_caught_up()
    assert troubled.count("count()") == before + 50
    troubled.exact()


def test_a_new_field_appears_in_the_view_and_purposes_are_there(troubled: MeasuredPlant, tmp_path: Path) -> None:
    """A contract that is new to a running loader adds its column to `events` and to `events_now` in one step."""
    with troubled.loading():
        troubled.send([event(troubled.registry.latest("events.resolved"), 1)])
        troubled.wait_caught_up()
        published = tmp_path / "contracts"
        shutil.copytree(troubled.contracts, published)
        file = published / "events.raw.avsc"
        schema = json.loads(file.read_text())
        schema["fields"].append({"name": "basket", "type": "string", "purpose": "analytics", "doc": "New.", "default": ""})
        file.write_text(json.dumps(schema))
        lock(published)
        shutil.copytree(published, troubled.contracts, dirs_exist_ok=True)
        newest = Registry(published).latest("events.resolved")
        troubled.send([event(newest, n, basket="full") for n in range(10)])
        troubled.wait_caught_up()
    assert troubled.count("countIf(basket = 'full')", "events_now") == 10
    assert troubled.count("any(purposes)", "events_now WHERE basket = 'full'") == ["analytics", "personalization"]
    assert troubled.count("countIf(abs(dateDiff('second', _loaded_at, now())) > 600)", "events_now") == 0
    troubled.exact()


def test_a_hanging_server_evicts_nobody_and_a_signal_is_obeyed(troubled: MeasuredPlant) -> None:
    """The loader keeps its partitions beyond the poll interval, says what it waits for, and ends within ten seconds."""
    contract, counts = troubled.registry.latest("events.resolved"), troubled.registry.latest("stream.counts")
    server = psutil.Process(troubled.server.pid)
    process = troubled.start()
    try:
        troubled.send([event(contract, 1)])
        troubled.wait_caught_up()
        server.suspend()
        hung_until = time.monotonic() + 2 * POLL_INTERVAL_S
        troubled.send([event(contract, n) for n in range(200)])
        troubled.send([count_cell(counts, n) for n in range(200)], "stream.counts")
        wait(troubled.waits, 40, troubled.log)
        wait(lambda: time.monotonic() > hung_until, 2 * POLL_INTERVAL_S + 1)
        assert process.poll() is None
        assert troubled.metric('headwater_assigned_partitions{stage="warehouse"}') > 0
        assert _members(troubled) == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        server.resume()
        process.kill()
        process.wait()
    assert "MAXPOLL" not in troubled.log.read_text()
    with troubled.loading():
        troubled.wait_caught_up()
    troubled.exact()


def test_a_signal_is_obeyed_before_the_tables_are_looked_up(troubled: MeasuredPlant) -> None:
    """A loader that starts while ClickHouse hangs ends too."""
    server = psutil.Process(troubled.server.pid)
    server.suspend()
    try:
        process = troubled.start()
        wait(lambda: process.poll() is not None or _answers(troubled), 60, troubled.log)
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        server.resume()


def test_a_topic_that_is_made_anew_under_a_running_loader_loses_and_doubles_nothing(troubled: MeasuredPlant) -> None:
    """The new topic outgrows the old position before the check: the loader ends, and the next one reads from the beginning."""
    contract = troubled.registry.latest("stream.counts")
    before = troubled.count("count()", "volume_1m")
    process = troubled.start()
    try:
        troubled.send([count_cell(contract, n) for n in range(5)], "stream.counts", partition=0)
        troubled.wait_caught_up()
        troubled.make_anew("stream.counts")
        for _ in range(4):
            troubled.send([count_cell(contract, n) for n in range(10)], "stream.counts", partition=0)
        assert process.wait(30) == EXIT_FENCED, troubled.log.read_text()[-3000:]
    finally:
        process.kill()
        process.wait()
    with troubled.loading():
        troubled.wait_caught_up()
    assert troubled.count("count()", "volume_1m") == before + 45
    troubled.exact()


def test_a_topic_that_is_made_anew_is_loaded_beside_the_old_rows(troubled: MeasuredPlant) -> None:
    """Offsets begin at 0 again under another topic id: every record is loaded, and `verify` compares the new ones only."""
    contract = troubled.registry.latest("stream.counts")
    before = troubled.count("count()", "volume_1m")
    with troubled.loading():
        troubled.send([count_cell(contract, n) for n in range(20)], "stream.counts", partition=0)
        troubled.wait_caught_up()
    troubled.make_anew("stream.counts")
    with troubled.loading():
        troubled.send([count_cell(contract, n) for n in range(7)], "stream.counts", partition=0)
        troubled.wait_caught_up()
    assert troubled.count("count()", "volume_1m") == before + 27
    assert troubled.count("uniqExact(_topic_id)", "volume_1m") >= 2
    troubled.exact()


def count_cell(contract: Contract, n: int) -> bytes:
    """A record of stream.counts."""
    cell = {field["name"]: value_for(field["type"]) for field in contract.schema["fields"] if "default" not in field}
    return encode(contract, cell | {"minute": NOW_MS // 60_000 * 60_000, "n": n})


def _answers(plant: MeasuredPlant) -> bool:
    try:
        plant.metric("")
    except OSError:
        return False
    return True


def _members(plant: Plant) -> int:
    client = admin(plant.settings)  # its answers end with it
    return len(client.describe_consumer_groups([GROUP])[GROUP].result(10).members)
