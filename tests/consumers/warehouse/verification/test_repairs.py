"""Verification finds faults and repairs remove them, with real servers: holes, duplicates, changed values, replaced topics."""

import json
import signal
import time
from collections.abc import Sequence
from typing import Any

import confluent_kafka as ck
import pytest
from confluent_kafka.admin import AdminClient, NewTopic
from typer.testing import CliRunner, Result

from consumers.gauge.row_checks import read_row_checks
from consumers.warehouse.app import app
from consumers.warehouse.erasing import remove_rows
from consumers.warehouse.verification.contents import PREFIX
from consumers.warehouse.verification.repair_lock import repair_lock
from consumers.warehouse.verification.results import FAULTS
from consumers.warehouse.verification.schedule import VerificationThread
from consumers.warehouse.verifying import verify, verify_new
from infra.clients.kafka import admin
from infra.errors import ConfigError
from infra.ops.doctor import services
from infra.ops.doctor.check_result import Grade
from infra.ops.embedded.ports import free_port
from infra.ops.embedded.probes import http_get
from infra.settings import Settings
from infra.telemetry.metrics import Metrics
from schemas.codec import encode
from tests.consumers.warehouse.plant import Plant, event, wait
from tests.support.headwater_process import HeadwaterProcess
from tests.support.scale import FULL

SYNC = "SETTINGS mutations_sync = 1"
DAY_MS = 86_400_000


@pytest.fixture(scope="module")
def filled(plant: Plant) -> Plant:
    """Servers with 4,000 events, some of them aborted, and one undecodable record; no loader runs."""
    contract = plant.registry.latest("events.resolved")
    with plant.loading():
        plant.send([event(contract, n) for n in range(4_000)])
        plant.send([event(contract, 5)[:-4]], partition=2)
        plant.wait_caught_up()
    return plant


@pytest.fixture
def run(filled: Plant, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command of `headwater warehouse` on these servers."""
    for name, value in filled.environment.items():
        monkeypatch.setenv(name, value)

    def invoke(*words: str) -> Result:
        return CliRunner().invoke(app, words)

    return invoke


def faults(plant: Plant) -> dict[str, int]:
    """Kind -> wrong rows that are reported."""
    sums = ", ".join(f"sum({kind})" for kind in FAULTS)
    return dict(zip(FAULTS, plant.store.rows(f"SELECT {sums} FROM headwater.verification_faults")[0], strict=True))


def settings(plant: Plant, **more: Any) -> Settings:
    """The servers' settings with some changed."""
    return plant.settings.model_copy(update=more)


def wrong(results: Sequence[Any]) -> list[str]:
    """Texts of the results that are not exact."""
    return [result.text for result in results if not result.exact]


def total(results: Sequence[Any]) -> int:
    """Records of all results."""
    return sum(result.records for result in results)


def test_new_offsets_are_verified_once_and_all_of_them_in_full(filled: Plant) -> None:
    """The first run compares everything, the next nothing, one after new records those, a full one everything."""
    first = verify_new(filled.settings)
    assert (wrong(first), total(first)) == ([], 4_002)
    assert sum(result.dead for result in first) == 1
    assert total(verify_new(filled.settings)) == 0
    contract = filled.registry.latest("events.resolved")
    with filled.loading():
        filled.send([event(contract, n) for n in range(30)])
        filled.wait_caught_up()
    assert total(verify_new(filled.settings)) == 30
    full = verify(filled.settings)
    assert (wrong(full), total(full)) == ([], 4_032)
    assert filled.count("sum(unverifiable)", "verifications") == 0


def test_a_hole_is_found_by_the_hourly_run_and_filled_by_replay(filled: Plant, run: Any) -> None:
    """Missing rows are reported until `replay` fills them in; erased rows stay away; the alarm ends by itself."""
    before = filled.count("count()")
    contract = filled.registry.latest("events.resolved")
    with filled.loading():
        filled.send([event(contract, n) for n in range(40)], partition=0)
        filled.wait_caught_up()
        newest = filled.count("max(_offset)", "events WHERE _partition = 0")
        filled.store.command(f"ALTER TABLE headwater.events DELETE WHERE _partition = 0 AND _offset > {newest - 7} {SYNC}")
        remove_rows(filled.store, "ab" * 16, {"events": f"_partition = 0 AND _offset = {newest - 20}"})
        metrics = Metrics()
        verifying = VerificationThread(settings(filled, verify_interval_s=1), filled.store, filled.registry, metrics)
        verifying.verify_due()
        assert faults(filled) == {"missing": 7, "duplicates": 0, "unexpected": 0, "different": 0}
        series = {"topic": "events.resolved", "kind": "missing"}
        assert metrics.registry.get_sample_value("headwater_verification_wrong_rows", series) == 7
        assert wrong(verify_new(filled.settings)), "what is wrong is looked at again"
        finding = services.check_warehouse_rows(filled.settings)
        assert (finding.grade, "replay" in finding.advice) == (Grade.FAIL, True)
        command_result = run("replay", "--from", "1h", "--json")
        assert command_result.exit_code == 0, command_result.output
        outcome = json.loads(command_result.stdout)
        assert (outcome["filled"], outcome["missing"]) == (7, 0)
        verifying.verify_due()
        assert metrics.registry.get_sample_value("headwater_verification_wrong_rows", series) == 0
        verifying.stop()
    assert set(faults(filled).values()) == {0}
    assert filled.count("count()") == before + 39, "the erased row stays away"
    assert filled.count("count() = uniqExact(_partition, _offset)") == 1
    assert services.check_warehouse_rows(filled.settings).grade is Grade.OK
    assert json.loads(run("replay", "--from", "0", "--topic", "events.resolved", "--json").stdout)["filled"] == 0


def test_doubled_rows_are_removed_and_the_right_one_stays(filled: Plant, run: Any) -> None:
    """Copies go, and of differing rows the one that equals Kafka's record stays, despite merges and inserts meanwhile."""
    before = filled.count("count()")
    copied = "_partition = 1 AND _offset BETWEEN 10 AND 400"
    for _ in range(2):
        filled.store.command(f"INSERT INTO headwater.events SELECT * FROM headwater.events WHERE {copied} LIMIT 1 BY _offset")
    columns = "* REPLACE ('changed' AS page_url, fromUnixTimestamp64Milli(toInt64(5)) AS _loaded_at)"
    filled.store.command(
        f"INSERT INTO headwater.events SELECT {columns} FROM headwater.events WHERE _partition = 3 AND _offset = 7"
    )
    assert len(wrong(verify_new(filled.settings))) == 0, "nothing is new"
    assert len(wrong(verify(filled.settings))) == 2
    assert faults(filled)["duplicates"] == 391 * 2 + 1
    assert faults(filled)["different"] == 1
    dry = run("dedupe", "--dry-run", "--json")
    assert (dry.exit_code, json.loads(dry.stdout)["left"]) == (1, 783)
    filled.store.command("OPTIMIZE TABLE headwater.events")
    with filled.loading():
        contract = filled.registry.latest("events.resolved")
        filled.send([event(contract, n) for n in range(500)])
        command_result = run("dedupe", "--json")
        filled.wait_caught_up()
    assert command_result.exit_code == 0, command_result.output
    by_partition = {partition["partition"]: partition for partition in json.loads(command_result.stdout)["partitions"]}
    assert by_partition[1]["removed"] == 782
    assert by_partition[3]["corrected"] == [7]
    assert sum(verified["duplicates"] for verified in by_partition[1]["before"]) == 782
    assert sum(verified["duplicates"] for verified in by_partition[1]["after"]) == 0
    assert set(faults(filled).values()) == {0}
    assert filled.count("count()") == before + 500
    assert filled.count("countIf(page_url = 'changed')") == 0
    assert wrong(verify(filled.settings)) == []


def test_dedupe_that_is_killed_loses_no_row(filled: Plant, run: Any) -> None:
    """Killed at any moment during merges, it leaves at least one row of each offset; the next run completes the rest."""
    everything = filled.count("count()")
    for _ in range(3):
        filled.store.command(
            "INSERT INTO headwater.events SELECT * FROM headwater.events LIMIT 1 BY _topic_id, _partition, _offset"
        )
    assert filled.count("count()") == 4 * everything
    kills = 0
    for attempt in range(4) if FULL else (0, 3):
        process = HeadwaterProcess(["warehouse", "dedupe"], filled.environment, filled.log)
        deadline = time.monotonic() + 60
        # A little later each time: in the group, at the first figures, in the middle of removals.
        while process.poll() is None and not _removing(filled) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.03 * attempt)
        process.kill()
        kills += process.wait() == -signal.SIGKILL
        filled.store.command("OPTIMIZE TABLE headwater.events FINAL")
        assert filled.count("uniqExact(_topic_id, _partition, _offset)") == everything
    assert kills, "each run had ended before it was killed: the test proves little"
    assert run("dedupe").exit_code == 0
    assert filled.count("count()") == everything
    assert wrong(verify(filled.settings)) == []


def _removing(plant: Plant) -> bool:
    query = "SELECT count() FROM system.mutations WHERE table = 'events' AND NOT is_done"
    return bool(plant.store.rows(query)[0][0])


def test_a_changed_value_is_found_by_content(filled: Plant) -> None:
    """Counts and offsets are right, the value is not; identity that is rewritten is no difference."""
    change = "ALTER TABLE headwater.events UPDATE {} WHERE _partition = 2 AND _offset IN (3, 4) " + SYNC
    filled.store.command(change.format("profile_id = 'other', identifiers = []"))
    assert wrong(verify(filled.settings)) == []
    filled.store.command(change.format("value = value + 1"))
    (line,) = wrong(verify(filled.settings))
    assert "2 different" in line
    assert "offsets 3, 4" in line
    filled.store.command(change.format("value = value - 1"))
    assert wrong(verify_new(filled.settings)) == []


def test_rows_past_their_time_to_live_are_not_missing(filled: Plant) -> None:
    """A merge removes them at any time: they may exist or not."""
    contract = filled.registry.latest("identity.merges")
    old = {"node": "2" + "a" * 32, "parent": "1" + "b" * 32, "epoch": 1, "event_id": "old", "evidence_ts": 1}
    filled.send(
        [encode(contract, old), encode(contract, old | {"event_id": "new", "evidence_ts": int(time.time() * 1000)})],
        "identity.merges",
        0,
    )
    with filled.loading():
        filled.wait_caught_up()
    assert wrong(verify(filled.settings)) == []
    filled.store.command("OPTIMIZE TABLE headwater.identity_merges FINAL")
    wait(lambda: filled.count("countIf(event_id = 'old')", "identity_merges") == 0, 20)
    assert wrong(verify(filled.settings)) == []


def test_repairs_refuse_a_second_one_and_senseless_ranges(filled: Plant, run: Any) -> None:
    """A repair without the lock changes nothing, and the message says what to do."""
    with repair_lock(filled.settings) as lock:
        second = repair_lock(filled.settings)
        with pytest.raises(ConfigError, match="wait until it has ended"), second:
            pytest.fail("two hold it")
        lock.check()
    for words, text in (
        (("--from", "100"), "add --topic"),
        (("--from", "soon"), "an age"),
        (("--from", "1h", "--topic", "events.raw"), "no table"),
        (("--from", "0", "--topic", "events.resolved", "--partition", "99"), "no such partition"),
    ):
        refused = run("replay", *words)
        assert isinstance(refused.exception, ConfigError)
        assert text in str(refused.exception)


def test_the_loader_verifies_by_itself_and_watches_views(filled: Plant, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its own process: a failing view and wrong rows appear in its metrics within the interval, and disappear again."""
    port = free_port()
    for name, value in {"VERIFY_INTERVAL_S": "1", "METRICS_PORT": str(port)}.items():
        monkeypatch.setitem(filled.environment, f"HEADWATER_{name}", value)
    contract = filled.registry.latest("events.resolved")
    view = 'headwater_view_failing{view="headwater.broken"}'
    wrong_rows = 'headwater_verification_wrong_rows{kind="missing",topic="events.resolved"}'
    filled.store.command(
        "CREATE MATERIALIZED VIEW headwater.broken ENGINE = MergeTree ORDER BY n AS "
        "SELECT throwIf(event_id = 'event-77') AS n FROM headwater.events"
    )
    with filled.loading():
        filled.send([event(contract, n) for n in range(70, 90)], partition=0)
        wait(lambda: f"{view} 1.0" in page(port), 60, filled.log)
        filled.store.command("DROP VIEW headwater.broken SYNC")
        wait(lambda: f"{view} 0.0" in page(port), 60, filled.log)
        newest = filled.count("max(_offset)", "events WHERE _partition = 0")
        wait(lambda: bool(filled.count(f"countIf(to_offset > {newest})", "verifications WHERE partition = 0")), 60, filled.log)
        assert filled.count("count()", "verifications WHERE kind = 'hourly' AND records > 0") > 0
        filled.store.command(f"ALTER TABLE headwater.events DELETE WHERE _partition = 0 AND _offset = {newest} {SYNC}")
        assert len(wrong(verify(filled.settings))) == 1, "what was verified is not compared again but by hand"
        wait(lambda: f"{wrong_rows} 1.0" in page(port), 60, filled.log)
        assert run("replay", "--from", str(newest), "--topic", "events.resolved").exit_code == 0
        wait(lambda: f"{wrong_rows} 0.0" in page(port), 60, filled.log)
        assert "headwater_verification_interval_seconds 1.0" in page(port)


def page(port: int) -> str:
    """A worker's metrics."""
    return http_get(f"http://127.0.0.1:{port}/metrics")


def test_offsets_that_kafka_no_longer_has_are_unverifiable_and_never_ok(filled: Plant, run: Any) -> None:
    """They are counted, and duplicates among them are still found and removed."""
    low = 300
    client: AdminClient = admin(filled.settings)
    filled.store.command("TRUNCATE TABLE headwater.verifications")
    for future in client.delete_records([ck.TopicPartition("events.resolved", 3, low)]).values():
        future.result(30)
    filled.store.command("INSERT INTO headwater.events SELECT * FROM headwater.events WHERE _partition = 3 AND _offset = 20")
    results = [result for result in verify_new(filled.settings) if (result.topic, result.partition) == ("events.resolved", 3)]
    assert [(result.unverifiable, result.duplicates, result.missing) for result in results] == [(low, 1, 0)]
    assert services.check_warehouse_rows(filled.settings).grade is Grade.FAIL
    assert run("dedupe", "--topic", "events.resolved").exit_code == 0
    assert set(faults(filled).values()) == {0}
    checks = {check.topic: (check.unverifiable, check.faults) for check in read_row_checks(filled.settings)}
    assert checks["events.resolved"] == (low, ())


def test_a_loss_that_retention_passes_stays_reported_until_it_is_accepted(filled: Plant, run: Any) -> None:
    """Missing rows stay reported after Kafka has dropped their records."""
    source = "_partition = 2 AND _offset BETWEEN 0 AND 9"
    filled.store.command("TRUNCATE TABLE headwater.verifications")
    filled.store.command(f"DELETE FROM headwater.events WHERE {source}")
    verify_new(filled.settings)
    assert sum(faults(filled).values()) > 0
    client: AdminClient = admin(filled.settings)
    for future in client.delete_records([ck.TopicPartition("events.resolved", 2, 100)]).values():
        future.result(30)
    verify_new(filled.settings)
    assert sum(faults(filled).values()) > 0
    assert services.check_warehouse_rows(filled.settings).grade is Grade.FAIL
    assert run("verify", "--accept-losses").exit_code == 0
    assert sum(faults(filled).values()) == 0


def test_status_shows_tables_lag_and_the_last_result(filled: Plant, run: Any) -> None:
    """Rows, size, lag and verified offsets, as text and JSON."""
    contract = filled.registry.latest("events.resolved")
    filled.send([event(contract, n) for n in range(10)], partition=1)
    shown = json.loads(run("status", "--json").stdout)
    (events,) = [table for table in shown["tables"] if table["table"] == "events"]
    assert events["rows"] == filled.count("count()")
    assert events["lag"] >= 10
    assert events["bytes_on_disk"] > 0
    assert events["result"].startswith("ok, ")
    assert "events" in run("status").stdout
    with filled.loading():
        filled.wait_caught_up()


def test_leftovers_of_a_killed_run_are_dropped(filled: Plant) -> None:
    """An old twin table is dropped; a young one may be in use."""
    old, young = f"{PREFIX}5_ab", f"{PREFIX}{int(time.time() * 1000)}_cd"
    for name in (old, young):
        filled.store.command(f"CREATE TABLE headwater.{name} (x Int8) ENGINE = Memory")
    verify_new(filled.settings)
    names = [name for (name,) in filled.store.rows(f"SELECT name FROM system.tables WHERE startsWith(name, '{PREFIX}')")]
    assert names == [young]
    filled.store.command(f"DROP TABLE headwater.{young}")


def test_a_topic_made_anew_is_verified_from_its_beginning(filled: Plant) -> None:
    """The new topic has other offsets: old rows prove nothing about new records, and earlier faults raise no alarm."""
    filled.store.command(f"ALTER TABLE headwater.events DELETE WHERE _partition = 0 AND _offset = 12 {SYNC}")
    assert wrong(verify(filled.settings))
    client: AdminClient = admin(filled.settings)
    client.delete_topics(["events.resolved"])["events.resolved"].result(30)
    wait(lambda: "events.resolved" not in client.list_topics(timeout=10).topics, 30)
    wait(lambda: _created(client), 30)
    contract = filled.registry.latest("events.resolved")
    with filled.loading():
        filled.send([event(contract, n) for n in range(300)])
        filled.wait_caught_up()
        anew = verify_new(filled.settings)
    assert (wrong(anew), total([result for result in anew if result.topic == "events.resolved"])) == ([], 300)
    assert set(faults(filled).values()) == {0}


def _created(client: AdminClient) -> bool:
    try:
        client.create_topics([NewTopic("events.resolved", 4, 1)])["events.resolved"].result(30)
    except ck.KafkaException:
        return False
    return True
