"""Times in the forms that senders use."""

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.parsing.times import MAX_S, MIN_S, parse_moment, parse_time

T = 1_795_514_400_000
"""2026-11-24T10:00:00 UTC."""

NOW_MS = 1_796_000_000_000


@pytest.fixture(autouse=True, params=["UTC", "America/Caracas", "Asia/Tokyo"])
def local_zone(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run in several local time zones, on which no result may depend."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = request.param
    time.tzset()
    yield
    os.environ.pop("TZ")
    if before is not None:
        os.environ["TZ"] = before
    time.tzset()


@pytest.mark.parametrize(
    "value",
    [
        1_795_514_400, 1_795_514_400_000, 1_795_514_400_000_000, 1_795_514_400_000_000_000, 1_795_514_400.0,
        1_795_514_400_000.4, 1.7955144e15, "1795514400", "1795514400000", " 1795514400000 ", "1795514400.0", "1.7955144e9",
        "1.7955144E+12", "1795514400000000", "2026-11-24T10:00:00Z", "2026-11-24T10:00:00z", "2026-11-24t10:00:00Z",
        "2026-11-24T10:00:00", "2026-11-24 10:00:00", "2026-11-24 10:00", "2026-11-24T10:00", "20261124T100000Z",
        "2026-11-24T11:00:00+01:00", "2026-11-24T11:00:00+0100", "2026-11-24T11:00:00+01", "2026-11-24 05:00:00-05:00",
        "2026-11-24 11:00:00 +0100", "2026-11-24 10:00:00 UTC", "2026-11-24 10:00:00.000 GMT",
        "2026-11-24T10:00:00.000000000Z", "2026-11-24T10:00:00,000Z", "Tue, 24 Nov 2026 10:00:00 GMT",
        "Tue, 24 Nov 2026 11:00:00 +0100", "24 Nov 2026 10:00:00",
        "Tue Nov 24 2026 11:00:00 GMT+0100 (Central European Standard Time)", "Tue Nov 24 2026 10:00:00 GMT",
    ],
)  # fmt: skip
def test_usual_forms(value: object) -> None:
    """Each usual way to write one moment gives that moment, whatever zone the machine stands in."""
    assert parse_time(value) == T


def test_milliseconds_are_kept() -> None:
    """Fractions of a second survive from numbers and from texts."""
    assert [parse_time(value) for value in (1_795_514_400.017, "1795514400.017", T + 17, "2026-11-24T10:00:00.017Z")] == [
        T + 17
    ] * 4
    assert parse_time((T + 17) * 1_000_000 + 999_999) == T + 17


def test_date_alone() -> None:
    """A date without a time is its midnight in UTC."""
    assert parse_time("2026-11-24") == parse_time("20261124") == parse_time("2026-W48-2") == T - 10 * 3_600_000


@pytest.mark.parametrize(
    "value",
    [
        None, True, False, 0, 1, -1_795_514_400, 7, 20_261_124, 20_261_124_100_000, float("nan"), float("inf"), 1e300,
        10**400, "", " ", "soon", "yesterday", "null", "nan", "inf", "1_795_514_400", "0x6b0", "-1795514400", "١٧٩٥٥١٤٤٠٠",
        "2026-13-01", "2026-11-31T10:00:00Z", "0001-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "9999-12-31T23:59:59Z",
        "24.11.2026", "11/24/2026", "2026-11-24T25:00:00Z", "9" * 400, "1e99", [1_795_514_400], {"at": 1_795_514_400},
        b"1795514400", "Tue, 99 Foo 2026",
    ],
)  # fmt: skip
def test_what_is_no_time(value: object) -> None:
    """What names no moment between 1973 and 2100 is None, never an error and never a guess."""
    assert parse_time(value) is None


@given(
    st.datetimes(datetime(1980, 1, 1), datetime(2090, 1, 1)),
    st.integers(-14 * 60, 14 * 60),
)
def test_iso_agrees_with_the_calendar(naive: datetime, minutes: int) -> None:
    """ISO texts of any zone agree with the moment they were printed from, to the millisecond."""
    moment = naive.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    parsed = parse_time(moment.isoformat())
    assert parsed is not None
    assert abs(parsed - moment.timestamp() * 1000) <= 1
    assert parse_time(naive.isoformat()) == parse_time(naive.replace(tzinfo=UTC).isoformat())


@given(st.integers(MIN_S, MAX_S - 1), st.integers(0, 999))
def test_units_agree(seconds: int, ms: int) -> None:
    """A moment is the same in every unit, as number and as text."""
    moment = seconds * 1000 + ms
    assert (
        parse_time(moment) == parse_time(str(moment)) == parse_time(moment * 1000) == parse_time(moment * 1_000_000) == moment
    )
    assert parse_time(seconds) == seconds * 1000


@given(st.one_of(st.text(), st.floats(), st.integers(), st.from_regex(r"[0-9TZ:.+\- ]{0,40}", fullmatch=True)))
def test_never_raises(value: object) -> None:
    """Whatever is sent gives a time in range or None."""
    parsed = parse_time(value)
    assert parsed is None or MIN_S * 1000 <= parsed <= MAX_S * 1000


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90s", NOW_MS - 90_000),
        ("30m", NOW_MS - 1_800_000),
        ("2h", NOW_MS - 7_200_000),
        ("1.5h ago", NOW_MS - 5_400_000),
        (" 3D ", NOW_MS - 259_200_000),
        ("1w", NOW_MS - 604_800_000),
        ("2026-11-30", 1_795_996_800_000),
        ("2026-11-30T14:00+02:00", 1_796_040_000_000),
        ("yesterday", None),
        ("2 hours", None),
        ("-2h", None),
        ("h", None),
        ("", None),
    ],
)
def test_what_a_person_types_is_a_time_or_how_long_ago(text: str, moment: int | None) -> None:
    """Both on the command line; anything else is none, and never now."""
    assert parse_moment(text, NOW_MS) == moment
