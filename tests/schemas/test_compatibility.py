"""The compatibility rules, with Apache Avro's own checker as the oracle."""

import copy
import json
from typing import Any

import pytest
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from avro.schema import parse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.compatibility import breaking_changes, breaking_lock_changes
from tests.support.scale import examples

TYPES: tuple[Any, ...] = (
    "string",
    "long",
    "int",
    "double",
    "boolean",
    {"type": "long", "logicalType": "timestamp-millis"},
    {"type": "map", "values": "string"},
    {"type": "array", "items": "string"},
)
DEFAULTS = {"string": "", "long": 0, "int": 0, "double": 0.0, "boolean": False, "map": {}, "array": []}


def field(name: str, avro: Any, default: bool) -> dict[str, Any]:
    """A field, with the empty default of its type or without."""
    definition = {"name": name, "type": avro, "purpose": "exempt", "doc": "d"}
    return definition | {"default": DEFAULTS[avro if isinstance(avro, str) else avro["type"]]} if default else definition


FIELDS = st.lists(
    st.builds(field, st.sampled_from("abcdef"), st.sampled_from(TYPES), st.booleans()),
    unique_by=lambda f: str(f["name"]),
    min_size=1,
    max_size=5,
)


def record(fields: list[dict[str, Any]], prepended: int = 0) -> dict[str, Any]:
    """A contract's schema."""
    return {"type": "record", "name": "R", "namespace": "headwater", "doc": "d", "prepended": prepended, "fields": fields}


def avro_says(reader: dict[str, Any], writer: dict[str, Any]) -> bool:
    """Whether Apache Avro's checker lets this reader read this writer's records."""
    result = ReaderWriterCompatibilityChecker().get_compatibility(parse(json.dumps(reader)), parse(json.dumps(writer)))
    return bool(result.compatibility is SchemaCompatibilityType.compatible)


@settings(max_examples=examples(300), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(FIELDS, FIELDS)
def test_what_we_allow_avro_allows_in_both_directions(
    old_fields: list[dict[str, Any]], new_fields: list[dict[str, Any]]
) -> None:
    """Our rules are never laxer than Avro's: old readers read new records, and new readers old ones."""
    for new in (
        record(new_fields),
        record(old_fields + [f for f in new_fields if f["name"] not in {o["name"] for o in old_fields}]),
    ):
        old = record(old_fields)
        if not breaking_changes("t", old, new):
            assert avro_says(new, old)
            assert avro_says(old, new)


@pytest.mark.parametrize(
    "edit",
    [
        lambda f: f[0].update(type="long"),  # was a timestamp: the same bytes, another meaning
        lambda f: f.reverse(),
        lambda f: f.insert(0, field("new", "string", True)),
        lambda f: f[0].update(purpose="marketing"),
        lambda f: f[1].update(type="double"),
    ],
)
def test_what_avro_overlooks_we_refuse(edit: Any) -> None:
    """Logical types, order, purposes and promotions pass Avro's reader check and would break this house."""
    old = record([field("at", {"type": "long", "logicalType": "timestamp-millis"}, True), field("n", "int", True)])
    new = copy.deepcopy(old)
    edit(new["fields"])
    assert avro_says(new, old)
    assert breaking_changes("t", old, new)


def test_documentation_may_change() -> None:
    """Documentation may change."""
    old = record([field("a", "string", False)])
    new = copy.deepcopy(old)
    new["doc"], new["fields"][0]["doc"] = "other", "words"
    assert breaking_changes("t", old, new) == []


def test_both_parts_of_a_derived_contract_grow_at_their_own_end() -> None:
    """A column more and a source field more, each at the end of its block."""
    old = record([field("column", "string", False), field("tail", "string", False)], prepended=1)
    extra, more = field("extra", "string", True), field("more", "string", True)
    assert breaking_changes("t", old, record([old["fields"][0], extra, old["fields"][1], more], prepended=2)) == []
    assert breaking_changes("t", old, record([extra, *old["fields"]], prepended=2)) != []
    assert breaking_changes("t", old, record([old["fields"][1], old["fields"][0]], prepended=1)) != []


def test_the_lock_only_grows() -> None:
    """Entries are neither changed nor removed."""
    first = {"id": 1, "topic": "t", "version": 1, "schema": record([])}
    second = first | {"id": 2, "version": 2}
    assert breaking_lock_changes({"contracts": [first]}, {"contracts": [first, second]}) == []
    assert len(breaking_lock_changes({"contracts": [first, second]}, {"contracts": [first | {"version": 3}]})) == 2
