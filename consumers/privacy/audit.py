"""The chain of erasures: one record each, with the hash of the one before, and no identifier. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from streams.consent.decision.audit import ChainBreak, ChainHead, find_breaks, hash_of

FORM = "headwater-erasure-1"
CHAIN = 0
HASHED = (
    "chain", "seq", "form", "request_id", "kind", "requested_ts", "erased_ts", "done_ts", "counts", "prev_hash",
)  # fmt: skip
"""Everything but the hash itself, in this order; counts by name. A new field changes `FORM`."""


def link(head: ChainHead, erasure: Mapping[str, Any], counts: Mapping[str, int], done_ts: int) -> dict[str, Any]:
    """The record that follows `head`, of an erasure (as on `privacy.erasures`) that is done."""
    record = {
        "chain": CHAIN, "seq": head.seq + 1, "form": FORM, "request_id": erasure["request_id"], "kind": "erasure",
        "requested_ts": erasure["requested_ts"], "erased_ts": erasure["erased_ts"], "done_ts": done_ts,
        "counts": dict(sorted(counts.items())), "prev_hash": head.hash,
    }  # fmt: skip
    return {**record, "hash": hash_of(_sorted(record), HASHED)}


def broken(records: Iterable[Mapping[str, Any]], head: ChainHead) -> Iterator[ChainBreak]:
    """What is wrong with records in their order; `head`: the last one that was written."""
    return find_breaks(map(_sorted, records), {CHAIN: head}, HASHED)


def _sorted(record: Mapping[str, Any]) -> dict[str, Any]:
    return {**record, "counts": dict(sorted(record["counts"].items()))}


__all__ = ["CHAIN", "FORM", "HASHED", "ChainBreak", "ChainHead", "broken", "link"]
