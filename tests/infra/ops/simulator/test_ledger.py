"""The ledger's file."""

from pathlib import Path

import pytest

from infra.errors import ConfigError
from infra.ops.simulator.ledger import DecisionLine, EndLine, EventLine, RefusalLine, RunLine, Writer, read_ledger
from infra.ops.simulator.marks import event_id

RUN = RunLine("abcdefab", 1, 3, 1_000)


def line(n: int, **more: object) -> EventLine:
    """A line about an event that was resolved."""
    identity = {
        "n": n,
        "id": event_id(RUN.run, n),
        "door": "segment",
        "name": "page_view",
        "attempts": 1,
        "acked": 1,
        "status": 200,
    }
    rest = {"fate": "resolved", "outcome": "pass", "mask": 7, "account": "", "decision": ""}
    return EventLine(**{**identity, **rest, **more})  # type: ignore[arg-type] # test data


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    """Fates, masks, accounts, decisions and what answers them."""
    file = tmp_path / "ledger.jsonl"
    with Writer(file, RUN) as writer:
        writer.write("event", line(0, account="person-1"))
        writer.write("decision", DecisionLine("d1", "hero-banner", "calm", "bandit", True, True))
        writer.write("event", line(1, name="widget_viewed", decision="d1"))
        writer.write(
            "event", line(2, id="derived-by-the-door", fate="refused", outcome="", mask=0, acked=0, status=503, refusal=4)
        )
        writer.write("refusal", RefusalLine(4, "webhook", True))
        writer.write("end", EndLine(2_000, 3, 2, 0))
    ledger = read_ledger(file)
    assert [ledger.fate(n) for n in range(4)] == [1, 1, 5, 0]
    assert list(ledger.answered) == [1, 1, 0]
    assert list(ledger.accounts) == [0, -1, -1]
    assert ledger.decisions == {"d1": True}
    assert ledger.exposures == {"d1": event_id(RUN.run, 1)}
    assert ledger.number("derived-by-the-door") == 2
    assert list(ledger.after) == [-1, -1, 4]
    assert ledger.refusals == {4: RefusalLine(4, "webhook", True)}
    assert ledger.ended == 2_000


def test_a_file_that_is_no_ledger_is_refused_in_words(tmp_path: Path) -> None:
    """Any other file raises ConfigError."""
    for text in ("", "{}\n", "no json\n"):
        file = tmp_path / "other"
        file.write_text(text)
        with pytest.raises(ConfigError, match=r"ledger|JSON"):
            read_ledger(file)
    with pytest.raises(ConfigError, match="cannot read"):
        read_ledger(tmp_path / "missing")
