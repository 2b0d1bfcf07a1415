"""The chain of erasures: a record each, with the hash of the record before and without identifiers. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from streams.consent.decision.audit import ChainBreak, ChainHead, find_breaks, hash_of

FORM = "headwater-erasure-1"
CHAIN = 0
HASHED = (
    "chain", "seq", "form", "request_id", "kind", "requested_ts", "erased_ts", "done_ts", "counts", "prev_hash",
)  # fmt: skip
"""Hashed fields in order, all but the hash; counts are sorted by name. A new field needs a new `FORM`."""


def next_record(head: ChainHead, erasure: Mapping[str, Any], counts: Mapping[str, int], done_ts: int) -> dict[str, Any]:
    """The record that follows `head`, for a completed erasure (a record of `privacy.erasures`)."""
    record = {
        "chain": CHAIN, "seq": head.seq + 1, "form": FORM, "request_id": erasure["request_id"], "kind": "erasure",
        "requested_ts": erasure["requested_ts"], "erased_ts": erasure["erased_ts"], "done_ts": done_ts,
        "counts": dict(sorted(counts.items())), "prev_hash": head.hash,
    }  # fmt: skip
    return {**record, "hash": hash_of(_sorted(record), HASHED)}


def chain_breaks(records: Iterable[Mapping[str, Any]], head: ChainHead) -> Iterator[ChainBreak]:
    """Faults of records in their order; `head` is the last record written."""
    return find_breaks(map(_sorted, records), {CHAIN: head}, HASHED)


def _sorted(record: Mapping[str, Any]) -> dict[str, Any]:
    return {**record, "counts": dict(sorted(record["counts"].items()))}


__all__ = ["CHAIN", "FORM", "HASHED", "ChainBreak", "ChainHead", "chain_breaks", "next_record"]
