"""Click ids and decision tokens, from a posted event to the stage's output."""

import json
from typing import Any

import pytest

from infra.secrets import Secret
from infra.settings import PACKAGED_CONTRACTS
from infra.telemetry.metrics import Metrics
from schemas.codec import decode, encode
from schemas.registry import Registry
from streams.collector.event import InvalidItem
from streams.collector.normalise import Normaliser, RequestContext
from streams.collector.protocols import own
from streams.consent.ledger.store import MemoryStateStore
from streams.consent.policy import PACKAGED, load_policy
from streams.consent.stage import CONSENTED, RAW, ConsentDependencies, ConsentStage
from streams.identity.nodes import NodeKeys
from streams.runtime.stage import Batch

REGISTRY = Registry(PACKAGED_CONTRACTS)
CONTRACT = REGISTRY.latest(RAW)
NO_MARKETING = {"cmp.analytics": "granted", "cmp.marketing": "denied", "cmp.personalization": "granted"}
NO_PERSONALIZATION = {"cmp.analytics": "granted", "cmp.marketing": "granted", "cmp.personalization": "denied"}


def gated(body: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """The output of the stage for an event posted to `/v1/events`: bytes and record."""
    event = own.parse_item(body)
    assert not isinstance(event, InvalidItem)
    normaliser = Normaliser(CONTRACT, NodeKeys.derive(Secret("of a test, and long enough to be taken")))
    _, record = normaliser.build_record(
        event, RequestContext("web", "shop.example", 1_790_000_000_000, "DE"), lambda _name: None
    )
    stage = ConsentStage(
        REGISTRY, load_policy(PACKAGED), ConsentDependencies(b"k" * 32, MemoryStateStore(), Metrics(), lambda: None)
    )
    outcome = stage.handle(Batch(RAW, 0, [b"subject"], [encode(CONTRACT, record)], range(1)), 0)
    ((_, value, _),) = outcome.out[CONSENTED]
    assert value is not None
    return value, decode(REGISTRY, value)[1]


@pytest.mark.parametrize(
    "fields",
    [
        {"page_url": "https://shop.example/p?utm[gclid]=SECRET&d=%7B%22last_gclid%22%3A%22SECRET%22%7D#/fbclid/SECRET"},
        {"page_referrer": "https://search.example/?u=https%253A%252F%252Fx%252F%253Fmsclkid%253DSECRET"},
        {"page_title": "Shop ?ttclid=SECRET"},
        {"event_name": "view?gclid=SECRET"},
        {"properties": {"user": {"ads": {"firstGclid": "SECRET", "_ga": "SECRET"}}}},
        {"properties": {"params": [{"key": "wbraid", "value": "SECRET"}], "ecommerce.gclid": "SECRET"}},
        {"properties": {"long": [{"note": "x" * 90, "gclid": f"SECRET{n}", "gcl_aw": "SECRET"} for n in range(100)]}},
        {"properties": {"cookies": "a=1; _gcl_au=SECRET; _fbp=SECRET; b=2"}},
        {"consent": NO_MARKETING | {"gclid": "SECRET", "source": "https://x/?gclid=SECRET"}},
    ],
)
def test_no_click_id_passes_the_gate(fields: dict[str, Any]) -> None:
    """Click ids are removed from any field of an event, also from JSON that the collector has cut."""
    event = {"event_name": "page_view", "client_id": "c-1", "consent": NO_MARKETING} | fields
    assert b"SECRET" not in gated(event)[0]


def test_no_decision_token_passes_without_personalization() -> None:
    """Decision tokens are removed from nested properties and addresses."""
    properties = {"answer": {"decision_token": "SECRET", "arm": 2}}
    event = {
        "event_name": "page_view", "client_id": "c-1", "page_url": "https://shop.example/?decision_token=SECRET&a=1",
        "properties": properties, "consent": NO_PERSONALIZATION,
    }  # fmt: skip
    value, record = gated(event)
    assert b"SECRET" not in value
    assert (record["page_url"], json.loads(record["properties"]["answer"])) == ("https://shop.example/?a=1", {"arm": 2})
