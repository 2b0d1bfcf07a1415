"""Slicing a head finds the same field boundaries as decoding it."""

from io import BytesIO
from typing import Any

import pytest
from fastavro import schemaless_reader
from hypothesis import given
from hypothesis import strategies as st

from infra.settings import PACKAGED_CONTRACTS
from schemas.codec import HEADER_BYTES, HeadReader, Undecodable, decode, encode
from schemas.fast.head_slicer import HeadSlicer
from schemas.fast.primitives import read_long
from schemas.registry import Registry

REGISTRY = Registry(PACKAGED_CONTRACTS)
RAW = REGISTRY.latest("events.raw")
LAST = "identifiers"
SLICER = HeadSlicer(RAW, LAST)
TEXT = st.text(max_size=200)
HEADS = st.fixed_dictionaries(
    {
        "event_id": TEXT,
        "event_name": TEXT,
        "source": TEXT,
        "site": TEXT,
        "heartbeat": st.booleans(),
        "collector_ts": st.integers(-(2**63), 2**63 - 1),
        "region": TEXT,
        "signals": st.dictionaries(TEXT, TEXT, max_size=70),
        "identifiers": st.lists(TEXT, max_size=70),
    }
)
REST = {"event_ts": 0, "event_ts_source": "", "protocol": ""}


def reference(value: bytes) -> list[int]:
    """Ends of the fields, found by decoding one after the other."""
    stream, ends = BytesIO(value), []
    stream.seek(HEADER_BYTES)
    for field in RAW.up_to(LAST)["fields"]:
        schemaless_reader(stream, field["type"], None)
        ends.append(stream.tell())
    return ends


@given(HEADS)
def test_ends_are_those_of_decoding(head: dict[str, Any]) -> None:
    """Every field ends where a full decode says it ends, and a long read in place is the field's value."""
    value = encode(RAW, {**head, **REST})
    ends = SLICER.ends(value)
    assert ends == reference(value)
    assert read_long(value, ends[4]) == head["collector_ts"]


@given(HEADS, st.data())
def test_truncated_heads_are_refused(head: dict[str, Any], data: st.DataObject) -> None:
    """A head that ends too early is undecodable, wherever it was cut."""
    value = encode(RAW, {**head, **REST})
    cut = data.draw(st.integers(HEADER_BYTES, SLICER.ends(value)[-1] - 1))
    with pytest.raises(Undecodable):
        SLICER.ends(value[:cut])


@given(st.binary(max_size=300))
def test_rubbish_is_refused_or_read_alike(rubbish: bytes) -> None:
    """Arbitrary bytes raise Undecodable where decoding does; no other error occurs."""
    value = RAW.header + rubbish
    try:
        ends = SLICER.ends(value)
    except Undecodable:
        with pytest.raises(Undecodable):
            HeadReader(REGISTRY, LAST).read(value)
        return
    assert ends == sorted(ends)
    assert ends[-1] <= len(value)


def test_blocks_with_sizes_are_skipped() -> None:
    """A map written in blocks that name their size in bytes (negative counts) ends where it ends."""
    plain = encode(RAW, {"event_id": "", "event_name": "", "source": "", "site": "", "heartbeat": False, "collector_ts": 0,
                         "region": "", "signals": {}, "identifiers": [], **REST})  # fmt: skip
    start = SLICER.ends(plain)[6]
    block = b"\x01\x08\x02a\x02b\x00"  # count -1, 4 bytes, "a": "b", end
    value = plain[:start] + block + plain[start + 1 :]
    assert SLICER.ends(value)[7] == start + len(block)
    assert HeadReader(REGISTRY, LAST).read(value)[1]["signals"] == {"a": "b"}


WHOLE = HeadSlicer(RAW, RAW.names[-1])
ITEMS = RAW.names.index("items")
BLANK = {"event_id": "", "event_name": "", "source": "", "site": "", "heartbeat": False, "collector_ts": 0, "region": "",
         "signals": {}, "identifiers": [], **REST}  # fmt: skip


@given(st.lists(st.dictionaries(TEXT, TEXT, max_size=4), max_size=70), TEXT)
def test_an_array_of_maps_ends_where_it_ends(items: list[dict[str, str]], session: str) -> None:
    """Of any number of maps, empty ones included; the fields behind it are found too."""
    value = encode(RAW, {**BLANK, "items": items, "session_id": session, "imported": True})
    ends = WHOLE.ends(value)
    stream = BytesIO(value)
    stream.seek(ends[ITEMS - 1])
    assert schemaless_reader(stream, RAW.parsed["fields"][ITEMS]["type"], None) == items
    assert stream.tell() == ends[ITEMS]
    assert ends[-1] == len(value)


def test_arrays_of_maps_in_blocks_with_sizes_are_skipped() -> None:
    """Negative counts of the array and of a map name the size of their block in bytes."""
    plain = encode(RAW, BLANK)
    start = WHOLE.ends(plain)[ITEMS - 1]
    array = b"\x01\x0e" + b"\x01\x08\x02a\x02b\x00" + b"\x02\x00" + b"\x00"  # [{"a": "b"}] and [{}], one block each
    value = plain[:start] + array + plain[start + 1 :]
    assert WHOLE.ends(value)[ITEMS] == start + len(array)
    assert decode(REGISTRY, value)[1]["items"] == [{"a": "b"}, {}]


@given(st.binary(max_size=60))
def test_rubbish_in_an_array_of_maps_is_refused_or_read_alike(rubbish: bytes) -> None:
    """Arbitrary bytes raise Undecodable where decoding does."""
    plain = encode(RAW, BLANK)
    value = plain[: WHOLE.ends(plain)[ITEMS - 1]] + rubbish
    try:
        ends = HeadSlicer(RAW, "items").ends(value)
    except Undecodable:
        with pytest.raises(Undecodable):
            HeadReader(REGISTRY, "items").read(value)
        return
    assert ends[-1] <= len(value)
