"""Refusals without a time, under an unmapped name, or beside something unreadable are stored."""

import pytest

from tests.streams.consent.room import DENIED, EMPTY, GRANTED, SUBJECT, Room, T

USER = b"0" + b"ee" * 16
LATER = T + 5_000
SILENT = "NO_SIGNAL NO_SIGNAL NO_SIGNAL"
ANALYTICS, MARKETING = 0, 1
"""Places of purposes among an event's reasons."""


def test_an_undated_refusal_is_remembered_of_every_identifier_of_its_event() -> None:
    """A logged-in visitor refuses in Germany; an event of her cookie alone, without signals in the US, is denied."""
    room = Room()
    room.event(DENIED, subject=USER, identifiers=[USER.decode(), SUBJECT.decode()])
    assert room.event(EMPTY, LATER, region="US") != SILENT


@pytest.mark.parametrize("name", ["page_view", "consent_update"])
def test_a_refusal_under_an_unknown_name_is_not_undone_by_silence(name: str) -> None:
    """The refusal is stored, dated or not."""
    room = Room()
    assert room.event({"partner_sharing": "denied"}, event_name=name) == "UNMAPPED UNMAPPED UNMAPPED"
    assert room.event(EMPTY, LATER, region="US") != SILENT


def test_a_dated_refusal_under_an_unknown_name_beats_an_undated_grant() -> None:
    """A dated refusal under an unmapped name overrides an undated grant."""
    room = Room()
    room.event({"partner_sharing": "denied"}, event_name="consent_update")
    assert room.event(GRANTED, LATER).split()[MARKETING] != "OK_CONSENT"


@pytest.mark.parametrize(
    ("signals", "purpose"),
    [
        ({"cmp.marketing": "denied", "cmp.ads": "maybe"}, MARKETING),
        ({"cmp.marketing": "denied", "cmp.marketing#2": "maybe"}, MARKETING),
        ({"C0002": "denied", "statistics": "?"}, ANALYTICS),
        ({"cm.ad_storage": "denied", "cm.ad_user_data": "nope"}, MARKETING),
        ({"gcs": "G100", "gcd": "zz"}, ANALYTICS),
    ],
)
def test_something_unreadable_beside_a_refusal_does_not_make_it_forgotten(signals: dict[str, str], purpose: int) -> None:
    """The refusal is stored although another value is unreadable."""
    room = Room()
    room.event(signals, event_name="consent_update")
    assert room.event(GRANTED, LATER).split()[purpose] != "OK_CONSENT"


def test_something_unreadable_beside_a_refusal_by_webhook_does_not_make_it_forgotten() -> None:
    """The same holds for a choice that is sent to `/v1/consent`."""
    room = Room()
    room.signal(kind="choice", signals={"cmp.marketing": "denied", "C0004": "?"})
    assert room.event(GRANTED, LATER).split()[MARKETING] != "OK_CONSENT"
