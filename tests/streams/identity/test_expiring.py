"""Ids that were not seen for long are forgotten: whole components, in the graph, its log and the evidence; nobody else's."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from typer.testing import CliRunner

from consumers.warehouse.migrating import migrate
from consumers.warehouse.store import Store
from infra.kafka import producer
from infra.metrics import Metrics
from infra.settings import Settings
from infra.topics_app import apply
from schemas.codec import encode
from schemas.registry import Registry
from streams.identity.evidence import LINKS, link_id, link_record
from streams.identity.identity_app import app
from streams.identity.log import diff, read_log, rebuild
from streams.identity.nodes import alias
from streams.identity.redis_store import RedisStore
from streams.identity.rules import SHARED, Nodes, Slot, Write
from streams.identity.slots import MERGES, log_key, slot_record
from streams.identity.stage import IdentityStage, Kit
from streams.runtime.follow import read_topic

SECRET = "for tests only, forty characters long..."
DAY_MS = 86_400_000
NOW = int(time.time() * 1000)
OLD = NOW - 400 * DAY_MS


def node(tier: int, of: str) -> str:
    """A node."""
    return f"{tier}{of * 32}"


USER, PHONE, LAPTOP = node(0, "a"), node(2, "a"), node(2, "b")
STRANGER, TWICE = node(1, "c"), node(2, "c")
REGULAR, SEEN = node(1, "d"), node(2, "d")
KIOSK, GUEST = node(1, "e"), node(2, "e")
LATELY, LINKED = node(1, "f"), node(2, "f")

SLOTS: dict[str, tuple[Slot, int]] = {
    USER: (Slot(PHONE, logged=True), OLD), PHONE: (Slot(USER, logged=True), OLD), LAPTOP: (Slot(PHONE, logged=True), OLD),
    TWICE: (Slot(STRANGER, logged=True), OLD),
    SEEN: (Slot(REGULAR, logged=True), OLD),
    KIOSK: (Slot(KIOSK, logged=True, epoch=1, state=SHARED), OLD), GUEST: (Slot(KIOSK, logged=True), OLD),
    LINKED: (Slot(LATELY, logged=True), NOW),
}  # fmt: skip
GONE = {USER, PHONE, LAPTOP, TWICE}
EVIDENCE: list[Nodes] = [(USER, PHONE), (PHONE, LAPTOP), (STRANGER, TWICE), (REGULAR, SEEN), (KIOSK, GUEST), (LATELY, LINKED)]


@pytest.fixture
def house(kafka: str, redis_url: str, clickhouse_url: str, tmp_path: Path) -> Settings:
    """Topics, tables, a log, and its graph."""
    settings = Settings(kafka=kafka, redis=redis_url, clickhouse=clickhouse_url, state_dir=tmp_path, secret=SECRET)
    apply(settings)
    migrate(settings)
    return settings


@pytest.fixture
def store(house: Settings) -> Iterator[RedisStore]:
    """The graph, as the log has it."""
    with redis.Redis.from_url(house.redis) as client:
        client.flushall()
        registry, pen = Registry(house.contracts), producer(house)
        for name, (slot, at) in SLOTS.items():
            pen.produce(MERGES, encode(registry.latest(MERGES), slot_record(name, slot, "e", at)), log_key(name, slot))
        for nodes in EVIDENCE:
            pen.produce(LINKS, encode(registry.latest(LINKS), link_record(nodes, "e", OLD, 7)), link_id(nodes).encode())
        assert pen.flush(30) == 0
        found = RedisStore(lambda: client)
        rebuild(read_log(house), found, nothing)
        yield found


def nothing(_records: int) -> None:
    """Nobody watches."""


@pytest.fixture
def warehouse(house: Settings) -> Iterator[Store]:
    """Events of one of them, and from long ago."""
    found = Store(house)
    found.command("TRUNCATE TABLE headwater.events")
    yield found
    found.command("TRUNCATE TABLE headwater.events")
    found.close()


def came(warehouse: Store, one: str, at: int, *others: str) -> None:
    """An event of a node."""
    warehouse.command(
        "INSERT INTO headwater.events (event_id, profile_id, node, identifiers, collector_ts) "
        f"VALUES ('e', '{one}', '{one}', {[one, *others]}, fromUnixTimestamp64Milli(toInt64({at})))"
    )


def run(house: Settings, *words: str) -> tuple[int, Any]:
    """Exit code and JSON, or the error, of `headwater identity expire`."""
    said = {"KAFKA": house.kafka, "REDIS": house.redis, "CLICKHOUSE": house.clickhouse, "STATE_DIR": str(house.state_dir)}
    environment = {f"HEADWATER_{name}": value for name, value in said.items()} | {"HEADWATER_SECRET": SECRET}
    done = CliRunner().invoke(app, ["expire", "--json", *words], env=environment)
    return done.exit_code, json.loads(done.stdout) if done.exit_code == 0 else done.exception


def evidence(house: Settings) -> set[Nodes]:
    """What the log says of links, the newest record of each."""
    registry_keys: dict[bytes | None, bytes | None] = {}
    for records in read_topic(house, LINKS):
        registry_keys.update(records)
    return {nodes for nodes in EVIDENCE if registry_keys.get(link_id(nodes).encode()) is not None}


def test_whole_components_that_nobody_saw_are_forgotten(house: Settings, store: RedisStore, warehouse: Store) -> None:
    """Those that were seen, linked lately or intervened in stay, all of them; so does what comes back."""
    came(warehouse, SEEN, NOW - DAY_MS, REGULAR)
    came(warehouse, PHONE, OLD)
    assert run(house, "--dry-run") == (0, {"days": 395, "dry_run": True, "slots": 4, "links": 3, "kept": 0})
    assert None not in store.read(list(SLOTS))
    assert run(house)[1] == {"days": 395, "dry_run": False, "slots": 4, "links": 3, "kept": 0}
    assert {name for name, slot in zip(SLOTS, store.read(list(SLOTS)), strict=True) if slot is None} == GONE
    assert store.children([PHONE, USER, STRANGER, REGULAR]) == [set(), set(), set(), {SEEN}]
    assert evidence(house) == set(EVIDENCE[3:])
    assert diff(read_log(house), store, nothing).same
    with redis.Redis.from_url(house.redis) as client:
        client.flushall()
    rebuild(read_log(house), store, nothing)
    assert {name for name, slot in zip(SLOTS, store.read(list(SLOTS)), strict=True) if slot is None} == GONE
    assert diff(read_log(house), store, nothing).same
    assert run(house)[1]["slots"] == 0

    back = Slot(PHONE, logged=False)
    pen = producer(house)
    assert store.write([Write(LAPTOP, None, back, 0)]) == [True]
    value = encode(Registry(house.contracts).latest(MERGES), slot_record(LAPTOP, back, "e", NOW))
    pen.produce(MERGES, value, log_key(LAPTOP, back))
    assert pen.flush(30) == 0
    store.confirm([(LAPTOP, back)])
    rebuild(read_log(house), store, nothing)
    assert store.read([LAPTOP]) == [back._replace(logged=True)]
    assert diff(read_log(house), store, nothing).same


def test_cut_short_it_is_completed_by_the_next_run(house: Settings, store: RedisStore, warehouse: Store) -> None:
    """Slots that are gone already are struck out of the log; one that was changed meanwhile stays."""
    came(warehouse, PHONE, OLD)
    assert store.expire([(TWICE, SLOTS[TWICE][0])]) == [True]
    assert store.write([Write(PHONE, SLOTS[PHONE][0], Slot(PHONE, logged=False, epoch=1), 0)]) == [True]
    done = run(house)[1]
    assert (done["slots"], done["kept"], evidence(house)) == (4, 1, {EVIDENCE[n] for n in (0, 1, 4, 5)})
    assert store.read([TWICE, PHONE, SEEN]) == [None, Slot(PHONE, logged=False, epoch=1), None]
    found = diff(read_log(house), store, nothing)
    assert (found.missing, found.other, found.pending) == (0, 0, 1)


def test_without_events_from_then_nobody_is_forgotten(house: Settings, store: RedisStore, warehouse: Store) -> None:
    """A warehouse that was lost, or that is younger, cannot say who was not seen."""
    for _ in range(2):
        code, error = run(house)
        assert (code, "cannot be told" in str(error)) == (1, True)
        came(warehouse, SEEN, NOW - DAY_MS)
    assert None not in store.read(list(SLOTS))


def test_a_worker_hears_of_it(house: Settings, store: RedisStore) -> None:
    """What it remembers of a node that was forgotten it does not use any more; what was rewritten it keeps."""
    stage = IdentityStage(Registry(house.contracts), store, Metrics(), Kit(alias(house.master)))
    for records in read_topic(house, MERGES):
        stage.on_broadcast(MERGES, records)
    graph = stage._graph
    assert graph.known([PHONE, KIOSK]) == {PHONE: SLOTS[PHONE][0], KIOSK: SLOTS[KIOSK][0]}
    stage.on_broadcast(MERGES, [(PHONE.encode(), None), (KIOSK.encode(), None)])
    assert graph.known([PHONE, KIOSK]) == {PHONE: None, KIOSK: SLOTS[KIOSK][0]}
