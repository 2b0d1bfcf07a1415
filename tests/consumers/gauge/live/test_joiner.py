"""Joining what the stages write about one event: complete, refused, copied, dead, waiting; bounded."""

from typing import Any

import pytest

from consumers.gauge.live.joiner import (
    AUDIT,
    CHECK_S,
    CONSENTED,
    DEAD,
    GRACE_S,
    MAX_OPEN,
    RAW,
    RESOLVED,
    WINDOW_S,
    EventJoiner,
    TopicRecord,
)
from consumers.gauge.live.live_event import LiveEvent, LiveState
from infra.settings import PACKAGED_CONTRACTS
from schemas.codec import Record, encode
from schemas.registry import Registry

REGISTRY = Registry(PACKAGED_CONTRACTS)
MINUTE = 1_800_000_000_000 // 60_000 * 60_000
EVENT: Record = {
    "event_id": "e-1", "event_name": "purchase", "source": "web-de", "site": "shop.example", "heartbeat": False,
    "collector_ts": MINUTE + 17, "region": "DE", "signals": {}, "identifiers": [], "decision_token": "", "order_id": "",
    "value": 0.0, "currency": "", "event_ts": MINUTE, "event_ts_source": "device", "protocol": "headwater", "tag_version": "",
    "page_url": "", "page_title": "", "page_referrer": "", "user_agent": "", "device_class": "", "bot": False, "ip_prefix": "",
    "click_ids": {}, "match_tokens": {}, "properties": {},
}  # fmt: skip
CONSENT: Record = {
    "consent_outcome": "strip", "consent_purposes": 1, "consent_reasons": "analytics=OK_CONSENT marketing=PURPOSE",
    "consent_policy": "p", "consent_evidence": "",
}  # fmt: skip
IDENTITY: Record = {"profile_id": "2a", "node": "2a", "identity_state": "resolved"}


class Stream:
    """A joiner, and a clock that only this test moves."""

    def __init__(self) -> None:
        self.joiner = EventJoiner(REGISTRY)
        self.now = 100.0

    def put(self, topic: str, offset: int, record: Record, partition: int = 3) -> None:
        """Add a record of a topic's newest contract."""
        self.joiner.add(TopicRecord(topic, partition, offset, encode(REGISTRY.latest(topic), record)), self.now)

    def raw(self, offset: int = 7, **fields: Any) -> None:
        """The event arrives."""
        self.put(RAW, offset, EVENT | fields)

    def ready(self, committed: dict[tuple[str, int], int] | None = None, after: float = CHECK_S) -> list[LiveEvent]:
        """What is shown after so many seconds."""
        self.now += after
        return self.joiner.take_ready(self.now, committed or {})

    def refused(self, topic: str, offset: int) -> list[LiveEvent]:
        """What is shown once the reader of a topic has committed past an offset."""
        assert self.ready({(topic, 3): offset + 1}) == []
        return self.ready({(topic, 3): offset + 1}, GRACE_S)


def audited(outcome: str, reasons: str) -> Record:
    """What the audit counts of the event's site and minute."""
    return {
        "site": EVENT["site"], "minute": MINUTE, "outcome": outcome, "reasons": reasons, "policy": "p", "n": 1, "chain": 3,
        "kind": "denied",
    }  # fmt: skip


@pytest.fixture
def stream() -> Stream:
    """An empty joiner."""
    return Stream()


def test_an_event_is_shown_once_when_it_leaves_the_last_stage(stream: Stream) -> None:
    """With its decision and the place of its row; nothing before, nothing after."""
    stream.raw()
    assert stream.ready() == []
    stream.put(CONSENTED, 5, CONSENT | EVENT)
    assert stream.ready() == []
    stream.put(RESOLVED, 4, IDENTITY | CONSENT | EVENT, partition=1)
    (shown,) = stream.ready()
    assert (shown.state, shown.event_id, shown.outcome, shown.row) == (LiveState.RESOLVED, "e-1", "strip", "1:4")
    assert [ruling.mark for ruling in shown.rulings] == ["a+", "m-"]
    assert not stream.joiner.is_waiting
    assert stream.ready(after=2 * WINDOW_S) == []


def test_a_dropped_event_is_shown_with_what_the_audit_says(stream: Stream) -> None:
    """Only after consent has committed past it, and its outputs would be visible."""
    stream.raw()
    stream.put(AUDIT, 1, audited("drop", "analytics=OK_CONSENT marketing=WITHDRAWN"))
    assert stream.ready({(RAW, 3): 7}, 5) == []
    (shown,) = stream.refused(RAW, 7)
    assert (shown.state, shown.outcome) == (LiveState.DROPPED, "drop")
    assert [(ruling.granted, ruling.reason) for ruling in shown.rulings] == [(True, "OK_CONSENT"), (False, "WITHDRAWN")]


def test_reasons_of_other_events_are_not_passed_off_as_this_ones(stream: Stream) -> None:
    """Where the audit counts several refusals in a minute, no reason is shown."""
    stream.raw()
    stream.put(AUDIT, 1, audited("drop", "marketing=WITHDRAWN"))
    stream.put(AUDIT, 2, audited("anonymise", "marketing=PURPOSE"))
    stream.put(AUDIT, 3, audited("strip", "marketing=PURPOSE"))
    (shown,) = stream.refused(RAW, 7)
    assert (shown.outcome, shown.rulings) == ("anonymise or drop", ())


def test_an_anonymised_event_is_shown_without_its_row(stream: Stream) -> None:
    """The anonymous event comes as one of its own."""
    stream.raw()
    stream.put(AUDIT, 1, audited("anonymise", "analytics=PURPOSE"))
    anonymous = CONSENT | EVENT | {"event_id": "x-9", "consent_outcome": "anonymise", "consent_purposes": 0}
    stream.put(CONSENTED, 8, anonymous)
    stream.put(RESOLVED, 2, IDENTITY | anonymous)
    first, second = *stream.ready(), *stream.refused(RAW, 7)
    assert (first.event_id, first.row, first.outcome) == ("x-9", "3:2", "anonymise")
    assert (second.event_id, second.row, second.state) == ("e-1", "", LiveState.ANONYMISED)


def test_a_copy_of_an_event_is_shown_as_left_out(stream: Stream) -> None:
    """Copies that come together are counted; a later one comes out of consent and not out of identity."""
    stream.raw(7)
    stream.raw(8)
    stream.put(CONSENTED, 5, CONSENT | EVENT)
    stream.put(RESOLVED, 4, IDENTITY | CONSENT | EVENT)
    (shown,) = stream.ready()
    assert shown.copies == 2
    stream.put(CONSENTED, 6, CONSENT | EVENT)
    (copy,) = stream.refused(CONSENTED, 6)
    assert (copy.state, copy.event_id) == (LiveState.LEFT_OUT, "e-1")


def letter(topic: str, offset: int) -> Record:
    """A dead letter about a record of partition 3."""
    return {
        "stage": "consent", "reason": "UNDECODABLE", "detail": "broken datum", "source_topic": topic, "source_partition": 3,
        "source_offset": offset, "source": "web-de", "dead_ts": MINUTE, "key_day": "2027-01-15", "payload": b"sealed",
    }  # fmt: skip


def test_a_dead_letter_is_joined_by_the_position_of_its_record(stream: Stream) -> None:
    """One about a record that was not read, or that came no further than a door, is shown alone."""
    stream.raw()
    stream.put(DEAD, 1, letter(RAW, 7))
    stream.put(DEAD, 2, letter("", 99))
    joined, alone = stream.ready()
    assert (joined.event_id, joined.state, joined.letter, joined.stage) == ("e-1", LiveState.DEAD, "3:1", "consent")
    assert joined.problems == ("UNDECODABLE: broken datum",)
    assert (alone.event_id, alone.source, alone.letter) == ("", "web-de", "3:2")
    assert not stream.joiner.is_waiting


def test_an_event_that_nobody_reads_is_shown_as_waiting_and_again_when_it_goes_on(stream: Stream) -> None:
    """It names the stage that it waits for."""
    stream.raw()
    (waiting,) = stream.ready({(RAW, 3): 7}, WINDOW_S)
    assert (waiting.state, waiting.waits_for) == (LiveState.WAITING, "consent")
    stream.put(CONSENTED, 5, CONSENT | EVENT)
    stream.put(RESOLVED, 4, IDENTITY | CONSENT | EVENT)
    assert [event.state for event in stream.ready()] == [LiveState.RESOLVED]


def test_open_events_are_bounded(stream: Stream) -> None:
    """Beyond the bound the oldest is shown as it is, not lost."""
    value = EVENT
    for number in range(MAX_OPEN + 2):
        stream.raw(number, **{**value, "event_id": f"e-{number}"})
    assert [event.event_id for event in stream.ready()] == ["e-0", "e-1"]


def test_heartbeats_and_unreadable_records_are_left_out_and_unknown_contracts_counted(stream: Stream) -> None:
    """An unreadable record is shown by its dead letter; one of an unknown contract counts as lost."""
    stream.raw(1, heartbeat=True)
    stream.joiner.add(TopicRecord(RAW, 0, 2, b"\xff poison"), stream.now)
    assert stream.joiner.take_unknown() == 0
    stream.joiner.add(TopicRecord(RAW, 0, 3, b"\x00\x7f\x00\x00\x01"), stream.now)
    assert (stream.joiner.take_unknown(), stream.joiner.take_unknown()) == (1, 0)
    assert stream.ready() == []
    assert not stream.joiner.is_waiting
