"""Heads read by columns equal heads read one by one; unread ones are flagged."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import HEADER_BYTES, encode
from schemas.contract import Contract
from schemas.fast.head_columns import Columns, HeadColumns
from schemas.fast.head_slicer import HeadSlicer
from tests.schemas.fast.test_head_slicer import HEADS, LAST, RAW, REGISTRY, REST, SLICER

COLUMNS = HeadColumns(RAW, LAST)
CLOCK = RAW.names.index("collector_ts")
OTHER = REGISTRY.latest("events.consented")


def encoded(head: dict[str, Any]) -> bytes:
    """A record with this head."""
    return encode(RAW, {**head, **REST})


def agree(values: list[bytes], columns: Columns) -> None:
    """Check that each record read by columns has the offsets of `HeadSlicer`."""
    for at, value in enumerate(values):
        if columns.sound[at]:
            assert [int(column[at]) for column in columns.ends] == SLICER.ends(value)
            assert value[: columns.begins[0][at]] == RAW.header + value[HEADER_BYTES : columns.begins[0][at]]


@given(st.lists(HEADS, min_size=1, max_size=5))
def test_many_heads_are_read_as_one_alone_is(heads: list[dict[str, Any]]) -> None:
    """Ends, texts and numbers; none is left out that has no more than 63 items in a map or array and no huge number."""
    values = [encoded(head) for head in heads]
    columns = COLUMNS.read(values)
    agree(values, columns)
    for at, head in enumerate(heads):
        small = len(head["signals"]) <= 63 and len(head["identifiers"]) <= 63 and -(2**62) <= head["collector_ts"] < 2**62
        assert columns.sound[at] or not small
        if columns.sound[at]:
            assert columns.numbers[CLOCK][at] == head["collector_ts"]
            for place, name in enumerate(("event_id", "event_name", "source", "site")):
                assert values[at][columns.begins[place][at] : columns.ends[place][at]].decode() == head[name]


@given(st.lists(HEADS, min_size=2, max_size=4), st.data())
def test_a_truncated_head_is_named_and_hurts_nobody(heads: list[dict[str, Any]], data: st.DataObject) -> None:
    """A truncated head is flagged, wherever it was cut, and does not affect the next record."""
    values = [encoded(head) for head in heads]
    at = data.draw(st.integers(0, len(values) - 1))
    values[at] = values[at][: data.draw(st.integers(0, SLICER.ends(values[at])[-1] - 1))]
    columns = COLUMNS.read(values)
    assert not columns.sound[at]
    agree(values, columns)


@given(st.lists(st.binary(max_size=300), max_size=4))
def test_rubbish_is_named_or_read_alike(rubbish: list[bytes]) -> None:
    """Arbitrary bytes are flagged, or read as by `HeadSlicer`."""
    values = [RAW.header + some for some in rubbish]
    agree(values, COLUMNS.read(values))


def test_another_contract_is_named() -> None:
    """Nothing, half a header and a record of another contract stand among those of this one."""
    good = encode(RAW, {"event_id": "e", "event_name": "n", "source": "s", "site": "", "heartbeat": True, "collector_ts": 1,
                        "region": "", "signals": {"a": "b" * 9_000}, "identifiers": [], **REST})  # fmt: skip
    short = encode(RAW, {"event_id": "e", "event_name": "n" * 8_000, "source": "s", "site": "", "heartbeat": True,
                         "collector_ts": 1, "region": "", "signals": {}, "identifiers": ["x"], **REST})  # fmt: skip
    values = [b"", short, good[:3], OTHER.header + good[HEADER_BYTES:], good, short]
    assert COLUMNS.read(values).sound.tolist() == [False, True, False, False, False, True]


def test_heads_with_unions_are_all_named() -> None:
    """Records of a contract with a union are flagged, to be read one by one."""
    fields = [{"name": "a", "type": ["null", "string"]}, {"name": "b", "type": "long"}]
    contract = Contract("t", 1, 1, {"type": "record", "name": "T", "fields": fields}, None)
    columns = HeadColumns(contract, "b").read([encode(contract, {"a": "x", "b": n}) for n in range(3)])
    assert columns.sound.tolist() == [False] * 3
    assert len(columns.ends) == len(columns.begins) == 2


WHOLE = HeadColumns(RAW, RAW.names[-1])
WHOLE_SLICER = HeadSlicer(RAW, RAW.names[-1])
ITEM = st.dictionaries(st.text(max_size=5), st.text(max_size=80), max_size=4)


@given(st.lists(st.lists(ITEM, max_size=70), min_size=1, max_size=4), st.data())
def test_arrays_of_maps_are_read_as_alone(arrays: list[list[dict[str, str]]], data: st.DataObject) -> None:
    """Events with products are read among others, however many there are; a truncated one is flagged alone."""
    head = {"event_id": "e", "event_name": "n", "source": "s", "site": "", "heartbeat": True, "collector_ts": 1,
            "region": "", "signals": {}, "identifiers": [], **REST}  # fmt: skip
    values = [encode(RAW, {**head, "items": items, "imported": True}) for items in arrays]
    cut = data.draw(st.integers(0, len(values) - 1))
    ends = WHOLE_SLICER.ends(values[cut])
    values[cut] = values[cut][: data.draw(st.integers(ends[RAW.names.index("items") - 1], ends[-1] - 1))]
    columns = WHOLE.read(values)
    assert columns.sound.tolist() == [at != cut for at in range(len(values))]
    for at, value in enumerate(values):
        if at != cut:
            assert [int(column[at]) for column in columns.ends] == WHOLE_SLICER.ends(value)
