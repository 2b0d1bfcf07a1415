"""Stages: conservation, the same result when replayed, an untouched input; one-to-one stages also keep order."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.settings import PACKAGED_CONTRACTS
from infra.telemetry.metrics import Metrics
from schemas.codec import Record, decode, encode
from schemas.registry import Registry
from streams.bandit.commands.experiments import EXAMPLE
from streams.bandit.experiment import parse
from streams.bandit.snapshots.publisher import Publisher
from streams.bandit.snapshots.store import MemorySnapshotStore
from streams.bandit.stage import EXPERIMENTS, OUTCOMES, SNAPSHOTS, BanditStage
from streams.bandit.token import DecisionRef, sign
from streams.consent.ledger.store import MemoryStateStore
from streams.consent.policy import PACKAGED, load_policy
from streams.consent.stage import ConsentDependencies, ConsentStage
from streams.identity.graph.store import MemoryGraphStore
from streams.identity.stage import IdentityDependencies, IdentityStage
from streams.runtime.stage import Batch, Stage
from tests.support.scale import examples

REGISTRY = Registry(PACKAGED_CONTRACTS)
NODES = ["0" + "a" * 32, "0" + "b" * 32, "1" + "c" * 32, "2" + "d" * 32, "2" + "e" * 32]

TOKEN_KEY = b"k" * 32
EXPERIMENT = parse(EXAMPLE.read_bytes())
TOKENS = [
    sign(TOKEN_KEY, DecisionRef(str(UUID(int=n)), EXPERIMENT.key, 1, arm.id, "bandit", 0.5, 0))
    for n, arm in enumerate(EXPERIMENT.arms)
]

WORDS = st.sampled_from(["granted", "denied"])
EVENTS = st.fixed_dictionaries(
    {
        "event_id": st.sampled_from([f"e{n}" for n in range(20)]),
        "event_name": st.sampled_from(["page_view", "purchase", "widget_viewed"]),
        "heartbeat": st.booleans(),
        "region": st.sampled_from(["DE", "US", ""]),
        "signals": st.fixed_dictionaries({}, optional={"cmp.analytics": WORDS, "cmp.marketing": WORDS, "gpc": st.just("1")}),
        "identifiers": st.lists(st.sampled_from(NODES), max_size=3, unique=True).map(sorted),
        "page_url": st.sampled_from(["", "https://x/?gclid=1"]),
        "decision_token": st.sampled_from(["", "no token", *TOKENS]),
    }
)


def raw(fields: dict[str, Any]) -> bytes:
    """An event of events.raw."""
    fixed = {"source": "s", "site": "x", "collector_ts": 0, "event_ts": 0, "event_ts_source": "", "protocol": ""}
    return encode(REGISTRY.latest("events.raw"), {**fixed, **fields})


def consented(fields: dict[str, Any]) -> bytes:
    """Return the same event with consent columns that follow from its signals."""
    granted = fields["signals"].get("cmp.analytics") == "granted"
    columns = {
        "consent_outcome": "pass" if granted else "anonymise",
        "consent_purposes": 7 if granted else 0,
        "consent_reasons": "",
        "consent_policy": "",
        "consent_evidence": "",
    }
    _, record = decode(REGISTRY, raw(fields))
    return encode(REGISTRY.latest("events.consented"), {**columns, **record})


def resolved(fields: dict[str, Any]) -> bytes:
    """Return the same event with identity columns of a person of its own."""
    _, record = decode(REGISTRY, consented(fields))
    columns = {"profile_id": NODES[0], "node": NODES[0], "identity_state": "resolved"}
    return encode(REGISTRY.latest("events.resolved"), {**columns, **record})


def bandit_stage() -> BanditStage:
    """Return a bandit that knows one experiment."""
    stage = BanditStage(REGISTRY, TOKEN_KEY, Publisher(REGISTRY, MemorySnapshotStore(), Metrics()), Metrics())
    record = {"experiment": EXPERIMENT.key, "config_version": EXPERIMENT.version, "config": EXPERIMENT.text()}
    stage.on_broadcast(EXPERIMENTS, [(EXPERIMENT.key.encode(), encode(REGISTRY.latest(EXPERIMENTS), record))])
    return stage


@dataclass(frozen=True)
class Case:
    """A stage with its factory, input topic and main exit."""

    make: Callable[[], Stage]
    value: Callable[[dict[str, Any]], bytes]
    exit: str
    one_to_one: bool = True
    """Whether every record that passes leaves through the main exit."""


CASES = {
    "consent": Case(
        lambda: ConsentStage(
            REGISTRY, load_policy(PACKAGED), ConsentDependencies(b"k" * 32, MemoryStateStore(), Metrics(), lambda: None)
        ),
        raw,
        "events.consented",
    ),
    "identity": Case(
        lambda: IdentityStage(REGISTRY, MemoryGraphStore(), Metrics(), IdentityDependencies(lambda node, _epoch: node)),
        consented,
        "events.resolved",
    ),
    "bandit": Case(bandit_stage, resolved, OUTCOMES, one_to_one=False),
}

ANY = {
    "event_id": "e", "event_name": "page_view", "heartbeat": False, "region": "DE", "signals": {"cmp.analytics": "granted"},
    "identifiers": NODES[:1], "page_url": "", "decision_token": "",
}  # fmt: skip
BATCHES = st.lists(st.one_of(EVENTS, st.binary(max_size=30), st.none()), max_size=30)
ONE_TO_ONE = {name: case for name, case in CASES.items() if case.one_to_one}
room = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
bounded = settings(max_examples=examples(50), deadline=None, suppress_health_check=[HealthCheck.too_slow])


def batch(case: Case, items: list[Any], offset: int = 0) -> Batch:
    """Return a batch of events, invalid bytes and tombstones of one partition; offsets have gaps, as after transactions."""
    values = [case.value(item) if isinstance(item, dict) else item for item in items]
    # No bytes of a test may look like a contract that nobody knows yet: that is waited for, and no data's fault.
    values = [value if isinstance(value, bytes) and len(value) > 30 else value and b"\xff" + value for value in values]
    keys = [f"k{n % 4}".encode() for n in range(len(items))]
    return Batch(case.make().inputs[0], 0, keys, values, [offset + 2 * n for n in range(len(items))])


@room
@bounded
@given(items=BATCHES)
def test_conserves(case: Case, items: list[Any]) -> None:
    """Records in = passed + dropped + dead, and as many leave through the main exit as passed."""
    outcome = case.make().handle(batch(case, items), 0)
    assert len(items) == outcome.passed + outcome.dropped.total() + len(outcome.dead)
    written = len(outcome.out.get(case.exit, ()))
    assert outcome.passed == written if case.one_to_one else outcome.passed >= written
    assert {dead.at for dead in outcome.dead} == {at for at, item in enumerate(items) if not isinstance(item, dict)}


@room
@bounded
@given(items=BATCHES, sizes=st.lists(st.integers(1, 7), min_size=30, max_size=30))
def test_replay_gives_the_same(case: Case, items: list[Any], sizes: list[int]) -> None:
    """The same records again, from the same stage or a new one with its memory, leave as the same bytes in the same order."""
    stage, whole = case.make(), batch(case, items)
    first = stage.handle(whole, 0)
    again = stage.handle(whole, 99)
    assert again.out.get(case.exit) == first.out.get(case.exit)
    assert (again.passed, again.dropped, again.dead) == (first.passed, first.dropped, first.dead)
    for hook in first.after_commit:
        hook()
    assert stage.handle(whole, 0).out.get(case.exit) == first.out.get(case.exit)


@room
@bounded
@given(items=BATCHES)
def test_leaves_its_input_untouched(case: Case, items: list[Any]) -> None:
    """The batch is the same before and after."""
    given_batch = batch(case, items)
    before = (list(given_batch.keys), list(given_batch.values), list(given_batch.offsets))
    case.make().handle(given_batch, 0)
    assert (list(given_batch.keys), list(given_batch.values), list(given_batch.offsets)) == before


@pytest.mark.parametrize("case", ONE_TO_ONE.values(), ids=ONE_TO_ONE)
@bounded
@given(events=st.lists(EVENTS, max_size=30))
def test_keeps_order(case: Case, events: list[Record]) -> None:
    """Events leave in the order in which they came, so every key keeps its order too."""
    stage = case.make()
    names = [{**event, "event_id": f"n{n:03d}", "signals": {"cmp.analytics": "granted"}} for n, event in enumerate(events)]
    outcome = stage.handle(batch(case, names), 0)
    event_ids = [decode(REGISTRY, value or b"")[1]["event_id"] for _, value, _ in outcome.out.get(case.exit, ())]
    assert event_ids == [name["event_id"] for name in names]


def test_the_bandit_writes_an_outcome_for_each_answered_decision() -> None:
    """So that what the bandit conserves is not nothing."""
    items = [{**ANY, "event_name": "widget_viewed", "decision_token": token} for token in TOKENS]
    assert len(bandit_stage().handle(batch(CASES["bandit"], items), 0).out[OUTCOMES]) == len(TOKENS)


@pytest.mark.parametrize(("name", "case"), CASES.items(), ids=CASES)
def test_has_a_name_and_inputs(name: str, case: Case) -> None:
    """A stage says what it is called, what it reads, and does nothing when nothing happens."""
    stage = case.make()
    assert (stage.name, bool(stage.inputs)) == (name, True)
    assert stage.on_tick(0).out.keys() <= {SNAPSHOTS}, "an experiment that is new gets its first snapshot"
    stage.on_revoke(0)
    stage.on_restore("x", 0, ())
