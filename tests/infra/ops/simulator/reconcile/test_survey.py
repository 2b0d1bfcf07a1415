"""Reconciliation of hand-written layers in a real broker and a real ClickHouse, without and with injected faults."""

import json
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from consumers.warehouse.schema.migrating import migrate
from infra.clients.kafka import admin, producer
from infra.ops.embedded.servers.kafka import EmbeddedKafka
from infra.ops.simulator.ledger import read_ledger
from infra.ops.simulator.marks import event_id, marker
from infra.ops.simulator.reconcile import drain
from infra.ops.simulator.reconcile.app import app
from infra.ops.simulator.reconcile.compare import LayerVerdict
from infra.ops.simulator.reconcile.survey import Survey
from infra.ops.topics import apply
from infra.settings import load_settings
from tests.broker.copying import create_topics
from tests.infra.ops.simulator.small_house import DECISION, RUN, SmallHouse

Fault = Callable[[SmallHouse], object]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, clickhouse_url: str) -> Iterator[SmallHouse]:
    """Correct, drained layers in a separate broker, because counts are compared over whole topics."""
    folder = tmp_path_factory.mktemp("house")
    with EmbeddedKafka(folder / "kafka") as kafka:
        settings = load_settings(
            kafka=kafka.address,
            clickhouse=clickhouse_url,
            clickhouse_database=f"small_{secrets.token_hex(4)}",
            state_dir=folder,
            secret="s" * 40,
            partitions=2,
        )
        apply(settings)
        migrate(settings)
        house = SmallHouse(settings, folder / "ledger.jsonl")
        house.populate()
        house.load()
        house.settle()
        yield house


def verdict(house: SmallHouse) -> dict[str, LayerVerdict]:
    """Return the result of every layer."""
    return {row.layer: row for row in Survey(house.settings, read_ledger(house.ledger)).rows()}


def reconcile(house: SmallHouse, monkeypatch: pytest.MonkeyPatch) -> tuple[int, dict[str, Any]]:
    """Run the command; return (exit code, JSON)."""
    for name in ("kafka", "clickhouse", "clickhouse_database", "state_dir"):
        monkeypatch.setenv(f"HEADWATER_{name.upper()}", str(getattr(house.settings, name)))
    monkeypatch.setenv("HEADWATER_SECRET", "s" * 40)
    result = CliRunner().invoke(app, ["--ledger", str(house.ledger), "--json", "--timeout", "20"])
    return result.exit_code, json.loads(result.stdout)


def test_the_command_exits_0_for_a_healthy_house(house: SmallHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code and JSON agree."""
    code, report = reconcile(house, monkeypatch)
    assert code == 0
    assert (report["lost"], report["doubled"], report["forbidden"], report["unexplained"], report["drained"]) == (
        0,
        0,
        0,
        0,
        True,
    )


def test_a_healthy_house_drains_and_is_accounted_for(house: SmallHouse) -> None:
    """Nothing lost, doubled, forbidden or unexplained in any layer."""
    drain.wait_drained(house.settings, 20, lambda _lags: None)
    assert [row for row in verdict(house).values() if not row.good] == []


def test_a_house_at_rest_has_settled_and_one_with_a_refusal_on_its_way_has_not(house: SmallHouse) -> None:
    """Every topic that propagates refusals counts, whether a group has committed an offset there or not."""
    drain.wait_settled(house.settings, 20, lambda _lags: None)
    for topic in ("consent.revocations", "consent.signals"):
        writer = producer(house.settings)
        writer.produce(topic, b"on its way")
        assert writer.flush(30) == 0
        with pytest.raises(drain.NotDrained, match=r"(consent|identity) 1"):
            drain.wait_settled(house.settings, 0.2, lambda _lags: None)
        house.settle()


def test_a_house_with_links_to_make_has_not_settled(house: SmallHouse) -> None:
    """Records that passed while the graph was unavailable must still be linked; a completed range does not count."""
    due = {"topic": "events.consented", "partition": 0, "first": 3, "end": 8}
    house.put("identity.deferred", due)
    with pytest.raises(drain.NotDrained, match="identity 5"):
        drain.wait_settled(house.settings, 1, lambda _lags: None)
    house.put("identity.deferred", {**due, "first": 8})
    drain.wait_settled(house.settings, 20, lambda _lags: None)


def test_records_of_an_open_transaction_are_still_to_come(house: SmallHouse) -> None:
    """Records of open transactions are unread, so the stream is not drained."""
    create_topics(house.settings.kafka, ["undecided"])
    writer = producer(house.settings, transactional_id="undecided")
    writer.init_transactions(30)
    writer.begin_transaction()
    writer.produce("undecided", b"x")
    assert writer.flush(30) == 0
    group = {"nobody": ("undecided",)}
    try:
        assert drain.lags(admin(house.settings), group) == {"nobody": 1}
    finally:
        writer.abort_transaction(30)


def _leak(house: SmallHouse) -> None:
    """Add an event that has its click id although only analytics is granted."""
    house.put("events.consented", {**house.consented(1), "click_ids": {"gclid": marker("mk", RUN, 1)}})


def _more_consent(house: SmallHouse) -> None:
    """Add an event with purposes that were not granted."""
    house.put("events.resolved", {**house.resolved(1), "consent_purposes": 7})


def _clear_account(house: SmallHouse) -> None:
    """Add a clear identifier to `events.raw`."""
    house.put("events.raw", {**house.raw(0), "page_url": f"/?mail={marker('cl', RUN, 3)}@mail.example"})


def _other_profile(house: SmallHouse) -> None:
    """Add a second profile of a person."""
    house.put("events.resolved", {**house.resolved(0), "profile_id": "2" + "cd" * 16})


def _second_exposure(house: SmallHouse) -> None:
    """Add a second exposure of a decision."""
    decision = {"decision_id": DECISION, "experiment": "hero-banner", "epoch": 1, "arm": "calm", "group": "bandit"}
    joined = {"kind": "exposure", "reward": 0.0, "event_id": "x", "decided_ts": house.now, "event_ts": house.now}
    house.put("bandit.outcomes", {**decision, "propensity": 0.5, **joined})


def _count_too_much(house: SmallHouse) -> None:
    """Add a count without an event."""
    cell = {"stage": "consent", "minute": house.now, "source": "demo", "event_name": "page_view", "outcome": "pass"}
    house.put("stream.counts", {**cell, "dimensions": {}, "n": 1})


KAFKA_FAULTS: list[tuple[Fault, str, str]] = [
    (_count_too_much, "stream.counts", "doubled"),  # first: doubled and lost records move the counts too
    (lambda house: house.put("events.resolved", house.resolved(0)), "events.resolved", "doubled"),
    (lambda house: house.put("events.resolved", house.anonymous()), "events.resolved", "doubled"),
    (lambda house: house.put("events.consented", house.consented(0)), "events.consented", "doubled"),
    (_leak, "events.consented", "forbidden"),
    (_more_consent, "events.resolved", "forbidden"),
    (_clear_account, "events.raw", "forbidden"),
    (_other_profile, "profiles in events.resolved", "doubled"),
    (lambda house: house.put("events.raw", house.raw(6)), "events.raw", "unexplained"),
    (lambda house: house.put_letter("events.raw", 99, b"nobody knows me"), "events.dead", "unexplained"),
    (lambda house: house.put_letter("events.raw", 98, marker("dd", RUN, 5).encode()), "events.dead", "doubled"),
    (_second_exposure, "bandit.outcomes", "doubled"),
]


@pytest.mark.parametrize(("fault", "layer", "cell"), KAFKA_FAULTS)
def test_a_fault_in_a_topic_is_found_in_its_cell(house: SmallHouse, fault: Fault, layer: str, cell: str) -> None:
    """Each fault raises its cell by one; the layers stay faulty for the following tests."""
    before = getattr((house.last or verdict(house))[layer], cell)
    fault(house)
    house.last = verdict(house)
    after = house.last[layer]
    assert getattr(after, cell) == before + 1
    assert not after.good


def _delete_row(house: SmallHouse) -> None:
    """Delete a row."""
    house.clickhouse(f"ALTER TABLE {{db}}.events DELETE WHERE event_id = '{event_id(RUN, 3)}' SETTINGS mutations_sync = 1")


TABLE_FAULTS: list[tuple[Fault, str, str]] = [
    (_delete_row, "ClickHouse events", "lost"),
    (lambda house: house.insert(house.resolved(0)), "ClickHouse events", "doubled"),
    (lambda house: house.insert({**house.anonymous(), "page_title": marker("an", RUN, 2)}), "ClickHouse events", "forbidden"),
    (lambda house: house.insert({**house.resolved(0), "profile_id": "2" + "ef" * 16}), "profiles in ClickHouse", "doubled"),
    (lambda house: house.clickhouse("TRUNCATE TABLE {db}.dead_letters"), "ClickHouse dead_letters", "lost"),
    (lambda house: house.clickhouse("TRUNCATE TABLE {db}.bandit_outcomes"), "ClickHouse bandit_outcomes", "lost"),
]


@pytest.mark.parametrize(("fault", "layer", "cell"), TABLE_FAULTS)
def test_a_fault_in_a_table_is_found_in_its_cell(house: SmallHouse, fault: Fault, layer: str, cell: str) -> None:
    """Rows that are missing, twice, or hold what was never granted."""
    before = getattr((house.last or verdict(house))[layer], cell)
    fault(house)
    house.last = verdict(house)
    after = house.last[layer]
    assert getattr(after, cell) > before
    assert not after.good


def test_the_command_exits_1_for_a_spoilt_house(house: SmallHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the faults above; the stream is at rest again, so that only they count."""
    house.settle()
    code, report = reconcile(house, monkeypatch)
    assert code == 1
    assert min(report["lost"], report["doubled"], report["forbidden"], report["unexplained"]) > 0
