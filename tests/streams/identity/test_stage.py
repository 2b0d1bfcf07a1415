"""The identity stage: components, labels, duplicates, and crashes."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import Retryable
from infra.secrets import Secret
from infra.telemetry.metrics import Metrics
from schemas.codec import Record, decode
from streams.identity.evidence import CONFLICTS, LINKS
from streams.identity.graph.redis_store import RedisGraphStore
from streams.identity.graph.slots import MERGES
from streams.identity.graph.store import GraphStore, MemoryGraphStore
from streams.identity.graph.union_find import GraphView, Slot, Write
from streams.identity.nodes import NodeKeys, alias, event_nodes
from streams.identity.reading import CONSENTED, DAY_MS, RESOLVED
from streams.identity.stage import IdentityDependencies, IdentityStage
from streams.runtime.stage import Batch, CountCell, Outcome
from tests.streams.identity.line import REGISTRY, T, event
from tests.support.scale import examples

ALIAS = alias(Secret("for tests only, forty characters long..."))
U1, U2 = "0" + "1" * 32, "0" + "2" * 32
D1, C1, C2, C3 = "1" + "a" * 32, "2" + "b" * 32, "2" + "c" * 32, "2" + "d" * 32
ANONYMOUS = [f"{tier}{n:032x}" for tier in "12" for n in range(8)]
WORLD = st.lists(st.lists(st.sampled_from(ANONYMOUS), min_size=1, max_size=3, unique=True).map(sorted), min_size=1, max_size=30)


def batch(values: Sequence[bytes | None], offset: int = 0, partition: int = 0) -> Batch:
    """Build a batch of one partition."""
    return Batch(CONSENTED, partition, [b"k"] * len(values), values, range(offset, offset + len(values)))


def stage(store: GraphStore) -> IdentityStage:
    """Build a worker on a store."""
    return IdentityStage(REGISTRY, store, Metrics(), IdentityDependencies(ALIAS))


def resolved(outcome: Outcome) -> list[Record]:
    """Return the resolved records."""
    return [decode(REGISTRY, value or b"")[1] for _, value, _ in outcome.out[RESOLVED]]


def merges(outcome: Outcome) -> dict[str, str]:
    """Return node -> parent, as logged."""
    records = [decode(REGISTRY, value or b"")[1] for _, value, _ in outcome.out.get(MERGES, ())]
    return {record["node"]: record["parent"] for record in records}


def commit(outcome: Outcome) -> None:
    """Run the hooks after a commit."""
    for hook in outcome.after_commit:
        hook()


def partition_of(slots: dict[str, Slot], nodes: Sequence[str]) -> set[frozenset[str]]:
    """Return the components of a graph."""
    view = GraphView({**dict.fromkeys(nodes), **slots})
    groups: dict[str, set[str]] = {}
    for node in nodes:
        groups.setdefault(view.find(node), set()).add(node)
    return {frozenset(group) for group in groups.values()}


@given(WORLD, st.randoms(use_true_random=False), st.integers(1, 10))
@settings(deadline=None, max_examples=examples(60))
def test_any_order_batching_and_worker_gives_one_partition(world: list[list[str]], rng: random.Random, size: int) -> None:
    """Shuffled, duplicated and cut into batches over two crashing workers, the components are the same."""
    straight = MemoryGraphStore()
    stage(straight).handle(batch([event(n, nodes) for n, nodes in enumerate(world)]), 0)
    store, log = MemoryGraphStore(), dict[str, str]()
    values = [event(n, nodes) for n, nodes in enumerate(world)] * 2
    rng.shuffle(values)
    workers = [stage(store), stage(store)]
    for start in range(0, len(values), size):
        part = batch(values[start : start + size], start)
        if rng.random() < 0.3:
            rng.choice(workers).handle(part, 0)  # crashed before its commit: nothing left
        outcome = rng.choice(workers).handle(part, 0)
        log.update(merges(outcome))
        if rng.random() < 0.7:
            commit(outcome)
    assert partition_of(store.slots, ANONYMOUS) == partition_of(straight.slots, ANONYMOUS)
    assert log == {node: slot.parent for node, slot in store.slots.items()}, "the log alone rebuilds the graph"


def test_one_person_one_profile_across_devices() -> None:
    """The profile before the login is the user's label; a second device joins it; the event's bytes are unchanged."""
    store = MemoryGraphStore()
    room = stage(store)
    values = [event(1, [D1, C1]), event(2, [U1, C1]), event(3, [U1, C2]), event(4, [C2]), event(5, [C1])]
    profiles = []
    for at, value in enumerate(values):
        outcome = room.handle(batch([value], at), 0)
        commit(outcome)
        (record,) = resolved(outcome)
        ((key, written, _),) = outcome.out[RESOLVED]
        assert key == record["profile_id"].encode()
        assert (written or b"").endswith(value[5:])
        assert record["identity_state"] == "resolved"
        profiles.append(record["profile_id"])
    assert profiles == [D1] * 5
    assert store.slots[U1] == Slot(D1, logged=True)


def test_users_never_merge() -> None:
    """Two users on one cookie keep two profiles; the cookie is demoted and has an alias."""
    store = MemoryGraphStore()
    room = stage(store)
    first = room.handle(batch([event(1, [U1, C1]), event(2, [C1])]), 0)
    assert [record["profile_id"] for record in resolved(first)] == [C1, C1]
    outcome = room.handle(batch([event(3, [U2, C1]), event(4, [C1, C2]), event(5, [C1]), event(6, [U1])], 2), 0)
    alone = ALIAS(C1, 1)
    assert [record["profile_id"] for record in resolved(outcome)] == [U2, C2, alone, C1]
    assert alone not in (C1, U1, U2)
    assert store.slots[C1] == Slot(U1, logged=False, epoch=1, state="shared")
    (conflict,) = [decode(REGISTRY, value or b"")[1] for _, value, _ in outcome.out[CONFLICTS]]
    assert (conflict["node"], conflict["rule"], conflict["kept"], conflict["refused"]) == (C1, "two_users", U1, U2)
    assert (conflict["epoch"], conflict["event_id"]) == (1, "e3")


def test_two_users_in_one_event() -> None:
    """The event belongs to the stronger user, and nobody is demoted."""
    store = MemoryGraphStore()
    outcome = stage(store).handle(batch([event(1, [U1, U2, C1]), event(2, [U2])]), 0)
    assert [record["profile_id"] for record in resolved(outcome)] == [C1, U2]
    assert CONFLICTS not in outcome.out


def test_a_device_of_many_is_nobodys() -> None:
    """A thirteenth cookie demotes its device: the cookie stays alone, and the device's events have an alias."""
    store = MemoryGraphStore()
    room = stage(store)
    cookies = [f"2{n:x}" + "c" * 31 for n in range(1, 14)]
    outcomes = [room.handle(batch([event(n, [D1, cookie])], n), 0) for n, cookie in enumerate(cookies)]
    profiles = [resolved(outcome)[0]["profile_id"] for outcome in outcomes]
    assert profiles == [D1] * 12 + [cookies[12]]
    (conflict,) = [decode(REGISTRY, value or b"")[1] for _, value, _ in outcomes[-1].out[CONFLICTS]]
    assert (conflict["node"], conflict["rule"]) == (D1, "cookies_per_device")
    outcome = room.handle(batch([event(20, [D1]), event(21, [cookies[0]]), event(22, [D1, C3])], 20), 0)
    assert [record["profile_id"] for record in resolved(outcome)] == [ALIAS(D1, 1), D1, C3]


def test_whoever_comes_often_stays_who_she_is() -> None:
    """A year in browsers that drop their cookies weekly, by newsletter, app and login, demotes nothing."""
    store = MemoryGraphStore()
    room = stage(store)
    email, profiles = "3" + "e" * 32, set()
    for week in range(52):
        cookie, at = f"2{week:02x}" + "c" * 30, T + 7 * week * DAY_MS
        ways = [[email, cookie], [D1, f"2{week:02x}" + "d" * 30], [U1, cookie], [U1, D1]]
        outcome = room.handle(batch([event(4 * week + n, ids, collector_ts=at) for n, ids in enumerate(ways)], 4 * week), 0)
        profiles |= {record["profile_id"] for record in resolved(outcome)}
    assert len(profiles) == 1
    assert {slot.state for slot in store.slots.values()} == {""}


def test_a_constant_as_user_is_found_on_its_first_day() -> None:
    """An eleventh new cookie in a day demotes a user id, and later cookies stay alone."""
    store = MemoryGraphStore()
    room = stage(store)
    cookies = [f"2{n:02x}" + "c" * 30 for n in range(12)]
    outcome = room.handle(batch([event(n, [U1, cookie]) for n, cookie in enumerate(cookies[:10])]), 0)
    assert CONFLICTS not in outcome.out
    outcome = room.handle(batch([event(10, [U1, cookies[10]], collector_ts=T + DAY_MS)], 10), 0)
    assert CONFLICTS not in outcome.out, "it is another day"
    outcome = room.handle(
        batch([event(11 + n, [U1, f"2{n:02x}" + "d" * 30], collector_ts=T + DAY_MS) for n in range(10)], 11), 0
    )
    (conflict,) = [decode(REGISTRY, value or b"")[1] for _, value, _ in outcome.out[CONFLICTS]]
    assert (conflict["node"], conflict["rule"]) == (U1, "cookies_per_user_and_day")
    outcome = room.handle(batch([event(30 + n, [cookie]) for n, cookie in enumerate(cookies[1:])], 30), 0)
    assert [record["profile_id"] for record in resolved(outcome)] == cookies[1:]


def test_evidence_is_said_once_it_is_committed() -> None:
    """Each identifier set is emitted as evidence until one commit is confirmed."""
    store = MemoryGraphStore()
    room = stage(store)
    values = [event(1, [D1, C1]), event(2, [D1, C1]), event(3, [C1]), event(4, [U1, D1, C1], collector_ts=7)]
    first = room.handle(batch(values), 0)
    links = [decode(REGISTRY, value or b"")[1] for _, value, _ in first.out[LINKS]]
    assert [(link["nodes"], link["event_id"], link["evidence_ts"]) for link in links] == [
        ([D1, C1], "e1", 1_764_000_123_456),
        ([U1, D1, C1], "e4", 7),
    ]
    assert [key for key, _, _ in first.out[LINKS]] == [link["link_id"].encode() for link in links]
    assert room.handle(batch(values), 0).out[LINKS] == first.out[LINKS]
    commit(first)
    assert LINKS not in room.handle(batch(values), 0).out


def test_an_event_of_a_topic_made_anew_is_no_duplicate() -> None:
    """Events of a recreated topic are claimed anew."""
    store = MemoryGraphStore()
    values = [event(n, [C1]) for n in range(3)]
    assert stage(store).handle(replace(batch(values), topic_id="first"), 0).passed == 3
    restarted = stage(store)
    assert restarted.handle(replace(batch(values, offset=1), topic_id="second"), 0).passed == 3
    assert restarted.handle(replace(batch(values, offset=9), topic_id="second"), 0).dropped == {"DUPLICATE": 3}


def test_duplicates_die_and_replays_do_not() -> None:
    """Another offset with the same source and id is dropped; the same offset passes again."""
    room = stage(MemoryGraphStore())
    values = [event(1, [C1]), event(1, [C1]), event(1, [C1], source="other"), event(2, [C1])]
    first = room.handle(batch(values), 0)
    assert first.dropped == {"DUPLICATE": 1}
    assert first.counts[CountCell(1_764_000_120_000, "web", "page_view", "dropped:DUPLICATE")] == 1
    assert room.handle(batch(values), 0).out[RESOLVED] == first.out[RESOLVED]
    assert room.handle(batch(values, offset=10), 0).dropped == {"DUPLICATE": 4}
    assert room.handle(batch(values, partition=1), 0).dropped == {"DUPLICATE": 4}


def test_without_consent_nothing_is_linked() -> None:
    """Anonymised events, heartbeats and events without analytics leave as anonymous without a read of the graph."""
    store = MemoryGraphStore()
    values = [
        event(1, [], consent_outcome="anonymise", consent_purposes=0),
        event(2, [U1, C1], consent_outcome="strip", consent_purposes=2),
        event(3, [U1, C1], heartbeat=True),
        event(4, []),
    ]
    outcome = stage(store).handle(batch(values), 0)
    assert [(record["profile_id"], record["node"], record["identity_state"]) for record in resolved(outcome)] == [
        ("", "", "anonymous")
    ] * 4
    assert [key for key, _, _ in outcome.out[RESOLVED]] == [b"e1", b"e2", b"e3", b"e4"]
    assert store.slots == {}
    assert set(store.claims[""]) == {b"web:page_view\0e2", b"web:page_view\0e4"}
    assert sum(outcome.counts.values()) == 3


def test_rubbish_is_dead_and_unknown_contracts_are_waited_for() -> None:
    """Broken bytes, tombstones and invalid identifiers are dead letters; an unknown contract id is Retryable."""
    outcome = stage(MemoryGraphStore()).handle(batch([b"x", None, event(1, ["someone@example.org"]), event(2, [C1])]), 0)
    assert [dead.at for dead in outcome.dead] == [0, 1, 2]
    assert outcome.passed == 1
    with pytest.raises(Retryable):
        stage(MemoryGraphStore()).handle(batch([b"\x00\x00\x00\x27\x0fxyz"]), 0)


def test_a_link_is_logged_until_a_commit_is_known() -> None:
    """A slot of a crashed worker is logged by whoever reads it, until it is confirmed."""
    store = MemoryGraphStore()
    crashed = stage(store).handle(batch([event(1, [D1, C1])]), 0)
    assert merges(crashed) == {C1: D1}
    other = stage(store).handle(batch([event(2, [C1])], 7), 0)
    assert merges(other) == {C1: D1}
    (again,) = [decode(REGISTRY, value or b"")[1] for _, value, _ in other.out[MERGES]]
    # Its evidence is unknown here, but a row without a time would be older than any time to live.
    assert (again["event_id"], again["evidence_ts"]) == ("", 1_764_000_123_456)
    commit(other)
    assert merges(stage(store).handle(batch([event(3, [C1])], 8), 0)) == {}


def test_labels_are_found_after_a_crash() -> None:
    """After a crash between the link and the label the next worker claims the same label."""
    store = MemoryGraphStore()
    store.write([Write(D1, None, Slot(U1, logged=False), 0)])
    (record,) = resolved(stage(store).handle(batch([event(1, [U1, D1])]), 0))
    assert record["profile_id"] == D1


def test_what_a_split_set_free_is_linked_again() -> None:
    """A root whose slot points at itself resolves as any root and is linked one epoch on."""
    store = MemoryGraphStore()
    store.slots[C1] = Slot(C1, logged=True, epoch=3)
    room = stage(store)
    outcome = room.handle(batch([event(1, [C1]), event(2, [C1, C2])]), 0)
    commit(outcome)
    assert [record["profile_id"] for record in resolved(outcome)] == [C1, C1]
    outcome = room.handle(batch([event(3, [D1, C1]), event(4, [U1, C2])], 2), 0)
    commit(outcome)
    assert [record["profile_id"] for record in resolved(outcome)] == [D1, D1]
    assert store.slots[C1] == Slot(D1, logged=True, epoch=4)
    assert f"{C1}|4".encode() in [key for key, _, _ in outcome.out[MERGES]]


class Racing(MemoryGraphStore):
    """A store in which another worker links a node first."""

    def write(self, writes: Sequence[Write]) -> list[bool]:
        """Let the other worker write first, once."""
        for write in writes:
            if write.node == C2:
                self.slots.setdefault(C2, Slot(C1, logged=False))
                self.slots.setdefault(C1, Slot(D1, logged=True))
        return super().write(writes)


def test_a_lost_race_is_joined() -> None:
    """The other worker's link is read and its root linked instead: one component, nothing overwritten."""
    store = Racing()
    outcome = stage(store).handle(batch([event(1, [C2, C3, U1])]), 0)
    assert store.slots[C2].parent == C1
    assert store.slots[C1].parent == D1
    view = GraphView({**store.slots})
    assert {view.find(node) for node in (C1, C2, C3, D1)} == {U1}
    assert set(merges(outcome)) >= {C2, C3, D1, U1}


def test_broadcast_merges_save_questions() -> None:
    """Committed slots of other workers are cached; only newer epochs replace older ones."""
    first, second = MemoryGraphStore(), stage(MemoryGraphStore())
    outcome = stage(first).handle(batch([event(1, [D1, C1])]), 0)
    second.on_broadcast(MERGES, [(key, value) for key, value, _ in outcome.out[MERGES]])
    second.on_broadcast(MERGES, [(b"k", None)])
    (record,) = resolved(second.handle(batch([event(2, [C1])]), 0))
    assert record["profile_id"] == D1


@pytest.fixture(params=["redis", "cluster"])
def store(request: pytest.FixtureRequest) -> Iterator[RedisGraphStore]:
    """An empty real Redis, and an empty real Redis Cluster."""
    if request.param == "cluster":
        cluster = request.getfixturevalue("redis_cluster")
        cluster.empty()
        yield RedisGraphStore(cluster.connect)
        return
    with redis.Redis.from_url(request.getfixturevalue("redis_url")) as client:
        client.flushdb()
        yield RedisGraphStore(lambda: client)


def test_a_real_redis_gives_the_same(store: RedisGraphStore) -> None:
    """Random traffic with interruptions leaves the same state in a real Redis and in memory."""
    rng = random.Random(7)
    values = [event(rng.randrange(150), rng.sample([*ANONYMOUS, U1, U2], rng.randint(1, 3))) for _ in range(300)]
    memory = MemoryGraphStore()
    rooms = [stage(memory), stage(store)]
    for start in range(0, 300, 50):
        part = batch(values[start : start + 50], start)
        outcomes = [room.handle(part, 0) for room in rooms]
        assert outcomes[0].out == outcomes[1].out
        assert outcomes[0].dropped == outcomes[1].dropped
        for outcome in outcomes:
            commit(outcome)
    nodes = [*ANONYMOUS, U1, U2]
    assert store.read(nodes) == memory.read(nodes)


def test_one_id_under_two_names_is_two_events() -> None:
    """A purchase and its refund may carry the order's number as their id; each of them again is a duplicate."""
    room = stage(MemoryGraphStore())
    values = [event(7, [C1], event_name=name) for name in ("purchase", "refund", "purchase", "refund")]
    outcome = room.handle(batch(values), 0)
    assert [record["event_name"] for record in resolved(outcome)] == ["purchase", "refund"]
    assert outcome.dropped == {"DUPLICATE": 2}
    again = room.handle(batch(values[:2], 4), 0)
    assert (again.passed, again.dropped) == (0, {"DUPLICATE": 2})


def test_imported_events_are_counted_apart() -> None:
    """History is no part of the volume of the minute in which it arrives."""
    values = [event(n, [C1], imported=n < 2) for n in range(3)]
    outcome = stage(MemoryGraphStore()).handle(batch([*values, values[0]]), 0)
    assert {cell.outcome: n for cell, n in outcome.counts.items()} == {
        "imported:resolved": 2, "resolved": 1, "imported:dropped:DUPLICATE": 1,
    }  # fmt: skip


def test_an_alias_by_the_former_id_as_cookie_moves_nobody() -> None:
    """A visitor stays her own when her account gets a new id; a former anonymous id becomes the user's."""
    keys = NodeKeys.derive(Secret("for tests only, forty characters long..."))

    def nodes(*identifiers: tuple[str, str]) -> list[str]:
        return event_nodes(keys, identifiers).nodes

    for number in range(20):  # which user is the stronger one depends on digests
        room = stage(MemoryGraphStore())
        old, new, visitor = ("user", f"old-{number}"), ("user", f"new-{number}"), ("cookie", f"visitor-{number}")
        calls = [nodes(old, visitor), nodes(new, ("cookie", old[1])), nodes(visitor)]
        outcome = room.handle(batch([event(n, call) for n, call in enumerate(calls)]), 0)
        identified, _, after = resolved(outcome)
        assert (after["identity_state"], after["profile_id"]) == ("resolved", identified["profile_id"])
        assert CONFLICTS not in outcome.out
        calls = [nodes(("cookie", "before")), nodes(("user", "known"), ("cookie", "before")), nodes(("user", "known"))]
        outcome = room.handle(batch([event(9 + n, call) for n, call in enumerate(calls)], 9), 0)
        assert len({record["profile_id"] for record in resolved(outcome)}) == 1
