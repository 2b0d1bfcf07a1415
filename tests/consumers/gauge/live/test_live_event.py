"""Filters, the stream's messages, and the line of an event."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from typer.testing import CliRunner

from consumers.gauge.live.command import app, format_event, read_messages
from consumers.gauge.live.live_event import LiveEvent, LiveFilter, LiveState, parse_filter, read_rulings
from infra.ops.embedded.ports import free_port

TIME_MS = 1_800_000_000_123
PLAIN = LiveEvent(LiveState.RESOLVED, TIME_MS, "e-1", "purchase", "web-de", outcome="pass", row="1:4")
ODD = PLAIN._replace(problems=("value was a text",))
DROPPED = PLAIN._replace(state=LiveState.DROPPED, row="", outcome="drop")
LETTER = LiveEvent(LiveState.DEAD, TIME_MS, source="web-de", problems=("CONTRACT: x",), stage="collector", letter="0:3")


@pytest.mark.parametrize(
    ("query", "matching"),
    [
        ({}, [PLAIN, ODD, DROPPED, LETTER]),
        ({"source": ["web-de", "app"]}, [PLAIN, ODD, DROPPED, LETTER]),
        ({"source": ["app"]}, []),
        ({"event": ["purchase"]}, [PLAIN, ODD, DROPPED]),
        ({"only": ["refused"]}, [DROPPED, LETTER]),
        ({"only": ["problems"]}, [ODD, LETTER]),
        ({"only": ["refused"], "event": ["purchase"]}, [DROPPED]),
    ],
)
def test_a_listener_gets_what_it_asks_for(query: dict[str, list[str]], matching: list[LiveEvent]) -> None:
    """All criteria must hold; several values of one are alternatives."""
    criteria = parse_filter(query)
    assert [event for event in (PLAIN, ODD, DROPPED, LETTER) if criteria.matches(event)] == matching


@pytest.mark.parametrize(
    "query", [{"only": ["everything"]}, {"only": ["refused", "problems"]}, {"sauce": ["x"]}, {"source": ["x"] * 21}]
)
def test_a_filter_that_cannot_work_is_refused(query: dict[str, list[str]]) -> None:
    """A misspelt parameter does not silently match everything."""
    with pytest.raises(ValueError, match=r"only|parameter|times"):
        parse_filter(query)


def test_rulings_are_read_from_the_columns() -> None:
    """The mask says what was granted, whatever the reasons are called."""
    rulings = read_rulings("analytics=OK_CONSENT marketing=NEW_REASON", 1)
    assert [(ruling.mark, ruling.reason) for ruling in rulings] == [("a+", "OK_CONSENT"), ("m-", "NEW_REASON")]
    assert read_rulings("", 7) == ()


def test_json_leaves_out_what_is_not_known() -> None:
    """State and time are always there."""
    assert LiveEvent(LiveState.WAITING, 0).as_data() == {"state": "waiting", "time_ms": 0, "copies": 1}
    assert LiveFilter().matches(PLAIN)


def test_a_line_says_time_source_name_marks_fate_reasons_and_problems() -> None:
    """One line for each state."""
    strip = ODD._replace(outcome="strip", rulings=read_rulings("analytics=OK_CONSENT marketing=PURPOSE", 1), copies=2)
    line = format_event(strip.as_data())
    assert line.split("  ")[0] == "08:00:00.123"
    for part in (
        "web-de",
        "purchase",
        "a+ m-",
        "strip -> row 1:4",
        "PURPOSE",
        "problems: value was a text",
        "sent 2 times",
        "id e-1",
    ):
        assert part in line
    assert "dead letter 0:3 of collector" in format_event(LETTER.as_data())
    assert "waits for consent" in format_event(PLAIN._replace(state=LiveState.WAITING, waits_for="consent").as_data())
    assert "left out" in format_event(PLAIN._replace(state=LiveState.LEFT_OUT).as_data())


def test_a_gauge_that_is_away_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its address."""
    url = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("HEADWATER_GAUGE_URL", url)
    assert f"the gauge at {url} does not answer" in str(CliRunner().invoke(app, []).exception)


def test_messages_are_read_from_the_stream() -> None:
    """Comments, unknown fields and both line ends."""

    async def lines() -> AsyncIterator[bytes]:
        body = b': listening\n\nevent: event\r\ndata: {"a": 1}\r\n\r\nid: 3\n\n: heartbeat\n'
        for line in body.splitlines(keepends=True):
            yield line

    async def read() -> list[tuple[str, Any]]:
        return [message async for message in read_messages(lines())]

    assert asyncio.run(read()) == [("comment", "listening"), ("event", {"a": 1}), ("comment", "heartbeat")]
