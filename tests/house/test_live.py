"""A sender sees what becomes of events: each is explained afterwards, and shown live while somebody listens."""

import json
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from streams.consent.policy import PACKAGED
from tests.house.standing import StandingHouse, wait_until

GRANTED = {"cmp.analytics": "granted", "cmp.marketing": "granted", "cmp.personalization": "granted"}
DENIED = dict.fromkeys(GRANTED, "denied")
RULES = '\nevents:\n  "account_*": {requires: [analytics], on_deny: drop}'


@pytest.fixture(scope="module")
def strict_house(tmp_path_factory: pytest.TempPathFactory, contracts_dir: Path) -> Iterator[StandingHouse]:
    """An installation whose policy drops events of an account without consent."""
    folder = tmp_path_factory.mktemp("strict")
    house = StandingHouse(folder, contracts_dir)
    policy = folder / "policy.yaml"
    policy.write_text(PACKAGED.read_text().replace("\nevents:", RULES, 1))
    house.environment["HEADWATER_POLICY"] = str(policy)
    house.start()
    yield house
    house.stop()


def send(house: StandingHouse, **fields: Any) -> str:
    """Send an event with full consent; return its id."""
    event = {"event_id": uuid.uuid4().hex, "event_name": "page_view", "client_id": "c-1", "consent": GRANTED, **fields}
    headers = {"Authorization": f"Bearer {house.key}"}
    answer = requests.post(f"{house.settings['collector_url']}/v1/events", json=event, headers=headers, timeout=10)
    assert answer.status_code in (200, 400), answer.text
    return str(event["event_id"])


def why(house: StandingHouse, event_id: str, *options: str) -> dict[str, Any]:
    """What `headwater events why` says about an event."""
    run = house.run("events", "why", event_id, "--since", "1h", "--json", *options)
    assert run.returncode in (0, 1), run.stderr
    story: dict[str, Any] = json.loads(run.stdout)
    assert run.returncode == (story["state"] == "unknown")
    return story


def reasons(story: dict[str, Any]) -> dict[str, tuple[bool, str]]:
    """Purpose -> whether it was granted, and why."""
    return {ruling["purpose"]: (ruling["granted"], ruling["reason"]) for ruling in story["decision"]["rulings"]}


def test_why_and_live_tell_what_became_of_each_event(strict_house: StandingHouse) -> None:
    """Accepted, copied, stripped, dropped, dead, under a pseudonym, and unknown."""
    house = strict_house
    listener = house.begin("live", "--json")
    log = house.folder / "live.log"
    wait_until(lambda: "listening" in log.read_text(), 60, "the listener")
    accepted = send(house)
    send(house, event_id=accepted)
    stripped = send(house, consent=GRANTED | {"cmp.marketing": "denied"}, client_id="c-2")
    dropped = send(house, event_name="account_opened", consent=DENIED, client_id="c-3")
    dead = send(house, event_name=["no", "name"])
    address = send(house, event_id=f"{uuid.uuid4().hex[:8]}@example.org")

    def live() -> dict[str, dict[str, Any]]:
        """Id, or stage of a letter, -> event as shown."""
        events = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
        return {event.get("event_id") or event["stage"]: event for event in events}

    wait_until(lambda: {accepted, stripped, dropped, "collector"} <= live().keys(), 60, "the events to be shown")
    shown = live()
    assert [shown[name]["state"] for name in (accepted, stripped, dropped)] == ["resolved", "resolved", "dropped"]
    assert [(r["purpose"], r["granted"]) for r in shown[dropped]["rulings"]] == [
        ("analytics", False), ("marketing", False), ("personalization", False),
    ]  # fmt: skip
    assert "event_name must be text" in shown["collector"]["problems"][0]
    assert address not in log.read_text()
    listener.send_signal(signal.SIGINT)
    assert listener.wait(20) == 0, log.read_text()

    house.rows(f"event_id = '{stripped}'")
    story = why(house, accepted, "--all")
    assert (story["state"], story["row_count"], story["arrival"]["source"]) == ("loaded", 1, "demo")
    assert {name: ruling[0] for name, ruling in reasons(story).items()} == dict.fromkeys(
        ("analytics", "marketing", "personalization"), True
    )
    assert [topic["copies"] for topic in story["topics"]] == [2, 2, 1]
    row = story["rows"][0]
    assert shown[accepted]["row"] == f"{row['partition']}:{row['offset']}"
    assert story["identity"]["identity_state"] == "resolved"

    story = why(house, stripped)
    assert (story["state"], story["decision"]["outcome"]) == ("loaded", "strip")
    assert reasons(story)["marketing"] == (False, "PURPOSE")

    story = why(house, dropped)
    assert (story["state"], story["decision"]["outcome"], story["row_count"]) == ("dropped", "drop", 0)
    assert reasons(story)["analytics"] == (False, "PURPOSE")

    assert why(house, dead)["state"] == "unknown"
    story = why(house, dead, "--decrypt")
    assert (story["state"], story["dead_letters"][0]["detail"]) == ("dead", "event_name must be text of 1 to 128 characters")
    assert json.loads(story["dead_letters"][0]["value"])["event_id"] == dead

    assert why(house, address)["state"] == "loaded"
    assert why(house, uuid.uuid4().hex)["state"] == "unknown"


def test_people_are_told_in_sentences(strict_house: StandingHouse) -> None:
    """The story, a wrong time, and a refused filter."""
    event_id = send(strict_house)
    strict_house.rows(f"event_id = '{event_id}'")
    printed = strict_house.run("events", "why", event_id)
    assert "It is in ClickHouse." in printed.stdout, printed.stdout + printed.stderr
    assert "through the door of headwater, from source demo" in printed.stdout
    assert "is no past time" in strict_house.run("events", "why", event_id, "--since", "yesterday").stderr
    assert "only is one of" in strict_house.run("live", "--only", "all").stderr
