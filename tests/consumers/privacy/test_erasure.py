"""An erasure that is cut short anywhere is completed by the next run: on a real Kafka, Redis and ClickHouse."""

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis
from typer.testing import CliRunner, Result

from consumers.privacy import erasure as desk
from consumers.privacy.app import app, open_erasure
from consumers.privacy.audit import ChainHead, broken
from consumers.privacy.context import PrivacyContext
from consumers.privacy.erasure import Erasure, ErasurePending, opened, proofs, who
from consumers.privacy.topics import ACKS, LINKS, MERGES, REQUESTS, STATE, TransactionalWriter
from consumers.warehouse import erasing as rows
from consumers.warehouse.schema.migrating import migrate
from consumers.warehouse.store import Store
from infra.clients.kafka import producer
from infra.ops.topics import apply
from infra.settings import Settings
from schemas.codec import encode
from schemas.registry import Registry
from streams.consent.ledger.store import RedisStateStore
from streams.identity.evidence import link_record
from streams.identity.graph.redis_store import RedisGraphStore
from streams.identity.graph.slots import log_key, slot_record
from streams.identity.graph.union_find import Limit, Pair, Slot, Write
from streams.identity.nodes import NodeKeys, alias, versions
from streams.identity.refusals.refusals import Refusal, RememberedRefusal, Scope
from streams.identity.repair import erasing as graph
from streams.identity.repair.log import diff, read_log, rebuild
from streams.runtime.privacy.request_consumer import ROOMS, ack

T = int(time.time() * 1000) - 60_000
STRANGER = "0" + "b" * 32
EFFECTS = 12
"""More than a run has: the last runs are not cut short."""


class Crash(Exception):
    """The process ends here."""


class Person(NamedTuple):
    """A user, her cookie and device, and a kiosk that she shares with somebody."""

    user: str
    device: str
    cookie: str
    kiosk: str

    @property
    def nodes(self) -> tuple[str, ...]:
        """Hers."""
        return (self.user, self.device, self.cookie)


def person(n: int) -> Person:
    """The nth."""
    return Person(*(f"{tier}{n:02x}{kind}{tier}{'a' * 28}" for tier, kind in ((0, 0), (1, 0), (2, 0), (1, 1))))


@pytest.fixture(scope="module")
def settings(kafka: str, redis_url: str, clickhouse_url: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A house without workers; rooms answer when they are asked to."""
    folder = tmp_path_factory.mktemp("privacy")
    secret = "for tests only, forty characters long..."
    made = Settings(kafka=kafka, redis=redis_url, clickhouse=clickhouse_url, state_dir=folder, secret=secret, partitions=2)
    apply(made)
    migrate(made)
    return made


@pytest.fixture
def office(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[PrivacyContext]:
    """What the desk reaches. No identity worker has anything in hand."""
    monkeypatch.setattr(desk, "GRACE_S", 0.0)
    with redis.Redis.from_url(settings.redis) as client:
        connect = partial(redis.Redis.from_url, settings.redis)
        store, states = RedisGraphStore(lambda: client), RedisStateStore(connect, lambda _p, _s: iter(()), 1_000)
        made = PrivacyContext(settings, store, states, Store(settings), alias(settings.master))
        yield made
        made.warehouse.close()


def live(office: PrivacyContext, she: Person) -> None:
    """Everything that the house would hold of her."""
    registry, kafka = Registry(office.settings.contracts), producer(office.settings)

    def say(topic: str, key: str, record: dict[str, Any], partition: int = -1) -> None:
        kafka.produce(topic, encode(registry.latest(topic), record), key.encode(), partition)

    slots = {
        she.device: Slot(she.user, logged=False), she.cookie: Slot(she.user, logged=False),
        she.user: Slot(she.device, logged=False), she.kiosk: Slot(she.user, logged=False),
    }  # fmt: skip
    office.graph.write([Write(at, None, slot, 0) for at, slot in slots.items()])
    office.graph.confirm(slots.items())
    demoted = Slot(she.user, logged=False, epoch=1, state="shared")
    office.graph.write([Write(she.kiosk, slots[she.kiosk], demoted, 0)])
    limit = Limit("cookies_per_device", 12, 30)
    office.graph.admit([Pair(she.device, she.cookie, limit), Pair(she.kiosk, she.cookie, limit)], 20_000)
    refusal = RememberedRefusal(Refusal(T, T, "e"), signalled=True)
    office.graph.refuse({at: {Scope("s", "opt-in", "marketing"): refusal} for at in (she.cookie, she.device, STRANGER)})
    for at, slot in [*slots.items(), (she.kiosk, demoted)]:
        say(MERGES, log_key(at, slot).decode(), slot_record(at, slot, "e", T))
    for others in ((she.kiosk,), (STRANGER, she.kiosk)):
        nodes = tuple(sorted((she.user, *others)))
        link = link_record(nodes, "e", T, 1)
        say(LINKS, link["link_id"], link)
    state = {
        "subject": she.user, "site": "s", "regulation": "opt-in", "times": {"analytics.granted": T}, "evidence": "",
        "platform": "", "gvl": 0, "policy": "p", "changed_ts": T,
    }  # fmt: skip
    say(STATE, f"opt-in|s|{she.user}", state, 1)
    office.states._merge_states(1, {f"opt-in|s|{she.user}": {"analytics.granted": T}})
    request = {
        "request_id": she.user[:32], "kind": "withdrawal", "subject": she.user, "nodes": list(she.nodes),
        "profiles": list(she.nodes), "site": "", "purposes": [], "withdrawn_ts": T, "requested_ts": T, "deadline_ts": T,
    }  # fmt: skip
    say(REQUESTS, she.user[:32], request)
    assert kafka.flush(30) == 0
    for offset, node in enumerate((*she.nodes, she.kiosk), int(she.user[1:3], 16) * 10):
        visit(office, offset, node, she.device, T)


def visit(office: PrivacyContext, offset: int, node: str, profile: str, at: int) -> None:
    """A row of an event."""
    office.warehouse.command(
        "INSERT INTO headwater.events (_partition, _offset, node, profile_id, collector_ts, identifiers) VALUES "
        f"(0, {offset}, '{node}', '{profile}', fromUnixTimestamp64Milli(toInt64({at})), ['{node}'])"
    )


def answering(office: PrivacyContext, node: str) -> Callable[[str], None]:
    """Rooms that do their part as soon as somebody waits for them."""

    def tell(what: str) -> None:
        if what != "waiting for the rooms":
            return
        erasure = open_erasure(office, [node])
        assert erasure
        contract, kafka = office.registry.latest(ACKS), producer(office.settings)
        rows.erase(office.warehouse, erasure["request_id"], rows.person(erasure))
        for room in ROOMS:
            kafka.produce(ACKS, encode(contract, ack(erasure["request_id"], room, "done", time.time())), b"r")
        assert kafka.flush(30) == 0

    return tell


def erase(office: PrivacyContext, node: str) -> dict[str, Any]:
    """What the command does."""
    going_on, pen, tell = open_erasure(office, [node]), TransactionalWriter(office.settings), answering(office, node)
    if going_on is not None:
        return Erasure(office, pen, going_on, tell, 20).run()
    return Erasure.begin(office, pen, graph.members(office.graph, node, office.alias), tell, 20).run()


def point_commands_to(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the commands read from the environment."""
    for name in ("kafka", "redis", "clickhouse", "state_dir"):
        monkeypatch.setenv(f"HEADWATER_{name.upper()}", str(getattr(settings, name)))
    monkeypatch.setenv("HEADWATER_SECRET", "for tests only, forty characters long...")


def cut(monkeypatch: pytest.MonkeyPatch, after: int) -> list[str]:
    """End the process after so many effects; what they were."""
    done: list[str] = []

    def counted(owner: type, name: str) -> None:
        effect = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            found = effect(*args, **kwargs)
            done.append(f"{owner.__name__}.{name}")
            if len(done) == after:
                raise Crash
            return found

        monkeypatch.setattr(owner, name, wrapped)

    for owner, names in (
        (RedisGraphStore, ("write", "confirm", "forget")),
        (RedisStateStore, ("erase",)),
        (TransactionalWriter, ("write",)),
    ):
        for name in names:
            counted(owner, name)
    return done


def test_whatever_cuts_it_short_the_next_run_completes_it(office: PrivacyContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ended after each single effect: what is left is nothing, the proof is written once and says what there was."""
    completed = 0
    for n in range(1, EFFECTS + 1):
        she = person(n)
        live(office, she)
        with monkeypatch.context() as patched:
            done = cut(patched, n)
            try:
                erase(office, she.cookie)
                completed += 1
            except Crash:
                assert len(done) == n
        if n > len(done):
            assert completed
        else:
            # From another of her ids: which one does not matter, though the graph no longer says that they are linked.
            going_on = open_erasure(office, [she.device])
            proof = erase(office, she.device) if going_on else proofs(office)[-1]
            assert_erased(office, she, proof)
    assert completed
    chain = proofs(office)
    assert len({record["request_id"] for record in chain}) == len(chain) == EFFECTS
    assert list(broken(chain, ChainHead(chain[-1]["seq"], chain[-1]["hash"]))) == []
    assert opened(office.settings) == {}
    assert diff(read_log(office.settings), office.graph, lambda _n: None).same
    with redis.Redis.from_url(office.settings.redis) as client:
        client.flushall()
    rebuild(read_log(office.settings), office.graph, lambda _n: None)
    nodes = [node for n in range(1, EFFECTS + 1) for node in person(n).nodes]
    assert {slot.state for slot in office.graph.read(nodes) if slot} == {"erased"}, "a rebuild brings nobody back"


def assert_erased(office: PrivacyContext, she: Person, proof: dict[str, Any]) -> None:
    """Nothing is left; the kiosk is there, and under nobody; the others' link and rows stand."""
    members = graph.Members(she.nodes, (*she.nodes, she.kiosk), (she.kiosk,))
    left = office.left(members, proof["erased_ts"], office.search(members, proof["erased_ts"]))
    assert set(left.values()) == {0}, left
    slots = dict(zip((*she.nodes, she.kiosk), office.graph.read([*she.nodes, she.kiosk]), strict=True))
    assert {slots[node] for node in she.nodes} == {Slot(node, True, 1, "erased", proof["erased_ts"]) for node in she.nodes}
    assert slots[she.kiosk] == Slot(she.kiosk, logged=True, epoch=2, state="shared")
    counts = {place: n for place, n in proof["counts"].items() if n}
    assert [len(memories) for memories in office.graph.refusals([*she.nodes, STRANGER])] == [0, 0, 0, 1]
    assert counts == {
        "redis.slots": 4, "redis.sets": 5, "redis.consent": 1, MERGES: 5, LINKS: 2, STATE: 1, REQUESTS: 1,
        "clickhouse.events": 3,
    }  # fmt: skip
    stays = office.warehouse.rows(f"SELECT count() FROM headwater.events WHERE node = '{she.kiosk}'")
    assert stays == [(1,)]


def test_a_room_that_does_not_answer_leaves_it_open(office: PrivacyContext) -> None:
    """The command says who did not answer; the request stays, and is completed once they do."""
    she = person(200)
    live(office, she)
    members = graph.members(office.graph, she.user, office.alias)
    assert (members.nodes, members.shared) == (tuple(sorted(she.nodes)), (she.kiosk,))
    with pytest.raises(ErasurePending, match="warehouse, bandit, decisions did not answer"):
        Erasure.begin(office, TransactionalWriter(office.settings), members, lambda _what: None, 0.1).run()
    going_on = open_erasure(office, [she.user])
    assert going_on
    assert who(going_on) == members
    assert erase(office, she.user)["request_id"] == going_on["request_id"]
    assert open_erasure(office, [she.user]) is None


def test_who_comes_back_can_be_erased_again(office: PrivacyContext) -> None:
    """What she left since the first time is stamped with an alias, and goes with the second one."""
    she = person(201)
    live(office, she)
    erase(office, she.cookie)
    stamped = office.alias(she.cookie, 1)
    visit(office, 9_000, she.cookie, stamped, int(time.time() * 1000))
    members = graph.members(office.graph, she.cookie, office.alias)
    assert stamped in members.profiles
    assert erase(office, she.cookie)["counts"]["clickhouse.events"] == 1
    (slot,) = office.graph.read([she.cookie])
    assert slot is not None
    assert (slot.epoch, slot.state) == (2, "erased")


def test_a_shared_id_is_nobodys(office: PrivacyContext) -> None:
    """It is not erased, and the message names nobody."""
    she = person(202)
    live(office, she)
    with pytest.raises(graph.NotErasable, match="several persons") as refused:
        graph.members(office.graph, she.kiosk, office.alias)
    assert she.kiosk not in str(refused.value)


def test_the_commands(office: PrivacyContext, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody is erased unasked; a copy is its owner's and never written over; `verify` exits 1 while something is there."""
    she = person(203)
    live(office, she)
    point_commands_to(office.settings, monkeypatch)

    def run(*words: str) -> Result:
        return CliRunner().invoke(app, words)

    assert "nobody is there to be asked" in str(run("erase", she.user).exception)
    assert "no erasure with this request id" in str(run("erase", "ab" * 16, "--yes").exception)
    assert "nothing was changed" in run("erase", she.cookie, "--dry-run").output
    copy = tmp_path / "copy.json"
    assert run("export", she.cookie, "--output", str(copy)).exit_code == 0
    assert copy.stat().st_mode & 0o777 == 0o600
    told = json.loads(copy.read_text())
    assert [len(told[name]) for name in ("slots", "merges", "links", "consent_states", "requests")] == [3, 5, 2, 1, 1]
    assert {row["node"] for row in told["tables"]["events"]} == set(she.nodes)
    assert "File exists" in str(run("export", she.cookie, "--output", str(copy)).exception)
    assert run("verify", she.cookie).exit_code == 1
    assert "no such request" in str(run("verify", "ab" * 16).exception)


def test_a_slip_of_the_pen_is_told(office: PrivacyContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an id that nobody came with nothing is held: each command says so, and does not of one that somebody came with."""
    she, other = person(204), person(205)
    live(office, she)
    point_commands_to(office.settings, monkeypatch)
    for words in (("erase", "--dry-run"), ("erase", "--dry-run", "--json"), ("export",)):
        told = [CliRunner().invoke(app, (words[0], node, *words[1:])) for node in (she.cookie, other.cookie)]
        assert [result.exit_code for result in told] == [0, 0]
        assert ["spelt otherwise" in result.stderr for result in told] == [False, True]


def test_who_was_never_met_has_nothing_left(office: PrivacyContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """She needs no slot that says she is erased; who was erased does, and it is missed where Redis has lost it."""
    she, other = person(206), person(207)
    live(office, she)
    point_commands_to(office.settings, monkeypatch)

    def left(node: str) -> tuple[dict[str, int], bool]:
        result = CliRunner().invoke(app, ("verify", node, "--json"))
        counts = json.loads(result.stdout)["left"]
        return {place: n for place, n in counts.items() if n}, "spelt otherwise" in result.stderr

    assert left(other.cookie) == ({}, True)
    held, unknown = left(she.cookie)
    assert (held["redis.slots"], unknown) == (4, False)  # three of hers, and the kiosk that hangs under one
    erase(office, she.cookie)
    assert left(she.cookie) == ({}, False)
    with redis.Redis.from_url(office.settings.redis) as client:
        client.flushall()
    assert left(she.cookie) == ({"redis.slots": 1}, False)


def test_who_names_an_identifier_means_its_nodes_under_all_versions(
    office: PrivacyContext, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys were rotated while nobody was looking: what is held under either version is exported, erased and looked for."""
    keys = NodeKeys.derive(settings.master, 2)
    names = {kind: versions(keys, kind, f"rotated-{kind}") for kind in ("user", "device", "cookie")}
    both = [Person(names["user"][at], names["device"][at], names["cookie"][at], f"1f{at}{'a' * 30}") for at in (0, 1)]
    for she in both:
        live(office, she)
    point_commands_to(settings, monkeypatch)
    monkeypatch.setenv("HEADWATER_NODE_KEY_VERSION", "2")

    def run(*words: str) -> Any:
        return json.loads(CliRunner().invoke(app, words).stdout)

    hers = {node for she in both for node in she.nodes}
    called = keys.later_nodes(hers)
    told = run("export", "user=rotated-user")
    assert {row["node"] for row in told["tables"]["events"]} == hers
    planned = run("erase", "cookie=rotated-cookie", "--dry-run", "--json")
    assert (set(planned["nodes"]), set(planned["shared"])) == (hers | called, {she.kiosk for she in both})
    pen, members = (
        TransactionalWriter(settings),
        graph.members_of(office.graph, names["device"], office.alias, keys.later_nodes),
    )
    Erasure.begin(office, pen, members, answering(office, both[0].user), 20).run()
    assert {slot and slot.state for slot in office.graph.read(sorted(hers | called))} == {"erased"}
    assert set(run("verify", "user=rotated-user", "--json")["left"].values()) == {0}
    assert "several persons" in str(CliRunner().invoke(app, ["erase", both[0].kiosk, "--dry-run"]).exception)


def test_who_was_erased_before_a_rotation_is_gone(
    office: PrivacyContext, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Her name under the newer keys is nobody's: looked for by it, nothing is left."""
    keys = NodeKeys.derive(settings.master, 2)
    user, device, cookie = (versions(keys, kind, f"before-{kind}")[0] for kind in ("user", "device", "cookie"))
    live(office, Person(user, device, cookie, "1f9" + "a" * 30))
    erase(office, user)
    point_commands_to(settings, monkeypatch)
    monkeypatch.setenv("HEADWATER_NODE_KEY_VERSION", "2")
    left = json.loads(CliRunner().invoke(app, ["verify", "user=before-user", "--json"]).stdout)["left"]
    assert set(left.values()) == {0}, left
