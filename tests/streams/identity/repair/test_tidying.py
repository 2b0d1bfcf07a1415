"""Many demoted nodes are split at once, as one by one; on a real Redis, Kafka and ClickHouse too."""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

import pytest
import redis
from hypothesis import given, settings
from typer.testing import CliRunner

from consumers.warehouse.schema.migrating import migrate
from consumers.warehouse.store import Store
from infra.clients.kafka import producer
from infra.ops.topics import apply
from infra.settings import Settings
from schemas.codec import encode
from schemas.registry import Registry
from streams.identity.commands.identity import app
from streams.identity.evidence import CONFLICTS, conflict_record
from streams.identity.graph.redis_store import RedisGraphStore
from streams.identity.graph.store import MemoryGraphStore
from streams.identity.graph.union_find import ERASED, SHARED, TWO_USERS, Nodes, Slot, Write
from streams.identity.repair.splitting import SlotLogger, split_node
from streams.identity.repair.tidying import tidy
from tests.streams.identity.repair.test_split import ALIAS, C1, C2, C3, D1, D2, U1, U2, WORLD, linked, memory_reader
from tests.streams.identity.repair.test_split_command import SECRET, SEEN, insert, link_events
from tests.support.scale import examples


class MemoryEvidence:
    """Evidence in memory; some of it comes after the first read."""

    def __init__(self, world: Iterable[Nodes], later: Callable[[], Iterable[Nodes]] = tuple) -> None:
        self._world = list(world)
        self._later = later

    def read(self, nodes: Collection[str]) -> Iterable[Nodes]:
        """See `LinkLog`."""
        return memory_reader(self._world)(nodes)

    def read_new(self, nodes: Collection[str]) -> Iterable[Nodes]:
        """See `LinkLog`."""
        new = list(self._later())
        self._world += new
        return memory_reader(new)(nodes)


def drop_slots(_node: str) -> SlotLogger:
    """Return a logger that drops everything."""
    return lambda _kept, _slots: None


def demoted_nodes(store: MemoryGraphStore) -> list[str]:
    """Return the demoted nodes."""
    return sorted(node for node, slot in store.slots.items() if slot.state == SHARED)


@given(WORLD)
@settings(deadline=None, max_examples=examples(300))
def test_many_at_once_are_as_one_by_one(world: list[Nodes]) -> None:
    """The result equals single splits, and a second run changes nothing."""
    together, one_by_one = linked(*world), linked(*world)
    nodes = demoted_nodes(together)
    assert [
        node for node, journal in tidy(together, nodes, MemoryEvidence(world), ALIAS, drop_slots) if journal is not None
    ] == nodes
    for node in nodes:
        split_node(one_by_one, node, memory_reader(world), ALIAS, lambda _kept, _slots: None)
    assert together.slots == one_by_one.slots
    assert all(together.slots[node].parent == node for node in nodes)
    before = dict(together.slots)
    assert all(journal is not None for _, journal in tidy(together, nodes, MemoryEvidence(world), ALIAS, drop_slots))
    assert together.slots == before


def test_what_only_a_shared_device_linked_is_free() -> None:
    """A cookie linked by the shared device alone is free; one that came with the user stays."""
    world: list[Nodes] = [(U1, D1), (D1, C1), (U1, C2), (U2, D1)]
    store = linked(*world)
    assert demoted_nodes(store) == [D1]
    assert store.slots[C1].parent == U1
    ((node, journal),) = tidy(store, [D1], MemoryEvidence(world), ALIAS, drop_slots)
    assert (node, store.slots[C1].parent, store.slots[C2].parent) == (D1, C1, U1)
    assert journal is not None
    assert {restamp.nodes: restamp.profile for restamp in journal.rewrites} == {
        (D1,): ALIAS(D1, store.slots[D1].epoch), (U1, C2): store.slots[U1].parent, (C1,): C1,
    }  # fmt: skip


@pytest.mark.parametrize("joins", [C1, C3])
def test_what_is_linked_meanwhile_stays(joins: str) -> None:
    """New evidence is read before each split, of known nodes and of nodes that join meanwhile."""
    world: list[Nodes] = [(U1, D1), (D1, C1), (U2, D1)]
    store = linked(*world)

    def later() -> Iterable[Nodes]:
        store.write([Write(C3, None, Slot(U1, logged=True), 0)] if joins == C3 else [])
        return [(U1, joins)]

    ((_, journal),) = tidy(store, [D1], MemoryEvidence(world, later), ALIAS, drop_slots)
    assert journal is not None
    assert store.slots[joins].parent == U1
    assert store.slots[D1].parent == D1


def test_what_cannot_be_split_does_not_keep_the_others() -> None:
    """A node that is erased meanwhile does not stop the others."""
    world: list[Nodes] = [(U1, D1), (U2, D1), (U1, D2), (U2, D2)]
    store = linked(*world)
    assert demoted_nodes(store) == [D1, D2]

    def later() -> Iterable[Nodes]:
        store.slots[D1] = Slot(D1, logged=True, epoch=9, state=ERASED, since=1)
        return ()

    (first, second) = tidy(store, [D1, D2], MemoryEvidence(world, later), ALIAS, drop_slots)
    assert (first[1], second[1] is not None) == (None, True)
    assert (store.slots[D1].state, store.slots[D2].parent) == (ERASED, D2)


@pytest.fixture
def house(kafka: str, redis_url: str, clickhouse_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Topics and tables, set in the environment of commands."""
    house_settings = Settings(kafka=kafka, redis=redis_url, clickhouse=clickhouse_url, state_dir=tmp_path, secret=SECRET)
    apply(house_settings)
    migrate(house_settings)
    for name in ("kafka", "redis", "clickhouse", "state_dir"):
        monkeypatch.setenv(f"HEADWATER_{name.upper()}", str(getattr(house_settings, name)))
    monkeypatch.setenv("HEADWATER_SECRET", SECRET)
    return house_settings


@pytest.fixture
def store(house: Settings) -> Iterator[RedisGraphStore]:
    """An empty Redis."""
    with redis.Redis.from_url(house.redis) as client:
        client.flushall()
        yield RedisGraphStore(lambda: client)


def conflict(house: Settings, node: str, rule: str) -> None:
    """Log a conflict as a worker does."""
    record = conflict_record(Write(node, None, Slot(node, False, 1, SHARED), 0, rule), "", "e", SEEN)
    kafka = producer(house)
    kafka.produce(CONFLICTS, encode(Registry(house.contracts).latest(CONFLICTS), record), node.encode())
    assert kafka.flush(10) == 0


def test_the_command(house: Settings, store: RedisGraphStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run counts; without ClickHouse the next run rewrites the rows; nodes split by hand are not touched."""

    def ids(user: str) -> Sequence[str]:
        return [f"{tier}{user}{digit}" + "5a" * 15 for tier, digit in ("00", "10", "20", "21")]

    (ann, tablet, hers, other), (bob, jar, *_) = ids("a"), ids("b")
    link_events(house, store, [(ann, tablet), (ann, jar), (tablet, jar, other), (ann, hers), (bob, tablet), (bob, jar)])
    assert [slot and slot.state for slot in store.read([tablet, jar])] == [SHARED, SHARED]
    for node in (tablet, jar):
        conflict(house, node, TWO_USERS)
    conflict(house, "1" + "c" * 32, "split")
    warehouse = Store(house)
    stamped = store.read([ann])[0]
    assert stamped is not None
    for name, nodes in (("1", [tablet]), ("2", [other]), ("3", [hers]), ("4", [tablet, jar]), ("5", [jar, tablet, other])):
        insert(warehouse, f"tidied-{name}", stamped.parent, nodes[0], nodes)

    def run(*words: str) -> tuple[int, dict[str, object]]:
        result = CliRunner().invoke(app, ["tidy", "--json", *words])
        return result.exit_code, json.loads(result.stdout)

    before = store.read([tablet, other])
    code, report = run("--dry-run")
    assert (code, report["rows"], store.read([tablet, other])) == (0, None, before)
    assert isinstance(report["slots"], int)
    assert report["slots"] >= 2
    with monkeypatch.context() as patched:
        patched.setenv("HEADWATER_CLICKHOUSE", "http://127.0.0.1:1")
        code, report = run()
        assert (code, report["left"], report["rows"]) == (1, [], None)
    code, report = run()
    assert (code, report["left"], report["rows"]) == (0, [], 4)
    (split_, free) = store.read([tablet, other])
    assert (split_ and split_.parent, free and free.parent) == (tablet, other)
    query = "SELECT event_id, profile_id FROM headwater.events WHERE startsWith(event_id, 'tidied') ORDER BY event_id"
    label = store.read([ann])[0]
    assert label is not None
    assert split_ is not None
    alone = ALIAS(tablet, split_.epoch)
    assert [profile for _, profile in warehouse.rows(query)] == [alone, other, label.parent, alone, other]
    warehouse.close()
    assert "past rows rewritten" in CliRunner().invoke(app, ["tidy"]).output
    assert run()[1]["rows"] == 0


def test_an_id_that_was_never_demoted_is_found(house: Settings, store: RedisGraphStore) -> None:
    """A shop's phone that was linked with everybody before the limit existed is split, once."""
    phone, emails = "3" + "f" * 32, [f"3{n:02x}" + "7c" * 15 for n in range(16, 30)]
    link_events(house, store, [(email, phone) for email in emails])
    assert {slot and slot.state for slot in store.read([phone, *emails])} <= {"", None}

    def run(*words: str) -> dict[str, object]:
        report: dict[str, object] = json.loads(CliRunner().invoke(app, ["tidy", "--json", *words]).stdout)
        return report

    assert (report := run("--dry-run"))["over_limits"] == 1
    assert report["slots"] != 0
    assert run()["over_limits"] == 1
    (shared, *free) = store.read([phone, *emails])
    assert shared is not None
    assert (shared.parent, shared.state) == (phone, SHARED)
    assert [slot.parent for slot, email in zip(free, emails, strict=True) if slot is not None and slot.parent != email] == []
    assert run()["over_limits"] == 0
    assert "join more than one person has" in CliRunner().invoke(app, ["tidy"]).output
