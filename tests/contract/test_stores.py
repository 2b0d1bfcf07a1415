"""Properties of the identity graph's stores: in memory, in a real Redis and in a real Redis Cluster."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import redis

from infra.errors import ConfigError, Retryable
from streams.identity.graph.limits import Limit, Pair
from streams.identity.graph.redis_shards import RedisShards
from streams.identity.graph.redis_store import REFUSAL_S, RedisGraphStore
from streams.identity.graph.store import GraphStore, MemoryGraphStore, first_places, shorten_claim
from streams.identity.graph.union_find import Slot, Write
from streams.identity.refusals.refusals import MOST_REFUSALS, Refusal, RememberedRefusal, Scope
from streams.identity.repair.splitting import SplitStore

NOW = 1_764_000_123.0
A, B, C = "0" + "a" * 32, "1" + "b" * 32, "2" + "c" * 32
COOKIES = [f"2{n:x}" + "c" * 31 for n in range(4)]
DAY = 20_000
"""Since 1970."""


def link(node: str, parent: str) -> Write:
    """A first link."""
    return Write(node, None, Slot(parent, logged=False), 0)


@pytest.fixture(params=["memory", "redis", "cluster"])
def store(request: pytest.FixtureRequest) -> Iterator[GraphStore]:
    """An empty store."""
    if request.param == "memory":
        yield MemoryGraphStore()
        return
    if request.param == "cluster":
        cluster = request.getfixturevalue("redis_cluster")
        cluster.empty()
        yield RedisGraphStore(cluster.connect)
        return
    with redis.Redis.from_url(request.getfixturevalue("redis_url")) as client:
        client.flushdb()
        yield RedisGraphStore(lambda: client)


def test_a_slot_is_written_once(store: GraphStore) -> None:
    """The first link of a node wins, also within one call; later ones change nothing and say so."""
    assert store.write([link(C, B), link(B, A), link(C, A)]) == [True, True, False]
    assert store.write([link(C, A)]) == [False]
    assert store.read([C, B, A]) == [Slot(B, logged=False), Slot(A, logged=False), None]


def test_logged_is_never_taken_back(store: GraphStore) -> None:
    """Confirming marks the logged slot and no other one; repeating it changes nothing."""
    store.write([link(C, B)])
    store.confirm([(C, Slot(A, logged=False)), (B, Slot(A, logged=False))])
    assert store.read([C, B]) == [Slot(B, logged=False), None]
    for _ in range(2):
        store.confirm([(C, Slot(B, logged=False))])
        assert store.read([C]) == [Slot(B, logged=True)]
    assert store.write([link(C, B)]) == [False]
    assert store.read([C]) == [Slot(B, logged=True)]


def test_a_slot_is_rewritten_by_who_has_seen_it(store: GraphStore) -> None:
    """A demotion replaces the slot that was held, and no other one; a confirmation that is late is none."""
    first, demoted = Slot(B, logged=False), Slot(B, logged=False, epoch=1, state="shared")
    store.write([link(C, B)])
    store.confirm([(C, first)])
    assert store.write([Write(C, Slot(A, logged=False), demoted, 0), Write(B, demoted, demoted, 0)]) == [False, False]
    assert store.write([Write(C, first, demoted, 0)]) == [True]
    store.confirm([(C, first)])
    assert store.read([C, B]) == [demoted, None]
    erased = Slot(C, logged=False, epoch=2, state="erased", since=1_764_000_000_000)
    assert store.write([Write(C, demoted, erased, 0), Write(C, demoted, erased, 0)]) == [True, False]
    assert store.read([C]) == [erased]
    assert store.children([B]) == [{C}]


def test_a_root_with_a_slot_is_linked(store: GraphStore) -> None:
    """A slot that points at itself makes nobody's child; once it points elsewhere, it is that one's."""
    alone, linked = Slot(C, logged=False, epoch=1), Slot(B, logged=False, epoch=2)
    assert store.write([Write(C, None, alone, 0)]) == [True]
    assert store.children([C]) == [set()]
    assert store.write([Write(C, alone, linked, 0), link(C, A)]) == [True, False]
    assert store.read([C]) == [linked]
    assert store.children([B, C]) == [{C}, set()]


def test_what_was_rewritten_is_known_until_it_is_confirmed(store: GraphStore) -> None:
    """A rewrite that was won, and nothing else, is to be looked for until the log has it; first slots are not."""
    first, demoted = Slot(A, logged=False), Slot(A, logged=False, epoch=1, state="shared")
    store.write([link(C, A), link(B, A)])
    assert store.unlogged_rewrites() == []
    store.write([Write(C, first, demoted, 0), Write(B, demoted, demoted, 0)])
    assert store.unlogged_rewrites() == [C]
    store.confirm([(C, first), (B, first)])
    assert store.unlogged_rewrites() == [C]
    for _ in range(2):
        store.confirm([(C, demoted)])
        assert store.unlogged_rewrites() == []
    store.write([Write(C, demoted, demoted._replace(epoch=2), 0)])
    store.confirm([(C, demoted)])
    assert store.unlogged_rewrites() == [C], "a confirmation that is late says nothing of the next rewrite"


def test_a_holder_takes_so_many(store: GraphStore) -> None:
    """Up to its limit, counted for each rule; what it holds already is always welcome."""
    two, three = Limit("cookies_per_device", 2, 30), Limit("cookies_per_user", 1, 30)
    assert store.admit([Pair(B, cookie, two) for cookie in COOKIES[:3]], DAY) == [True, True, False]
    pairs = [Pair(B, COOKIES[1], two), Pair(B, COOKIES[3], two), Pair(B, COOKIES[3], three)]
    assert store.admit(pairs, DAY) == [True, False, True]


def test_a_holder_has_room_again_after_some_days(store: GraphStore) -> None:
    """What came first goes first, on the day after its last; a day that is behind takes nothing away."""
    limit = Limit("cookies_per_device", 2, 30)

    def admit(cookie: int, day: int) -> bool:
        (room,) = store.admit([Pair(B, COOKIES[cookie], limit)], day)
        return room

    assert admit(0, DAY)
    assert admit(1, DAY + 20)
    assert not admit(2, DAY + 29)
    assert admit(0, DAY + 29), "it holds it still"
    assert not admit(3, DAY)
    assert admit(2, DAY + 30)
    assert not admit(3, DAY + 49)
    assert not admit(3, DAY + 31), "nor does it bring back what is gone"
    assert admit(3, DAY + 50)


def test_what_is_held_goes_by_itself(redis_url: str) -> None:
    """A day after its last one at the latest, whether anybody asks or not."""
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()
        RedisGraphStore(lambda: client).admit([Pair(B, C, Limit("cookies_per_user_and_day", 2, 1))], DAY)
        (key,) = client.keys()
        assert 86_400 < client.ttl(key) <= 2 * 86_400


def test_what_is_held_is_forgotten(store: GraphStore) -> None:
    """What a node holds, and that others hold it; nothing else of the others. Twice is as good as once."""
    other, rule = "2" + "d" * 32, Limit("cookies_per_device", 12, 30)
    store.write([link(C, B), link(other, B)])
    store.admit([Pair(B, C, rule), Pair(B, other, rule)], DAY)
    assert (store.count_memberships([C], [B]), store.count_memberships([B], [C])) == (2, 2)
    assert store.forget([C], [B]) == 2
    assert (store.count_memberships([C], [B]), store.children([B])) == (0, [{other}])
    single = rule._replace(most=1)
    assert store.admit([Pair(B, other, single), Pair(B, C, single)], DAY) == [True, False]
    assert store.forget([B], [C]) == 2
    assert store.forget([B], [C, B]) == 0
    assert store.children([B]) == [set()]


def test_notes_that_name_a_node_are_forgotten(redis_url: str) -> None:
    """Its own, and those of its holders that name it; the others stay."""
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()
        store = RedisGraphStore(lambda: client)
        for node, text in ((A, "x"), (B, f"names {A}"), (C, "y")):
            store.save_note(node, text)
        assert store.count_memberships([A], [B, C]) == 2
        assert store.forget([A], [B, C]) == 2
        assert [store.load_note(node) for node in (A, B, C)] == [None, None, "y"]


SCOPE, OTHER = Scope("shop.example", "opt-in", "marketing"), Scope("", "", "")
OLD, NEW = Refusal(1_764_000_000_000, 1_764_000_000_009, "a"), Refusal(1_764_000_000_001, 1_764_000_000_002, 'é|"\n')


def test_the_newest_refusal_stays(store: GraphStore) -> None:
    """Of each scope, in whichever order they come and however often; other nodes and scopes have theirs."""
    for refusal in (OLD, NEW, OLD):
        store.add_refusals({C: {SCOPE: RememberedRefusal(refusal, False)}})
    store.add_refusals(
        {
            B: {SCOPE: RememberedRefusal(OLD, True), OTHER: RememberedRefusal(NEW, False)},
            C: {OTHER: RememberedRefusal(OLD, False)},
        }
    )
    assert store.refusals([A, B, C]) == [
        {},
        {SCOPE: RememberedRefusal(OLD, True), OTHER: RememberedRefusal(NEW, False)},
        {SCOPE: RememberedRefusal(NEW, False), OTHER: RememberedRefusal(OLD, False)},
    ]


def test_a_refusal_is_pending_until_it_is_confirmed(store: GraphStore) -> None:
    """Only the one that was signalled, and for good; a newer one is pending again, and one that is gone stays gone."""
    store.add_refusals({C: {SCOPE: RememberedRefusal(OLD, False)}})
    store.add_refusals({C: {SCOPE: RememberedRefusal(OLD, True)}})
    assert store.refusals([C]) == [{SCOPE: RememberedRefusal(OLD, False)}], "nobody has committed its signal"
    store.confirm_refusals(
        {
            C: {SCOPE: RememberedRefusal(NEW, False), OTHER: RememberedRefusal(OLD, False)},
            A: {SCOPE: RememberedRefusal(OLD, False)},
        }
    )
    assert store.refusals([A, C]) == [{}, {SCOPE: RememberedRefusal(OLD, False)}]
    store.confirm_refusals({C: {SCOPE: RememberedRefusal(OLD, False)}})
    store.add_refusals({C: {SCOPE: RememberedRefusal(OLD, False)}})
    assert store.refusals([C]) == [{SCOPE: RememberedRefusal(OLD, True)}]
    store.add_refusals({C: {SCOPE: RememberedRefusal(NEW, False)}})
    store.confirm_refusals({C: {SCOPE: RememberedRefusal(OLD, False)}})
    assert store.refusals([C]) == [{SCOPE: RememberedRefusal(NEW, False)}]


def test_the_oldest_refusals_of_a_node_go(store: GraphStore) -> None:
    """There is a most, whatever comes in whichever order."""
    refusals = {
        Scope(f"{n}", "opt-in", "marketing"): RememberedRefusal(Refusal(n, n, ""), False) for n in range(MOST_REFUSALS + 9)
    }
    store.add_refusals({C: dict(reversed(refusals.items()))})
    store.add_refusals({C: refusals})
    assert store.refusals([C]) == [dict(list(refusals.items())[9:])]


def test_refusals_are_forgotten(store: GraphStore) -> None:
    """Of an erased node with everything else that is kept of it; what others refused stays, whoever they were linked with."""
    store.add_refusals({node: {SCOPE: RememberedRefusal(OLD, False)} for node in (B, C)})
    assert store.count_memberships([C], [B]) == 1
    assert store.forget([C], [B]) == 1
    assert store.count_memberships([C], [B]) == 0
    assert store.refusals([B, C]) == [{SCOPE: RememberedRefusal(OLD, False)}, {}]


def test_refusals_go_by_themselves(redis_url: str) -> None:
    """Thirteen months after the last one that was new."""
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()
        RedisGraphStore(lambda: client).add_refusals({C: {SCOPE: RememberedRefusal(OLD, False)}})
        (key,) = client.keys()
        assert REFUSAL_S - 60 < client.ttl(key) <= REFUSAL_S


def test_refusals_of_many_workers_are_merged(redis_url: str) -> None:
    """Whoever has read what another one replaces meanwhile reads again: none is lost."""
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()

        class Overtaken(RedisShards):
            """Another worker is faster, three times."""

            times = 3

            def run_script(self, script: str, kind: str, names: Sequence[str], *columns: Sequence[Any]) -> list[int]:
                if self.times:
                    self.times -= 1
                    RedisGraphStore(lambda: client).add_refusals(
                        {C: {Scope("", "", str(self.times)): RememberedRefusal(OLD, False)}}
                    )
                return super().run_script(script, kind, names, *columns)

        store = RedisGraphStore(lambda: client)
        store._shards = Overtaken(lambda: client)
        store.add_refusals({C: {SCOPE: RememberedRefusal(OLD, False)}, B: {SCOPE: RememberedRefusal(OLD, False)}})
        assert [len(memories) for memories in store.refusals([B, C])] == [1, 4]


def test_a_claim_belongs_to_the_first(store: GraphStore) -> None:
    """The first record that claims an event keeps it; asking again with the same place is no conflict."""
    assert store.claim({b"s:e1": b"0:5", b"s:e2": b"0:6"}, NOW)() == {}
    assert store.claim({b"s:e1": b"0:5", b"s:e2": b"1:6", b"s:e3": b"1:7"}, NOW)() == {b"s:e2": b"0:6"}
    assert store.claim({b"s:e1": b"0:9", b"s:e3": b"1:7"}, NOW)() == {b"s:e1": b"0:5"}
    assert store.claim({b"s:e2": b"0:6", b"s:e3": b"1:7"}, NOW)() == {}


def test_a_claim_is_of_one_topic(store: GraphStore) -> None:
    """Of a topic that was made anew no event was ever met, whatever places it has had on the old one."""
    assert store.claim({b"s:e1": b"0:5", b"s:e2": b"0:6"}, NOW, "first")() == {}
    assert store.claim({b"s:e1": b"0:5", b"s:e2": b"1:0"}, NOW, "second")() == {}
    assert store.claim({b"s:e1": b"0:7", b"s:e2": b"1:0"}, NOW, "second")() == {b"s:e1": b"0:5"}
    assert store.claim({b"s:e2": b"1:0"}, NOW, "first")() == {b"s:e2": b"0:6"}


def test_of_claims_that_come_together_the_first_counts() -> None:
    """An event that comes twice in a batch is claimed for its first place, and that is known of it; others are not."""
    claims = [(b"a", b"0:1"), (b"b", b"0:2"), (b"a", b"0:3"), (b"c", b"0:4"), (b"c", b"0:4")]
    assert first_places(claims) == ({b"a": b"0:1", b"b": b"0:2", b"c": b"0:4"}, {b"a": b"0:1"})
    assert first_places(claims[:2]) == ({b"a": b"0:1", b"b": b"0:2"}, {})


def test_many_claims_at_once(store: GraphStore) -> None:
    """As many as come in one batch, also of one hash tag, each to its own place; long and odd names too."""
    claims = {b"s:\xc3\xa9 %d" % n: b"0:%d" % n for n in range(90_000)}
    assert store.claim(claims, NOW)() == {}
    assert store.claim(claims, NOW)() == {}
    some = dict(list(claims.items())[::1_000])
    assert store.claim(dict.fromkeys(some, b"1:1"), NOW)() == some


def test_a_claim_is_recognised_for_a_day(store: GraphStore) -> None:
    """On whatever side of midnight, and by a worker whose clock is behind."""
    before, midnight = b"s:before", 20_000 * 86_400
    assert store.claim({before: b"0:1"}, midnight - 1)() == {}
    assert store.claim({before: b"0:2"}, midnight + 86_399)() == {before: b"0:1"}
    assert store.claim({b"s:after": b"0:3"}, midnight)() == {}
    assert store.claim({b"s:after": b"0:4"}, midnight - 1)() == {b"s:after": b"0:3"}


def test_a_note_is_kept_for_its_node(store: SplitStore) -> None:
    """The newest text stands, whatever is in it; other nodes have theirs."""
    assert store.load_note(C) is None
    store.save_note(C, "one")
    store.save_note(C, '{"é": 2}')
    store.save_note(B, "three")
    assert [store.load_note(node) for node in (A, B, C)] == [None, "three", '{"é": 2}']


def test_nothing_is_little_work(store: GraphStore) -> None:
    """Empty calls return empty results."""
    assert store.read([]) == []
    assert store.claim({}, NOW)() == {}
    assert store.write([]) == []
    store.confirm([])
    assert store.refusals([]) == []
    store.add_refusals({})
    store.confirm_refusals({})


def test_many_keys_come_back_in_order(store: GraphStore) -> None:
    """More keys than one round trip takes come back in the order asked for."""
    nodes = [f"2{n:032x}" for n in range(6_000)]
    store.write([link(node, A) for node in nodes[::2]])
    slots = store.read(nodes)
    assert [slot is not None for slot in slots] == [n % 2 == 0 for n in range(6_000)]


def test_long_claims_are_shortened() -> None:
    """Whatever their length, they are told apart."""
    assert len(shorten_claim(b"a:" + b"x" * 10_000)) <= 80
    assert shorten_claim(b"a:" + b"x" * 10_000) != shorten_claim(b"a:" + b"x" * 10_001)


def test_claims_are_forgotten_in_redis(redis_url: str) -> None:
    """A claim is forgotten after its next day, even where no claim follows; a slot never."""
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()
        store = RedisGraphStore(lambda: client)
        store.claim({b"s:e": b"0:1"}, NOW)()
        store.write([link(C, A)])
        lives = {bytes(key)[:1]: client.ttl(key) for key in client.keys("*")}
        assert 2 * 86_400 < lives[b"e"] <= 3 * 86_400
        assert lives[b"n"] == -1
        sizes = []
        for day in (1, 2, 3):
            store.claim({b"s:e": b"0:1"}, NOW + day * 86_400)()
            sizes.append(len(list(client.scan_iter("e:*"))))
    assert sizes == [2, 2, 2]


def test_a_redis_that_forgets_is_refused(redis_url: str) -> None:
    """A Redis that may evict keys ends the room with an error that says what to set."""
    with redis.Redis.from_url(redis_url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            with pytest.raises(ConfigError, match="noeviction"):
                RedisGraphStore(lambda: client).read([A])
        finally:
            client.config_set("maxmemory-policy", "noeviction")
        assert RedisGraphStore(lambda: client).read([A]) == [None]


def test_a_redis_that_is_away_is_waited_for() -> None:
    """Every call raises Retryable where Redis does not answer."""
    store = RedisGraphStore(lambda: redis.Redis(port=1, socket_connect_timeout=0.2))
    for call in (
        lambda: store.read([A]),
        lambda: store.claim({b"e": b"0:1"}, NOW),
        lambda: store.write([link(C, A)]),
        lambda: store.confirm([(C, Slot(A, logged=False))]),
        lambda: store.refusals([A]),
        lambda: store.add_refusals({A: {SCOPE: RememberedRefusal(OLD, False)}}),
    ):
        with pytest.raises(Retryable):
            call()
