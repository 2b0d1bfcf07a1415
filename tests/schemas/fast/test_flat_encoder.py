"""The flat encoder writes the same bytes as the plain codec."""

from io import SEEK_END, BytesIO
from typing import Any

import pytest
from fastavro import schemaless_writer
from hypothesis import given
from hypothesis import strategies as st

from infra.settings import PACKAGED_CONTRACTS
from schemas.codec import decode, encode
from schemas.fast.flat_encoder import flat_encoder, flat_record_encoder
from schemas.registry import Registry

REGISTRY = Registry(PACKAGED_CONTRACTS)
LINKS = REGISTRY.latest("identity.links")
TEXT, LONG = st.text(max_size=100), st.integers(-(2**63), 2**63 - 1)


@given(st.fixed_dictionaries({
    "link_id": TEXT, "nodes": st.lists(TEXT, max_size=70), "rule": TEXT, "event_id": TEXT, "evidence_ts": LONG,
    "consent_purposes": st.integers(-(2**31), 2**31 - 1),
}))  # fmt: skip
def test_links_are_encoded_alike(record: dict[str, Any]) -> None:
    """Texts, integers and arrays of texts of any length."""
    values = [record[name] for name in LINKS.names]
    assert flat_encoder(LINKS.parsed, LINKS.header)(*values) == encode(LINKS, record)


@given(st.fixed_dictionaries({
    "subject": TEXT, "site": TEXT, "regulation": TEXT, "times": st.dictionaries(TEXT, LONG, max_size=70), "evidence": TEXT,
    "platform": TEXT, "gvl": st.integers(-(2**31), 2**31 - 1), "policy": TEXT, "changed_ts": LONG,
}))  # fmt: skip
def test_states_are_encoded_alike(record: dict[str, Any]) -> None:
    """Maps of integers too; fields are found by their names."""
    contract = REGISTRY.latest("consent.state")
    assert flat_record_encoder(contract.parsed, contract.header)(dict(reversed(record.items()))) == encode(contract, record)


@pytest.mark.parametrize("length", [0, 63, 64, 1_023, 1_024, 8_191, 8_192])
def test_lengths_and_small_numbers_are_encoded_alike(length: int) -> None:
    """Lengths and integers below and above the lookup table are encoded as by `encode`."""
    contract = REGISTRY.latest("consent.state")
    texts = dict.fromkeys(("subject", "site", "regulation", "evidence", "platform", "policy"), "x" * length)
    record = {**texts, "times": {"a": length, "b": -length, "c": length}, "gvl": length, "changed_ts": length}
    written = flat_record_encoder(contract.parsed, contract.header)(record)
    assert written == encode(contract, record)
    assert decode(REGISTRY, written) == (contract, record)


@given(st.dictionaries(TEXT, TEXT, max_size=70), st.lists(st.dictionaries(TEXT, TEXT, max_size=3), max_size=70), st.floats())
def test_events_are_encoded_alike(texts: dict[str, str], items: list[dict[str, str]], value: float) -> None:
    """Maps of texts, arrays of them, doubles and booleans."""
    contract = REGISTRY.latest("events.raw")
    record: dict[str, Any] = dict.fromkeys(contract.names, "x")
    record |= dict.fromkeys(("signals", "click_ids", "match_tokens", "properties", "user_properties"), texts)
    record |= {"items": items, "value": value, "identifiers": list(texts), "problems": [], "heartbeat": False, "bot": True}
    record |= {"imported": False, "collector_ts": 1_795_000_000_017, "event_ts": -1}
    assert flat_record_encoder(contract.parsed, contract.header)(record) == encode(contract, record)


def test_what_is_left_out_has_its_default() -> None:
    """A missing field gets its default; without one it raises KeyError."""
    contract = REGISTRY.latest("consent.audit")
    written = flat_record_encoder(contract.parsed, contract.header)
    record = {"site": "a", "minute": 1, "outcome": "strip", "reasons": "", "policy": "p", "n": 2}
    assert written(record) == encode(contract, record)
    with pytest.raises(KeyError, match="policy"):
        written({name: value for name, value in record.items() if name != "policy"})


@given(st.lists(TEXT, min_size=3, max_size=3))
def test_columns_are_encoded_alike(texts: list[str]) -> None:
    """Prepended columns are a record of their own."""
    contract = REGISTRY.latest("events.resolved")
    expected = BytesIO(contract.header)
    expected.seek(0, SEEK_END)
    names = [field["name"] for field in contract.columns()["fields"]]
    schemaless_writer(expected, contract.columns(), dict(zip(names, texts, strict=True)))
    assert flat_encoder(contract.columns(), contract.header)(*texts) == expected.getvalue()


def test_what_is_not_flat_is_refused() -> None:
    """A record with an array of integers raises ValueError."""
    schema = {"name": "Counts", "fields": [{"name": "counts", "type": {"type": "array", "items": "long"}}]}
    with pytest.raises(ValueError, match="not flat"):
        flat_encoder(schema, b"")
