"""Repeated keys of JSON objects."""

import json
import random
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.collector.fields.repeated_keys import (
    MAX_LEVELS,
    RepeatedKeys,
    all_values,
    dumps,
    loads,
    loads_with_depth,
    overlay,
    pairs,
    select_fields,
)

TEXTS = st.one_of(st.text(max_size=6), st.sampled_from(['"', "\\", '\\"', '":', ":x", 'a":', 'a\\":', " :", "\n", '\\\\":']))
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), TEXTS)


class Fields(list[tuple[str, Any]]):
    """An object as (name, value) pairs, whose names may repeat."""


VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.lists(st.tuples(TEXTS, inner), max_size=4).map(Fields)),
    max_leaves=12,
)


def text_of(value: Any, blank: random.Random) -> str:
    """Return a value as JSON with random whitespace."""
    gap = blank.choice(["", "", "", " ", "\n", "\t "])
    if isinstance(value, Fields):
        return (
            "{" + ",".join(f"{gap}{json.dumps(name)}{gap}:{gap}{text_of(member, blank)}{gap}" for name, member in value) + "}"
        )
    if isinstance(value, list):
        return "[" + ",".join(text_of(member, blank) + gap for member in value) + "]"
    return json.dumps(value, ensure_ascii=blank.random() < 0.5)


def written_pairs(value: Any) -> Any:
    """Return a value with each object as name -> list of values."""
    if isinstance(value, Fields | dict):
        fields = list(value) if isinstance(value, Fields) else list(pairs(value))
        return {name: [written_pairs(member) for key, member in fields if key == name] for name, _ in fields}
    return [written_pairs(member) for member in value] if isinstance(value, list) else value


@given(VALUES, st.integers(0, 2**16))
def test_every_value_of_every_key_stays(value: Any, seed: int) -> None:
    """All values of a repeated key are kept, the last one as the key's value, with any nesting, escapes and whitespace."""
    raw = text_of(value, random.Random(seed)).encode()
    try:
        plain = orjson.loads(raw)
    except orjson.JSONDecodeError:  # half a surrogate pair
        return
    parsed = loads(raw)
    assert parsed == plain
    assert written_pairs(parsed) == written_pairs(value)
    assert written_pairs(loads(dumps(parsed))) == written_pairs(value)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":1,"b":{"c":[{"d":2}]}}', b'{"a": "x", "b" : 2}', b'{"a":"\\":","b":"c\\\\"}', b'{"a":":)"}', b'{"a\\\\":1}',
        b'{"co":"{\\"data\\":[{\\"a\\":\\"b\\"}]}"}', b"[]", b"7", b'"\\":"',
    ],
)  # fmt: skip
def test_objects_without_repeated_keys_stay_plain(raw: bytes) -> None:
    """JSON without repeated keys equals orjson's result."""
    parsed = loads(raw)
    assert parsed == orjson.loads(raw)
    assert not isinstance(parsed, RepeatedKeys)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":1,"a":2}',
        b'{"a":1,"a" :2}',
        b'{"a":1,"\\u0061":2}',
        b'{"a\\\\":1,"a\\\\":2}',
        b'{"a":1,\n"a"\t:\n2}',
        b'{"":1,"":2}',
    ],
)
def test_repeated_keys_in_any_spelling(raw: bytes) -> None:
    """Repetition is found despite whitespace and escapes."""
    parsed = loads(raw)
    assert isinstance(parsed, RepeatedKeys)
    (name,) = parsed
    assert all_values(parsed, name) == [1, 2]


def test_numbers_are_read_alike() -> None:
    """A repeated key elsewhere does not change numbers."""
    numbers = b'"n":[18446744073709551999,1.5,1e3,-0,12345678901234567]'
    assert loads(b'{"a":1,"a":1,%s}' % numbers)["n"] == loads(b"{%s}" % numbers)["n"]


def test_depth_is_bounded() -> None:
    """Levels are counted up to one beyond the limit."""
    assert loads_with_depth(b'{"a":[[{}]]}')[1] == 4
    assert loads_with_depth(b"[" * 900 + b"]" * 900)[1] == MAX_LEVELS + 1
    with pytest.raises(orjson.JSONDecodeError):
        loads(b'{"a":1,"a":' + b"[" * 1_020 + b"]" * 1_020 + b"}")


def test_selections_and_overlays_keep_repeated_keys() -> None:
    """Selections and overlays of an object keep the earlier values."""
    parsed = loads(b'{"a":1,"a":2,"b":3}')
    assert all_values(select_fields(parsed, ["a"]), "a") == [1, 2]
    assert all_values(overlay(parsed, {"a": 4}, frozenset({"a"})), "a") == [1, 2, 4]
    assert all_values(overlay({"a": 1}, {"a": 2}), "a") == [2]
    assert type(overlay({"a": 1}, {"b": 2})) is dict
