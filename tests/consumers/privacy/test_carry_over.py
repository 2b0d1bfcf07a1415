"""Consent states under the older keys are repeated under the newest, on a real Kafka."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from consumers.privacy.topics import ERASURES, TransactionalWriter, WriterRecord
from infra.clients.kafka import producer
from infra.ops.consent import app
from infra.ops.topics import apply
from infra.settings import Settings, load_settings
from infra.telemetry.metrics import Metrics
from schemas.codec import encode
from schemas.registry import Registry
from streams.consent.ledger.ledger import Times
from streams.consent.ledger.ledger_writes import SIGNALS
from streams.consent.ledger.store import MemoryStateStore, state_key
from streams.consent.policy import PACKAGED, parse_policy
from streams.consent.stage import STATE, ConsentDependencies, ConsentStage
from streams.identity.nodes import NodeKeys, versions
from streams.runtime.follow import read_topic
from streams.runtime.stage import Batch

T = 1_764_000_123_456
WITHDRAWN = {"analytics.granted": T - 9, "analytics.withdrawn": T, "marketing.seen_granted": T}


@pytest.fixture
def house(kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings with rotated keys, also for the command."""
    monkeypatch.setenv("HEADWATER_KAFKA", kafka)
    monkeypatch.setenv("HEADWATER_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("HEADWATER_SECRET", "carried over for a test, forty characters long...")
    monkeypatch.setenv("HEADWATER_NODE_KEY_VERSION", "2")
    settings = load_settings()
    apply(settings)
    return settings


def remember(settings: Settings, states: dict[str, Times | None]) -> None:
    """Write states of these subjects to one partition; None is a tombstone."""
    registry, kafka = Registry(settings.contracts), producer(settings)
    for subject, times in states.items():
        record = {
            "subject": subject, "site": "shop", "regulation": "opt-in", "times": times, "evidence": "e", "platform": "",
            "gvl": 0, "policy": "p", "changed_ts": T,
        }  # fmt: skip
        value = None if times is None else encode(registry.latest(STATE), record)
        kafka.produce(STATE, value, state_key("opt-in", "shop", subject).encode(), 0)
    assert kafka.flush(10) == 0


def carry_over(settings: Settings, states: MemoryStateStore) -> tuple[Any, int]:
    """The command's answer, and how many states the consent stage records from all signals so far."""
    answer = json.loads(CliRunner().invoke(app, ["carry-over", "--json"]).stdout)
    stage = ConsentStage(
        Registry(settings.contracts),
        parse_policy(PACKAGED.read_text(), "p"),
        ConsentDependencies(b"k" * 32, states, Metrics(), lambda: None),
    )
    records = [record for chunk in read_topic(settings, SIGNALS) for record in chunk]
    outcome = stage.handle(
        Batch(SIGNALS, 0, [key for key, _ in records], [value for _, value in records], range(len(records))), T / 1000
    )
    for hook in outcome.after_commit:
        hook()
    assert not outcome.dead
    return answer, len(outcome.out.get(STATE, ()))


def test_a_refusal_outlives_a_rotation(house: Settings) -> None:
    """Each state is repeated unchanged under the newest name; erased subjects have none; newest names are not translated."""
    keys, states = NodeKeys.of(house), MemoryStateStore()
    (jo, newer_jo), (ann, newer_ann), (eve, newer_eve) = (versions(keys, "user", name) for name in ("jo", "ann", "eve"))
    remember(house, {jo: {"marketing.denied": T - 1}, ann: {"marketing.denied": T}, eve: {"marketing.denied": T}})
    remember(house, {jo: WITHDRAWN, eve: None})
    answer, learned = carry_over(house, states)
    assert (answer, learned) == ({"said": 2}, 2)
    assert states.states == {
        state_key("opt-in", "shop", newer_jo): WITHDRAWN,
        state_key("opt-in", "shop", newer_ann): {"marketing.denied": T},
    }
    assert not any(newer_eve in key for key in states.states)
    remember(
        house,
        {newer_jo: WITHDRAWN, newer_ann: {"marketing.denied": T + 5}, ann: {"marketing.denied": T, "marketing.granted": 7}},
    )
    answer, _ = carry_over(house, states)
    assert answer == {"said": 2}, "states under the newest names are nobody's former ones"
    assert states.states[state_key("opt-in", "shop", newer_ann)] == {"marketing.denied": T, "marketing.granted": 7}
    assert set(states.states) == {state_key("opt-in", "shop", name) for name in (newer_jo, newer_ann)}
    again, learned = carry_over(house, states)
    assert (again, learned) == ({"said": 2}, 0)


def test_with_one_version_there_is_nothing_to_say(house: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the setting."""
    monkeypatch.setenv("HEADWATER_NODE_KEY_VERSION", "1")
    assert "HEADWATER_NODE_KEY_VERSION is 1" in str(CliRunner().invoke(app, ["carry-over"]).exception)


def test_it_waits_for_an_erasure(house: Settings) -> None:
    """States must not be repeated while an erasure removes them."""
    record = {
        "request_id": "cd" * 16, "state": "begun", "nodes": [], "profiles": [], "shared": [], "erased_ts": T, "requested_ts": T,
        "deadline_ts": T, "counts": {},
    }  # fmt: skip
    writer = TransactionalWriter(house)
    writer.write([writer.encode(ERASURES, b"cd" * 16, record)])
    assert "is being erased" in str(CliRunner().invoke(app, ["carry-over"]).exception)
    writer.write([WriterRecord(ERASURES, b"cd" * 16, None)])
    assert CliRunner().invoke(app, ["carry-over"]).exit_code == 0
