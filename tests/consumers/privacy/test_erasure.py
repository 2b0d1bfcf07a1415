"""An interrupted erasure is completed by the next run: on a real Kafka, Redis and ClickHouse."""

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis
from typer.testing import CliRunner, Result

from consumers.privacy import erasure as erasure_module
from consumers.privacy.app import app
from consumers.privacy.audit import ChainHead, chain_breaks
from consumers.privacy.context import PrivacyContext
from consumers.privacy.erasure import Erasure, ErasurePending, erasure_members, open_erasures, read_proofs
from consumers.privacy.session import find_open_erasure
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
from streams.identity.graph.limits import Limit, Pair
from streams.identity.graph.redis_store import RedisGraphStore
from streams.identity.graph.slots import log_key, slot_record
from streams.identity.graph.union_find import Slot, Write
from streams.identity.nodes import NodeKeys, alias, versions
from streams.identity.refusals.refusals import Refusal, RememberedRefusal, Scope
from streams.identity.repair import erasing as graph
from streams.identity.repair.log import compare_with_log, read_log, rebuild
from streams.runtime.privacy.request_consumer import ROOMS, ack_record

T = int(time.time() * 1000) - 60_000
STRANGER = "0" + "b" * 32
EFFECTS = 12
"""More effects than a run has: the last runs are not interrupted."""


class Crash(Exception):
    """The process ends here."""


class Person(NamedTuple):
    """A user, a cookie and a device of one person, and a kiosk shared with another."""

    user: str
    device: str
    cookie: str
    kiosk: str

    @property
    def nodes(self) -> tuple[str, ...]:
        """The person's own nodes."""
        return (self.user, self.device, self.cookie)


def person(n: int) -> Person:
    """The nth person."""
    return Person(*(f"{tier}{n:02x}{kind}{tier}{'a' * 28}" for tier, kind in ((0, 0), (1, 0), (2, 0), (1, 1))))


@pytest.fixture(scope="module")
def settings(kafka: str, redis_url: str, clickhouse_url: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """An installation without workers; rooms answer when they are asked to."""
    folder = tmp_path_factory.mktemp("privacy")
    secret = "for tests only, forty characters long..."
    fresh = Settings(kafka=kafka, redis=redis_url, clickhouse=clickhouse_url, state_dir=folder, secret=secret, partitions=2)
    apply(fresh)
    migrate(fresh)
    return fresh


@pytest.fixture
def context(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[PrivacyContext]:
    """The stores, without identity workers to wait for, and rooms that answer at once."""
    monkeypatch.setattr(erasure_module, "GRACE_S", 0.0)
    monkeypatch.setattr(erasure_module, "POLL_S", 0.05)
    with redis.Redis.from_url(settings.redis) as client:
        connect = partial(redis.Redis.from_url, settings.redis)
        store, states = RedisGraphStore(lambda: client), RedisStateStore(connect, lambda _p, _s: iter(()), 1_000)
        context = PrivacyContext(settings, store, states, Store(settings), alias(settings.master))
        yield context
        context.warehouse.close()


def live(context: PrivacyContext, she: Person) -> None:
    """Write everything that an installation would hold of a person."""
    registry, kafka = Registry(context.settings.contracts), producer(context.settings)

    def say(topic: str, key: str, record: dict[str, Any], partition: int = -1) -> None:
        kafka.produce(topic, encode(registry.latest(topic), record), key.encode(), partition)

    slots = {
        she.device: Slot(she.user, logged=False), she.cookie: Slot(she.user, logged=False),
        she.user: Slot(she.device, logged=False), she.kiosk: Slot(she.user, logged=False),
    }  # fmt: skip
    context.graph.write([Write(at, None, slot, 0) for at, slot in slots.items()])
    context.graph.confirm(slots.items())
    demoted = Slot(she.user, logged=False, epoch=1, state="shared")
    context.graph.write([Write(she.kiosk, slots[she.kiosk], demoted, 0)])
    limit = Limit("cookies_per_device", 12, 30)
    context.graph.admit([Pair(she.device, she.cookie, limit), Pair(she.kiosk, she.cookie, limit)], 20_000)
    refusal = RememberedRefusal(Refusal(T, T, "e"), signalled=True)
    context.graph.add_refusals({at: {Scope("s", "opt-in", "marketing"): refusal} for at in (she.cookie, she.device, STRANGER)})
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
    context.states._merge_states(1, {f"opt-in|s|{she.user}": {"analytics.granted": T}})
    request = {
        "request_id": she.user[:32], "kind": "withdrawal", "subject": she.user, "nodes": list(she.nodes),
        "profiles": list(she.nodes), "site": "", "purposes": [], "withdrawn_ts": T, "requested_ts": T, "deadline_ts": T,
    }  # fmt: skip
    say(REQUESTS, she.user[:32], request)
    assert kafka.flush(30) == 0
    for offset, node in enumerate((*she.nodes, she.kiosk), int(she.user[1:3], 16) * 10):
        visit(context, offset, node, she.device, T)


def visit(context: PrivacyContext, offset: int, node: str, profile: str, at: int) -> None:
    """Insert a row of an event."""
    context.warehouse.command(
        "INSERT INTO headwater.events (_partition, _offset, node, profile_id, collector_ts, identifiers) VALUES "
        f"(0, {offset}, '{node}', '{profile}', fromUnixTimestamp64Milli(toInt64({at})), ['{node}'])"
    )


def answering(context: PrivacyContext, node: str) -> Callable[[str], None]:
    """A reporter that answers for the rooms as soon as the erasure waits for them."""

    def report(step: str) -> None:
        if step != "waiting for the rooms":
            return
        erasure = find_open_erasure(context, [node])
        assert erasure
        contract, kafka = context.registry.latest(ACKS), producer(context.settings)
        rows.erase_rows(context.warehouse, erasure["request_id"], rows.erased_person(erasure))
        for room in ROOMS:
            kafka.produce(ACKS, encode(contract, ack_record(erasure["request_id"], room, "done", time.time())), b"r")
        assert kafka.flush(30) == 0

    return report


def erase(context: PrivacyContext, node: str) -> dict[str, Any]:
    """Erase as the command does."""
    going_on, writer, report = (
        find_open_erasure(context, [node]),
        TransactionalWriter(context.settings),
        answering(context, node),
    )
    if going_on is not None:
        return Erasure(context, writer, going_on, report, 20).run()
    return Erasure.begin(context, writer, graph.find_members(context.graph, node, context.alias), report, 20).run()


def point_commands_to(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the environment of the commands to these services."""
    for name in ("kafka", "redis", "clickhouse", "state_dir"):
        monkeypatch.setenv(f"HEADWATER_{name.upper()}", str(getattr(settings, name)))
    monkeypatch.setenv("HEADWATER_SECRET", "for tests only, forty characters long...")


def cut(monkeypatch: pytest.MonkeyPatch, after: int) -> list[str]:
    """End the process after so many effects; the list of effects."""
    effects: list[str] = []

    def counted(owner: type, name: str) -> None:
        effect = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            result = effect(*args, **kwargs)
            effects.append(f"{owner.__name__}.{name}")
            if len(effects) == after:
                raise Crash
            return result

        monkeypatch.setattr(owner, name, wrapped)

    for owner, names in (
        (RedisGraphStore, ("write", "confirm", "forget")),
        (RedisStateStore, ("erase",)),
        (TransactionalWriter, ("write",)),
    ):
        for name in names:
            counted(owner, name)
    return effects


def test_an_interrupted_run_is_completed_by_the_next(context: PrivacyContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted after each single effect: nothing is left, and the proof is written once with the counts of the beginning."""
    completed = 0
    for n in range(1, EFFECTS + 1):
        she = person(n)
        live(context, she)
        with monkeypatch.context() as patched:
            effects = cut(patched, n)
            try:
                erase(context, she.cookie)
                completed += 1
            except Crash:
                assert len(effects) == n
        if n > len(effects):
            assert completed
        else:
            # From another of her ids: which one does not matter, though the graph no longer says that they are linked.
            going_on = find_open_erasure(context, [she.device])
            proof = erase(context, she.device) if going_on else read_proofs(context)[-1]
            assert_erased(context, she, proof)
    assert completed
    chain = read_proofs(context)
    assert len({record["request_id"] for record in chain}) == len(chain) == EFFECTS
    assert list(chain_breaks(chain, ChainHead(chain[-1]["seq"], chain[-1]["hash"]))) == []
    assert open_erasures(context.settings) == {}
    assert compare_with_log(read_log(context.settings), context.graph, lambda _n: None).same
    with redis.Redis.from_url(context.settings.redis) as client:
        client.flushall()
    rebuild(read_log(context.settings), context.graph, lambda _n: None)
    nodes = [node for n in range(1, EFFECTS + 1) for node in person(n).nodes]
    assert {slot.state for slot in context.graph.read(nodes) if slot} == {"erased"}, "a rebuild brings nobody back"


def assert_erased(context: PrivacyContext, she: Person, proof: dict[str, Any]) -> None:
    """Nothing is left of the person; the kiosk stays without a link; links and rows of others stay."""
    members = graph.Members(she.nodes, (*she.nodes, she.kiosk), (she.kiosk,))
    remaining = context.count_remaining(members, proof["erased_ts"], context.search(members, proof["erased_ts"]))
    assert set(remaining.values()) == {0}, remaining
    slots = dict(zip((*she.nodes, she.kiosk), context.graph.read([*she.nodes, she.kiosk]), strict=True))
    assert {slots[node] for node in she.nodes} == {Slot(node, True, 1, "erased", proof["erased_ts"]) for node in she.nodes}
    assert slots[she.kiosk] == Slot(she.kiosk, logged=True, epoch=2, state="shared")
    counts = {place: n for place, n in proof["counts"].items() if n}
    assert [len(memories) for memories in context.graph.refusals([*she.nodes, STRANGER])] == [0, 0, 0, 1]
    assert counts == {
        "redis.slots": 4, "redis.sets": 5, "redis.consent": 1, MERGES: 5, LINKS: 2, STATE: 1, REQUESTS: 1,
        "clickhouse.events": 3,
    }  # fmt: skip
    stays = context.warehouse.rows(f"SELECT count() FROM headwater.events WHERE node = '{she.kiosk}'")
    assert stays == [(1,)]


def test_a_room_that_does_not_answer_leaves_it_open(context: PrivacyContext) -> None:
    """The command names the rooms that did not answer; the request stays open and is completed once they do."""
    she = person(200)
    live(context, she)
    members = graph.find_members(context.graph, she.user, context.alias)
    assert (members.nodes, members.shared) == (tuple(sorted(she.nodes)), (she.kiosk,))
    with pytest.raises(ErasurePending, match="warehouse, bandit, decisions did not answer"):
        Erasure.begin(context, TransactionalWriter(context.settings), members, lambda _what: None, 0.1).run()
    going_on = find_open_erasure(context, [she.user])
    assert going_on
    assert erasure_members(going_on) == members
    assert erase(context, she.user)["request_id"] == going_on["request_id"]
    assert find_open_erasure(context, [she.user]) is None


def test_who_comes_back_can_be_erased_again(context: PrivacyContext) -> None:
    """Events since the first erasure carry an alias, and the second erasure removes them."""
    she = person(201)
    live(context, she)
    erase(context, she.cookie)
    stamped = context.alias(she.cookie, 1)
    visit(context, 9_000, she.cookie, stamped, int(time.time() * 1000))
    members = graph.find_members(context.graph, she.cookie, context.alias)
    assert stamped in members.profiles
    assert erase(context, she.cookie)["counts"]["clickhouse.events"] == 1
    (slot,) = context.graph.read([she.cookie])
    assert slot is not None
    assert (slot.epoch, slot.state) == (2, "erased")


def test_a_shared_id_is_not_erased(context: PrivacyContext) -> None:
    """A shared id is not erased, and the message names nobody."""
    she = person(202)
    live(context, she)
    with pytest.raises(graph.NotErasable, match="several persons") as refused:
        graph.find_members(context.graph, she.kiosk, context.alias)
    assert she.kiosk not in str(refused.value)


def test_the_commands(context: PrivacyContext, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Erasing asks first; a copy is private and never overwritten; `verify` exits 1 while something is left."""
    she = person(203)
    live(context, she)
    point_commands_to(context.settings, monkeypatch)

    def run(*words: str) -> Result:
        return CliRunner().invoke(app, words)

    assert "nobody is there to be asked" in str(run("erase", she.user).exception)
    assert "no erasure with this request id" in str(run("erase", "ab" * 16, "--yes").exception)
    assert "nothing was changed" in run("erase", she.cookie, "--dry-run").output
    copy = tmp_path / "copy.json"
    assert run("export", she.cookie, "--output", str(copy)).exit_code == 0
    assert copy.stat().st_mode & 0o777 == 0o600
    copied = json.loads(copy.read_text())
    assert [len(copied[name]) for name in ("slots", "merges", "links", "consent_states", "requests")] == [3, 5, 2, 1, 1]
    assert {row["node"] for row in copied["tables"]["events"]} == set(she.nodes)
    assert "File exists" in str(run("export", she.cookie, "--output", str(copy)).exception)
    assert run("verify", she.cookie).exit_code == 1
    assert "no such request" in str(run("verify", "ab" * 16).exception)


def test_a_misspelt_id_is_reported(context: PrivacyContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command reports an id of which nothing is held, and only such an id."""
    she, other = person(204), person(205)
    live(context, she)
    point_commands_to(context.settings, monkeypatch)
    for words in (("erase", "--dry-run"), ("erase", "--dry-run", "--json"), ("export",)):
        results = [CliRunner().invoke(app, (words[0], node, *words[1:])) for node in (she.cookie, other.cookie)]
        assert [result.exit_code for result in results] == [0, 0]
        assert ["spelt otherwise" in result.stderr for result in results] == [False, True]


def test_who_was_never_met_has_nothing_left(context: PrivacyContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown id needs no erased slot; an erased one does, and it is reported where Redis has lost it."""
    she, other = person(206), person(207)
    live(context, she)
    point_commands_to(context.settings, monkeypatch)

    def left(node: str) -> tuple[dict[str, int], bool]:
        result = CliRunner().invoke(app, ("verify", node, "--json"))
        counts = json.loads(result.stdout)["left"]
        return {place: n for place, n in counts.items() if n}, "spelt otherwise" in result.stderr

    assert left(other.cookie) == ({}, True)
    counts, unknown = left(she.cookie)
    assert (counts["redis.slots"], unknown) == (4, False)  # three of hers, and the kiosk that hangs under one
    erase(context, she.cookie)
    assert left(she.cookie) == ({}, False)
    with redis.Redis.from_url(context.settings.redis) as client:
        client.flushall()
    assert left(she.cookie) == ({"redis.slots": 1}, False)


def test_who_names_an_identifier_means_its_nodes_under_all_versions(
    context: PrivacyContext, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a rotation of the keys, data under either version is exported, erased and searched."""
    keys = NodeKeys.derive(settings.master, 2)
    names = {kind: versions(keys, kind, f"rotated-{kind}") for kind in ("user", "device", "cookie")}
    both = [Person(names["user"][at], names["device"][at], names["cookie"][at], f"1f{at}{'a' * 30}") for at in (0, 1)]
    for she in both:
        live(context, she)
    point_commands_to(settings, monkeypatch)
    monkeypatch.setenv("HEADWATER_NODE_KEY_VERSION", "2")

    def run(*words: str) -> Any:
        return json.loads(CliRunner().invoke(app, words).stdout)

    hers = {node for she in both for node in she.nodes}
    called = keys.later_nodes(hers)
    exported = run("export", "user=rotated-user")
    assert {row["node"] for row in exported["tables"]["events"]} == hers
    planned = run("erase", "cookie=rotated-cookie", "--dry-run", "--json")
    assert (set(planned["nodes"]), set(planned["shared"])) == (hers | called, {she.kiosk for she in both})
    writer, members = (
        TransactionalWriter(settings),
        graph.find_all_members(context.graph, names["device"], context.alias, keys.later_nodes),
    )
    Erasure.begin(context, writer, members, answering(context, both[0].user), 20).run()
    assert {slot and slot.state for slot in context.graph.read(sorted(hers | called))} == {"erased"}
    assert set(run("verify", "user=rotated-user", "--json")["left"].values()) == {0}
    assert "several persons" in str(CliRunner().invoke(app, ["erase", both[0].kiosk, "--dry-run"]).exception)


def test_who_was_erased_before_a_rotation_is_gone(
    context: PrivacyContext, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name under newer keys was never linked: searched by it, nothing is left."""
    keys = NodeKeys.derive(settings.master, 2)
    user, device, cookie = (versions(keys, kind, f"before-{kind}")[0] for kind in ("user", "device", "cookie"))
    live(context, Person(user, device, cookie, "1f9" + "a" * 30))
    erase(context, user)
    point_commands_to(settings, monkeypatch)
    monkeypatch.setenv("HEADWATER_NODE_KEY_VERSION", "2")
    remaining = json.loads(CliRunner().invoke(app, ["verify", "user=before-user", "--json"]).stdout)["left"]
    assert set(remaining.values()) == {0}, remaining
