"""A refusal that is repeated after a grant under another regime."""

import pytest

from tests.streams.consent.room import DENIED, EMPTY, GRANTED, SUBJECT, Room, T

USER = b"0" + b"ee" * 16


@pytest.mark.parametrize("other", [False, True], ids=["of the key", "of another identifier"])
def test_an_undated_refusal_is_news_after_a_grant_under_another_regime(other: bool) -> None:
    """Refused in Germany, granted in the US, refused in Germany again within a day: a US event without signals is denied."""
    room = Room()

    def refuse(at: int) -> None:
        if other:
            room.event(DENIED, at, subject=USER, identifiers=[USER.decode(), SUBJECT.decode()])
        else:
            room.event(DENIED, at)

    refuse(T)
    room.event(GRANTED, T + 3_000, region="US")
    refuse(T + 6_000)
    assert room.event(EMPTY, T + 9_000, region="US") == "PURPOSE PURPOSE PURPOSE"
