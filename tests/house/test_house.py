"""The whole installation, from the HTTP interfaces to ClickHouse, with killed services, new fields and invalid requests."""

import json
import re
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.house.standing import StandingHouse, wait_until
from tests.support.scale import FULL

EVENTS = 3_000 if FULL else 2_000
RATE = 150
KILLED = ("consent", "identity", "warehouse", "bandit", "collector", "kafka", *(("warehouse", "consent") if FULL else ()))
README = Path(__file__).resolve().parents[2] / "README.md"
GRANTED = {"cmp.analytics": "granted", "cmp.marketing": "granted", "cmp.personalization": "granted"}


def send(house: StandingHouse, body: Any, **headers: str) -> requests.Response:
    """Send POST /v1/events with the demo's key by default."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    all_headers = {"Authorization": f"Bearer {house.key}", "Content-Type": "application/json"} | headers
    return requests.post(f"{house.settings['collector_url']}/v1/events", data=data, headers=all_headers, timeout=10)


def event(**fields: Any) -> dict[str, Any]:
    """Return an event with full consent."""
    return {"event_id": uuid.uuid4().hex, "event_name": "page_view", "client_id": "c-1", "consent": GRANTED, **fields}


def test_kills_of_any_part_lose_and_double_nothing(house: StandingHouse) -> None:
    """kill -9 of each worker, the warehouse, the collector and the broker while events flow: the ledger reconciles."""
    ledger = str(house.folder / "ledger.jsonl")
    simulating = house.begin("simulate", "--events", str(EVENTS), "--rate", str(RATE), "--ledger", ledger)
    wait_until(Path(ledger).exists, 60, "events to flow")
    for name in KILLED:
        time.sleep(1)  # between the kills, not for them: events flow meanwhile
        house.kill(name)
    assert simulating.wait(300) == 0, (house.folder / "simulate.log").read_text()
    verdict = house.run("reconcile", "--ledger", ledger, "--timeout", "120", seconds=180)
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr
    assert "0 lost, 0 doubled, 0 forbidden" in verdict.stdout


def test_kills_of_redis_lose_nothing(house: StandingHouse) -> None:
    """What was in flight is there, under the right profiles. (A claim of its last second may be lost: the known hole.)"""
    ledger = str(house.folder / "redis-ledger.jsonl")
    simulating = house.begin("simulate", "--events", "900", "--rate", str(RATE), "--ledger", ledger)
    wait_until(Path(ledger).exists, 60, "events to flow")
    for _ in range(2):
        time.sleep(2)  # between the kills, not for them: events flow meanwhile
        house.kill("redis")
    assert simulating.wait(300) == 0, (house.folder / "simulate.log").read_text()
    verdict = house.run("reconcile", "--ledger", ledger, "--timeout", "120", seconds=180)
    assert "0 lost, " in verdict.stdout, verdict.stdout + verdict.stderr
    assert "0 forbidden" in verdict.stdout
    assert "profiles in events.resolved: as it should be" in verdict.stderr + verdict.stdout


def test_an_event_is_found_with_its_consent_profile_and_properties(house: StandingHouse) -> None:
    """An event's data are in ClickHouse, and no clear identifier is."""
    mine = event(user_id="account-17", plan="gold", user_data={"email": "ada@example.org"})
    assert send(house, mine).status_code == 200
    columns = "consent_outcome, consent_purposes, profile_id, properties['plan']"
    ((outcome, purposes, profile, plan),) = house.rows(f"event_id = '{mine['event_id']}'", columns)
    assert (outcome, purposes, plan) == ("pass", 7, "gold")
    assert profile[0] in "012"
    everything = house.query(f"SELECT * FROM headwater.events WHERE event_id = '{mine['event_id']}'")
    assert "ada@example.org" not in str(everything)
    assert "account-17" not in str(everything)


def test_the_readmes_two_curls_work_as_they_stand(house: StandingHouse) -> None:
    """Copied from the README into a shell, they send an event and find it; only ports and the state folder are this house's."""
    snippets = re.findall(r"```sh\n(curl .*?)```", README.read_text(), re.DOTALL)
    replaced = {
        "http://127.0.0.1:8080": house.settings["collector_url"],
        "http://127.0.0.1:8123": house.settings["clickhouse"],
        ".headwater": str(house.state),
    }

    def shell(snippet: str) -> str:
        for written, replacement in replaced.items():
            snippet = snippet.replace(written, replacement)
        return subprocess.run(["/bin/bash", "-euc", snippet], capture_output=True, text=True, timeout=30, check=True).stdout

    send_it, find_it = snippets
    assert json.loads(shell(send_it))["accepted"] == 1
    row = wait_until(lambda: line if "purchase" in (line := shell(find_it)) else "", 30, "the README's event")
    # One purpose is granted in an unknown region: the rest is stripped.
    assert row.split("\t")[1] == "strip"


def test_a_new_field_lands_in_a_column_while_the_stages_run_on(house: StandingHouse) -> None:
    """Append a field to the contract, push, send: it is in ClickHouse, and no stage was started again."""
    before = house.pids()
    file = house.contracts / "events.raw.avsc"
    contract = json.loads(file.read_text())
    contract["fields"].append(
        {"name": "loyalty_tier", "type": "string", "purpose": "analytics", "doc": "Loyalty tier.", "default": ""}
    )
    file.write_text(json.dumps(contract))
    pushed = house.run("contracts", "push")
    assert pushed.returncode == 0, pushed.stdout + pushed.stderr

    def lands() -> bool:
        mine = event(loyalty_tier="platinum")
        assert send(house, mine).status_code == 200
        rows = house.rows(f"event_id = '{mine['event_id']}'", "*")
        assert rows
        columns = house.query("SELECT name FROM system.columns WHERE database = 'headwater' AND table = 'events'")
        if ("loyalty_tier",) not in columns:
            return False
        return house.rows(f"event_id = '{mine['event_id']}'", "loyalty_tier") == [("platinum",)]

    wait_until(lands, 30, "the new column")
    assert house.pids() == before


def test_a_breaking_change_is_refused(house: StandingHouse) -> None:
    """Publishing a contract without a former field is refused."""
    file = house.contracts / "events.raw.avsc"
    text = file.read_text()
    contract = json.loads(text)
    contract["fields"] = [field for field in contract["fields"] if field["name"] != "page_title"]
    file.write_text(json.dumps(contract))
    try:
        pushed = house.run("contracts", "push")
        assert pushed.returncode != 0
        assert "page_title" in pushed.stdout + pushed.stderr
    finally:
        file.write_text(text)


@pytest.mark.parametrize(
    ("body", "headers", "statuses"),
    [
        (b'{"event_name": "x"', {}, {400}),
        (b"\xff\xfe not UTF-8", {}, {400}),
        (b'{"event_name": "x"}', {"Authorization": "Bearer wrong"}, {401}),
        (b'{"event_name": "' + b"x" * 10_000_000 + b'"}', {}, {413}),
        (b'{"event_name": "x", "a": ' + b"[" * 5_000 + b"]" * 5_000 + b"}", {}, {400}),
        (b'{"event_name": []}', {}, {400}),
    ],
)
def test_rubbish_at_the_door_gets_a_clear_answer(
    house: StandingHouse, body: bytes, headers: dict[str, str], statuses: set[int]
) -> None:
    """Each refusal is JSON with a code and a message that says what to do."""
    answer = send(house, body, **headers)
    assert answer.status_code in statuses
    assert {"code", "message"} <= answer.json().keys()


def test_what_was_accepted_but_unusable_is_a_dead_letter(house: StandingHouse) -> None:
    """A contract violation lies on events.dead with its bytes, and `headwater dead` lists and shows it."""
    mark = f"mark-{uuid.uuid4().hex}"
    assert send(house, {"event_name": [], "note": mark}).status_code == 400

    def listed() -> list[dict[str, Any]]:
        lines = house.run("dead", "list", "--json").stdout.splitlines()
        return [letter for letter in map(json.loads, lines) if letter["stage"] == "collector"]

    letters = wait_until(listed, 20, "the dead letter")
    shown = [
        house.run("dead", "show", f"{letter['dead_partition']}:{letter['dead_offset']}").stdout
        for letter in sorted(letters, key=lambda letter: -letter["dead_ts"])[:3]
    ]
    assert any(mark in text for text in shown)


def test_what_is_due_is_done_by_itself(house: StandingHouse) -> None:
    """The upkeep of a house that has run for long: identities are tidied, old ones forgotten, and it is written down."""
    task_log = house.state / "upkeep.json"
    task_log.write_text(json.dumps({"identity tidy": 0, "privacy expire": 0}))
    began = time.time()
    house.kill("upkeep")
    wait_until(lambda: min(json.loads(task_log.read_text()).values()) > began, 120, "both tasks")
    assert "ids were demoted" in (house.state / "logs" / "identity-tidy.log").read_text()
    assert "linked ids forgotten" in (house.state / "logs" / "privacy-expire.log").read_text()
