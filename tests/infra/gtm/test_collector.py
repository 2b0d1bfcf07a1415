"""The collector accepts the tag's requests."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from infra.payload_keyring import PayloadKeyring
from infra.secrets import Secret
from infra.telemetry.metrics import Metrics
from schemas.codec import decode
from schemas.registry import Registry
from streams.collector.intake import Intake, IntakeResult
from streams.collector.normalise import RequestContext
from streams.collector.protocols import own
from streams.identity.nodes import NodeKeys

EVERYTHING = "All signals together arrive side by side"
NOW_MS = 1_790_000_000_500


@pytest.fixture
def intake(contracts_dir: Path, tmp_path: Path) -> Intake:
    """The collector's intake."""
    secret = Secret("for tests only, forty characters long...")
    return Intake(Registry(contracts_dir), PayloadKeyring(tmp_path, secret), NodeKeys.derive(secret), Metrics())


def take(intake: Intake, body: str) -> IntakeResult:
    """Return the result of `POST /v1/events` for a body."""
    return intake.accept_events(
        own.extract_items(orjson.loads(body)), own.parse_item, RequestContext("web", "shop.example", NOW_MS, None)
    )


def test_the_collector_accepts_what_the_tag_sends_and_keeps_each_signal(
    findings: dict[str, Any], intake: Intake, contracts_dir: Path
) -> None:
    """From the container's event data to a record of events.raw, consent arrives as it was said."""
    (request,) = next(item["sent"] for item in findings["scenarios"] if item["name"] == EVERYTHING)
    intake_result = take(intake, request["body"])
    assert (intake_result.accepted, intake_result.refused) == (1, [])
    _, record = decode(Registry(contracts_dir), intake_result.records[0].value)
    assert record["signals"] == {
        "gcs": "G111",
        "gcd": "13t3t3t3t5l1",
        "tc_string": "CPEVENT",
        "tc_event_status": "tcloaded",
        "gdpr_applies": "1",
        "gpp": "DBABMA~CPEVENT",
        "gpc": "1",
        "cmp.marketing": "false",
    }
    assert (record["event_id"], record["event_ts"]) == ("1790000000000-7-7", 1_790_000_000_000)
    assert (record["event_name"], record["page_url"], record["tag_version"]) == (
        "page_view",
        "https://shop.example/a",
        "sgtm-1",
    )
    assert set(record["match_tokens"]) == {"email"}
    assert len(record["identifiers"]) == 2  # the cookie's and the e-mail's


def test_the_collector_takes_every_scenarios_body(findings: dict[str, Any], intake: Intake) -> None:
    """No scenario sends what the collector would refuse."""
    for scenario in findings["scenarios"]:
        for request in scenario["sent"]:
            assert take(intake, request["body"]).refused == [], scenario["name"]


@pytest.mark.parametrize(
    ("name", "signals"),
    [
        ("A consent field that is no object is a signal like the others", {"gpc": "1", "consent": "denied", "gcs": "G100"}),
        (
            "What is no text in a consent field is forwarded as it is",
            {"cmp.ads": "null", "ads.a": "[1]", "cmp.stats": "0", "gcs": "null"},
        ),
        ("Sec-GPC of the visitor is forwarded beside what the page says", {"gpc": "1", "gpc#2": "0"}),
    ],
)
def test_what_the_tag_cannot_read_reaches_the_record(
    findings: dict[str, Any], intake: Intake, contracts_dir: Path, name: str, signals: dict[str, str]
) -> None:
    """Objects, nulls and second words pass the tag and the collector."""
    assert record_of(findings, intake, contracts_dir, name)["signals"] == signals


@pytest.mark.parametrize(
    ("name", "region"),
    [
        ("Where the visitor is comes from the load balancer of the container", "US-CA"),
        ("The place may come from App Engine", "US-CA"),
        ("The place may come from Cloudflare", "FR"),
        ("A place that the event has stands beside the load balancer's", ""),
        ("Without a place the tag claims none", ""),
    ],
)
def test_the_visitors_place_reaches_the_record(
    findings: dict[str, Any], intake: Intake, contracts_dir: Path, name: str, region: str
) -> None:
    """Under a server's key the region is what the container knows of the visitor; two places that disagree are none."""
    assert record_of(findings, intake, contracts_dir, name)["region"] == region


def record_of(findings: dict[str, Any], intake: Intake, contracts_dir: Path, name: str) -> dict[str, Any]:
    """The record that a scenario's request becomes."""
    (request,) = next(item["sent"] for item in findings["scenarios"] if item["name"] == name)
    return decode(Registry(contracts_dir), take(intake, request["body"]).records[0].value)[1]
