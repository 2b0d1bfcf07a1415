"""Decisions as sentences: every one has some, and ten events are described as expected."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from streams.consent.commands.explain import app
from streams.consent.decision.decide import Action
from streams.consent.formats.consent_value import ConsentValue
from streams.consent.formats.reason import ConsentReason
from streams.consent.messages import OUTCOMES, REASONS, VALUES

SHOP = {
    "event_name": "page_view",
    "site": "shop.example",
    "identifiers": ["2" + "ab" * 16],
    "page_url": "https://shop.example/?gclid=1",
}
EU, US = {**SHOP, "region": "DE"}, {**SHOP, "region": "US-CA"}
ALL = {"cmp.analytics": "granted", "cmp.marketing": "granted", "cmp.personalization": "granted"}
KEPT, PARTLY, NAMELESS = "kept as it is", "without the fields of every purpose", "without anything that leads to the visitor"


def test_everything_has_words() -> None:
    """Every action, reason and value has its own text."""
    assert (set(OUTCOMES), set(REASONS), set(VALUES)) == (
        set(Action),
        set(ConsentReason),
        {word.value for word in ConsentValue},
    )
    assert len(set(REASONS.values())) == len(ConsentReason)


@pytest.mark.parametrize(
    ("event", "sentences"),
    [
        ({**EU, "signals": ALL}, [KEPT, "the visitor agreed", "consent platform: yes"]),
        ({**EU, "signals": {**ALL, "cmp.marketing": "denied"}}, [PARTLY, "the visitor said no", "https://shop.example/"]),
        ({**EU}, [NAMELESS, "silence means no", "the event says nothing about it"]),
        ({**US}, [KEPT, "silence means yes"]),
        ({**US, "signals": {"gpc": "1"}}, [PARTLY, "browser objects", "Global Privacy Control: no"]),
        ({**EU, "signals": {"gcs": "G111", "gcd": "13r3r3r3r5"}}, [KEPT, "Consent Mode: yes"]),
        ({**EU, "signals": {"gcs": "G111", "gcd": "13t3t3t3t5"}}, ["not chosen yet", "not confirmed by the visitor"]),
        ({**EU, "signals": {"tc_string": "null", "gdpr_applies": "1"}}, [NAMELESS, "cannot be read", "TC string"]),
        ({**EU, "signals": {**ALL, "gcs": "G100", "gcd": "13q3q3q3q5"}}, [NAMELESS, "one signal says yes and another says no"]),
        ({**EU, "event_name": "heartbeat", "heartbeat": True}, ["sign of life"]),
    ],
)  # fmt: skip
def test_ten_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, event: dict[str, object], sentences: list[str]) -> None:
    """The printed explanation of an event has the expected sentences."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "event.json"
    file.write_text(json.dumps({"collector_ts": 1_795_000_000_000, **event}))
    printed = CliRunner().invoke(app, ["explain", str(file)], env={"COLUMNS": "240"})
    assert printed.exit_code == 0, printed.output
    for sentence in sentences:
        assert sentence in printed.stdout
