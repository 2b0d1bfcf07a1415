"""The chain of erasures detects records that are changed, removed or inserted."""

from typing import Any

import pytest

from consumers.privacy.audit import ChainHead, chain_breaks, next_record

ASKED = {"request_id": "a" * 32, "requested_ts": 1, "erased_ts": 2, "nodes": ["1" * 33]}


def chain(n: int) -> list[dict[str, Any]]:
    """A chain of n records."""
    records: list[dict[str, Any]] = []
    for _ in range(n):
        head = ChainHead(records[-1]["seq"], records[-1]["hash"]) if records else ChainHead()
        records.append(next_record(head, ASKED, {"events": 3, "clickhouse.events": 2}, 5))
    return records


def test_it_holds_as_written_and_names_nobody() -> None:
    """The order of counts does not matter, and no record contains an id of the person."""
    records = chain(3)
    shuffled = [{**record, "counts": dict(reversed(record["counts"].items()))} for record in records]
    head = ChainHead(3, records[-1]["hash"])
    assert list(chain_breaks(records, head)) == list(chain_breaks(shuffled, head)) == []
    assert "1" * 33 not in str(records)


@pytest.mark.parametrize("changed", [{"counts": {"events": 4, "clickhouse.events": 2}}, {"erased_ts": 3}, {"request_id": "b"}])
def test_a_change_is_found(changed: dict[str, Any]) -> None:
    """The hash of a changed record no longer fits, whatever was changed."""
    records = chain(3)
    records[1] |= changed
    assert [fault.seq for fault in chain_breaks(records, ChainHead(3, records[-1]["hash"]))] == [2]


@pytest.mark.parametrize("removed", [1, 2])
def test_a_gap_is_found(removed: int) -> None:
    """A record is missing in the middle or at the end."""
    records = chain(3)
    head = ChainHead(3, records[-1]["hash"])
    del records[removed]
    assert len(list(chain_breaks(records, head))) == 1
