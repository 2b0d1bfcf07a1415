"""`headwater identity split` on a real Redis, Kafka and ClickHouse: the graph, its log, the conflict, and past rows."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from typer.testing import CliRunner

from consumers.warehouse.history.restamping import restamp
from consumers.warehouse.schema.migrating import migrate
from consumers.warehouse.store import Store
from infra.clients.kafka import producer
from infra.ops.topics import apply
from infra.secrets import Secret
from infra.settings import Settings
from schemas.codec import decode, encode
from schemas.registry import Registry
from streams.identity.commands.identity import app
from streams.identity.evidence import CONFLICTS, LINKS, link_record
from streams.identity.graph.redis_store import RedisGraphStore
from streams.identity.graph.slots import MERGES, log_key, slot_record
from streams.identity.graph.union_find import SHARED, GraphView, Nodes, Slot, Write, plan, plan_labels
from streams.identity.nodes import alias
from streams.identity.repair.log import compare_with_log, read_log, rebuild
from streams.identity.repair.split import ProfileRewrite
from streams.identity.repair.splitting import SplitJournal, evidence_reader, slot_logger, split_node
from streams.runtime.follow import read_partition

SECRET = "for tests only, forty characters long..."
ALIAS = alias(Secret(SECRET))
SEEN = 1_795_000_000_000


def person(n: int) -> list[str]:
    """Nodes of one household: a user, a kiosk's device, three cookies; the kiosk is the user's label."""
    return [f"{tier}{n:04x}" + digit * 28 for tier, digit in ("01", "1a", "2b", "2c", "2d")]


def world(n: int) -> list[Nodes]:
    """Events of the household: the kiosk alone links the third cookie."""
    user, kiosk, first, second, third = person(n)
    return [(kiosk, first), (kiosk, third), (user, first), (user, second)]


@pytest.fixture(scope="module")
def house(kafka: str, redis_url: str, clickhouse_url: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Topics and tables."""
    folder = tmp_path_factory.mktemp("split")
    settings = Settings(kafka=kafka, redis=redis_url, clickhouse=clickhouse_url, state_dir=folder, secret=SECRET)
    apply(settings)
    migrate(settings)
    return settings


@pytest.fixture(scope="module")
def store(house: Settings) -> Iterator[RedisGraphStore]:
    """The graph."""
    with redis.Redis.from_url(house.redis) as client:
        client.flushall()
        yield RedisGraphStore(lambda: client)


def link_events(settings: Settings, store: RedisGraphStore, events: Sequence[Nodes]) -> None:
    """Link the nodes of events in Redis, in the log, and as evidence."""
    registry, client = Registry(settings.contracts), producer(settings)
    view = GraphView(dict.fromkeys(node for nodes in events for node in nodes))
    for n, nodes in enumerate(events):
        for writes in (plan(view, {nodes: n})[0], plan_labels(view, {nodes: n})):
            assert all(store.write(writes))
            view.slots.update({write.node: write.slot for write in writes})
        link = link_record(nodes, f"e{n}", SEEN, 7)
        client.produce(LINKS, encode(registry.latest(LINKS), link), link["link_id"])
    slots = [(node, slot) for node, slot in view.slots.items() if slot is not None]
    for node, slot in slots:
        client.produce(MERGES, encode(registry.latest(MERGES), slot_record(node, slot, "e", SEEN)), log_key(node, slot))
    client.flush(30)
    store.confirm(slots)


def conflicts(settings: Settings, node: str) -> list[Any]:
    """Return the conflict records of a node."""
    registry = Registry(settings.contracts)
    records = [
        decode(registry, value)[1]
        for partition in range(4)
        for records in read_partition(settings, CONFLICTS, partition)
        for _, value in records
        if value is not None
    ]
    return [record for record in records if record["node"] == node]


def insert(warehouse: Store, name: str, profile: str, node: str, identifiers: list[str]) -> None:
    """Insert a past event."""
    warehouse.command(
        "INSERT INTO headwater.events (event_id, profile_id, node, identifiers, collector_ts) "
        f"VALUES ('{name}', '{profile}', '{node}', {identifiers}, now64(3))"
    )


def ignore_progress(_records: int) -> None:
    """Ignore progress."""


def test_a_kiosk_is_taken_out(house: Settings, store: RedisGraphStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run writes nothing; without ClickHouse the graph is split; later runs rewrite the rows, late ones too."""
    user, kiosk, first, second, third = person(1)
    link_events(house, store, world(1))
    rows = [
        # profile, node, identifiers, expected profile
        (kiosk, first, [first], kiosk),
        (kiosk, user, [user, second], kiosk),
        (kiosk, kiosk, [kiosk, first], kiosk),
        (kiosk, kiosk, [kiosk, third], third),
        (kiosk, kiosk, [kiosk], ALIAS(kiosk, 1)),
        (kiosk, third, [third], third),
        (third, third, [third], third),
        ("2" + "e" * 32, third, [third], "2" + "e" * 32),
    ]
    warehouse = Store(house)
    for n, (profile, node, identifiers, _) in enumerate(rows):
        insert(warehouse, f"e{n}", profile, node, identifiers)
    for name in ("kafka", "redis", "state_dir"):
        monkeypatch.setenv(f"HEADWATER_{name.upper()}", str(getattr(house, name)))
    monkeypatch.setenv("HEADWATER_SECRET", SECRET)
    monkeypatch.setenv("HEADWATER_CLICKHOUSE", "http://127.0.0.1:1")
    runner = CliRunner()
    before = store.read(person(1))
    planned = json.loads(runner.invoke(app, ["split", kiosk, "--dry-run", "--json"]).stdout)
    assert store.read(person(1)) == before
    assert set(planned["slots"]) == {kiosk, first, third}
    away = runner.invoke(app, ["split", kiosk])
    assert away.exit_code == 1, away.output
    assert "run the same command again" in away.output
    assert store.read(person(1)) == [
        Slot(kiosk, logged=True),
        Slot(kiosk, logged=True, epoch=1, state=SHARED),
        Slot(user, logged=True, epoch=1),
        Slot(user, logged=True),
        Slot(third, logged=True, epoch=1),
    ]
    monkeypatch.setenv("HEADWATER_CLICKHOUSE", house.clickhouse)
    again = runner.invoke(app, ["split", kiosk])
    assert again.exit_code == 0, again.output
    assert f"profile  {third}  1 ids" in again.output
    assert "3 past rows rewritten" in again.output
    stamped = warehouse.rows("SELECT event_id, profile_id FROM headwater.events ORDER BY event_id")
    assert stamped == [(f"e{n}", row[3]) for n, row in enumerate(rows)]
    assert json.loads(runner.invoke(app, ["split", kiosk, "--json"]).stdout)["rows"] == 0
    insert(warehouse, "late", kiosk, third, [third])  # resolved by a worker that did not know of the split yet
    assert json.loads(runner.invoke(app, ["split", kiosk, "--json"]).stdout)["rows"] == 1
    assert warehouse.rows("SELECT profile_id FROM headwater.events WHERE event_id = 'late'") == [(third,)]
    warehouse.command(
        "INSERT INTO headwater.events (event_id, profile_id, node, identifiers, collector_ts) "
        f"VALUES ('next-day', '{kiosk}', '{third}', ['{third}'], now64(3) + INTERVAL 1 DAY)"
    )
    assert json.loads(runner.invoke(app, ["split", kiosk, "--json"]).stdout)["rows"] == 0, "stamped by who knew of the split"
    (conflict,) = conflicts(house, kiosk)
    assert (conflict["rule"], conflict["kept"], conflict["epoch"]) == ("split", user, 1)
    assert compare_with_log(read_log(house), store, ignore_progress).same
    warehouse.close()


class Killed(Exception):
    """The process was killed."""


class Dying(RedisGraphStore):
    """One write at a time to a real Redis, killed before one of them."""

    steps = 0

    def step(self) -> None:
        """Count one step, or be killed."""
        if self.steps == 0:
            raise Killed
        self.steps -= 1

    def write(self, writes: Sequence[Write]) -> list[bool]:
        """Write one by one."""
        won = []
        for write in writes:
            self.step()
            won += super().write([write])
        return won


def test_killed_before_each_of_its_writes(house: Settings, store: RedisGraphStore) -> None:
    """Redis and Kafka end the same wherever the first run was killed."""
    for steps in range(5):
        user, kiosk, first, second, third = person(100 + steps)
        link_events(house, store, world(100 + steps))
        evidence, log = evidence_reader(house), slot_logger(house, kiosk, SEEN + 1)
        with redis.Redis.from_url(house.redis) as client:
            dying = Dying(lambda client=client: client)  # type: ignore[misc] # a lambda's default has no type
            dying.steps = steps

            def killed(former_root: str, slots: Sequence[tuple[str, Slot]], steps: int = steps, kiosk: str = kiosk) -> None:
                if steps == 4:
                    slot_logger(house, kiosk, SEEN + 1)(former_root, slots)
                raise Killed

            with pytest.raises(Killed):
                split_node(dying, kiosk, evidence, ALIAS, killed)
        split_node(store, kiosk, evidence, ALIAS, log)
        slots = store.read([user, kiosk, first, second, third])
        assert [(slot.parent, slot.epoch, slot.logged) for slot in slots if slot] == [
            (kiosk, 0, True), (kiosk, 1, True), (user, 1, True), (user, 0, True), (third, 1, True),
        ]  # fmt: skip
        assert {conflict["epoch"] for conflict in conflicts(house, kiosk)} == {1}
    assert compare_with_log(read_log(house), store, ignore_progress).same
    with redis.Redis.from_url(house.redis) as client:
        client.flushall()
    rebuild(read_log(house), store, ignore_progress)
    assert compare_with_log(read_log(house), store, ignore_progress).same
    assert store.read([third]) == [Slot(third, logged=True, epoch=1)]


def test_only_nodes_reach_a_statement(house: Settings) -> None:
    """Text that is no node never reaches an SQL statement."""
    warehouse = Store(house)
    node = "1" + "a" * 32
    with pytest.raises(ValueError, match="neither"):
        restamp(warehouse, [node], SplitJournal(former_profiles=(node,), rewrites=(ProfileRewrite("x' OR '1", ("y') --",)),)))
    warehouse.close()


def test_a_warehouse_without_tables_has_no_rows(house: Settings, tmp_path: Path) -> None:
    """Without tables there is nothing to rewrite."""
    warehouse = Store(house.model_copy(update={"clickhouse_database": "empty"}))
    assert restamp(warehouse, ["1" + "a" * 32], SplitJournal()) == 0
    warehouse.close()
