"""The whole house in memory: what goes in at the doors, and every effect of it, in order."""

import time
from pathlib import Path

import pytest

from streams.runtime.dead_letters.dead_letter import open_letter
from tests.walk.memory_house import MemoryHouse

GRANTED = {"cmp.analytics": "1", "cmp.marketing": "1", "cmp.personalization": "1"}
REFUSED = {"cmp.analytics": "0", "cmp.marketing": "0", "cmp.personalization": "0"}


@pytest.fixture
def house(tmp_path: Path) -> MemoryHouse:
    """A house that has seen nothing."""
    return MemoryHouse(tmp_path)


def test_an_event_is_answered_once_it_is_safe_and_committed_with_its_outputs(house: MemoryHouse) -> None:
    """Record before answer, outputs before the commit that covers them, the next stage after it."""
    assert house.post("/v1/events", {"event_name": "page_view", "client_id": "device-4711", "consent": GRANTED}) == [200]
    house.run(time.time())
    order = [effect for effect in house.effects if not effect.startswith(("hook", "consent.", "identity."))]
    assert order == [
        "events.raw",
        "answer 200",
        "events.consented",
        "commit consent events.raw",
        "events.resolved",
        "commit identity events.consented",
        "commit bandit events.resolved",
    ]
    (event,) = house.records("events.resolved")
    assert (event["consent_outcome"], event["identity_state"], event["profile_id"][1:]) == (
        "pass",
        "resolved",
        event["node"][1:],
    )


def test_two_devices_of_one_account_are_one_profile(house: MemoryHouse) -> None:
    """Each device's events after its login belong to the account's profile."""
    for client in ("device-4711", "device-4712"):
        body = {"event_name": "login", "client_id": client, "user_id": "ada", "consent": GRANTED}
        assert house.post("/v1/events", body, {**body, "event_name": "page_view"}) == [200, 200]
        house.run(time.time())
    assert len({event["profile_id"] for event in house.records("events.resolved")}) == 1


def test_what_consent_does_not_cover_leaves_without_it(house: MemoryHouse) -> None:
    """A refusal takes identifiers, profile and fields of its purposes away."""
    body = {
        "event_name": "page_view",
        "client_id": "device-4711",
        "page_url": "https://shop.example/?gclid=1",
        "consent": REFUSED,
    }
    assert house.post("/v1/events", body) == [200]
    house.run(time.time())
    (event,) = house.records("events.resolved")
    assert (event["consent_outcome"], event["identifiers"], event["page_url"]) == ("anonymise", [], "")
    (before,) = house.records("events.raw")
    assert before["identifiers"], "it came with an identifier"


def test_a_withdrawal_reaches_every_room(house: MemoryHouse) -> None:
    """From the door to the request that names all linked ids, and to the bandit's answer; later events are anonymous."""
    login = {"event_name": "login", "client_id": "device-4711", "user_id": "ada", "consent": GRANTED}
    assert house.post("/v1/events", login) == [200]
    house.run(time.time())
    assert house.post(
        "/v1/consent", {"client_id": "device-4711", "kind": "withdrawal", "site": "shop.example", "platform": "form"}
    ) == [200]
    house.run(time.time())
    (request,) = house.records("privacy.requests")
    nodes = {node for event in house.records("events.raw") for node in event["identifiers"]}
    assert set(request["nodes"]) == nodes
    (ack,) = house.records("privacy.acks")
    assert (ack["request_id"], ack["room"]) == (request["request_id"], "bandit")
    first = house.effects.index
    assert first("consent.signals") < first("consent.revocations") < first("privacy.requests") < first("privacy.acks")
    assert house.post("/v1/events", {**login, "event_name": "page_view"}) == [200]
    house.run(time.time())
    assert house.records("events.resolved")[-1]["consent_outcome"] == "anonymise"


def test_what_nobody_can_use_is_kept_with_its_bytes(house: MemoryHouse) -> None:
    """A refused event is a dead letter before it is answered; bytes that are no record die at the first stage."""
    assert house.post("/v1/events", {"client_id": "device-4711"}) == [400]
    assert house.effects == ["events.dead", "answer 400"]
    house.topics["events.raw"].append((b"k", b"no frame"))
    house.run(time.time())
    door, stage = house.records("events.dead")
    assert (door["stage"], stage["stage"], stage["reason"]) == ("collector", "consent", "UNDECODABLE")
    assert open_letter(stage, house.keyring)[1] == b"no frame"


def test_the_same_event_twice_is_one_event(house: MemoryHouse) -> None:
    """A client's retry dies in identity, as a lawful drop."""
    body = {"event_id": "e-1", "event_name": "page_view", "client_id": "device-4711", "consent": GRANTED}
    assert house.post("/v1/events", body, body) == [200, 200]
    house.run(time.time())
    assert (len(house.records("events.consented")), len(house.records("events.resolved"))) == (2, 1)
