"""The graph in Redis is rebuilt from its log, and differences between the two are found."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from typer.testing import CliRunner

from infra.clients.kafka import producer
from infra.errors import ConfigError
from infra.ops.topics import apply
from infra.settings import Settings
from schemas.codec import encode
from schemas.registry import Registry
from streams.identity.commands.identity import app
from streams.identity.graph.redis_store import RedisGraphStore
from streams.identity.graph.slots import MERGES
from streams.identity.graph.union_find import ERASED, SHARED, Slot
from streams.identity.nodes import NodeKeys, alias, node
from streams.identity.refusals.revocation import find_component
from streams.identity.repair.log import compare_with_log, read_log, rebuild

NODES = [f"{1 + n % 2}{n:032x}" for n in range(60)]
USER = "0" + "f" * 32
CHANCE = random.Random(1)
SLOTS = {NODES[n]: NODES[CHANCE.randrange(n)] for n in range(1, len(NODES))} | {NODES[0]: USER, USER: NODES[0]}
"""59 nodes under the first or under one another; the first under a user, whose label it is."""


def ignore_progress(_records: int) -> None:
    """Ignore progress."""


@pytest.fixture(scope="module")
def house(kafka: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Topics, and a log of these slots."""
    folder = tmp_path_factory.mktemp("identity")
    settings = Settings(kafka=kafka, redis=redis_url, state_dir=folder, secret="for tests only, forty characters long...")
    apply(settings)
    contract, client = Registry(settings.contracts).latest(MERGES), producer(settings)
    for again in range(2):  # a worker that meets a pending slot logs it again, without the event
        for name, parent in SLOTS.items():
            event = "" if again else f"event-{name}"
            record = {
                "node": name,
                "parent": parent,
                "epoch": 0,
                "event_id": event,
                "evidence_ts": 1_795_000_000_000 + again,
                "state": "",
            }
            client.produce(MERGES, encode(contract, record), name.encode())
    client.flush(30)
    return settings


@pytest.fixture
def store(house: Settings) -> Iterator[RedisGraphStore]:
    """An empty Redis."""
    with redis.Redis.from_url(house.redis) as client:
        client.flushall()
        yield RedisGraphStore(lambda: client)


def test_an_empty_redis_is_rebuilt_and_then_the_same(house: Settings, store: RedisGraphStore) -> None:
    """Every slot is restored as logged, with the sets of children; a second rebuild writes nothing."""
    assert compare_with_log(read_log(house), store, ignore_progress).missing == len(NODES) + 1
    assert rebuild(read_log(house), store, ignore_progress) == len(NODES) + 1
    difference = compare_with_log(read_log(house), store, ignore_progress)
    assert difference.same
    assert (difference.logged, difference.pending) == (len(NODES) + 1, 0)
    assert find_component(store, NODES[37]).nodes == tuple(sorted([*NODES, USER]))
    assert rebuild(read_log(house), store, ignore_progress) == 0


def test_each_difference_is_found_and_mended(house: Settings, store: RedisGraphStore, redis_url: str) -> None:
    """Missing, other, unlogged and pending slots are counted, and a rebuild repairs them."""
    rebuild(read_log(house), store, ignore_progress)
    stranger = "2" + "e" * 32
    with redis.Redis.from_url(redis_url) as client:
        keys = sorted(client.scan_iter(match="n:*"))
        by_node = {key.decode().rpartition(":")[2]: key for key in keys}
        client.delete(by_node[NODES[5]])
        client.set(by_node[NODES[6]], f"P|{SLOTS[NODES[6]]}|0")
        client.set(by_node[NODES[7]], f"P|{stranger}|0")
    store.restore([(stranger, Slot(NODES[0], logged=True))])
    difference = compare_with_log(read_log(house), store, ignore_progress)
    assert (difference.missing, difference.other, difference.unlogged, difference.pending) == (1, 1, 1, 2)
    assert not difference.same
    assert set(difference.examples) == {NODES[5], NODES[7], stranger}
    assert rebuild(read_log(house), store, ignore_progress) == 3
    mended = compare_with_log(read_log(house), store, ignore_progress)
    assert (mended.missing, mended.other, mended.pending) == (0, 0, 0)
    assert store.read([NODES[7]])[0] != Slot(stranger, logged=True)


def test_a_newer_slot_is_not_replaced(house: Settings, store: RedisGraphStore) -> None:
    """A slot of a later epoch than the log's is kept, and counted as a difference."""
    assert store.restore([(NODES[9], Slot(NODES[1], logged=True, epoch=3))]) == 1
    rebuild(read_log(house), store, ignore_progress)
    assert store.read([NODES[9]]) == [Slot(NODES[1], logged=True, epoch=3)]
    difference = compare_with_log(read_log(house), store, ignore_progress)
    assert (difference.unlogged, difference.examples) == (1, (NODES[9],))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("together", [True, False])
def test_whom_an_erased_id_was_linked_with_is_not_brought_back(
    store: RedisGraphStore, order: tuple[int, int], together: bool
) -> None:
    """Its older slot on the log, before or behind the erased one, restores no link."""
    child, parent = "2" + "e" * 32, "1" + "e" * 32
    slots = [(child, Slot(parent, logged=True)), (child, Slot(child, logged=True, epoch=1, state=ERASED, since=5))]
    records = [slots[n] for n in order]
    for some in [records] if together else [[record] for record in records]:
        store.restore(some)
    assert store.read([child])[0] == slots[1][1]
    assert store.children([parent]) == [set()]
    store.restore([("2" + "f" * 32, Slot(parent, logged=True))])
    for _ in range(2):
        store.restore([("2" + "d" * 32, Slot(parent, logged=True))])
    assert store.children([parent]) == [{"2" + "f" * 32, "2" + "d" * 32}]


def test_the_commands(house: Settings, store: RedisGraphStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """`diff` exits 1 while they differ, `rebuild` repairs, `show` lists all that is linked; `--json` for machines."""
    for name in ("kafka", "redis", "state_dir"):
        monkeypatch.setenv(f"HEADWATER_{name.upper()}", str(getattr(house, name)))
    monkeypatch.setenv("HEADWATER_SECRET", "for tests only, forty characters long...")
    runner = CliRunner()
    differs = runner.invoke(app, ["diff"])
    assert differs.exit_code == 1
    assert f"{len(NODES) + 1} missing in Redis" in differs.output
    assert json.loads(runner.invoke(app, ["rebuild", "--json"]).stdout) == {
        "records": 2 * len(NODES) + 2,
        "written": len(NODES) + 1,
    }
    assert json.loads(runner.invoke(app, ["diff", "--json"]).stdout)["same"] is True
    shown = json.loads(runner.invoke(app, ["show", NODES[20], "--json"]).stdout)
    assert (shown["root"], shown["profile"], len(shown["nodes"])) == (USER, NODES[0], len(NODES) + 1)
    assert f"linked   {USER}  user  root" in runner.invoke(app, ["show", NODES[20]]).output
    explained = runner.invoke(app, ["why", NODES[20], NODES[0]])
    assert f"{NODES[20]} -> {SLOTS[NODES[20]]}  by event event-{NODES[20]}, 2026-11-18 11:06:40Z" in explained.output
    assert runner.invoke(app, ["why", NODES[20], "2" + "e" * 32]).exit_code == 1
    assert json.loads(runner.invoke(app, ["why", NODES[1], NODES[0], "--json"]).stdout)["links"][0]["parent"] == NODES[0]
    alone = json.loads(runner.invoke(app, ["show", "user=jo@shop.example", "--json"]).stdout)
    assert alone["nodes"] == [node(NodeKeys.derive(house.master), "user", "jo@shop.example")]
    assert "nothing is linked to it" in runner.invoke(app, ["show", "user=jo@shop.example"]).output
    store.restore([(NODES[20], Slot(NODES[3], logged=True, epoch=1, state=SHARED))])
    demoted = json.loads(runner.invoke(app, ["show", NODES[20], "--json"]).stdout)
    assert (demoted["state"], demoted["nodes"]) == ("shared", [NODES[20]])
    assert demoted["profile"] == alias(house.master)(NODES[20], 1)
    assert "nobody's" in runner.invoke(app, ["show", NODES[20]]).output


@pytest.mark.parametrize(
    ("identifier", "says"), [("jo", "neither a node nor KIND=VALUE"), ("email=none", "never linked"), ("x=1", "user")]
)
def test_what_is_no_id_is_said(house: Settings, monkeypatch: pytest.MonkeyPatch, identifier: str, says: str) -> None:
    """The error is clear and contains no personal value beyond the argument."""
    monkeypatch.setenv("HEADWATER_SECRET", "for tests only, forty characters long...")
    monkeypatch.setenv("HEADWATER_STATE_DIR", str(Path(house.state_dir)))
    result = CliRunner().invoke(app, ["show", identifier])
    assert isinstance(result.exception, ConfigError)
    assert says in str(result.exception)
