"""While two versions of the keys are in use everybody keeps their profile, whichever worker crashes."""

import json
import random
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from infra.errors import ConfigError
from infra.ops.embedded.servers.redis import EmbeddedRedis
from infra.ops.topics import apply
from infra.secrets import Secret
from infra.settings import load_settings
from infra.telemetry.metrics import Metrics
from schemas.codec import Record, decode
from streams.identity.app import open_rebuilt, open_store
from streams.identity.commands.identity import app
from streams.identity.evidence import CONFLICTS
from streams.identity.graph.limits import LIMITS
from streams.identity.graph.store import MemoryGraphStore
from streams.identity.graph.union_find import ERASED, SHARED, GraphView, Slot
from streams.identity.nodes import TIERS, NodeKeys, alias, event_nodes, versions
from streams.identity.reading import CONSENTED, RESOLVED
from streams.identity.refusals.revocation import REVOCATIONS, SIGNALS, find_component
from streams.identity.repair.erasing import NotErasable, find_all_members, suppress
from streams.identity.repair.log import rebuild_if_stale
from streams.identity.repair.splitting import split_node
from streams.identity.stage import IdentityDependencies, IdentityStage
from streams.runtime.stage import Batch, Outcome
from tests.streams.identity.crashing import InterruptedStore, Nodes, Plan, World, groups_of
from tests.streams.identity.line import REGISTRY, Line, T, event, revocation
from tests.streams.identity.test_crashes import PLANS, spread
from tests.support.scale import examples

SECRET = Secret("for tests only, forty characters long...")
ALIAS = alias(SECRET)
OLD, BOTH, NEW = NodeKeys.derive(SECRET), NodeKeys.derive(SECRET, 2, 1), NodeKeys.derive(SECRET, 2)
PEOPLE = 4
FORMER = {person: f"0{8 + person:032x}" for person in range(PEOPLE)}
NEWER = {person: f"0{person if person % 2 else 16 + person:032x}" for person in range(PEOPLE)}
"""Smaller than the former node for every second person."""
THINGS = {person: [f"{tier}{person * 8 + n:02x}{'e' * 30}" for tier in "123" for n in range(2)] for person in range(PEOPLE)}
NEWER_OF = {FORMER[person]: NEWER[person] for person in range(PEOPLE)} | {
    first: other for things in THINGS.values() for first, other in zip(things[::2], things[1::2], strict=True)
}
"""Two devices, cookies and addresses of a person are names of one another too."""
NODES = [*FORMER.values(), *NEWER.values(), *(thing for things in THINGS.values() for thing in things)]


@st.composite
def event_of(draw: st.DrawFn, person: int) -> Nodes:
    """Draw an event of this person: the user under none, one or both of the keys, and some other ids."""
    names = draw(st.sampled_from([[], [FORMER[person]], [NEWER[person]], [FORMER[person], NEWER[person]]]))
    things = draw(st.lists(st.sampled_from(THINGS[person]), min_size=0 if names else 1, max_size=3, unique=True))
    return tuple(sorted([*names, *things]))


EVENTS = st.lists(st.integers(0, PEOPLE - 1).flatmap(event_of), min_size=1, max_size=20)


@given(EVENTS, st.integers(1, 4), PLANS, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=examples(400))
def test_both_names_of_a_user_are_one_profile(events: list[Nodes], workers: int, plan: Plan, rng: random.Random) -> None:
    """With any number of workers that crash at any write, events with both names join them for good, and nobody else is merged.

    Pointers form no cycle, and the log alone says the same.
    """
    order = list(range(len(events)))
    rng.shuffle(order)
    world = World(InterruptedStore(), spread(events, workers, order), plan, NEWER_OF)
    world.run()
    assert world.live() == world.logged()
    view = GraphView({**dict.fromkeys(NODES), **world.store.slots})
    groups = groups_of(world.store.slots, NODES)
    for person in range(PEOPLE):
        shown = any({FORMER[person], NEWER[person]} <= set(nodes) for nodes in events)
        together = view.find(FORMER[person]) == view.find(NEWER[person])
        assert together == shown, "a cookie that came with one name and then the other is demoted, but merges nobody"
    owned = [{FORMER[person], NEWER[person], *THINGS[person]} for person in range(PEOPLE)]
    assert all(any(group <= mine for mine in owned) for group in groups)
    labels = {view.find(name): view.label(view.find(name)) for nodes in events for name in nodes[:1] if name[0] == "0"}
    assert len(set(labels.values())) == len(labels)
    assert all(label is not None and (label[0] != "0" or label == root) for root, label in labels.items())


class Room:
    """A worker on a store, with events given by identifiers."""

    def __init__(self) -> None:
        self.store = MemoryGraphStore()
        self._stage = IdentityStage(REGISTRY, self.store, Metrics(), IdentityDependencies(ALIAS, renamed=BOTH.renamed))
        self._n = 0
        self.outcome = Outcome()

    def send(self, keys: NodeKeys, **ids: str) -> Record:
        """Process one event with these keys; return the record that left."""
        return self.pass_through(event_nodes(keys, ids.items()).nodes)

    def refuse(self, subject: str) -> None:
        """Process and commit a refusal."""
        self._n += 1
        outcome = self._stage.handle(Batch(REVOCATIONS, 0, [b"k"], [revocation(subject)], range(self._n, self._n + 1)), 0)
        for hook in outcome.after_commit:
            hook()

    def pass_through(self, nodes: Sequence[str]) -> Record:
        """Process one event with these nodes."""
        self._n += 1
        self.outcome = self._stage.handle(Batch(CONSENTED, 0, [b"k"], [event(self._n, nodes)], range(self._n, self._n + 1)), 0)
        for hook in self.outcome.after_commit:
            hook()
        ((_, value, _),) = self.outcome.out[RESOLVED]
        return decode(REGISTRY, value or b"")[1]


@pytest.mark.parametrize("name", [f"user-{n}" for n in range(6)])
def test_who_is_seen_while_both_are_in_use_keeps_her_profile(name: str) -> None:
    """Before, during and after a rotation, on a new browser too, the profile stays."""
    room = Room()
    room.send(OLD, cookie="c1")
    before = room.send(OLD, user=name, cookie="c1")["profile_id"]
    assert room.send(BOTH, user=name, cookie="c1")["profile_id"] == before
    assert [room.send(NEW, user=name, cookie=cookie)["profile_id"] for cookie in ("c1", "c2")] == [before, before]
    assert room.send(NEW, cookie="c2")["profile_id"] == before
    everything = {node for keys in (OLD, NEW) for node in event_nodes(keys, [("user", name), ("cookie", "c1")]).nodes}
    assert set(find_component(room.store, versions(NEW, "user", name)[0]).nodes) > everything


@pytest.mark.parametrize("name", [f"user-{n}" for n in range(6)])
def test_who_was_somebody_new_already_is_joined(name: str) -> None:
    """If a collector used the newer keys alone, both histories are joined under one of the two labels."""
    room = Room()
    first = room.send(OLD, user=name, cookie="c1")["profile_id"]
    other = room.send(NEW, user=name, cookie="c9")["profile_id"]
    assert first != other
    label = room.send(BOTH, user=name)["profile_id"]
    assert label in {first, other}
    assert {room.send(keys, user=name)["profile_id"] for keys in (OLD, BOTH, NEW)} == {label}
    assert room.send(OLD, cookie="c1")["profile_id"] == room.send(NEW, cookie="c9")["profile_id"] == label


def test_the_newer_name_gets_what_the_older_one_refused() -> None:
    """As soon as an event carries both names, for every kind of id."""
    for kind in ("cookie", "user", "email"):
        room = Room()
        value = "jo@shop.example" if kind == "email" else "c1"
        former, newer = versions(NEW, kind, value)
        room.refuse(former)
        room.send(BOTH, **{kind: value})
        assert [decode(REGISTRY, value or b"")[1]["subject"] for _, value, _ in room.outcome.out[SIGNALS]] == [newer]


def test_two_users_in_one_event_are_not_taken_for_names() -> None:
    """Only the keys prove that two nodes belong to one identifier."""
    room = Room()
    first, second = versions(OLD, "user", "jo")[0], versions(NEW, "user", "ann")[1]
    room.pass_through(sorted([first, second]))
    view = GraphView(dict(room.store.slots))
    assert view.find(first) != view.find(second)


def test_what_was_nobodys_stays_nobodys() -> None:
    """A cookie that was shared under the older keys is shared under the newer ones."""
    room = Room()
    room.send(OLD, user="jo", cookie="shared")
    room.send(OLD, user="ann", cookie="shared")
    jo = room.send(BOTH, user="jo", cookie="shared")
    former, newer = versions(NEW, "cookie", "shared")
    assert room.store.slots[newer].state == SHARED
    (conflict,) = [decode(REGISTRY, value or b"")[1] for _, value, _ in room.outcome.out[CONFLICTS]]
    assert (conflict["node"], conflict["rule"]) == (newer, "renamed")
    assert room.send(NEW, cookie="shared")["identity_state"] == "shared"
    assert room.send(NEW, user="ann", cookie="shared")["profile_id"] != jo["profile_id"]
    assert find_component(room.store, former).nodes == (former,)


def test_a_constant_that_a_tag_sends_as_user_is_demoted_under_both_keys() -> None:
    """A limit reached under the older keys holds under the newer ones."""
    room = Room()
    most = LIMITS["0", "2"][0].most
    for n in range(most + 1):
        room.send(OLD, user="visitor_0", cookie=f"c{n}")
    assert room.send(BOTH, user="visitor_0", cookie="another")["identity_state"] == "shared"
    assert room.send(NEW, user="visitor_0", cookie="one more")["identity_state"] == "shared"


def test_names_do_not_count_twice_under_a_limit() -> None:
    """A device with as many cookies as allowed keeps them while each has two names."""
    room = Room()
    most = LIMITS["1", "2"][0].most
    profiles = {room.send(keys, device="d", cookie=f"c{n}")["profile_id"] for keys in (OLD, BOTH, NEW) for n in range(most)}
    assert {slot.state for slot in room.store.slots.values()} == {""}
    view = GraphView(dict(room.store.slots))
    assert len({view.find(profile) for profile in profiles}) == 1


@pytest.mark.parametrize(
    ("kind", "other"), [("device", "cookie"), ("email", "cookie"), ("email", "device"), ("user", "cookie")]
)
@pytest.mark.parametrize("name", ["a@b.de", "c@d.de", "e@f.de"])
def test_a_limit_holds_while_both_are_in_use(kind: str, other: str, name: str) -> None:
    """Whichever name is smaller, as many are kept apart as without a rotation."""

    def roots(keys: NodeKeys) -> int:
        room = Room()
        for n in range(LIMITS[TIERS[kind], TIERS[other]][0].most + 20):
            room.send(keys, **{kind: name, other: f"{n}@x.de"})
        view = GraphView(dict(room.store.slots))
        newest = [versions(NEW, other, f"{n}@x.de")[1] for n in range(LIMITS[TIERS[kind], TIERS[other]][0].most + 20)]
        return len({view.find(node) for node in newest})

    assert roots(BOTH) == roots(NEW) > 19


@pytest.mark.parametrize("name", [f"visitor_{n}" for n in range(4)])
def test_a_constant_that_is_full_after_the_rotation_lets_everybody_go(name: str) -> None:
    """Both of its nodes are demoted, and its members are free when they come next."""
    room = Room()
    room.send(BOTH, user=name, cookie="first")
    most = LIMITS["0", "2"][0].most
    for n in range(most + 1):
        room.send(NEW, user=name, cookie=f"c{n}")
    view = GraphView(dict(room.store.slots))
    assert all(view.marked(view.find(node)) for node in versions(NEW, "user", name))
    profiles = [room.send(NEW, cookie=f"c{n}")["profile_id"] for n in range(most)]
    assert len(set(profiles)) >= most - 1, "all but the label"
    assert room.send(NEW, user="jo", cookie="c5")["identity_state"] == "resolved"
    assert room.send(BOTH, user=name, cookie="c6")["identity_state"] == "shared"
    assert {room.store.slots[node].state for node in versions(NEW, "user", name)} == {SHARED}, "and they stay demoted"


def test_what_is_let_go_stays_demoted_where_it_was() -> None:
    """A shared device under a constant becomes a root and stays shared."""
    room = Room()
    room.send(NEW, user="visitor_0", device="tablet")
    room.send(NEW, device="tablet", cookie="c")
    room.send(NEW, user="jo", device="tablet")
    tablet, user = versions(NEW, "device", "tablet")[1], versions(NEW, "user", "visitor_0")[1]
    room.store.slots[user] = room.store.slots[user]._replace(parent=versions(NEW, "cookie", "x")[1])  # another one is the label
    most = LIMITS["0", "2"][0].most
    for n in range(most + 1):
        room.send(NEW, user="visitor_0", cookie=f"c{n}")
    room.send(NEW, cookie="c")
    assert room.store.slots[tablet].state == SHARED
    assert room.send(NEW, device="tablet")["identity_state"] == "shared"


def test_who_was_erased_is_so_under_the_newer_keys() -> None:
    """Late events of an erased user are nobody's under the newer name too, and a second erasure covers them."""
    room = Room()
    room.send(OLD, user="jo", cookie="c1")
    former, newer = versions(NEW, "user", "jo")
    suppress(room.store, find_all_members(room.store, [former], ALIAS, NEW.later_nodes), T - 1)
    slots = [room.store.slots[node] for node in versions(NEW, "cookie", "c1")]
    assert [slot.state for slot in slots] == [ERASED, ERASED], (
        "what her ids are called under the newer keys is erased with them"
    )
    del room.store.slots[newer]  # as if it had not been erased by name
    records = [room.send(keys, user="jo", cookie="c2") for keys in (BOTH, NEW)]
    assert {record["identity_state"] for record in records} == {"shared"}
    assert room.store.slots[newer][3:] == (ERASED, T - 1)
    again = find_all_members(room.store, [newer, former], ALIAS, NEW.later_nodes)
    assert {record["profile_id"] for record in records} <= set(again.profiles)


def test_who_came_anew_before_is_demoted_and_lets_her_cookies_go() -> None:
    """A newer name that was used before is demoted, and its cookies are free, not erased."""
    room = Room()
    room.send(OLD, user="jo", cookie="c1")
    former, newer = versions(NEW, "user", "jo")
    suppress(room.store, find_all_members(room.store, [former], ALIAS, lambda _: set()), T - 1)
    for cookie in ("c8", "c9"):
        room.send(NEW, user="jo", cookie=cookie)
    room.send(BOTH, user="jo", cookie="c9")
    assert room.store.slots[newer].state == SHARED
    assert room.send(NEW, cookie="c9")["identity_state"] == "resolved"
    assert room.send(NEW, user="ann", cookie="c9")["identity_state"] == "resolved"


def test_nobody_is_erased_by_a_name_that_was_not_met_yet() -> None:
    """A shared id cannot be erased under any version."""
    room = Room()
    room.send(OLD, user="jo", cookie="kiosk")
    room.send(OLD, user="ann", cookie="kiosk")
    with pytest.raises(NotErasable, match="several persons"):
        find_all_members(room.store, versions(NEW, "cookie", "kiosk")[::-1], ALIAS, NEW.later_nodes)


def test_another_ones_newer_cookie_is_not_erased() -> None:
    """A cookie that belongs to another person under the newer keys is not erased."""
    room = Room()
    room.send(OLD, user="jo", cookie="c1")
    room.send(NEW, user="ann", cookie="c1")
    former, newer = versions(NEW, "cookie", "c1")
    members = find_all_members(room.store, versions(NEW, "user", "jo"), ALIAS, NEW.later_nodes)
    assert (former in members.nodes, newer in members.nodes) == (True, False)


@pytest.mark.parametrize("name", [f"user-{n}" for n in range(4)])
@pytest.mark.parametrize("split_name", ["former", "newer", "cookie"])
def test_a_split_takes_one_of_the_names_out(name: str, split_name: str) -> None:
    """The other name keeps what the evidence links with it, and nothing hangs under the split name."""
    room, links = Room(), list[Nodes]()
    for keys in (OLD, BOTH, NEW):
        for ids in ({"user": name, "cookie": "c1"}, {"user": name, "cookie": "c2"}):
            room.send(keys, **ids)
            links.append(tuple(event_nodes(keys, ids.items()).nodes))
    former, newer = versions(NEW, "user", name)
    out = {"former": former, "newer": newer, "cookie": versions(NEW, "cookie", "c1")[1]}[split_name]
    split_node(room.store, out, lambda _nodes: links, ALIAS, lambda _kept, _slots: None)
    view = GraphView(dict(room.store.slots))
    assert room.store.slots[out] == Slot(out, logged=True, epoch=room.store.slots[out].epoch, state=SHARED)
    rest = {node for nodes in links for node in nodes} - {out}
    assert len({view.find(node) for node in rest}) == 1
    assert out not in {view.find(node) for node in rest}
    assert view.label(view.find(min(rest))) in rest


def test_rotated_in_a_real_graph(kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers with both versions: withdrawals reach both names, a lost Redis is rebuilt with its limits, `show` finds any
    name."""
    with EmbeddedRedis(tmp_path / "redis") as server:
        settings = load_settings(
            kafka=kafka, redis=server.url, state_dir=tmp_path, secret="rotated for a test, forty characters long...",
            node_key_version=2, node_key_since=1,
        )  # fmt: skip
        apply(settings)
        line = Line(settings, 2)
        line.now = int(time.time() * 1_000)  # limits count recent events only
        combinations = [
            event_nodes(keys, ids.items()).nodes
            for keys in map(partial(NodeKeys.derive, settings.master), (1, 2, 2), (1, 1, 2))
            for n in range(30)
            for ids in ({"user": f"u{n}", "cookie": f"c{n}"}, {"user": f"u{n}", "device": f"d{n}"})
        ]
        for start in range(0, len(combinations), 10):
            line.send(combinations[start : start + 10], worker=start // 10 % 2)
        profiles: dict[str, set[str]] = {}
        for record in line.resolved:
            (user,) = [node for node in record["identifiers"] if node[0] == "0"][:1]
            profiles.setdefault(min(find_component(open_store(settings), user).nodes), set()).add(record["profile_id"])
        assert len(profiles) == 30
        assert {len(stamps) for stamps in profiles.values()} == {1}, "nobody was stamped with two ids"
        former, newer = versions(NodeKeys.of(settings), "user", "u7")
        (request,) = line.withdraw(newer)
        assert {former, newer, *versions(NodeKeys.of(settings), "cookie", "c7")} < set(request["nodes"])
        for name in ("kafka", "redis", "state_dir", "node_key_version"):
            monkeypatch.setenv(f"HEADWATER_{name.upper()}", str(getattr(settings, name)))
        monkeypatch.setenv("HEADWATER_SECRET", "rotated for a test, forty characters long...")

        def ask(*words: str) -> Any:
            return json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)

        shown = ask("show", "user=u7")
        assert (shown["root"], set(shown["nodes"])) == (former, set(request["nodes"]))
        assert [link["node"] for link in ask("why", "user=u7", former)["links"]] == [newer]
        with redis.Redis.from_url(server.url) as client:
            counted = {key: client.zrange(key, 0, -1, withscores=True) for key in client.scan_iter(match="w:*")}
            assert len(counted) > 30
            client.flushall()
            newest = load_settings(**{**settings.model_dump(), "node_key_since": None, "secret": settings.secret})
            rebuild_if_stale(newest, open_rebuilt(newest), "test")  # evidence with both names counts once
            assert {key: client.zrange(key, 0, -1, withscores=True) for key in client.scan_iter(match="w:*")} == counted
        assert ask("diff")["same"]
        assert ask("show", "user=u7") == shown
        monkeypatch.setenv("HEADWATER_CLICKHOUSE", "http://127.0.0.1:1")
        assert set(versions(NodeKeys.of(settings), "cookie", "c9")) <= set(ask("split", "cookie=c9")["slots"])
        demoted = ask("show", "cookie=c9")
        assert (demoted["root"], demoted["state"]) == (demoted["node"], "shared")
        assert demoted["profile"] not in demoted["nodes"]


def test_keys_of_a_version_that_does_not_exist_are_refused() -> None:
    """The older version in use must be older than the newest."""
    assert NodeKeys.of(load_settings(secret="x" * 40, node_key_version=3, node_key_since=2)).since == 2
    with pytest.raises(ConfigError, match="NODE_KEY_SINCE"):
        load_settings(node_key_version=2, node_key_since=3)
