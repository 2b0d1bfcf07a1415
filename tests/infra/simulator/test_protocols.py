"""Payloads of the four doors."""

from dataclasses import replace

import orjson
import pytest

from infra.simulator.acts import DOORS, Choice, Defect, Device, Door, Event, Person, Request
from infra.simulator.marks import MarkerScan, event_id
from infra.simulator.protocols import Stamp, build, signals

RUN = "abcdefab"
STAMP = Stamp(1_795_000_000_000, "k" * 32, "X-Region", "the-token")


def event(door: Door, choice: Choice = Choice.CMP_ALL, defect: Defect = Defect.NONE) -> Event:
    """A purchase that answers a decision."""
    device = Device("cookie-1", door, "DE", choice, "agent")
    person = Person("person-1", "account-1", "one@mail.example", 1)
    return Event(
        n=5, id=event_id(RUN, 5), name="purchase", device=device, person=person, login=True, age_ms=1_000, page="/cart",
        run=RUN, value=12.5, order_id="o-1", email=True, defect=defect, answers=True,
    )  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
def test_every_door_carries_id_markers_token_and_region(door: Door) -> None:
    """What reconcile looks for must be in the bytes."""
    post = build(Request((event(door),)), STAMP)
    orjson.loads(post.body)
    assert event_id(RUN, 5).encode() in post.body
    assert {kind for kind, _ in MarkerScan(RUN).find(post.body)} == {"an", "mk"}
    assert b"the-token" in post.body
    assert post.headers["X-Region"] == "DE"


@pytest.mark.parametrize("door", DOORS)
def test_without_personalization_a_marker_stands_in_for_the_token(door: Door) -> None:
    """Nothing of it may be seen behind the gate."""
    post = build(Request((event(door, Choice.CMP_ANALYTICS),)), STAMP)
    assert b"the-token" not in post.body
    assert ("pz", 5) in MarkerScan(RUN).find(post.body)


@pytest.mark.parametrize("door", DOORS)
def test_defects_are_what_they_say(door: Door) -> None:
    """And every one that must end as a dead letter can be found in it."""
    whole = event(door)
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(build(Request((replace(whole, defect=Defect.BROKEN_BODY),)), STAMP).body)
    for defect in (Defect.NO_NAME, Defect.NOT_AN_OBJECT):
        post = build(Request((whole, replace(whole, n=6, defect=defect))), STAMP)
        assert ("dd", 6) in MarkerScan(RUN).find(post.body)
        assert ("dd", 5) not in MarkerScan(RUN).find(post.body)
    wrong = build(Request((replace(whole, defect=Defect.WRONG_KEY),)), STAMP)
    assert STAMP.write_key not in str(wrong.headers) + str(wrong.query) + wrong.body.decode()


def test_poison_is_no_framed_record() -> None:
    """The first byte already says so."""
    post = build(Request((event("headwater", defect=Defect.POISON),)), STAMP)
    assert post.body[0] != 0
    assert ("dd", 5) in MarkerScan(RUN).find(post.body)


def test_silence_says_nothing() -> None:
    """A visitor without a choice sends no signal."""
    assert signals(Device("c", "ga4", "US", Choice.SILENT, "agent"), STAMP.now_ms) == {}
