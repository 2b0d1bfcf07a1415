"""A flag is read as decoding reads it, wherever it stands."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.settings import PACKAGED_CONTRACTS
from schemas.codec import encode
from schemas.contract import Contract
from schemas.fast.flag_reader import FlagReader
from schemas.registry import Registry

RAW = Registry(PACKAGED_CONTRACTS).latest("events.raw")
LAST = {"name": "later", "type": {"type": "map", "values": "string"}, "default": {}}
LONGER = Contract("events.raw", 99, 99, {**RAW.schema, "fields": [*RAW.schema["fields"], LAST]}, None)
HEAD = {
    "event_id": "e", "event_name": "n", "source": "s", "site": "", "heartbeat": True, "collector_ts": 1, "region": "",
    "signals": {}, "identifiers": [], "event_ts": 0, "event_ts_source": "", "protocol": "",
}  # fmt: skip
MAPS = st.dictionaries(st.text(max_size=5), st.text(max_size=70), max_size=3)


@pytest.mark.parametrize("contract", [RAW, LONGER])
@given(st.booleans(), st.lists(MAPS, max_size=3), MAPS)
def test_a_flag_is_what_was_encoded(contract: Contract, imported: bool, items: list[Any], properties: Any) -> None:
    """As the last field of a contract, and with fields behind it."""
    record = {**HEAD, "imported": imported, "items": items, "properties": properties}
    later = {"later": properties} if contract is LONGER else {}
    value, reader = encode(contract, record | later), FlagReader(contract, "imported")
    assert reader.read(value) is imported
    assert reader.may_hold([b"", value]) >= imported


def test_a_flag_that_is_not_there_is_false() -> None:
    """In a contract without it, and in a record that was cut before it."""
    earlier = Contract("events.raw", 98, 98, {**RAW.schema, "fields": RAW.schema["fields"][:-1]}, None)
    reader, value = FlagReader(earlier, "imported"), encode(earlier, HEAD) + b"\1"
    assert not reader.read(value)
    assert not reader.may_hold([value])
    assert not FlagReader(LONGER, "imported").read(encode(LONGER, {**HEAD, "imported": True})[:30])
    assert not FlagReader(RAW, "imported").may_hold([encode(RAW, HEAD)] * 3)
