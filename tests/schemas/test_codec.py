"""Properties of the codec: records survive a round trip, and arbitrary bytes raise Undecodable at most."""

import io
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from fastavro import schemaless_writer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.settings import PACKAGED_CONTRACTS
from schemas.codec import HEADER_BYTES, Contract, HeadReader, Record, Undecodable, decode, encode, schema_id
from schemas.fast.flat_encoder import flat_record_encoder
from schemas.registry import Registry, UnknownContract
from tests.support.scale import examples

REGISTRY = Registry(PACKAGED_CONTRACTS)
RAW = REGISTRY.latest("events.raw")

SLOW = [HealthCheck.too_slow]  # the machine may be busy; that says nothing about the codec
TEXT = st.text(max_size=20)
LONG = st.integers(-(1 << 63), (1 << 63) - 1)


def values(avro: Any) -> st.SearchStrategy[Any]:
    """Records of an Avro type as contracts use it."""
    if isinstance(avro, dict):
        if avro["type"] == "map":
            return st.dictionaries(TEXT, values(avro["values"]), max_size=4)
        if avro["type"] == "array":
            return st.lists(values(avro["items"]), max_size=4)
        return values(avro["type"])
    plain: dict[str, st.SearchStrategy[Any]] = {
        "string": TEXT,
        "long": LONG,
        "int": st.integers(-(1 << 31), (1 << 31) - 1),
        "double": st.floats(allow_nan=False),
        "boolean": st.booleans(),
        "bytes": st.binary(max_size=20),
    }
    return plain[avro]


def records(topic: str) -> st.SearchStrategy[dict[str, Any]]:
    """Records of a topic's newest contract."""
    fields = REGISTRY.latest(topic).schema["fields"]
    return st.fixed_dictionaries({field["name"]: values(field["type"]) for field in fields})


@pytest.mark.parametrize("topic", sorted({contract.topic for contract in REGISTRY.all()}))
def test_every_contract_round_trips(topic: str) -> None:
    """decode(encode(record)) is the record, for every topic."""

    @settings(max_examples=25, deadline=None, suppress_health_check=SLOW)
    @given(records(topic))
    def round_trip(record: dict[str, Any]) -> None:
        contract = REGISTRY.latest(topic)
        assert decode(REGISTRY, encode(contract, record)) == (contract, record)

    round_trip()


@settings(deadline=None, suppress_health_check=SLOW)
@given(records("events.raw"), st.sampled_from(RAW.names))
def test_a_prefix_is_the_head_of_the_record(record: dict[str, Any], last: str) -> None:
    """Reading up to a field gives what reading everything gives, and nothing behind that field."""
    contract, head = HeadReader(REGISTRY, last).read(encode(RAW, record))
    end = RAW.names.index(last) + 1
    assert (contract, head) == (RAW, {name: record[name] for name in RAW.names[:end]})


@settings(deadline=None, suppress_health_check=SLOW)
@given(records("events.resolved"))
def test_prepending_twice_is_encoding_the_whole(record: dict[str, Any]) -> None:
    """Consent's and identity's columns before the old bytes are the same bytes as a record encoded whole."""
    value = encode(RAW, {name: record[name] for name in RAW.names})
    source = RAW
    for topic in ("events.consented", "events.resolved"):
        contract = REGISTRY.derived(source.id, topic)
        mine = {name: record[name] for name in contract.names[: contract.schema["prepended"]]}
        value = flat_record_encoder(contract.columns(), contract.header)(mine) + value[HEADER_BYTES:]
        assert value == encode(contract, {name: record[name] for name in contract.names})
        source = contract


READER = HeadReader(REGISTRY, "identifiers")
READS: tuple[Callable[[bytes], tuple[Contract, Record]], ...] = (partial(decode, REGISTRY), READER.read)


def survives(value: bytes) -> None:
    """Reading these bytes gives a record of the contract or Undecodable; UnknownContract where the header was hit."""
    for reader in READS:
        try:
            contract, record = reader(value)
        except (Undecodable, UnknownContract):
            continue
        assert set(record) <= set(contract.names)


@settings(max_examples=examples(300), deadline=None, suppress_health_check=SLOW)
@given(records("events.raw"), st.data())
def test_damaged_bytes_never_hurt(record: dict[str, Any], data: st.DataObject) -> None:
    """A flipped bit, a cut or an inserted byte raises Undecodable or reads as a record, nothing else."""
    value = bytearray(encode(RAW, record))
    at = data.draw(st.integers(0, len(value) - 1))
    match data.draw(st.sampled_from(("flip", "cut", "insert"))):
        case "flip":
            value[at] ^= 1 << data.draw(st.integers(0, 7))
        case "cut":
            del value[at:]
        case _:
            value[at:at] = data.draw(st.binary(min_size=1, max_size=12))
    survives(bytes(value))


@settings(max_examples=examples(300), deadline=None, suppress_health_check=SLOW)
@given(st.binary(max_size=200))
def test_noise_never_hurts(noise: bytes) -> None:
    """Neither do bytes that never were a record, with a header or without."""
    survives(noise)
    survives(RAW.header + noise)


@settings(deadline=None, suppress_health_check=SLOW)
@given(records("events.raw"), st.data())
def test_every_cut_is_noticed(record: dict[str, Any], data: st.DataObject) -> None:
    """Avro has no framing, yet a record that lacks its end never decodes: the last field would be missing."""
    value = encode(RAW, record)
    cut = data.draw(st.integers(HEADER_BYTES, len(value) - 1))
    with pytest.raises(Undecodable):
        decode(REGISTRY, value[:cut])


def test_bytes_after_the_end_are_noticed() -> None:
    """A record is consumed to its end."""
    contract = REGISTRY.latest("bandit.experiments")
    value = encode(contract, {"experiment": "e", "config_version": "v", "config": "{}"})
    with pytest.raises(Undecodable, match="1 bytes left over"):
        decode(REGISTRY, value + b"\x00")


def zigzag(number: int) -> bytes:
    """A long as Avro writes it."""
    out = io.BytesIO()
    schemaless_writer(out, "long", number)
    return out.getvalue()


@pytest.mark.parametrize("length", [1 << 20, (1 << 31) - 1, 1 << 31, 1 << 40, (1 << 63) - 1, -1, -(1 << 40), -(1 << 63)])
@pytest.mark.parametrize("place", ["string", "map", "array", "map value"])
def test_a_length_that_lies_allocates_nothing(length: int, place: str) -> None:
    """A corrupt length or count is found out before memory is asked for."""
    head = {"event_id": "", "event_name": "", "source": "", "site": ""}
    start = RAW.header + b"\x00" * len(head) + b"\x00" + zigzag(1) + zigzag(0)  # four strings, a boolean, a time, a region
    places = {
        "string": RAW.header,
        "map": start,
        "map value": start + zigzag(1) + zigzag(0),
        "array": start + zigzag(0),
    }
    value = places[place] + zigzag(length) + b"ab" * 40
    READER.read(RAW.header + b"\x00" * 20)  # what is built once does not count
    tracemalloc.start()
    try:
        survives(value)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


@pytest.mark.parametrize(
    "value", [b"", b"\x00", b"\x00\x00\x00\x00", b"\x01\x00\x00\x00\x01rest", b"{}", b"\x00\x00\x00\x00\x00x"]
)
def test_what_has_no_frame_is_undecodable(value: bytes) -> None:
    """Too short, another magic byte, or an id that no registry allocates."""
    with pytest.raises(Undecodable):
        schema_id(value)
    with pytest.raises(Undecodable):
        READER.read(value)


def test_an_id_that_may_still_become_known_is_no_fault_of_the_data() -> None:
    """An unknown id raises UnknownContract, for which a stage waits, and never Undecodable, which is a dead letter."""
    value = b"\x00" + (123_456).to_bytes(4, "big") + b"x"
    for reader in READS:
        with pytest.raises(UnknownContract):
            reader(value)


def test_a_record_of_another_topic_has_no_such_head() -> None:
    """A stage that meets a foreign record says so instead of guessing."""
    contract = REGISTRY.latest("bandit.experiments")
    value = encode(contract, {"experiment": "e", "config_version": "v", "config": "{}"})
    with pytest.raises(Undecodable, match=r"bandit\.experiments has no field identifiers"):
        READER.read(value)


@pytest.mark.parametrize("change", [{"event_id": 1}, {"signals": None}, {"identifiers": 5}, {"unknown": "x"}, {"value": "x"}])
def test_what_does_not_fit_is_a_value_error(change: dict[str, Any]) -> None:
    """One exception for everything that cannot be encoded."""
    record = {field["name"]: field.get("default", "") for field in RAW.schema["fields"]}
    record |= {"heartbeat": False, "collector_ts": 1, "event_ts": 1, "signals": {}, "identifiers": []}
    encode(RAW, record)
    with pytest.raises(ValueError):
        encode(RAW, record | change)
