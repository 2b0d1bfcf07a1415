"""Nodes that come with too many others: constants of each tier are demoted, fast and slow ones, and persons keep their ids."""

import random
from collections import Counter
from collections.abc import Iterable, Sequence

import pytest
import redis

from infra.secrets import Secret
from schemas.codec import decode
from streams.identity.evidence import CONFLICTS, LINKS
from streams.identity.graph.limits import LIMITS, USER
from streams.identity.graph.redis_store import RedisGraphStore
from streams.identity.graph.store import GraphStore, MemoryGraphStore
from streams.identity.graph.union_find import SHARED
from streams.identity.nodes import TIERS, NodeKeys, event_nodes
from streams.identity.reading import DAY_MS
from streams.identity.repair.hubs import collect
from streams.identity.repair.tidying import find_hubs, tidy
from tests.streams.identity.line import REGISTRY, T, event
from tests.streams.identity.repair.test_split import ALIAS
from tests.streams.identity.repair.test_tidying import MemoryEvidence, drop_slots
from tests.streams.identity.test_stage import batch, commit, resolved, stage

KEYS = NodeKeys.derive(Secret("for tests only, forty characters long..."))
Ids = Sequence[tuple[str, str]]
CASES: Sequence[tuple[tuple[str, str], str, str]] = (
    (("cookie", "the-site"), "cookie", "anonymous id beside client ids"),
    (("cookie", "kiosk-browser"), "email", "kiosk's cookie with e-mails"),
    (("device", "kiosk-terminal"), "email", "kiosk's device with e-mails"),
    (("device", "kiosk-terminal"), "phone", "kiosk's device with phones"),
    (("phone", "+493023125177"), "email", "shop's phone with e-mails"),
    (("email", "orders@shop.example"), "phone", "e-mail with phones"),
    (("email", "orders@shop.example"), "email", "e-mail with e-mails"),
    (("cookie", "web-view"), "device", "web view's cookie with devices"),
    (("device", "image"), "device", "cloned device with devices"),
    (("device", "image"), "cookie", "cloned device with cookies"),
    (("email", "orders@shop.example"), "cookie", "e-mail with cookies"),
    (("email", "orders@shop.example"), "device", "e-mail with devices"),
    (("user", "visitor-all"), "cookie", "user id with cookies"),
    (("user", "visitor-all"), "device", "user id with devices"),
    (("user", "visitor-all"), "email", "user id with e-mails"),
)
CONSTANTS = [pytest.param(constant, kind, id=name) for constant, kind, name in CASES]


def own(kind: str, person: int) -> tuple[str, str]:
    """Return an id of a person."""
    values = {"email": f"person{person}@post.example", "phone": f"+49302{random.Random(person).randrange(10**6, 10**7)}"}
    return kind, values.get(kind, f"{kind}-{person}")


class House:
    """A worker that records its evidence and conflicts."""

    def __init__(self, store: GraphStore) -> None:
        self._room = stage(store)
        self._sent = 0
        self.evidence: list[tuple[tuple[str, ...], int]] = []
        """Nodes, day."""
        self.conflicts: list[tuple[str, str]] = []
        """Node, rule."""

    def send(self, some: Iterable[Ids], day: int = 0) -> list[str]:
        """Process a batch of events; return their profiles."""
        combinations = [event_nodes(KEYS, ids).nodes for ids in some]
        values = [event(self._sent + n, names, collector_ts=T + day * DAY_MS) for n, names in enumerate(combinations)]
        outcome = self._room.handle(batch(values, self._sent), T / 1_000 + day * 86_400)
        commit(outcome)
        self._sent += len(values)
        for _, value, _ in outcome.out.get(LINKS, ()):
            record = decode(REGISTRY, value or b"")[1]
            self.evidence.append((tuple(record["nodes"]), record["evidence_ts"] // DAY_MS))
        for _, value, _ in outcome.out.get(CONFLICTS, ()):
            record = decode(REGISTRY, value or b"")[1]
            self.conflicts.append((record["node"], record["rule"]))
        return [record["profile_id"] for record in resolved(outcome)]

    def largest(self, kind: str, persons: Iterable[int], day: int) -> int:
        """Return the number of persons in the largest profile, by events of their own ids alone."""
        profiles = self.send([[own(kind, person)] for person in persons], day)
        return Counter(profiles).most_common(1)[0][1]


def node_of(identifier: tuple[str, str]) -> str:
    """Return the node of an id."""
    return event_nodes(KEYS, [identifier]).nodes[0]


@pytest.mark.parametrize("size", [1, 100])
@pytest.mark.parametrize(("constant", "kind"), CONSTANTS)
def test_a_constant_does_not_make_one_of_many(constant: tuple[str, str], kind: str, size: int) -> None:
    """Of 300 persons in a day at most as many are merged as the limit allows; a batch over it merges nobody."""
    house = House(store := MemoryGraphStore())
    for start in range(0, 300, size):
        house.send([[constant, own(kind, person)] for person in range(start, start + size)])
    shared = node_of(constant)
    assert store.slots[shared].state == SHARED
    assert [node for node, _ in house.conflicts] == [shared], "and nobody else"
    least = min(limit.most for limit in LIMITS[TIERS[constant[0]], TIERS[kind]])
    # Nodes under a demoted user are free when they come next.
    assert house.largest(kind, range(300), 0) == (least if size == 1 and shared[0] != USER else 1)


@pytest.mark.parametrize(("constant", "kind"), CONSTANTS)
def test_a_slow_constant_is_found_too(constant: tuple[str, str], kind: str) -> None:
    """With one new visitor a day it is demoted, and `tidy` frees what it had merged."""
    house = House(store := MemoryGraphStore())
    for day in range(200):
        house.send([[constant, own(kind, day)]], day)
    shared = node_of(constant)
    assert [node for node, _ in house.conflicts] == [shared]
    widest = max(limit.most for limit in LIMITS[TIERS[constant[0]], TIERS[kind]])
    assert house.largest(kind, range(200), 200) <= widest
    evidence = MemoryEvidence([nodes for nodes, _ in house.evidence])
    assert all(journal is not None for _, journal in tidy(store, [shared], evidence, ALIAS, drop_slots))
    assert House(store).largest(kind, range(200), 201) == 1


@pytest.mark.parametrize(("constant", "kind"), CONSTANTS)
def test_a_constant_of_before_is_found_by_the_log(
    constant: tuple[str, str], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The evidence of a time without limits reveals the constant, and nobody else."""
    house = House(store := MemoryGraphStore())
    with monkeypatch.context() as patched:
        patched.setattr("streams.identity.graph.limits.LIMITS", {})
        for day in range(150):
            house.send([[constant, own(kind, day)], [own(kind, day), own("cookie", 1_000 + day)]], day)
    assert house.largest(kind, range(150), 150) == 150
    over = found_by_log(house, store)
    assert over == [node_of(constant)]
    list(tidy(store, over, MemoryEvidence([nodes for nodes, _ in house.evidence]), ALIAS, drop_slots))
    assert found_by_log(house, store) == [], "nor is it looked at again"
    assert House(store).largest(kind, range(150), 151) == 1


def test_the_ids_of_one_kiosk_do_not_vouch_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device and a cookie that always come together are both found, by events and by the log."""
    kiosk = [("device", "kiosk-terminal"), ("cookie", "kiosk-browser")]
    house = House(MemoryGraphStore())
    for person in range(30):
        house.send([[*kiosk, own("email", person)]], 3 * person)
    assert sorted(node for node, _ in house.conflicts) == sorted(map(node_of, kiosk))
    before = House(store := MemoryGraphStore())
    with monkeypatch.context() as patched:
        patched.setattr("streams.identity.graph.limits.LIMITS", {})
        for person in range(30):
            before.send([[*kiosk, own("email", person)]], 3 * person)
    assert found_by_log(before, store) == sorted(map(node_of, kiosk))


def test_both_stores_demote_the_same(redis_url: str) -> None:
    """Constants, persons and replays leave the same slots in memory and in Redis."""
    rng = random.Random(4)
    events = [
        [(constant if rng.random() < 0.5 else own("cookie", person % 7)), own(kind, person)]
        for person in range(40)
        for constant, kind, _ in CASES[::3]
    ]
    memory = MemoryGraphStore()
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
        real = RedisGraphStore(lambda: client)
        conflicts = []
        for store in (memory, real):
            house = House(store)
            for start in range(0, len(events), 9):
                for _ in range(2):
                    house.send(events[start : start + 9], start // 9)
            conflicts.append(house.conflicts)
        nodes = sorted(memory.slots)
        assert real.read(nodes) == [memory.slots[node] for node in nodes]
    assert conflicts[0] == conflicts[1] != []


def test_every_pair_of_tiers_has_a_limit() -> None:
    """Except pairs with a user as member, which are demoted at once."""
    tiers = sorted(set(TIERS.values()))
    assert LIMITS.keys() == {(holder, member) for holder in tiers for member in tiers if member != USER}
    rules = [limit.rule for limits in LIMITS.values() for limit in limits]
    assert len(rules) == len(set(rules)), "counts are kept by rule"
    for limits in LIMITS.values():
        assert not any(limit.independent for limit in limits[:-1])
        assert max(limit.days for limit in limits) >= 365


@pytest.mark.parametrize("logs_in", [["user", "email"], ["user"], ["email"], ["user", "phone"]])
def test_who_drops_her_cookies_weekly_stays_who_she_is(logs_in: Sequence[str]) -> None:
    """Two years of a new cookie each week with one login stay one profile without demotions."""
    house = House(store := MemoryGraphStore())
    login = [own(kind, 1) for kind in logs_in]
    for week in range(104):
        house.send([[("cookie", f"week-{week}")], [("cookie", f"week-{week}"), *login]], 7 * week)
    assert house.conflicts == []
    assert len(set(house.send([[("cookie", f"week-{week}")] for week in range(104)], 730))) == 1
    assert found_by_log(house, store) == []


def test_a_stable_cookie_beside_a_weekly_one_stays() -> None:
    """A server cookie beside a client id that is dropped each week, for two years."""
    house = House(store := MemoryGraphStore())
    for week in range(104):
        house.send([[("cookie", "server-set"), ("cookie", f"client-{week}")]], 7 * week)
    assert (house.conflicts, found_by_log(house, store)) == ([], [])


def test_a_family_keeps_its_tablet() -> None:
    """Two persons with two addresses and a phone each do not exceed a limit."""
    house = House(MemoryGraphStore())
    contacts = [own(kind, person) for kind in ("email", "phone") for person in (1, 2)] + [own("email", 3), own("email", 4)]
    house.send([[("device", "tablet"), contact] for contact in contacts])
    assert house.conflicts == []


def found_by_log(house: House, store: MemoryGraphStore) -> list[str]:
    """Return the nodes that `tidy` finds by the evidence."""
    members: dict[str, dict[str, int]] = {}
    for nodes, day in house.evidence:
        collect(members, nodes, day, nodes)
    return find_hubs(store, members, MemoryEvidence([nodes for nodes, _ in house.evidence]))
