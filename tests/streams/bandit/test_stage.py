"""The stage conserves, replays, keeps order, counts each decision once, and publishes."""

from typing import Any
from uuid import UUID

import numpy as np
import pytest

from infra.errors import Retryable
from infra.settings import PACKAGED_CONTRACTS
from infra.telemetry.metrics import Metrics
from schemas.codec import decode, encode
from schemas.registry import Registry
from streams.bandit.commands.experiments import EXAMPLE
from streams.bandit.experiment import Experiment, parse
from streams.bandit.snapshots.kernel import InvalidDistribution
from streams.bandit.snapshots.publisher import Publisher
from streams.bandit.snapshots.snapshot import REFRESH_MS, from_record, next_snapshot
from streams.bandit.snapshots.store import MemorySnapshotStore
from streams.bandit.stage import EXPERIMENTS, OUTCOMES, RESOLVED, SNAPSHOTS, STATS, UNITS, BanditStage
from streams.bandit.statistics import Sums
from streams.bandit.token import DecisionRef, sign
from streams.runtime.stage import Batch, Outcome, Output

KEY = b"k" * 32
HERO = parse(EXAMPLE.read_bytes())
NOW = 1_795_000_000
T0 = NOW * 1_000
REGISTRY = Registry(PACKAGED_CONTRACTS)


def token(unit: int, arm: str = "bold", group: str = "bandit", **changes: Any) -> str:
    """Return the token of decision `unit`."""
    ref = DecisionRef(str(UUID(int=unit)), "hero-banner", 1, arm, group, 0.5, T0)
    return sign(KEY, ref._replace(**changes))


def event(name: str, decision_token: str = "", **changes: Any) -> bytes:
    """Return a record of events.resolved."""
    record = {
        "profile_id": "2" + "a" * 32, "node": "2" + "a" * 32, "identity_state": "resolved", "consent_outcome": "pass",
        "consent_purposes": 7, "consent_reasons": "", "consent_policy": "", "consent_evidence": "", "event_id": "e",
        "event_name": name, "source": "web-de", "site": "shop.example", "heartbeat": False, "collector_ts": T0 + 5_000,
        "region": "DE", "signals": {}, "identifiers": [], "decision_token": decision_token, "event_ts": T0 + 4_000,
        "event_ts_source": "device", "protocol": "headwater",
    }  # fmt: skip
    return encode(REGISTRY.latest("events.resolved"), record | changes)


def batch(topic: str, values: list[bytes | None], first: int = 0, partition: int = 0) -> Batch:
    """Return a batch of these values."""
    return Batch(topic, partition, [b"k"] * len(values), values, range(first, first + len(values)))


def stage(store: MemorySnapshotStore | None = None, experiment: Experiment = HERO) -> BanditStage:
    """Build a stage that knows one experiment."""
    bandit = BanditStage(REGISTRY, KEY, Publisher(REGISTRY, store or MemorySnapshotStore(), Metrics()), Metrics())
    publish(bandit, experiment)
    return bandit


def publish(bandit: BanditStage, experiment: Experiment) -> None:
    """Give a stage an experiment by broadcast."""
    record = {"experiment": experiment.key, "config_version": experiment.version, "config": experiment.text()}
    bandit.on_broadcast(EXPERIMENTS, [(experiment.key.encode(), encode(REGISTRY.latest(EXPERIMENTS), record))])


def records(outputs: list[Output]) -> list[dict[str, Any]]:
    """Decode the outputs."""
    return [decode(REGISTRY, value)[1] for _, value, _ in outputs if value is not None]


def outcomes_of(bandit: BanditStage, values: list[bytes | None]) -> list[bytes | None]:
    """Return the values that joining these events writes to bandit.outcomes."""
    return [value for _, value, _ in bandit.handle(batch(RESOLVED, values, partition=1), NOW).out[OUTCOMES]]


MIXED: list[bytes | None] = [
    event("page_view"),
    event("widget_viewed", token(1)),
    event("purchase", token(1), value=19.5, order_id="o1"),
    event("purchase", token(1) + "x"),
    event("purchase", token(2, experiment="unknown")),
    event("search", token(1)),
    event("purchase", token(3, decided_ts=T0 - 86_400_001), event_ts=T0 + 4_000),
    event("widget_viewed", token(4, decided_ts=T0 + 900_000)),
    event("widget_viewed", heartbeat=True),
    b"broken",
    None,
]


def test_joining_conserves_and_gives_each_event_a_verdict() -> None:
    """Every record is passed or dead, each non-heartbeat has one verdict, and only exposures and rewards are outcomes."""
    outcome = stage().handle(batch(RESOLVED, MIXED), NOW)
    assert outcome.passed + outcome.dropped.total() + len(outcome.dead) == len(MIXED)
    assert [dead.at for dead in outcome.dead] == [9, 10]
    verdicts: dict[str, int] = {}
    for cell, n in outcome.counts.items():
        verdicts[cell.outcome] = verdicts.get(cell.outcome, 0) + n
    assert verdicts == {
        "no_decision": 1, "exposure": 1, "reward": 1, "forged": 2, "unknown_experiment": 1, "other": 1, "out_of_window": 1,
    }  # fmt: skip
    joined = records(outcome.out[OUTCOMES])
    assert [(record["kind"], record["reward"], record["arm"]) for record in joined] == [
        ("exposure", 0, "bold"),
        ("reward", 1, "bold"),
    ]
    assert all(key == record["decision_id"].encode() for (key, _, _), record in zip(outcome.out[OUTCOMES], joined, strict=True))


def test_a_replay_gives_the_same_and_leaves_its_input_alone() -> None:
    """Two fresh stages give equal outcomes for the same batches and leave them unchanged."""
    values = list(MIXED)
    results = []
    for bandit in (stage(), stage()):
        joined = bandit.handle(batch(RESOLVED, values), NOW)
        counted = bandit.handle(batch(OUTCOMES, [value for _, value, _ in joined.out[OUTCOMES]]), NOW)
        results.append((joined, counted))
    assert results[0] == results[1]
    assert values == MIXED


def test_order_is_kept_per_decision() -> None:
    """Outcomes of a decision leave in the order of its events."""
    values: list[bytes | None] = []
    for n in range(5):
        values += [event("widget_viewed", token(1), event_id=f"a{n}"), event("purchase", token(2), event_id=f"b{n}")]
    joined = [decode(REGISTRY, value or b"")[1] for value in outcomes_of(stage(), values)]
    assert [record["event_id"] for record in joined if record["kind"] == "exposure"] == [f"a{n}" for n in range(5)]
    assert [record["event_id"] for record in joined if record["kind"] == "reward"] == [f"b{n}" for n in range(5)]


def test_the_devices_clock_cannot_move_an_event_before_its_decision_or_behind_its_arrival() -> None:
    """The time of an outcome lies between the decision's and the collector's time."""
    values: list[bytes | None] = [
        event("purchase", token(1), event_ts=T0 - 10**9),
        event("purchase", token(2), event_ts=T0 + 10**9),
    ]
    joined = [decode(REGISTRY, value or b"")[1] for value in outcomes_of(stage(), values)]
    assert [record["event_ts"] for record in joined] == [T0, T0 + 5_000]


def counted(bandit: BanditStage, values: list[bytes | None], first: int = 0) -> Outcome:
    """Join and count these events on partition 1."""
    return bandit.handle(batch(OUTCOMES, outcomes_of(bandit, values), first, 1), NOW)


def test_counting_writes_cumulative_sums_on_its_own_partition() -> None:
    """Views and purchases count once per decision; records carry the batch's last offset and stay on its partition."""
    bandit = stage()
    values: list[bytes | None] = [event("widget_viewed", token(n)) for n in range(1, 5)]
    values += [event("purchase", token(1)), event("purchase", token(1)), event("purchase", token(9, group="control"))]
    outcome = counted(bandit, values, first=100)
    assert outcome.passed == 7
    assert {partition for outputs in outcome.out.values() for _, _, partition in outputs} == {1}
    by_group = {record["group"]: record for record in records(outcome.out[STATS])}
    assert (by_group["bandit"]["exposures"], by_group["bandit"]["conversions"]) == (4, 1)
    assert (by_group["control"]["exposures"], by_group["control"]["conversions"]) == (1, 1)
    assert by_group["bandit"]["applied_offset"] == 106
    assert all(key is not None and key.isascii() for outputs in outcome.out.values() for key, _, _ in outputs)


def restored_from(outcomes: list[Outcome]) -> BanditStage:
    """Restore partition 1 of a new stage from committed outputs, compacted as Kafka does."""
    bandit = stage()
    for topic in (STATS, UNITS):
        compacted: dict[bytes | None, bytes | None] = {}
        for outcome in outcomes:
            for key, value, _ in outcome.out[topic]:
                compacted.pop(key, None)
                compacted[key] = value
        bandit.on_restore(topic, 1, list(compacted.items()))
    return bandit


def test_a_restart_anywhere_counts_the_same() -> None:
    """After a restore the next batch gives the totals of a stage that never stopped."""
    first: list[bytes | None] = [*(event("widget_viewed", token(n)) for n in range(1, 6)), event("purchase", token(2))]
    second: list[bytes | None] = [event("purchase", token(n)) for n in range(1, 8)]
    steady = stage()
    before = counted(steady, first)
    expected = counted(steady, second, first=50)
    again = counted(restored_from([before]), second, first=50)
    assert records(again.out[STATS]) == records(expected.out[STATS])
    (line,) = records(again.out[STATS])
    assert (line["exposures"], line["conversions"]) == (7, 7)


def test_forgetting_is_written_as_tombstones_and_survives_a_restart() -> None:
    """A much newer decision makes old ones be forgotten on the topic too, and their late events are dropped."""
    bandit = stage()
    before = counted(bandit, [event("widget_viewed", token(1))])
    day = 86_400_000
    newer: bytes | None = event(
        "widget_viewed", token(2, decided_ts=T0 + 3 * day), collector_ts=T0 + 3 * day, event_ts=T0 + 3 * day
    )
    after = counted(bandit, [newer], first=10)
    assert [key for key, value, _ in after.out[UNITS] if value is None] == [str(UUID(int=1)).encode()]
    late = counted(restored_from([before, after]), [event("purchase", token(1))], first=20)
    assert dict(late.dropped) == {"late": 1}
    assert not late.out[STATS]


def test_an_unknown_contract_holds_the_partition_before_anything_is_counted() -> None:
    """A batch with an unknown contract raises Retryable, and counting it later counts it once."""
    bandit = stage()
    values = outcomes_of(bandit, [event("widget_viewed", token(1))])
    with pytest.raises(Retryable):
        bandit.handle(batch(OUTCOMES, [*values, b"\x00\x00\x01\x00\x00rest"]), NOW)
    with pytest.raises(Retryable):
        bandit.handle(batch(RESOLVED, [b"\x00\x00\x01\x00\x00rest"]), NOW)
    (line,) = records(bandit.handle(batch(OUTCOMES, values), NOW).out[STATS])
    assert line["exposures"] == 1


def test_unreadable_outcomes_are_dead() -> None:
    """An undecodable record is a dead letter, and the rest of its batch is counted."""
    bandit = stage()
    values = [*outcomes_of(bandit, [event("widget_viewed", token(1))]), b"x", None]
    outcome = bandit.handle(batch(OUTCOMES, values), NOW)
    assert (outcome.passed, [dead.reason for dead in outcome.dead]) == (1, ["UNDECODABLE", "UNDECODABLE"])


# -- publishing


def tick(bandit: BanditStage, now: float, *, commit: bool = True) -> list[dict[str, Any]]:
    """Return what a tick publishes, and broadcast it back as committed."""
    outputs = bandit.on_tick(now).out.get(SNAPSHOTS, [])
    if commit:
        bandit.on_broadcast(SNAPSHOTS, [(key, value) for key, value, _ in outputs])
    return records(outputs)


def test_the_first_snapshot_needs_no_statistics_and_no_election() -> None:
    """A new experiment is published at once, with equal chances, by any worker."""
    (first,) = tick(stage(), NOW)
    assert (first["version"], first["probabilities"]) == (1, pytest.approx([1 / 3] * 3))
    assert from_record(first).checksum == first["checksum"]


def test_a_snapshot_is_in_redis_only_after_its_commit() -> None:
    """The store gets a version when its record comes back committed, not when it is produced."""
    store = MemorySnapshotStore()
    bandit = stage(store)
    outputs = bandit.on_tick(NOW).out[SNAPSHOTS]
    bandit.on_tick(NOW + 1)
    assert store.pointers == {}
    bandit.on_broadcast(SNAPSHOTS, [(key, value) for key, value, _ in outputs])
    bandit.on_tick(NOW + 2)
    assert store.pointers == {"hero-banner": 1}
    assert store.blobs["hero-banner", 1] == outputs[0][1]


def learned(bandit: BanditStage, conversions: dict[str, int], views: int = 400) -> None:
    """Count views and conversions per arm on partition 1, and broadcast the statistics."""
    values: list[bytes | None] = []
    for at, (arm, converted) in enumerate(conversions.items()):
        units = range(at * 10_000 + 1, at * 10_000 + 1 + views)
        values += [event("widget_viewed", token(unit, arm)) for unit in units]
        values += [event("purchase", token(unit, arm)) for unit in units[:converted]]
    outputs = counted(bandit, values).out[STATS]
    bandit.on_broadcast(STATS, [(key, value) for key, value, _ in outputs])


def test_the_elected_worker_publishes_what_was_learned_step_by_step() -> None:
    """The better arm gains at most a quarter of total variation per step, until the model's own vector is published."""
    bandit = stage()
    bandit.on_restore(STATS, 0, [])
    tick(bandit, NOW)
    learned(bandit, {"calm": 20, "bold": 60, "seasonal": 20})
    published = [record for second in range(1, 60) for record in tick(bandit, NOW + second)]
    bold = [record["probabilities"][1] for record in published]
    assert bold == sorted(bold)
    assert [record["clipped"] for record in published] == [True, True, False]
    assert bold[-1] == pytest.approx(1 - 2 * HERO.floor, abs=1e-3)
    assert [record["version"] for record in published] == [2, 3, 4]


def test_only_the_holder_of_partition_zero_publishes_statistics() -> None:
    """A worker publishes statistics only while it holds partition 0."""
    bandit = stage()
    tick(bandit, NOW)
    learned(bandit, {"calm": 20, "bold": 60, "seasonal": 20})
    assert tick(bandit, NOW + 60) == []
    bandit.on_restore(STATS, 0, [])
    assert [record["version"] for record in tick(bandit, NOW + 61)] == [2]
    bandit.on_revoke(0)
    assert tick(bandit, NOW + 120) == []


def test_control_is_not_learned_from() -> None:
    """Outcomes of the control group change no probability."""
    bandit = stage()
    bandit.on_restore(STATS, 0, [])
    tick(bandit, NOW)
    values: list[bytes | None] = [event("purchase", token(unit, "calm", "control")) for unit in range(1, 200)]
    bandit.on_broadcast(STATS, [(key, value) for key, value, _ in counted(bandit, values).out[STATS]])
    assert tick(bandit, NOW + 30) == []


def test_an_unchanged_snapshot_is_published_every_five_minutes() -> None:
    """Without new statistics the same probabilities get a new version every five minutes only."""
    bandit = stage()
    bandit.on_restore(STATS, 0, [])
    (first,) = tick(bandit, NOW)
    assert tick(bandit, NOW + REFRESH_MS / 1_000 - 1) == []
    (again,) = tick(bandit, NOW + REFRESH_MS / 1_000)
    assert (again["version"], again["probabilities"]) == (2, first["probabilities"])


@pytest.mark.parametrize("mode", ["freeze", "control", "off"])
def test_a_stopped_experiment_keeps_its_probabilities(mode: str) -> None:
    """Outside `run` statistics change nothing; the new configuration is published with the old vector."""
    bandit = stage()
    bandit.on_restore(STATS, 0, [])
    (first,) = tick(bandit, NOW)
    stopped = HERO.model_copy(update={"mode": mode})
    publish(bandit, stopped)
    learned(bandit, {"calm": 0, "bold": 300})
    (second,) = tick(bandit, NOW + 1)
    assert (second["config_version"], second["probabilities"]) == (stopped.version, first["probabilities"])
    assert tick(bandit, NOW + 60) == []


def test_redis_away_delays_publishing_and_not_learning() -> None:
    """While the store raises, ticks raise Retryable and counting goes on; afterwards the newest version is stored."""

    class Away(MemorySnapshotStore):
        away = True

        def publish(self, experiment: str, version: int, blob: bytes) -> int:
            if self.away:
                raise Retryable("Redis: away")
            return super().publish(experiment, version, blob)

    store = Away()
    bandit = stage(store)
    tick(bandit, NOW)
    with pytest.raises(Retryable):
        bandit.on_tick(NOW + 1)
    assert records(counted(bandit, [event("widget_viewed", token(1))]).out[STATS])
    store.away = False
    bandit.on_tick(NOW + 2)
    assert store.pointers == {"hero-banner": 1}


def test_a_store_that_is_ahead_is_overtaken() -> None:
    """Where Redis has a higher version from before Kafka was recreated, the next publication exceeds it."""
    store = MemorySnapshotStore()
    store.publish("hero-banner", 57, b"old")
    bandit = stage(store)
    bandit.on_restore(STATS, 0, [])
    tick(bandit, NOW)
    assert [record["version"] for record in tick(bandit, NOW + 1)] == [58]
    bandit.on_tick(NOW + 2)
    assert store.pointers["hero-banner"] == 58


def test_a_vector_that_is_no_distribution_is_refused() -> None:
    """NaN in the statistics raises before anything is published."""
    with pytest.raises(InvalidDistribution):
        next_snapshot(HERO, {"calm": Sums(float("nan"), 1.0)}, None, T0)
    record = next_snapshot(HERO, {}, None, T0)
    assert record is not None
    forged = record.record() | {"probabilities": [0.5, 0.5, 0.5]}
    with pytest.raises(InvalidDistribution):
        from_record(forged)
    assert not np.isnan(record.probabilities).any()


def test_imported_events_answer_no_decision() -> None:
    """An imported exposure or purchase with a valid token is counted apart and teaches nothing."""
    values: list[bytes | None] = [
        event("widget_viewed", token(1), imported=True),
        event("purchase", token(1), imported=True, value=19.5),
        event("purchase", imported=True),
        event("widget_viewed", token(2)),
    ]
    outcome = stage().handle(batch(RESOLVED, values), NOW)
    assert {(cell.event_name, cell.outcome): n for cell, n in outcome.counts.items()} == {
        ("widget_viewed", "imported"): 1, ("purchase", "imported"): 2, ("widget_viewed", "exposure"): 1,
    }  # fmt: skip
    assert [record["decision_id"] for record in records(outcome.out[OUTCOMES])] == [str(UUID(int=2))]
