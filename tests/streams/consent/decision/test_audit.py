"""The audit chain: valid chains have no break, and changed, removed, inserted or missing records are found."""

from typing import Any

import pytest

from streams.consent.decision.audit import HASHED, ChainHead, append_record, find_breaks


def chain(n: int, number: int = 0) -> tuple[list[dict[str, Any]], dict[int, ChainHead]]:
    """A chain of `n` records and its head."""
    head, records = ChainHead(), []
    for at in range(n):
        facts = {"kind": "denied", "policy": "p", "reasons": f"r{at}", "outcome": "strip", "method": "event", "minute": at}
        head, record = append_record(head, number, facts)
        records.append(record)
    return records, {number: head}


def test_a_whole_chain_verifies() -> None:
    """A written chain has no break, also where its oldest records have expired."""
    records, heads = chain(5)
    others, other_heads = chain(3, 1)
    assert list(find_breaks(records + others, heads | other_heads)) == []
    assert list(find_breaks(records[2:], heads)) == []
    assert list(find_breaks([], {0: ChainHead()})) == []


@pytest.mark.parametrize("name", [name for name in HASHED if name not in ("chain", "seq")])
def test_a_changed_field_is_found(name: str) -> None:
    """Whichever field of a record is changed, that record is named."""
    records, heads = chain(5)
    records[2][name] = 7 if isinstance(records[2][name], int) else "other"
    assert 3 in {broken.seq for broken in find_breaks(records, heads)}


def test_a_changed_record_with_a_new_hash_is_found() -> None:
    """A record that is changed together with its hash breaks the link to the next record."""
    records, heads = chain(5)
    _, forged = append_record(ChainHead(2, records[2]["prev_hash"]), 0, {**records[2], "n": 99})
    assert [broken.seq for broken in find_breaks([*records[:2], forged, *records[3:]], heads)] == [4]


def test_missing_records_are_found() -> None:
    """Removed records are found in the middle and at the end, and a replaced last record too."""
    records, heads = chain(5)
    assert [broken.seq for broken in find_breaks(records[:2] + records[3:], heads)] == [4]
    assert [broken.seq for broken in find_breaks(records[:4], heads)] == [5]
    assert [broken.seq for broken in find_breaks([], heads)] == [5]
    assert [broken.seq for broken in find_breaks([*records[:2], *records[1:]], heads)] == [2]
    assert [broken.problem for broken in find_breaks(records, {0: ChainHead(5, "other")})] == [
        "is not the record that was written last"
    ]
