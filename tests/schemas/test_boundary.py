"""Valid records encode; invalid ones raise errors for the sender."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.settings import PACKAGED_CONTRACTS
from schemas.boundary import MAX_PROBLEMS, Boundary, ContractViolation
from schemas.codec import decode, encode
from schemas.contract import Contract, ContractError
from schemas.registry import Registry

FOLDER = PACKAGED_CONTRACTS
REGISTRY = Registry(FOLDER)
RAW = REGISTRY.latest("events.raw")
BOUNDARY = Boundary(RAW)

EVENT: dict[str, Any] = {
    "event_id": "0192f0a0-1111-7abc-8def-0123456789ab",
    "event_name": "purchase",
    "source": "web-de",
    "site": "shop.example",
    "heartbeat": False,
    "collector_ts": 1_795_486_013_293,
    "region": "DE",
    "signals": {"gcs": "G111"},
    "identifiers": ["0" + "a" * 32],
    "event_ts": 1_795_486_013_290,
    "event_ts_source": "device",
    "protocol": "headwater",
}


def refusal(boundary: Boundary, record: object) -> tuple[str, ...]:
    """The problems of a record that must be refused."""
    with pytest.raises(ContractViolation) as caught:
        boundary.check(record)
    return caught.value.problems


def test_a_record_without_its_defaults_passes_as_it_is() -> None:
    """Absent fields with a default are the encoder's business."""
    assert BOUNDARY.check(EVENT) == EVENT


def test_what_passes_is_a_copy() -> None:
    """The validated record is a copy."""
    checked = BOUNDARY.check(EVENT)
    checked["signals"]["gcs"] = "changed"
    assert EVENT["signals"]["gcs"] == "G111"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"event_id": 7}, "event_id must be a string"),
        ({"event_id": None}, "event_id must be a string"),
        ({"event_id": "\ud800"}, "event_id must be valid Unicode"),
        ({"heartbeat": 0}, "heartbeat must be true or false"),
        ({"collector_ts": "1"}, "collector_ts must be an integer"),
        ({"collector_ts": 1.0}, "collector_ts must be an integer"),
        ({"collector_ts": True}, "collector_ts must be an integer"),
        ({"collector_ts": 1 << 63}, "collector_ts is out of range"),
        ({"value": "9.99"}, "value must be a number"),
        ({"value": float("inf")}, "value must be a finite number"),
        ({"signals": []}, "signals must be an object"),
        ({"signals": {"gcs": {}}}, "signals.gcs must be a string"),
        ({"properties": {"\ud800": "x"}}, "properties.* must be valid Unicode"),
        ({"identifiers": ("a",)}, "identifiers must be an array"),
        ({"identifiers": ["a", 1]}, "identifiers.1 must be a string"),
        ({"colour": "red"}, "colour is unknown"),
    ],
)
def test_each_problem_names_field_and_expectation(change: dict[str, Any], problem: str) -> None:
    """The sender reads where and what, and never a value."""
    assert refusal(BOUNDARY, EVENT | change) == (problem,)


def test_no_record_at_all() -> None:
    """Anything but an object is refused in the same words."""
    assert refusal(BOUNDARY, ["x"]) == ("the record must be an object",)


def test_missing_fields_are_listed_up_to_a_limit() -> None:
    """The number of reported problems is bounded."""
    problems = refusal(BOUNDARY, {})
    assert problems[0] == "event_id is required"
    assert len(problems) == MAX_PROBLEMS + 1
    assert problems[-1].startswith("and ")


def test_names_that_look_like_data_are_not_repeated() -> None:
    """A key may be an address: messages go to logs and dead letters in clear."""
    problems = refusal(BOUNDARY, EVENT | {"ada@example.org": 1, "properties": {"ada@example.org": 1}})
    assert problems == ("properties.* must be a string", "* is unknown")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from([*RAW.names, "colour"]), JSON, max_size=4))
def test_what_passes_encodes_and_comes_back(change: dict[str, Any]) -> None:
    """Whatever the boundary lets through is a record of the contract, bit for bit."""
    try:
        record = BOUNDARY.check(EVENT | change)
    except ContractViolation:
        return
    _, back = decode(REGISTRY, encode(RAW, record))
    assert {name: back[name] for name in record} == record


def contract(*fields: dict[str, Any]) -> Contract:
    """A contract of these fields."""
    return Contract("t", 1, 1, {"type": "record", "name": "T", "fields": list(fields)}, None)


def test_every_type_of_avro_that_contracts_may_use_has_a_boundary() -> None:
    """Unions, enums, fixed, bytes, nested records, maps and arrays."""
    boundary = Boundary(
        contract(
            {"name": "u", "type": ["null", "string", "int"]},
            {"name": "e", "type": {"type": "enum", "name": "E", "symbols": ["A", "B"]}},
            {"name": "f", "type": {"type": "fixed", "name": "F", "size": 2}},
            {"name": "b", "type": "bytes"},
            {"name": "n", "type": "null"},
            {"name": "i", "type": "int"},
            {"name": "r", "type": {"type": "record", "name": "R", "fields": [{"name": "x", "type": "float"}]}},
            {"name": "l", "type": {"type": "array", "items": {"type": "map", "values": "long"}}},
        )
    )
    good = {"u": None, "e": "A", "f": b"ab", "b": b"", "n": None, "i": 1, "r": {"x": 1.5}, "l": [{"k": 1}]}
    assert boundary.check(good) == good
    assert boundary.check({**good, "u": "x"})["u"] == "x"
    bad = {"u": 1.5, "e": "C", "f": b"abc", "b": "x", "n": 0, "i": 1 << 31, "r": {"x": "1", "y": 1}, "l": [{"k": "1"}]}
    assert {problem.split()[0].split(".")[0] for problem in refusal(boundary, bad)} == set(good)


def test_named_types_are_no_part_of_contracts() -> None:
    """A contract with a reference to a named type raises ContractError."""
    with pytest.raises(ContractError, match="no type 'Other'"):
        Boundary(contract({"name": "o", "type": "Other"}))
