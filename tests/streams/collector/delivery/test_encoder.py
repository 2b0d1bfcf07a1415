"""Records of events.raw are encoded as by the codec after the check of the boundary."""

from dataclasses import replace
from typing import Any

import pytest

from bench.collector.payloads import WORKLOADS, draw_visits
from infra.settings import PACKAGED_CONTRACTS
from schemas.boundary import Boundary, ContractViolation
from schemas.codec import encode
from schemas.registry import Registry
from streams.collector.delivery.encoder import EventEncoder
from streams.collector.event import ProtocolEvent
from streams.collector.normalise import Normaliser, RequestContext
from streams.identity.nodes import NodeKeys
from tests.streams.collector.http.served import SECRET

REQUEST = RequestContext("web-de", "shop.example", 1_795_000_000_000)
CONTRACT = Registry(PACKAGED_CONTRACTS).latest("events.raw")


def build(event: Any) -> dict[str, Any]:
    """Return the record of an event."""
    assert isinstance(event, ProtocolEvent)
    return Normaliser(CONTRACT, NodeKeys.derive(SECRET)).build_record(event, REQUEST, lambda _name: None)[1]


@pytest.mark.parametrize("protocol", WORKLOADS)
def test_events_of_every_protocol_are_encoded_alike(protocol: str) -> None:
    """The fast encoder's bytes are those of the codec."""
    workload, encoder = WORKLOADS[protocol], EventEncoder(CONTRACT)
    for visit in draw_visits(100):
        record = build(workload.parse_item(workload.build_item(visit, "k")))
        assert encoder.encode(record) == encode(CONTRACT, Boundary(CONTRACT).check(record))


def test_a_text_that_has_no_unicode_is_named() -> None:
    """Half a surrogate pair is refused with the name of its field."""
    record = build(ProtocolEvent("page_view", "headwater", page_title="\ud83d"))
    with pytest.raises(ContractViolation, match="page_title must be valid Unicode"):
        EventEncoder(CONTRACT).encode(record)


def test_fields_that_the_contract_has_gained_are_checked() -> None:
    """An integer beyond its type is refused, not written as another number."""
    fields = [*CONTRACT.schema["fields"], {"name": "score", "type": "int", "default": 0}]
    encoder = EventEncoder(replace(CONTRACT, schema={**CONTRACT.schema, "fields": fields}))
    record = build(ProtocolEvent("page_view", "headwater"))
    assert encoder.encode(record) == encoder.encode_checked(record)
    with pytest.raises(ContractViolation, match="score is out of range"):
        encoder.encode(record | {"score": 1 << 40})
