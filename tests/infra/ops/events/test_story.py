"""The story of an event, from what each layer holds of it."""

from datetime import UTC, datetime
from typing import Any

import pytest

from infra.ops.events.data import as_data
from infra.ops.events.search import EventCopy, TopicSearch
from infra.ops.events.story import summarise_decision, tell, verdict
from infra.ops.events.trace import EventTrace, TraceRequest
from schemas.codec import Record

NOW = 1_800_000_000_000
RAW, CONSENTED, RESOLVED = "events.raw", "events.consented", "events.resolved"
EVENT: Record = {
    "event_id": "e-1", "event_name": "purchase", "source": "web-de", "site": "shop.example", "protocol": "segment",
    "collector_ts": NOW, "event_ts": NOW - 5_000, "event_ts_source": "corrected", "identifiers": ["0" + "a" * 32],
    "problems": ["value was a text"],
}  # fmt: skip
DECIDED: Record = EVENT | {
    "consent_outcome": "strip", "consent_purposes": 1, "consent_reasons": "analytics=OK_CONSENT marketing=PURPOSE",
    "consent_policy": "p1",
}  # fmt: skip
IDENTIFIED: Record = DECIDED | {"profile_id": "0aa", "node": "0bb", "identity_state": "resolved"}
ROW = {
    "profile_now": "0aa", "_topic_id": "t", "_partition": 1, "_offset": 4,
    "_loaded_at": datetime(2027, 1, 15, 8, 0, 1, tzinfo=UTC),
}  # fmt: skip


def search(topic: str, *records: Record, to_end: bool = False) -> TopicSearch:
    """What was found on a topic."""
    copies = [EventCopy(topic, 3, 7 + number, NOW + number, record) for number, record in enumerate(records)]
    return TopicSearch(topic, NOW - 86_400_000, NOW, copies, to_end or not copies)


def trace(**layers: Any) -> EventTrace:
    """A trace of these records by layer."""
    event = EventTrace(TraceRequest("e-1", NOW - 86_400_000, to_end=False, decrypt=False), ("e-1", "pseudonym"))
    for topic, name in ((RAW, "raw"), (CONSENTED, "consented"), (RESOLVED, "resolved")):
        event.topics[topic] = search(topic, *layers.get(name, ()))
    event.letters = search("events.dead", *layers.get("letters", ()))
    event.audit = search("consent.audit", *layers.get("audit", ()))
    event.rows = layers.get("rows", [])
    event.waiting = layers.get("waiting", {})
    return event


def text(event: EventTrace) -> str:
    """The story as printed."""
    return "\n".join(f"{label}: {line}" for label, line in tell(event))


def audited(outcome: str, reasons: str) -> Record:
    """What the audit counts of the event's site and minute."""
    return {"kind": "denied", "outcome": outcome, "reasons": reasons, "policy": "p1", "n": 3}


LETTER: Record = {
    "stage": "consent", "reason": "UNDECODABLE", "detail": "broken datum", "source": "web-de", "dead_ts": NOW,
}  # fmt: skip


@pytest.mark.parametrize(
    ("layers", "state", "words"),
    [
        ({"raw": [EVENT], "consented": [DECIDED], "resolved": [IDENTIFIED], "rows": [ROW]}, "loaded", "in ClickHouse"),
        ({"raw": [EVENT], "letters": [LETTER]}, "dead", "consent made a dead letter of it, UNDECODABLE"),
        ({"raw": [EVENT], "waiting": {RAW: 312}}, "waiting", "consent has 312 records to read"),
        ({"raw": [EVENT], "waiting": {RAW: None}}, "waiting", "consent has never read that partition"),
        ({"raw": [EVENT], "waiting": {RAW: 0}}, "dropped", "the audit counts no dropped event"),
        ({"raw": [EVENT], "waiting": {RAW: 0}, "audit": [audited("drop", "a=PURPOSE")]}, "dropped", "is not kept"),
        ({"raw": [EVENT], "consented": [DECIDED], "waiting": {CONSENTED: 2}}, "waiting", "identity has 2"),
        ({"raw": [EVENT], "consented": [DECIDED], "waiting": {CONSENTED: 0}}, "dropped", "same id came before"),
        ({"raw": [EVENT], "resolved": [IDENTIFIED], "waiting": {RESOLVED: 9}}, "waiting", "the warehouse has 9"),
        ({"raw": [EVENT], "resolved": [IDENTIFIED], "waiting": {RESOLVED: 0}}, "missing", "no row is there"),
        ({}, "unknown", "no layer"),
    ],
)
def test_the_verdict_says_where_the_event_is(layers: dict[str, Any], state: str, words: str) -> None:
    """In the last layer that has it, and why it is in no later one."""
    assert verdict(trace(**layers))[0] == state
    assert words in verdict(trace(**layers))[1]


def test_a_loaded_event_is_told_from_its_arrival_to_its_row() -> None:
    """Door, source, problems, each purpose with its reason, the visitor, the row."""
    event = trace(raw=[EVENT, EVENT], consented=[DECIDED], resolved=[IDENTIFIED], rows=[{**ROW, "profile_now": "0cc"}])
    story = text(event)
    for words in (
        "purchase, through the door of segment, from source web-de, site shop.example", "Problems: value was a text",
        "Copies: 2 on events.raw", "analytics  yes  the visitor agreed (OK_CONSENT)",
        "marketing  no   the visitor said no (PURPOSE)",
        "by policy p1", "identifiers that were sent: user", "profile 0aa, by its node 0bb", "belongs to profile 0cc today",
        "row 1:4, loaded 2027-01-15 08:00:01", "events.raw  3:7, 3:8", "Not found: in events.dead, searched from 2027-01-14",
    ):  # fmt: skip
        assert words in story
    data = as_data(event)
    assert data["rows"] == [
        {"topic_id": "t", "partition": 1, "offset": 4, "loaded_ts": 1_800_000_001_000, "profile_now": "0cc"}
    ]
    assert (data["state"], data["problems"], data["identity"]["profile_id"]) == ("loaded", ["value was a text"], "0aa")


def test_reasons_of_a_dropped_event_come_from_the_audit() -> None:
    """With what was granted; and with a warning where other events of that minute were dropped for other reasons."""
    records = [audited("strip", "analytics=PURPOSE"), audited("drop", "analytics=OK_CONSENT marketing=WITHDRAWN")]
    decision = summarise_decision(trace(raw=[EVENT], waiting={RAW: 0}, audit=records))
    assert decision is not None
    assert [(ruling.purpose, ruling.granted) for ruling in decision.rulings] == [("analytics", True), ("marketing", False)]
    assert decision.certain
    several = trace(raw=[EVENT], waiting={RAW: 0}, audit=[*records, audited("drop", "analytics=PURPOSE")])
    assert "these may be theirs" in text(several)


def test_nothing_leads_from_an_event_to_its_anonymous_record() -> None:
    """Neither positions nor the row: only that they are there. Who asks for the anonymous id itself gets its story."""
    anonymous = DECIDED | {"event_id": "x-9", "consent_outcome": "anonymise", "consent_purposes": 0}
    layers = {
        "consented": [anonymous],
        "resolved": [anonymous | {"profile_id": "", "node": "", "identity_state": "anonymous"}],
        "rows": [ROW],
    }
    hidden = trace(raw=[EVENT], **layers)
    story = text(hidden)
    assert "x-9" not in story
    assert "row 1:4" not in story
    assert "events.consented  once, without a link" in story
    data = as_data(hidden)
    assert (data["rows"], data["row_count"], data["identity"]) == ([], 1, None)
    assert [places["places"] for places in data["topics"][1:]] == [[], []]
    assert "row 1:4" in text(trace(**layers))


def test_an_unknown_event_is_answered_with_what_was_searched() -> None:
    """And with the place that was not: encrypted letters."""
    story = text(trace())
    assert "Not found: in events.raw, searched from 2027-01-14 08:00:00.000 UTC to 2027-01-15 08:00:00.000 UTC" in story
    assert "--decrypt opens the letters" in story
    assert not trace().is_known


def test_a_replaced_id_and_an_absent_warehouse_are_told() -> None:
    """The pseudonym is what rows have; without ClickHouse nothing is said about rows."""
    event = trace(raw=[EVENT | {"event_id": "pseudonym"}], waiting={RAW: 0})
    event.warehouse_error = "ClickHouse does not answer: TimeoutError"
    assert "stored as pseudonym" in text(event)
    assert "could not be asked: ClickHouse does not answer" in text(event)
    assert "no row" not in text(event)


def test_the_bytes_of_an_opened_letter_are_shown() -> None:
    """They are what the sender sent."""
    event = trace(letters=[LETTER | {"value": b'{"event_id": "e-1"}'}])
    assert 'bytes: b\'{"event_id": "e-1"}\'' in text(event)
    assert as_data(event)["dead_letters"][0]["value"] == '{"event_id": "e-1"}'
