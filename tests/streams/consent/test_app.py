"""Building the consent stage from settings, the policy watcher, and `headwater consent explain`."""

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
import redis
from typer.testing import CliRunner

from infra.clients.kafka import producer
from infra.errors import ConfigError
from infra.ops.topics import apply
from infra.settings import load_settings
from infra.telemetry.metrics import Metrics
from schemas.codec import encode
from schemas.registry import Registry
from streams.consent.app import PolicyWatcher, build, open_states
from streams.consent.commands.explain import app
from streams.consent.ledger.ledger import ERASED
from streams.consent.policy import PACKAGED
from streams.consent.stage import STATE


def test_a_broken_policy_is_no_start(tmp_path: Path) -> None:
    """A room whose policy does not load does not start; with a good one it does."""
    file = tmp_path / "policy.yaml"
    settings = load_settings(secret="s" * 32, policy=file, state_dir=tmp_path)
    for text in (None, "purposes: 7"):
        if text:
            file.write_text(text)
        with pytest.raises(ConfigError):
            build(settings, Metrics())
    file.write_text(PACKAGED.read_text())
    assert build(settings, Metrics()).name == "consent"


def test_a_changed_file_is_read_once(tmp_path: Path) -> None:
    """A policy file is read when it changes, and a broken one raises once for each change."""
    file = tmp_path / "policy.yaml"
    file.write_text(PACKAGED.read_text())
    watched = PolicyWatcher(file)
    assert watched.changed() is None
    file.write_text(PACKAGED.read_text().replace("[US]", "[US, AU]"))
    assert watched.changed() is not None
    assert watched.changed() is None
    file.unlink()
    with pytest.raises(ConfigError):
        watched.changed()
    assert watched.changed() is None
    file.write_text(PACKAGED.read_text())
    os.utime(file, ns=(1, 1))
    assert watched.changed() is not None


def test_a_view_that_is_built_again_knows_who_was_erased(kafka: str, redis_url: str, tmp_path: Path) -> None:
    """Records from before a tombstone, which are on the topic until compaction, do not restore a state."""
    settings = load_settings(secret="s" * 32, kafka=kafka, redis=redis_url, state_dir=tmp_path)
    apply(settings)
    registry, kafka_producer, began = Registry(settings.contracts), producer(settings), int(time.time() * 1000)
    keys = [f"opt-in|shop.example|2{of * 32}" for of in "ab"]

    def write_state(key: str, at: int) -> None:
        record = {
            "subject": key[-33:], "site": "shop.example", "regulation": "opt-in", "times": {"analytics.granted": at},
            "evidence": "", "platform": "", "gvl": 0, "policy": "", "changed_ts": at,
        }  # fmt: skip
        kafka_producer.produce(STATE, encode(registry.latest(STATE), record), key.encode(), 0)

    for key in keys:
        write_state(key, began - 9)
    kafka_producer.produce(STATE, None, keys[0].encode(), 0)
    write_state(keys[1], began + 3_600_000)
    assert kafka_producer.flush(10) == 0
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()
    states = open_states(settings, registry, 395)
    states.open(0)
    erased, granted = states.read(0, keys)
    assert erased is not None
    assert erased.keys() == {ERASED}
    assert erased[ERASED] >= began
    assert granted == {"analytics.granted": began + 3_600_000}


def test_explain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`consent explain` prints the decision and what happens to each field, as text and as JSON."""
    monkeypatch.chdir(tmp_path)
    event = tmp_path / "event.json"
    fields = {"event_name": "purchase", "region": "DE", "signals": {"gcs": "G101", "gcd": "13q3r3q3q5"}, "decision_token": "t"}
    event.write_text(json.dumps({**fields, "page_url": "https://x/?gclid=1&a=2"}))
    printed = CliRunner().invoke(app, ["explain", str(event), "--json"])
    explanation = json.loads(printed.stdout)
    assert explanation["outcome"] == "strip"
    assert [(p["granted"], p["reason"]) for p in explanation["purposes"]] == [
        (True, "OK_CONSENT"),
        (False, "PURPOSE"),
        (False, "PURPOSE"),
    ]
    fates = {field["field"]: field["becomes"] for field in explanation["fields"]}
    assert (fates["decision_token"], fates["page_url"]) == ("removed", 'becomes "https://x/?a=2"')
    assert "OK_CONSENT" in CliRunner().invoke(app, ["explain", str(event)]).stdout


def test_explain_takes_what_is_sent_to_the_collector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body of `/v1/events` is read as the collector reads it, and `--region` decides the regime."""
    monkeypatch.setenv("HEADWATER_STATE_DIR", str(tmp_path))
    event = tmp_path / "event.json"
    event.write_text('{"event_name": "purchase", "user_id": "ada", "value": 19.9, "consent": {"cmp.analytics": "1"}}')

    def explained(*words: str) -> dict[str, Any]:
        explanation: dict[str, Any] = json.loads(CliRunner().invoke(app, ["explain", str(event), "--json", *words]).stdout)
        return explanation

    assert (explained()["outcome"], explained()["regime"]) == ("strip", "opt-in")
    assert explained("--region", "us-ca")["regime"] == "opt-out"
    assert "DE or US-CA" in str(CliRunner().invoke(app, ["explain", str(event), "--region", "USA"]).exception)
    fates = {field["field"]: field["becomes"] for field in explained()["fields"]}
    assert fates["identifiers"] == fates["value"] == "kept"
    event.write_text('{"event_name": "purchase", "user_id": "ada"}')
    assert (explained()["outcome"], explained()["unread"]) == ("anonymise", [])
    fates = {field["field"]: field["becomes"] for field in explained()["fields"]}
    assert fates["event_id"] == "becomes (a new random id)"
    assert re.fullmatch(r"becomes \d{4}-\d\d-\d\d \d\d:00 UTC", fates["collector_ts"])
    event.write_text(
        '{"event_name": "purchase",'
        ' "consent": {"cmp.analytics": "1", "cmp.sales": "1", "Analytics": "1", "gcs": "G111", "x": 2}}'
    )
    assert explained()["unread"] == ["cmp.sales", "x"]
    assert "cmp.sales, x" in CliRunner().invoke(app, ["explain", str(event)]).stdout
    event.write_text('{"consent": {"cmp.analytics": "1"}}')
    assert "event_name" in str(CliRunner().invoke(app, ["explain", str(event)]).exception)


@pytest.mark.parametrize("text", ["[]", "{", '{"nonsense": 1}', '{"signals": 5}'])
def test_explain_refuses_what_is_no_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A file that is no event is an error that names the file."""
    monkeypatch.chdir(tmp_path)
    event = tmp_path / "event.json"
    event.write_text(text)
    result = CliRunner().invoke(app, ["explain", str(event)])
    assert isinstance(result.exception, ConfigError)
    assert str(event) in str(result.exception)
