"""Components without an active id are forgotten, and no others, on a real Kafka, Redis and ClickHouse."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import confluent_kafka as ck
import pytest
import redis
from typer.testing import CliRunner

from consumers.privacy.app import app
from consumers.privacy.topics import ERASURES, TransactionalWriter, WriterRecord
from consumers.warehouse.history import inactive
from consumers.warehouse.history.overrides import project
from consumers.warehouse.history.squash import squash
from consumers.warehouse.loader.loop import GROUP
from consumers.warehouse.schema.migrating import migrate
from consumers.warehouse.schema.tables import TABLES
from consumers.warehouse.verifying import verify
from infra.clients.kafka import producer, reader
from infra.ops.embedded.servers.clickhouse import EmbeddedClickHouse
from infra.telemetry.metrics import Metrics
from schemas.codec import decode, encode
from streams.identity.evidence import LINKS, link_id, link_record
from streams.identity.graph.limits import Limit, Pair
from streams.identity.graph.redis_store import RedisGraphStore
from streams.identity.graph.slots import MERGES, log_key, slot_record
from streams.identity.graph.union_find import SHARED, Nodes, Slot, Write
from streams.identity.nodes import alias
from streams.identity.repair.log import compare_with_log, read_log, rebuild
from streams.identity.stage import IdentityDependencies, IdentityStage
from streams.runtime.follow import read_topic
from streams.runtime.stage import Batch
from tests.consumers.warehouse.plant import NOW_MS, Plant, event, wait

DAY_MS = 86_400_000
OLD = NOW_MS - 400 * DAY_MS


def node(tier: int, of: str) -> str:
    """A node."""
    return f"{tier}{of * 32}"


USER, PHONE, LAPTOP = node(0, "a"), node(2, "a"), node(2, "b")
NAME = node(0, "1")
"""The same user under other keys."""
STRANGER, TWICE = node(1, "c"), node(2, "c")
REGULAR, SEEN = node(1, "d"), node(2, "d")
KIOSK, GUEST = node(1, "e"), node(2, "e")
LATELY, LINKED = node(1, "f"), node(2, "f")
FORMER, STALE = node(1, "9"), node(2, "9")
LONE = node(2, "8")

SLOTS: dict[str, tuple[Slot, int]] = {
    USER: (Slot(PHONE, logged=True), OLD), PHONE: (Slot(USER, logged=True), OLD), LAPTOP: (Slot(PHONE, logged=True), OLD),
    NAME: (Slot(USER, logged=True), OLD),
    TWICE: (Slot(STRANGER, logged=True), OLD),
    SEEN: (Slot(REGULAR, logged=True), OLD),
    KIOSK: (Slot(KIOSK, logged=True, epoch=1, state=SHARED), OLD), GUEST: (Slot(KIOSK, logged=True), OLD),
    LINKED: (Slot(LATELY, logged=True), NOW_MS),
    STALE: (Slot(FORMER, logged=True), OLD),
}  # fmt: skip
GONE = {USER, NAME, PHONE, LAPTOP, TWICE}
EVIDENCE: list[Nodes] = [
    (USER, PHONE), (KIOSK, PHONE, LAPTOP), (STRANGER, TWICE), (REGULAR, SEEN), (LATELY, LINKED, TWICE), (FORMER, STALE),
]  # fmt: skip
LEFT: set[Nodes] = {(REGULAR, SEEN), (LATELY, LINKED), (FORMER, STALE)}


@pytest.fixture(scope="module")
def plant(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    """A warehouse of the module's own."""
    folder = tmp_path_factory.mktemp("expiry")
    with EmbeddedClickHouse(folder / "clickhouse") as clickhouse, ExitStack() as stack:
        servers = Plant(kafka, clickhouse, folder)
        stack.callback(servers.close)
        migrate(servers.settings)
        yield servers


@pytest.fixture
def store(plant: Plant, redis_url: str) -> Iterator[RedisGraphStore]:
    """The graph as the log has it, and loaded events of some of its nodes."""
    plant.environment["HEADWATER_REDIS"] = redis_url
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
        for table in ("identity_stamped", "identity_overrides"):
            plant.store.command(f"TRUNCATE TABLE headwater.{table}")
        write(plant)
        contract = plant.registry.latest("events.resolved")
        came = [(SEEN, REGULAR, NOW_MS - DAY_MS), (PHONE, "", OLD), (LONE, LONE, OLD), (STALE, STALE, OLD)]
        events = [
            event(contract, n, node=node_id, profile_id=profile, identifiers=[node_id], collector_ts=at)
            for n, (node_id, profile, at) in enumerate(came)
        ]
        with plant.loading():
            plant.send(events)
            plant.wait_caught_up()
        project(plant.store, int(time.time() * 1000))
        assert overrides(plant) == [(STALE, FORMER)]
        graph = RedisGraphStore(lambda: client)
        rebuild(read_log(plant.settings), graph, nothing)
        assert graph.admit([Pair(STRANGER, TWICE, Limit("cookies_per_device", 12, 30))], 20_000) == [True]
        yield graph


def write(plant: Plant) -> None:
    """Write the log and the evidence."""
    writer = producer(plant.settings)
    for name in SLOTS:  # as an earlier test left them
        writer.produce(MERGES, None, name.encode())
    for name, (slot, at) in SLOTS.items():
        writer.produce(MERGES, encode(plant.registry.latest(MERGES), slot_record(name, slot, "e", at)), log_key(name, slot))
    for nodes in EVIDENCE:
        writer.produce(LINKS, encode(plant.registry.latest(LINKS), link_record(nodes, "e", OLD, 7)), link_id(nodes).encode())
    assert writer.flush(30) == 0


def nothing(_records: int) -> None:
    """Ignore progress."""


def overrides(plant: Plant) -> list[tuple[Any, ...]]:
    """Identity overrides of the warehouse."""
    return plant.store.rows("SELECT profile_id, canonical FROM headwater.identity_overrides")


def run(plant: Plant, monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, Any]:
    """Exit code and JSON, or the error, of `headwater privacy expire`."""
    for name, value in plant.environment.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(app, ["expire", "--json", *words], catch_exceptions=True)
    return result.exit_code, json.loads(result.stdout) if result.exit_code == 0 else result.exception


def evidence(plant: Plant) -> set[Nodes]:
    """Links of the newest record of each key."""
    newest: dict[bytes | None, bytes | None] = {}
    for records in read_topic(plant.settings, LINKS):
        newest.update(records)
    return {tuple(decode(plant.registry, value)[1]["nodes"]) for value in newest.values() if value is not None}


def missing(store: RedisGraphStore) -> set[str]:
    """Nodes without a slot."""
    return {name for name, slot in zip(SLOTS, store.read(list(SLOTS)), strict=True) if slot is None}


def rows(plant: Plant) -> set[str]:
    """Nodes with a row."""
    return {name for (name,) in plant.store.rows("SELECT node FROM headwater.identity_merges")}


def assert_forgotten(plant: Plant, store: RedisGraphStore, forgotten: set[str], evidence_left: set[Nodes]) -> None:
    """Nodes are forgotten everywhere, also in a rebuilt graph and after the loader has read everything again."""
    assert missing(store) == forgotten
    assert rows(plant) == SLOTS.keys() - forgotten
    assert evidence(plant) == evidence_left
    assert store.count_memberships([*forgotten, STRANGER], ()) == 0
    assert store.children([PHONE, USER, STRANGER, REGULAR]) == [set(), set(), set(), {SEEN}]
    assert compare_with_log(read_log(plant.settings), store, nothing).same
    with redis.Redis.from_url(plant.environment["HEADWATER_REDIS"]) as client:
        client.flushall()
    rebuild(read_log(plant.settings), store, nothing)
    assert missing(store) == forgotten
    consumer = reader(plant.settings, GROUP)
    starts = [
        ck.TopicPartition(topic, at, 0)
        for topic in TABLES
        for at in range(len(consumer.list_topics(topic).topics[topic].partitions))
    ]

    def reset() -> bool:
        try:
            consumer.commit(offsets=starts, asynchronous=False)
        except ck.KafkaException:
            return False
        return True

    wait(reset, 20)
    consumer.close()
    with plant.loading():
        plant.wait_caught_up()
    assert rows(plant) == SLOTS.keys() - forgotten
    assert [result.text for result in verify(plant.settings) if not result.exact] == []


def test_whole_components_that_nobody_saw_are_forgotten(
    plant: Plant, store: RedisGraphStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Components stay that are active, linked lately, demoted or read by a row's profile; new links after it stay too."""
    figures = {"days": 395, "slots": len(GONE), "links": 4, "rows": len(GONE), "kept": 0}
    assert run(plant, monkeypatch, "--dry-run") == (0, {**figures, "dry_run": True})
    assert missing(store) == set()
    assert run(plant, monkeypatch) == (0, {**figures, "dry_run": False})
    assert_forgotten(plant, store, GONE, LEFT)
    assert run(plant, monkeypatch)[1]["slots"] == 0
    back = Slot(STRANGER, logged=False)
    assert store.write([Write(LAPTOP, None, back, 0)]) == [True]
    writer = producer(plant.settings)
    writer.produce(MERGES, encode(plant.registry.latest(MERGES), slot_record(LAPTOP, back, "e", NOW_MS)), log_key(LAPTOP, back))
    assert writer.flush(30) == 0
    store.confirm([(LAPTOP, back)])
    with plant.loading():
        plant.wait_caught_up()
    rebuild(read_log(plant.settings), store, nothing)
    assert store.read([LAPTOP]) == [back._replace(logged=True)]
    assert compare_with_log(read_log(plant.settings), store, nothing).same
    assert LAPTOP in rows(plant)
    assert inactive.forget_links(plant.store, "ab" * 16, [LAPTOP], NOW_MS) == 0
    assert inactive.forget_links(plant.store, "cd" * 16, [LAPTOP], NOW_MS + 1) == 1


EFFECTS = 10
"""More effects than a run has: the last runs are not interrupted."""


class Crash(Exception):
    """The process ends here."""


def test_an_interrupted_run_is_completed_by_the_next(
    plant: Plant, store: RedisGraphStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs are interrupted after their first effect, their second, and so on; the last one completes the rest."""
    remaining = 0

    def counted(effect: Callable[..., Any]) -> Callable[..., Any]:
        def do(*args: Any, **more: Any) -> Any:
            nonlocal remaining
            result = effect(*args, **more)
            remaining -= 1
            if not remaining:
                raise Crash
            return result

        return do

    for owner, name in (
        (TransactionalWriter, "write"),
        (RedisGraphStore, "expire"),
        (RedisGraphStore, "reset_limits"),
        (inactive, "forget_links"),
        (inactive, "remove_rows"),
    ):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    with plant.loading():
        for crashes in range(EFFECTS):
            remaining = crashes + 1
            code, error = run(plant, monkeypatch)
            assert code == 0 or isinstance(error, Crash)
    assert code == 0
    remaining = 0
    assert_forgotten(plant, store, GONE, LEFT)


def test_what_was_changed_meanwhile_stays(plant: Plant, store: RedisGraphStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot that a worker has rewritten stays, as does what points to it; a pending but equal slot goes."""
    rewritten = Slot(STRANGER, logged=False, epoch=1)
    forget = inactive.forget_links

    def meanwhile(*args: Any) -> int:
        assert store.write([Write(TWICE, SLOTS[TWICE][0], rewritten, 0)]) == [True]
        with redis.Redis.from_url(plant.environment["HEADWATER_REDIS"]) as client:
            (key,) = client.keys(f"n:*:{LAPTOP}")
            client.set(key, b"P" + (client.get(key) or b"")[1:])
        return forget(*args)

    monkeypatch.setattr(inactive, "forget_links", meanwhile)
    figures = run(plant, monkeypatch)[1]
    assert (figures["slots"], figures["kept"]) == (len(GONE) - 1, 1)
    assert missing(store) == GONE - {TWICE}
    assert store.children([STRANGER]) == [{TWICE}]


def test_what_comes_back_meanwhile_is_in_the_log(plant: Plant, store: RedisGraphStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker links a node and logs it between the removal of its slot and the tombstone."""
    expire, back = RedisGraphStore.expire, Slot(REGULAR, logged=False)

    def meanwhile(self: RedisGraphStore, slots: Any) -> list[bool]:
        expired = expire(self, slots)
        assert store.write([Write(LAPTOP, None, back, 0)]) == [True]
        writer = producer(plant.settings)
        writer.produce(
            MERGES, encode(plant.registry.latest(MERGES), slot_record(LAPTOP, back, "e", OLD)), log_key(LAPTOP, back)
        )
        assert writer.flush(30) == 0
        store.confirm([(LAPTOP, back)])
        return expired

    with monkeypatch.context() as patched:
        patched.setattr(RedisGraphStore, "expire", meanwhile)
        assert run(plant, monkeypatch)[1]["slots"] == len(GONE)
    assert missing(store) == GONE - {LAPTOP}
    assert store.children([REGULAR]) == [{SEEN, LAPTOP}]
    assert compare_with_log(read_log(plant.settings), store, nothing).same


def test_nothing_is_forgotten_where_something_speaks_against_it(
    plant: Plant, store: RedisGraphStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Young links, an open erasure, and a warehouse that is behind or has no old events each keep everything."""
    assert_nothing_forgotten_in_a_young_house(plant, store, monkeypatch)
    assert_figures_printed(plant, monkeypatch)
    assert_an_erasure_goes_first(plant, store, monkeypatch)
    assert_an_unsure_warehouse_is_not_believed(plant, store, monkeypatch)
    assert_a_worker_follows_tombstones(plant, store)


def assert_nothing_forgotten_in_a_young_house(plant: Plant, store: RedisGraphStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without older links the warehouse is not asked, although it has no event from then."""
    code, figures = run(plant, monkeypatch, "--days", "700")
    assert (code, figures["slots"], figures["links"], figures["rows"]) == (0, 0, 0, 0)
    assert missing(store) == set()


def assert_figures_printed(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command prints figures for a terminal."""
    for name, value in plant.environment.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(app, ["expire", "--dry-run"])
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == [str(len(GONE)), "4"]


def assert_an_erasure_goes_first(plant: Plant, store: RedisGraphStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is forgotten while an erasure is open, because both rewrite the same records."""
    record = {
        "request_id": "ab" * 16, "state": "begun", "nodes": [], "profiles": [], "shared": [], "erased_ts": OLD,
        "requested_ts": OLD, "deadline_ts": OLD, "counts": {},
    }  # fmt: skip
    writer = TransactionalWriter(plant.settings)
    writer.write([writer.encode(ERASURES, b"ab" * 16, record)])
    code, error = run(plant, monkeypatch)
    assert (code, "an erasure is not done" in str(error)) == (1, True)
    assert missing(store) == set()
    writer.write([WriterRecord(ERASURES, b"ab" * 16, None)])
    assert run(plant, monkeypatch, "--dry-run")[0] == 0


def assert_an_unsure_warehouse_is_not_believed(plant: Plant, store: RedisGraphStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The warehouse is behind, or has no events from then."""
    plant.send([event(plant.registry.latest("events.resolved"), 9)])
    code, error = run(plant, monkeypatch, "--patience", "1")
    assert (code, "wait for headwater.warehouse" in str(error)) == (1, True)
    with plant.loading():
        plant.wait_caught_up()
    plant.store.command(
        "ALTER TABLE headwater.events DELETE WHERE collector_ts < now() - INTERVAL 300 DAY SETTINGS mutations_sync = 2"
    )
    code, error = run(plant, monkeypatch)
    assert (code, "cannot be told" in str(error)) == (1, True)
    assert missing(store) == set()


def assert_a_worker_follows_tombstones(plant: Plant, store: RedisGraphStore) -> None:
    """A worker drops its memory of a forgotten node, keeps a rewritten one, and writes evidence again."""
    stage = IdentityStage(plant.registry, store, Metrics(), IdentityDependencies(alias(plant.settings.master)))
    for records in read_topic(plant.settings, MERGES):
        stage.on_broadcast(MERGES, [(key, value) for key, value in records if value is not None])
    contract = plant.registry.latest("events.consented")
    spoken = []
    for n in range(4):
        if n == 2:
            stage.on_broadcast(MERGES, [(SEEN.encode(), None), (KIOSK.encode(), None)])
            assert stage._graph.cached_slots([SEEN, KIOSK]) == {SEEN: None, KIOSK: SLOTS[KIOSK][0]}
        value = event(contract, n, identifiers=[SEEN, LONE], consent_purposes=7, consent_outcome="pass")
        outcome = stage.handle(Batch("events.consented", 0, [b"k"], [value], [n]), NOW_MS / 1000)
        for hook in outcome.after_commit:
            hook()
        spoken.append(len(outcome.out.get(LINKS, ())))
    assert spoken == [1, 0, 1, 0]


def test_a_profile_that_a_row_carries_does_not_become_anothers(
    plant: Plant, store: RedisGraphStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The component stays while any row carries the profile, and goes once neither a row nor an override needs it."""
    rewrite = "ALTER TABLE headwater.events {} SETTINGS mutations_sync = 1"
    plant.store.command(rewrite.format(f"UPDATE profile_id = '{PHONE}' WHERE node = '{PHONE}'"))
    assert run(plant, monkeypatch)[0] == 0
    assert missing(store) == {TWICE}, "the phone's row carries the label of its user"
    with plant.loading():
        plant.wait_caught_up()
    plant.store.command(rewrite.format(f"DELETE WHERE node IN ('{PHONE}', '{STALE}')"))
    squash(plant.store, NOW_MS, 7, lambda: False)
    assert run(plant, monkeypatch)[0] == 0
    assert missing(store) == {*GONE, STALE}
