"""Refusals reach every linked id, whichever comes first, the refusal or the link, and whichever worker crashes."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st

from infra.telemetry.metrics import Metrics
from schemas.codec import Record, decode, encode
from streams.identity.graph.redis_store import RedisGraphStore
from streams.identity.graph.slots import MERGES
from streams.identity.graph.store import GraphStore, MemoryGraphStore
from streams.identity.graph.union_find import ERASED, SHARED, GraphView, Slot, Write
from streams.identity.reading import CONSENTED
from streams.identity.refusals.refusals import Refusals
from streams.identity.refusals.revocation import REQUESTS, REVOCATIONS, SIGNALS, find_component
from streams.identity.stage import IdentityDependencies, IdentityStage
from streams.runtime.stage import Batch, Outcome
from tests.streams.identity.crashing import (
    ALIAS,
    InterruptedStore,
    Nodes,
    Plan,
    SureStore,
    TightStore,
    WatchedStore,
    Withdrawal,
    World,
)
from tests.streams.identity.line import REGISTRY, T, event, revocation
from tests.streams.identity.test_crashes import CONFLICTED, NODES, PEACEFUL, PLANS, oracle, spread
from tests.support.scale import examples

USER, OTHER_USER = "0" + "a" * 32, "0" + "b" * 32
PHONE, LAPTOP, TABLET, KIOSK = (f"2{n:02x}" + "d" * 30 for n in range(4))
EMAIL = "3" + "e" * 32


class Room:
    """A worker on a store that commits at once, unless told otherwise."""

    def __init__(self, store: GraphStore | None = None) -> None:
        self.store = store or MemoryGraphStore()
        self.start()
        self._offset = 0

    def start(self) -> None:
        """Restart the worker with empty caches."""
        self.metrics = Metrics()
        self.stage = IdentityStage(REGISTRY, self.store, self.metrics, IdentityDependencies(ALIAS))

    def handle(self, topic: str, *values: bytes) -> Outcome:
        """Process a batch without a commit."""
        self._offset += len(values)
        offsets = range(self._offset, self._offset + len(values))
        return self.stage.handle(Batch(topic, 0, [b"k"] * len(values), values, offsets), 0)

    def visit(self, *nodes: str, **fields: object) -> dict[str, list[Record]]:
        """Process and commit an event; return node -> signals."""
        return self.commit(self.handle(CONSENTED, event(self._offset, nodes, **fields)))

    def withdraw(self, subject: str, **fields: object) -> dict[str, list[Record]]:
        """Process and commit a refusal; return node -> signals."""
        return self.commit(self.handle(REVOCATIONS, revocation(subject, **fields)))

    def commit(self, outcome: Outcome) -> dict[str, list[Record]]:
        """Run hooks and broadcast; return node -> signals."""
        for hook in outcome.after_commit:
            hook()
        self.stage.on_broadcast(MERGES, [(key, value) for key, value, _ in outcome.out.get(MERGES, ())])
        return signals_of(outcome)


def signals_of(outcome: Outcome) -> dict[str, list[Record]]:
    """Return node -> signals of an outcome, and assert their keys."""
    records: dict[str, list[Record]] = {}
    for key, value, _ in outcome.out.get(SIGNALS, ()):
        record = decode(REGISTRY, value or b"")[1]
        assert key == record["subject"].encode()
        records.setdefault(record["subject"], []).append(record)
    return records


def test_a_login_after_a_withdrawal() -> None:
    """The account receives the cookie's refusal unchanged, once, without a privacy request."""
    room = Room()
    room.visit(PHONE)
    assert room.withdraw(PHONE) == {}
    outcome = room.handle(CONSENTED, event(1, [USER, PHONE]))
    assert REQUESTS not in outcome.out
    assert room.commit(outcome) == {
        USER: [
            {
                "subject": USER, "site": "shop.example", "regulation": "opt-in", "kind": "withdrawal", "signals": {},
                "purposes": ["analytics", "marketing"], "chosen_ts": T, "received_ts": T + 9, "via": "linked", "evidence": "e",
            }
        ]
    }  # fmt: skip
    assert room.visit(USER, PHONE) == {}
    assert room.metrics.registry.get_sample_value("headwater_refusals_handed_over_total") == 1


def test_a_withdrawal_after_a_login() -> None:
    """It is expanded at once, and later links receive it from either node."""
    room = Room()
    room.visit(USER, PHONE)
    assert set(room.withdraw(PHONE)) == {USER}
    assert set(room.visit(USER, LAPTOP)) == {LAPTOP}
    assert set(room.visit(LAPTOP, EMAIL)) == {EMAIL}


def test_both_sides_hand_over_what_they_refused() -> None:
    """Two devices with refusals of their own receive each other's, of one scope only the newer one."""
    room = Room()
    room.withdraw(PHONE, purposes=["marketing"], withdrawn_ts=T + 1)
    room.withdraw(LAPTOP, purposes=["marketing"], withdrawn_ts=T + 5)
    room.withdraw(LAPTOP, purposes=["analytics"], site="other.example", withdrawn_ts=T + 2)
    room.visit(USER, PHONE)
    signals = room.visit(USER, LAPTOP)
    by_node = {node: {(r["site"], *r["purposes"], r["chosen_ts"]) for r in records} for node, records in signals.items()}
    newer = {("shop.example", "marketing", T + 5), ("other.example", "analytics", T + 2)}
    assert by_node == {USER: newer, PHONE: newer}


def test_two_events_of_one_batch() -> None:
    """A link of the first event receives refusals of the second event's nodes."""
    room = Room()
    room.withdraw(PHONE)
    outcome = room.handle(CONSENTED, event(1, [USER, LAPTOP]), event(2, [USER, PHONE]))
    assert set(room.commit(outcome)) == {USER, LAPTOP}


def test_an_old_refusal_keeps_its_time() -> None:
    """The signal carries the time of the refusal, because the receiving id may have granted since."""
    room = Room()
    room.withdraw(PHONE, withdrawn_ts=T - 10**10, received_ts=T)
    ((record,),) = room.visit(USER, PHONE).values()
    assert (record["chosen_ts"], record["received_ts"]) == (T - 10**10, T)


def test_a_refusal_without_a_time_was_made_when_it_arrived() -> None:
    """A refusal without a time has the time of its arrival; one without purposes refuses all."""
    room = Room()
    room.withdraw(PHONE, withdrawn_ts=0, purposes=[])
    ((record,),) = room.visit(USER, PHONE).values()
    assert (record["chosen_ts"], record["purposes"]) == (T + 9, [])


def test_a_refusal_where_nothing_was_granted_asks_no_room() -> None:
    """It reaches every linked id, now and later, without a privacy request."""
    room = Room()
    room.visit(USER, PHONE)
    outcome = room.handle(REVOCATIONS, revocation(PHONE, withdrawal=False), revocation(PHONE, withdrawn_ts=T + 1))
    assert [decode(REGISTRY, value or b"")[1]["withdrawn_ts"] for _, value, _ in outcome.out[REQUESTS]] == [T + 1]
    assert [record["chosen_ts"] for record in room.commit(outcome)[USER]] == [T, T + 1]
    room.withdraw(LAPTOP, withdrawal=False, purposes=["personalization"])
    assert {node: records[0]["purposes"] for node, records in room.visit(USER, LAPTOP).items()} == {
        USER: ["personalization"], PHONE: ["personalization"], LAPTOP: ["analytics", "marketing"],
    }  # fmt: skip


def test_records_of_the_first_version_are_withdrawals() -> None:
    """They lack the field `withdrawal`, so a privacy request is sent."""
    room = Room()
    first = next(contract for n in range(1, 99) if (contract := REGISTRY.by_id(n)).topic == REVOCATIONS)
    assert "withdrawal" not in first.names
    record = decode(REGISTRY, revocation(PHONE))[1]
    del record["withdrawal"]
    assert len(room.handle(REVOCATIONS, encode(first, record)).out[REQUESTS]) == 1


def test_a_shared_id_gets_and_gives_nothing() -> None:
    """Two users of a kiosk receive no refusals through it, nor does the kiosk."""
    room = Room()
    room.visit(USER, KIOSK)
    room.visit(OTHER_USER, KIOSK)
    assert find_component(room.store, KIOSK).nodes == (KIOSK,)
    assert room.withdraw(KIOSK) == {}
    assert room.withdraw(USER) == {}
    assert set(room.visit(USER, KIOSK, LAPTOP)) == {LAPTOP}
    assert room.visit(OTHER_USER, KIOSK, TABLET) == {}
    assert room.store.refusals([KIOSK, OTHER_USER, TABLET]) == [{}, {}, {}]


def test_who_hung_under_a_constant_user_is_by_itself() -> None:
    """A demoted user hands nothing over between its former cookies, whichever is read first."""
    room = Room()
    cookies = [f"2{n:02x}" + "c" * 30 for n in range(14)]
    for cookie in cookies:
        room.visit(USER, cookie)
    (slot,) = room.store.read([USER])
    assert slot is not None
    assert slot.state == SHARED
    assert room.withdraw(cookies[3]) == {}
    assert set(room.visit(cookies[3], EMAIL)) == {EMAIL}


def test_a_shared_root_is_left_out() -> None:
    """Nodes under a demoted device stay together and hand over without it."""
    room, device = Room(), "1" + "f" * 32
    room.visit(device, PHONE)
    room.visit(device, LAPTOP)
    (before,) = room.store.read([device])
    room.store.write([Write(device, before, Slot(device, logged=True, epoch=1, state=SHARED), 0)])
    assert set(room.withdraw(PHONE)) == {LAPTOP}
    assert device in find_component(room.store, PHONE).profiles


def test_what_may_not_be_linked_hears_nothing() -> None:
    """Events without analytics, anonymised ones and heartbeats hand nothing over."""
    room = Room()
    room.withdraw(PHONE)
    assert room.visit(USER, PHONE, consent_purposes=6) == {}
    assert room.visit(USER, PHONE, consent_purposes=0, consent_outcome="anonymise") == {}
    assert room.visit(USER, PHONE, heartbeat=True) == {}
    assert room.store.refusals([USER]) == [{}]


def test_an_erased_id_remembers_nothing() -> None:
    """Replayed refusals of an erased id reach nobody, and later ones are not remembered."""
    room = Room()
    room.store.write([Write(PHONE, None, Slot(PHONE, logged=True, epoch=1, state=ERASED, since=T + 9), 0)])
    room.withdraw(PHONE)
    room.withdraw(PHONE, received_ts=T + 10)
    assert room.visit(USER, PHONE, collector_ts=T + 99) == {}
    assert room.store.refusals([PHONE, USER]) == [{}, {}]


class CountingStore(MemoryGraphStore):
    """A store that counts the reads of refusals."""

    lookups = 0

    def refusals(self, nodes: Sequence[str]) -> list[Refusals]:
        """See `GraphStore`."""
        self.lookups += 1
        return super().refusals(nodes)


def test_no_link_costs_nothing() -> None:
    """Refusals are read once for a batch with links, and not at all for one without."""
    store = CountingStore()
    room = Room(store)
    room.visit(USER, PHONE)
    assert store.lookups == 1
    room.visit(USER, PHONE)
    room.visit(LAPTOP)
    room.start()
    room.visit(USER, PHONE)
    assert store.lookups == 1
    room.visit(USER, LAPTOP)
    assert store.lookups == 2


# -- crashes and interleavings


def missing_signals(
    world: World, withdrawals: Sequence[Withdrawal], linked: Callable[[str], Sequence[str]]
) -> list[tuple[str, str]]:
    """Return (subject, node) pairs that are linked in the end without a signal for the node."""
    signalled: dict[str, int] = {}
    for record in world.signals:
        signalled[record["subject"]] = max(record["chosen_ts"], signalled.get(record["subject"], 0))
    own: dict[str, int] = {}
    for subject, at in withdrawals:
        own[subject] = max(at, own.get(subject, 0))
    newest = {node: max(signalled.get(node, 0), own.get(node, 0)) for node in {*signalled, *own}}
    return [(subject, node) for subject, at in withdrawals for node in linked(subject) if newest.get(node, 0) < at]


@st.composite
def refusal_worlds(
    draw: st.DrawFn, events: st.SearchStrategy[list[Nodes]], store: Callable[[], InterruptedStore]
) -> tuple[list[Nodes], list[Withdrawal], World]:
    """Draw events and withdrawals on one to three partitions each with a plan of interruptions, and run to the end."""
    drawn = draw(events)
    subjects = draw(st.lists(st.sampled_from(sorted({node for nodes in drawn for node in nodes})), min_size=1, max_size=6))
    withdrawals = [Withdrawal(subject, T + draw(st.integers(0, 5))) for subject in subjects]
    order = draw(st.permutations(range(len(drawn))))
    partitions: list[Sequence[tuple[int, Nodes] | Withdrawal]] = [*spread(drawn, draw(st.integers(1, 3)), order)]
    cut = draw(st.integers(0, len(withdrawals)))
    partitions += [some for some in (withdrawals[:cut], withdrawals[cut:]) if some]
    world = World(store(), draw(st.permutations(partitions)), draw(PLANS))
    world.run()
    return drawn, withdrawals, world


@given(refusal_worlds(PEACEFUL, InterruptedStore) | refusal_worlds(PEACEFUL, WatchedStore))
@settings(deadline=None, max_examples=examples(500), suppress_health_check=[HealthCheck.too_slow])
def test_whoever_is_linked_in_the_end_has_heard(case: tuple[list[Nodes], list[Withdrawal], World]) -> None:
    """Whatever crashes or overtakes, exactly the nodes of the oracle's component are signalled."""
    events, withdrawals, world = case
    groups = {node: group for group in oracle(events) for node in group}
    assert missing_signals(world, withdrawals, lambda subject: sorted(groups[subject])) == []
    refused = {node for subject, _ in withdrawals for node in groups[subject]}
    assert {record["subject"] for record in world.signals} <= refused
    assert {node for node, memories in world.store.refusals_by_node.items() if memories} <= refused


@given(refusal_worlds(CONFLICTED, InterruptedStore) | refusal_worlds(CONFLICTED, TightStore))
@settings(deadline=None, max_examples=examples(300), suppress_health_check=[HealthCheck.too_slow])
def test_demotions_hide_nothing(case: tuple[list[Nodes], list[Withdrawal], World]) -> None:
    """With conflicts too, all that is linked in the end is signalled; ids shared from the start are not."""
    _, withdrawals, world = case
    view = GraphView({**dict.fromkeys(NODES), **world.store.slots})

    def alike(subject: str) -> Sequence[str]:
        return () if view.marked(view.find(subject)) else find_component(world.store, subject).live

    assert missing_signals(world, withdrawals, alike) == []
    never = set(NODES) - {node for n, records in world.outputs.items() if records for node in case[0][n]}
    assert never.isdisjoint(record["subject"] for record in world.signals)


def test_every_single_step_may_be_the_last() -> None:
    """A worker crashes, or is overtaken, before each of its reads and writes in turn."""
    links: list[Nodes] = [(PHONE, LAPTOP), (USER, PHONE), (TABLET, EMAIL), (USER, TABLET)]
    events = [(n, tuple(sorted(nodes))) for n, nodes in enumerate(links)]
    withdrawals = [Withdrawal(LAPTOP, T + 1), Withdrawal(EMAIL, T + 2)]

    def run(ends: dict[int, bool], uncommitted: frozenset[int] = frozenset()) -> World:
        world = World(WatchedStore(), [events[:2], withdrawals, events[2:]], Plan(2, ends, uncommitted))
        world.run()
        assert missing_signals(world, withdrawals, lambda _: [USER, PHONE, LAPTOP, TABLET, EMAIL]) == [], ends
        return world

    whole = run({})
    for step in range(1, whole.writes + 1):
        for ended in (True, False):
            run({step: ended})
            run({step: ended, step + 5: not ended})
            run({step: ended}, frozenset({1, 3}))


def test_who_takes_what_it_remembered_for_signalled_loses_refusals() -> None:
    """Negative control: without pending refusals a crash before the commit loses a signal."""
    *_, world = find(
        refusal_worlds(PEACEFUL, SureStore),
        lambda case: bool(missing_signals(case[2], case[1], lambda at: find_component(case[2].store, at).live)),
        settings=settings(deadline=None, max_examples=examples(2_000), suppress_health_check=[HealthCheck.too_slow]),
    )
    assert world.store.refusals_by_node


class Turns(MemoryGraphStore):
    """A store that two workers use in turns, one call each, by a schedule."""

    def __init__(self, schedule: Callable[[int], int]) -> None:
        super().__init__()
        self._schedule = schedule
        self._lock = threading.Condition()
        self._waiting: set[int] = set()
        self._running = 0
        self._step = 0
        self.ended: list[BaseException] = []
        self._me = threading.local()

    def run(self, *works: Callable[[], None]) -> int:
        """Run all workers to the end; return the number of calls."""
        self._running = len(works)
        threads = [threading.Thread(target=self._work, args=(n, work)) for n, work in enumerate(works)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert self.ended == []
        return self._step

    def _work(self, me: int, work: Callable[[], None]) -> None:
        self._me.number = me
        try:
            work()
        except BaseException as error:  # raised again in the test's thread
            self.ended.append(error)
        with self._lock:
            self._running -= 1
            self._lock.notify_all()

    def turn(self) -> None:
        """Wait for this worker's turn."""
        me = getattr(self._me, "number", None)
        if me is None:
            return
        with self._lock:
            self._waiting.add(me)
            self._lock.notify_all()
            self._lock.wait_for(lambda: len(self._waiting) == self._running and self._next() == me)
            self._waiting.discard(me)
            self._step += 1

    def _next(self) -> int:
        waiting = sorted(self._waiting)
        scheduled = self._schedule(self._step)
        return scheduled if scheduled in self._waiting else waiting[0]

    def read(self, nodes: Sequence[str]) -> list[Slot | None]:
        """See `GraphStore`."""
        self.turn()
        return super().read(nodes)

    def children(self, nodes: Sequence[str]) -> list[set[str]]:
        """See `GraphStore`."""
        self.turn()
        return super().children(nodes)

    def write(self, writes: Sequence[Write]) -> list[bool]:
        """See `GraphStore`."""
        self.turn()
        return super().write(writes)

    def refusals(self, nodes: Sequence[str]) -> list[Refusals]:
        """See `GraphStore`."""
        self.turn()
        return super().refusals(nodes)

    def add_refusals(self, refusals: Mapping[str, Refusals]) -> None:
        """See `GraphStore`."""
        self.turn()
        super().add_refusals(refusals)


def in_turns(schedule: Callable[[int], int], *batches: tuple[str, Sequence[bytes]]) -> tuple[set[str], int]:
    """Run workers with one batch each; return the signalled nodes and the number of calls.

    Phone and laptop, and e-mail and tablet, are linked before.
    """
    store = Turns(schedule)
    before = Room(store)
    before.visit(PHONE, LAPTOP)
    before.visit(TABLET, EMAIL)
    signalled: set[str] = set()

    def work(topic: str, values: Sequence[bytes]) -> Callable[[], None]:
        room = Room(store)
        room._offset = 10 * len(values) + len(topic)
        return lambda: signalled.update(signals_of(room.handle(topic, *values)))

    steps = store.run(*(work(*batch) for batch in batches))
    return signalled, steps


JOINED = (CONSENTED, [event(90, [LAPTOP, TABLET])])
REFUSED = (REVOCATIONS, [revocation(LAPTOP)])
"""By a node that is no root, so that the root, which is linked, receives it later."""


def switching(first: int, second: int, worker: int) -> Callable[[int], int]:
    """Return a schedule that gives the calls from `first` to `second` to this worker, the others to the other one."""
    return lambda step: worker if first <= step < second else 1 - worker


def test_a_refusal_and_a_link_in_any_turns() -> None:
    """Every interleaving with up to two switches signals the other side."""
    _, steps = in_turns(lambda _: 0, REFUSED, JOINED)
    for first in range(steps + 1):
        for second in range(first, steps + 1):
            for worker in (0, 1):
                signalled, _ = in_turns(switching(first, second, worker), REFUSED, JOINED)
                assert signalled >= {PHONE, TABLET, EMAIL}, (first, second, worker)


@given(st.lists(st.integers(0, 2), max_size=60), st.sampled_from([PHONE, LAPTOP]))
@settings(deadline=None, max_examples=examples(300))
def test_two_links_and_a_refusal_in_any_turns(turns: list[int], subject: str) -> None:
    """Two links by two workers, in any order of calls: the refusal reaches the other end."""
    links = [(CONSENTED, [event(90, sorted([LAPTOP, TABLET]))]), (CONSENTED, [event(91, sorted([EMAIL, USER]))])]
    signalled, _ = in_turns(lambda step: turns[step] if step < len(turns) else 0, *links, (REVOCATIONS, [revocation(subject)]))
    assert signalled >= {PHONE, LAPTOP, TABLET, EMAIL, USER} - {subject}


def test_a_rewritten_link_whose_worker_ended_is_handed_over() -> None:
    """A link of a root that a split has left is a rewrite that any worker's tick logs, with its refusals."""
    store = MemoryGraphStore()
    store.write([Write(PHONE, None, Slot(PHONE, logged=False, epoch=1), 0)])
    store.confirm([(PHONE, Slot(PHONE, logged=False, epoch=1))])
    room = Room(store)
    room.withdraw(PHONE)
    room.handle(CONSENTED, event(1, [USER, PHONE]))  # its worker crashes before the commit
    room.start()
    assert set(room.commit(room.stage.on_tick(1e9))) == {USER}
    (slot,) = store.read([PHONE])
    assert slot == Slot(USER, logged=True, epoch=2)


# -- on a real Redis


@pytest.fixture
def graph(redis_url: str) -> Iterator[RedisGraphStore]:
    """An empty graph in Redis."""
    client = redis.Redis.from_url(redis_url)
    client.flushall()
    yield RedisGraphStore(lambda: client)
    client.flushall()
    client.close()


def test_a_login_after_a_withdrawal_on_redis(graph: RedisGraphStore) -> None:
    """A replay before the commit signals again, one after it does not."""
    room = Room(graph)
    room.visit(PHONE, LAPTOP)
    assert set(room.withdraw(LAPTOP)) == {PHONE}
    first = signals_of(room.handle(CONSENTED, event(7, [USER, PHONE])))
    assert set(first) == {USER}
    room.start()
    outcome = room.handle(CONSENTED, event(8, [USER, PHONE]))
    assert room.commit(outcome) == first
    room.start()
    assert room.visit(USER, PHONE) == {}


def test_it_is_bounded(graph: RedisGraphStore) -> None:
    """Only the newest refusals of too many sites are remembered, for thirteen months; all are handed over once."""
    room = Room(graph)
    values: list[Any] = [revocation(PHONE, site=f"{n}.example", purposes=["marketing"], withdrawn_ts=T + n) for n in range(600)]
    room.commit(room.handle(REVOCATIONS, *values))
    (memories,) = graph.refusals([PHONE])
    assert {scope.site for scope in memories} == {f"{n}.example" for n in range(600 - 512, 600)}
    (signals,) = room.visit(USER, PHONE).values()
    assert len(signals) == 512
    assert room.visit(USER, LAPTOP).keys() == {LAPTOP}
