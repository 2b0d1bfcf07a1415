"""The audit chain: every record carries the hash of the record before; each partition has a chain. Pure.

A changed, removed or inserted record breaks the chain. The head of each chain is on `consent.heads`, so that records missing at
the end are found as well.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import orjson

Record = dict[str, Any]

FORM = "headwater-27560-1"
"""Version of the record's format, whose groups are those of ISO/IEC TS 27560."""
HASHED = (
    "chain", "seq", "kind", "form", "subject", "site", "regulation", "policy", "reasons", "controller", "platform", "outcome",
    "method", "minute", "event_ts", "evidence", "n", "prev_hash",
)  # fmt: skip
"""Everything but the hash itself, in this order. A new field changes `FORM`."""


class ChainHead(NamedTuple):
    """The last record of a chain."""

    seq: int = 0
    hash: str = ""


def hash_of(record: Mapping[str, Any], hashed: Sequence[str] = HASHED) -> str:
    """SHA-256 of a record: of its values in the order of `hashed`, as a compact JSON array."""
    return hashlib.sha256(orjson.dumps(itemgetter(*hashed)(record))).hexdigest()


def append_record(head: ChainHead, chain: int, fields: Mapping[str, Any]) -> tuple[ChainHead, Record]:
    """The record with these fields that follows `head`, and the new head; missing fields are empty."""
    record: Record = {
        "subject": "", "site": "", "regulation": "", "controller": "", "platform": "", "evidence": "", "event_ts": 0, "n": 1,
        **fields, "chain": chain, "seq": head.seq + 1, "form": FORM, "prev_hash": head.hash,
    }  # fmt: skip
    record["hash"] = hash_of(record)
    return ChainHead(record["seq"], record["hash"]), record


class ChainBreak(NamedTuple):
    """A position at which a chain is broken."""

    chain: int
    seq: int
    problem: str


def find_breaks(
    records: Iterable[Mapping[str, Any]], heads: Mapping[int, ChainHead], hashed: Sequence[str] = HASHED
) -> Iterator[ChainBreak]:
    """The breaks in records that are sorted by chain and seq. Records before a chain's oldest may have expired.

    `heads`: the head of each chain on `consent.heads`.
    """
    last: dict[int, ChainHead] = {}
    for record in records:
        chain, seq = record["chain"], record["seq"]
        before = last.get(chain)
        if before is not None and seq != before.seq + 1:
            problem = f"{seq - before.seq - 1} records are missing before it" if seq > before.seq else "stands twice"
            yield ChainBreak(chain, seq, problem)
        elif before is not None and record["prev_hash"] != before.hash:
            yield ChainBreak(chain, seq, "does not follow the record before it")
        if record["hash"] != hash_of(record, hashed):
            yield ChainBreak(chain, seq, "was changed: its hash is not that of its fields")
        last[chain] = ChainHead(seq, record["hash"])
    for chain, head in heads.items():
        reached = last.get(chain, ChainHead())
        if reached.seq < head.seq:
            yield ChainBreak(
                chain, head.seq, f"the chain ends at {reached.seq}: {head.seq - reached.seq} records are missing at the end"
            )
        elif reached.seq == head.seq and reached.hash != head.hash:
            yield ChainBreak(chain, head.seq, "is not the record that was written last")


__all__ = ["FORM", "ChainBreak", "ChainHead", "append_record", "find_breaks", "hash_of"]
