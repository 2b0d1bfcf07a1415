"""Request bodies of the four protocols."""

import gzip
from dataclasses import replace

import orjson
import pytest

from infra.ops.simulator.marks import MarkerScan, event_id
from infra.ops.simulator.protocols.bodies import BUILDERS
from infra.ops.simulator.protocols.messages import SendStamp
from infra.ops.simulator.protocols.requests import build_consent_request, build_decision_request, build_event_request
from infra.ops.simulator.protocols.signals import consent_signals
from infra.ops.simulator.protocols.ways import SendingWay, choose_way
from infra.ops.simulator.world.acts import (
    DOORS,
    DecisionRequest,
    Defect,
    Device,
    Door,
    SimulatedEvent,
    SimulatedPerson,
    SimulatedRequest,
    Statement,
    VisitorChoice,
)
from infra.ops.simulator.world.memory import CHOICE_EVENT

RUN = "abcdefab"
SERVER, BROWSER, COMPRESSED = "cookie-3", "cookie-5", "cookie-1"
"""Devices that send in each way."""
STAMP = SendStamp(1_795_000_000_000, "k" * 32, "X-Region", "the-token")


def event(door: Door, choice: VisitorChoice = VisitorChoice.CMP_ALL, defect: Defect = Defect.NONE) -> SimulatedEvent:
    """Return a purchase that refers to a decision."""
    device = Device(SERVER, door, "DE", choice, "agent")
    person = SimulatedPerson("person-1", "account-1", "one@mail.example", 1)
    return SimulatedEvent(
        n=5, id=event_id(RUN, 5), name="purchase", device=device, person=person, login=True, age_ms=1_000, page="/cart",
        run=RUN, value=12.5, order_id="o-1", email=True, defect=defect, answers=True,
    )  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
def test_every_door_carries_id_markers_token_and_region(door: Door) -> None:
    """What reconcile looks for must be in the bytes."""
    post = build_event_request(SimulatedRequest((event(door),)), STAMP)
    orjson.loads(post.body)
    assert event_id(RUN, 5).encode() in post.body
    assert {kind for kind, _ in MarkerScan(RUN).find(post.body)} == {"an", "mk"}
    assert b"the-token" in post.body
    assert post.headers["X-Region"] == "DE"


@pytest.mark.parametrize("door", DOORS)
def test_without_personalization_a_marker_stands_in_for_the_token(door: Door) -> None:
    """Nothing of it may be seen behind the gate."""
    post = build_event_request(SimulatedRequest((event(door, VisitorChoice.CMP_ANALYTICS),)), STAMP)
    assert b"the-token" not in post.body
    assert ("pz", 5) in MarkerScan(RUN).find(post.body)


@pytest.mark.parametrize("door", DOORS)
def test_defects_are_what_they_say(door: Door) -> None:
    """And every one that must end as a dead letter can be found in it."""
    whole = event(door)
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(build_event_request(SimulatedRequest((replace(whole, defect=Defect.BROKEN_BODY),)), STAMP).body)
    for defect in (Defect.NO_NAME, Defect.NOT_AN_OBJECT):
        post = build_event_request(SimulatedRequest((whole, replace(whole, n=6, defect=defect))), STAMP)
        assert ("dd", 6) in MarkerScan(RUN).find(post.body)
        assert ("dd", 5) not in MarkerScan(RUN).find(post.body)
    wrong = build_event_request(SimulatedRequest((replace(whole, defect=Defect.WRONG_KEY),)), STAMP)
    assert STAMP.write_key not in str(wrong.headers) + str(wrong.query) + wrong.body.decode()


def test_poison_is_no_framed_record() -> None:
    """The first byte already says so."""
    post = build_event_request(SimulatedRequest((event("headwater", defect=Defect.POISON),)), STAMP)
    assert post.body[0] != 0
    assert ("dd", 5) in MarkerScan(RUN).find(post.body)


def test_silence_says_nothing() -> None:
    """A visitor without a choice sends no signal."""
    assert consent_signals(Device("c", "ga4", "US", VisitorChoice.SILENT, "agent"), STAMP.now_ms) == {}


@pytest.mark.parametrize("door", DOORS)
def test_the_event_itself_says_where_its_visitor_is(door: Door) -> None:
    """As a server would, for keys whose headers tell nothing; and says nothing where that is unknown."""
    whole = event(door)
    body = build_event_request(SimulatedRequest((whole,)), STAMP).body
    assert b"DE" in body
    nowhere = replace(whole, device=replace(whole.device, region=""))
    post = build_event_request(SimulatedRequest((nowhere,)), STAMP)
    assert b"location" not in post.body.replace(b"page_location", b"")
    assert "X-Region" not in post.headers


def test_onetrust_groups_stand_where_each_protocol_has_them() -> None:
    """Under their own names; in Segment's calls as categories, and the time beside them."""
    choice = replace(event("segment", VisitorChoice.ONETRUST_NONE), dated=True)
    consent = orjson.loads(build_event_request(SimulatedRequest((choice,)), STAMP).body)["batch"][0]["context"]["consent"]
    assert consent == {
        "chosen_ts": STAMP.now_ms,
        "categoryPreferences": {"C0001": True, "C0002": False, "C0003": False, "C0004": False},
    }
    request = SimulatedRequest((event("headwater", VisitorChoice.ONETRUST_NO_ADS),))
    own = orjson.loads(build_event_request(request, STAMP).body)["events"][0]["consent"]
    assert own == {"C0001": True, "C0002": True, "C0003": True, "C0004": False}


def test_the_page_on_which_a_tc_string_is_chosen_says_so() -> None:
    """Others say that it is loaded."""
    for name, status in ((CHOICE_EVENT, "useractioncomplete"), ("page_view", "tcloaded")):
        choice = replace(event("headwater", VisitorChoice.TC_NONE), name=name)
        consent = orjson.loads(build_event_request(SimulatedRequest((choice,)), STAMP).body)["events"][0]["consent"]
        assert (consent["tc_event_status"], consent["gdpr_applies"]) == (status, "1")


def test_statements_name_whom_they_are_about_and_what() -> None:
    """Withdrawals by purpose, choices by signals, under the key of the source."""
    device = event("headwater").device
    withdrawal = build_consent_request(Statement(device, (("client_id", "c"),), 6, withdrawal=True), STAMP)
    assert orjson.loads(withdrawal.body) == {
        "client_id": "c", "kind": "withdrawal", "purposes": ["marketing", "personalization"],
    }  # fmt: skip
    grant = build_consent_request(Statement(device, (("user_id", "u"), ("client_id", "c")), 1, grants=True), STAMP)
    assert orjson.loads(grant.body) == {"user_id": "u", "client_id": "c", "consent": {"cmp.analytics": "granted"}}
    assert (grant.path, grant.headers["Authorization"]) == ("/v1/consent", f"Bearer {STAMP.write_key}")


def test_the_decision_api_is_told_words_alone() -> None:
    """The decision API's consent map has text values."""
    post = build_decision_request(
        DecisionRequest(event("ga4", VisitorChoice.ONETRUST_NO_ADS).device, event("ga4").person), STAMP
    )
    assert orjson.loads(post.body)["consent"] == {"C0001": "granted", "C0002": "granted", "C0003": "granted", "C0004": "denied"}


def sent_by(cookie: str, whole: SimulatedEvent) -> SimulatedRequest:
    """Return the request of an event on this device."""
    return SimulatedRequest((replace(whole, device=replace(whole.device, cookie=cookie)),))


@pytest.mark.parametrize("door", DOORS)
def test_browsers_send_what_reconcile_looks_for(door: Door) -> None:
    """Id, markers, token and region are in a request, and the page could send it without a preflight."""
    choice = VisitorChoice.MODE_ALL
    request = sent_by(BROWSER, event(door, choice))
    assert choose_way(request) is SendingWay.BROWSER
    post = build_event_request(request, STAMP)
    assert event_id(RUN, 5).encode() in post.body
    assert {kind for kind, _ in MarkerScan(RUN).find(post.body)} == {"an", "mk"}
    assert b"the-token" in post.body
    assert post.headers["X-Region"] == "DE"
    assert "Authorization" not in post.headers
    expected = {
        "headwater": "/v1/events",
        "segment": "/v1/t",
        "snowplow": "/com.snowplowanalytics.snowplow/tp2",
        "ga4": "/g/collect",
    }
    assert post.path == expected[door]
    assert (post.headers["Content-Type"].startswith("text/plain"), "SP-Anonymous" in post.headers) == (
        door != "snowplow",
        door == "snowplow",
    )
    assert STAMP.write_key in post.body.decode() + str(post.query)


@pytest.mark.parametrize("door", DOORS)
def test_defects_of_browsers_are_what_they_say(door: Door) -> None:
    """An event without a name and a text can be found by their markers, and a damaged request is a server's."""
    whole = event(door, VisitorChoice.MODE_ALL)
    for defect in (Defect.NO_NAME, Defect.NOT_AN_OBJECT):
        (damaged,) = sent_by(BROWSER, replace(whole, n=6, defect=defect)).events
        post = build_event_request(SimulatedRequest((*sent_by(BROWSER, whole).events, damaged)), STAMP)
        assert {n for kind, n in MarkerScan(RUN).find(post.body) if kind == "dd"} == {6}
    for defect in (Defect.WRONG_KEY, Defect.BROKEN_BODY):
        assert choose_way(sent_by(BROWSER, replace(whole, defect=defect))) is SendingWay.SERVER


@pytest.mark.parametrize("choice", [choice for choice in VisitorChoice if not choice.startswith("mode")])
def test_googles_tag_sends_only_choices_that_it_can_express(choice: VisitorChoice) -> None:
    """It knows Consent Mode; other choices, and events of the past, come by the Measurement Protocol."""
    assert build_event_request(sent_by(BROWSER, event("ga4", choice)), STAMP).path == "/mp/collect"
    late = replace(event("ga4", VisitorChoice.MODE_ALL), age_ms=60_000)
    assert build_event_request(sent_by(BROWSER, late), STAMP).path == "/mp/collect"


@pytest.mark.parametrize("door", DOORS)
def test_some_devices_compress_their_bodies(door: Door) -> None:
    """The body is what the device would send otherwise, and a retry has the same bytes."""
    request = sent_by(COMPRESSED, event(door))
    post = build_event_request(request, STAMP)
    assert (choose_way(request), post.headers["Content-Encoding"]) == (SendingWay.COMPRESSED, "gzip")
    plain = BUILDERS[door](request, STAMP)
    assert gzip.decompress(post.body) == plain.body
    assert build_event_request(request, STAMP) == post
