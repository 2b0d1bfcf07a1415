"""`simulate`: what another policy changes on recorded events."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.clients.kafka import producer
from infra.ops.embedded.servers.kafka import EmbeddedKafka
from infra.ops.topics import apply
from infra.settings import PACKAGED_CONTRACTS, load_settings
from schemas.codec import encode
from schemas.registry import Registry
from streams.consent.commands.explain import app
from streams.consent.commands.policy_diff import OutcomeChange, PolicyRun, RawRecord, compare
from streams.consent.policy import PACKAGED, Policy, parse_policy
from tests.streams.consent.events import raw

REGISTRY = Registry(PACKAGED_CONTRACTS)
T = 1_764_000_123_456
GRANTED = {"cmp.analytics": "granted", "cmp.marketing": "granted", "cmp.personalization": "granted"}
DENIED = {**GRANTED, "cmp.analytics": "denied"}
PACKAGED_TEXT = PACKAGED.read_text()
STRICTER = PACKAGED_TEXT.replace("on_deny: anonymise", "on_deny: drop")
NO_MARKETING = re.sub(
    r"\nplatforms:\n(?s:.*?)\nsignals:",
    "\nplatforms: {}\nsignals:",
    PACKAGED_TEXT.replace("    cmp: [marketing, advertising, ads, targeting]\n", "    cmp: [sales]\n"),
)


def policy(text: str) -> Policy:
    """Parse a policy."""
    return parse_policy(text, "policy.yaml")


def events(*field_sets: Mapping[str, object]) -> list[RawRecord]:
    """Encode records of `events.raw`, one for each set of fields."""
    latest = REGISTRY.latest("events.raw")
    return [
        RawRecord(0, n, b"2" + b"%032x" % n, encode(latest, raw(event_id=f"e-{n}", **fields)))
        for n, fields in enumerate(field_sets)
    ]  # fmt: skip


def test_only_what_differs_is_told() -> None:
    """Granted events have equal outcomes; denied ones are dropped instead of anonymised, counted by event name."""
    denied: dict[str, object] = {"signals": DENIED}
    field_sets: list[dict[str, object]] = [{"signals": GRANTED}, denied, denied, {**denied, "event_name": "search"}]
    before, after = PolicyRun(REGISTRY, policy(PACKAGED_TEXT), None), PolicyRun(REGISTRY, policy(STRICTER), None)
    diff = compare(REGISTRY, events(*field_sets), before, after, T / 1000)
    assert diff.events == 4
    assert diff.before == {"pass": 1, "anonymise": 3}
    assert diff.after == {"pass": 1, "drop (PURPOSE)": 3}
    assert diff.changed == {
        OutcomeChange("purchase", "anonymise", "drop (PURPOSE)"): 2,
        OutcomeChange("search", "anonymise", "drop (PURPOSE)"): 1,
    }
    assert not diff.rulings


def test_the_ruling_behind_it_is_named() -> None:
    """A purpose whose platform name is removed from the policy is denied as NO_SIGNAL."""
    before, after = PolicyRun(REGISTRY, policy(PACKAGED_TEXT), None), PolicyRun(REGISTRY, policy(NO_MARKETING), None)
    diff = compare(REGISTRY, events({"signals": GRANTED}), before, after, T / 1000)
    assert diff.changed == {OutcomeChange("purchase", "pass", "strip"): 1}
    assert diff.rulings == {("marketing=OK_CONSENT", "marketing=NO_SIGNAL"): 1}, "a grant under a name that nothing maps"


def test_rubbish_is_dead_under_both() -> None:
    """Undecodable records are dead under any policy."""
    trials = [PolicyRun(REGISTRY, policy(text), None) for text in (PACKAGED_TEXT, STRICTER)]
    diff = compare(REGISTRY, [RawRecord(0, 0, None, b"rubbish"), RawRecord(0, 1, None, None)], trials[0], trials[1], T / 1000)
    assert diff.before == diff.after == {"dead": 2}
    assert not diff.changed


def test_on_recorded_traffic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command reads at most `--events` records of `events.raw` from Kafka, and writes nothing."""
    file = tmp_path / "new.yaml"
    file.write_text(STRICTER)
    with EmbeddedKafka(tmp_path / "kafka") as broker:
        monkeypatch.setenv("HEADWATER_KAFKA", broker.address)
        monkeypatch.setenv("HEADWATER_STATE_DIR", str(tmp_path))
        settings = load_settings()
        apply(settings)
        sender = producer(settings)
        for n, event in enumerate(events(*({"signals": DENIED} for _ in range(40)))):
            sender.produce("events.raw", event.value, event.key, partition=n % 2)
        assert sender.flush(30) == 0
        printed = CliRunner().invoke(app, ["simulate", "--policy", str(file), "--json"])
        assert printed.exit_code == 0, printed.output
        diff = json.loads(printed.stdout)
        assert (diff["events"], diff["before"], diff["after"]) == (40, {"anonymise": 40}, {"drop (PURPOSE)": 40})
        few = CliRunner().invoke(app, ["simulate", "--policy", str(file), "--events", str(5 * settings.partitions), "--json"])
        assert json.loads(few.stdout)["events"] == 10
        for_people = CliRunner().invoke(app, ["simulate", "--policy", str(file)])
        assert "40 events: 40 fare otherwise" in for_people.stdout
