"""The OpenAPI document, and requests that schemathesis makes of it, against the served collector."""

import json
import resource
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from infra.http.cors import AllowedOrigins
from streams.collector.event import ProtocolEvent
from streams.collector.http.api_document import ConsentChoice, OwnEvent, build_api_document
from streams.collector.http.options import CollectorOptions
from streams.collector.protocols import choices, own
from streams.collector.protocols.doors import DOORS
from tests.streams.collector.http.served import ServedCollector
from tests.support.scale import examples

MEMORY_KB = 400_000
"""By which the test's process, in which the collector runs, may grow."""


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedCollector]:
    """A collector."""
    with ServedCollector(tmp_path_factory.mktemp("document"), CollectorOptions(origins=AllowedOrigins())) as served:
        yield served


def test_the_document_lists_every_door(collector: ServedCollector) -> None:
    """`GET /openapi.json` has each door and the operations."""
    answer = collector.send("GET", "/openapi.json")
    assert (answer.status, answer.json["openapi"]) == (200, "3.1.0")
    listed = {(method.upper(), path) for path, methods in answer.json["paths"].items() for method in methods}
    operations = {("GET", path) for path in ("/health/live", "/health/ready", "/metrics", "/openapi.json")}
    assert listed == {(door.method, door.path) for door in DOORS} | operations


def test_a_base_path_is_the_documents_server(tmp_path: Path) -> None:
    """Clients that are generated from the document send beneath the base path."""
    assert build_api_document(base_path="/t")["servers"] == [{"url": "/t"}]


def test_each_field_of_the_document_is_read() -> None:
    """No field that the document names ends among the properties, and each of a choice is accepted."""
    names = OwnEvent.model_fields.keys() - {"event_name"}
    texts = {"value": 1.5, "event_ts": 1_795_514_401_000, "sent_ts": 1_795_514_401_000}
    nested = {"items": [{"item_id": "1"}], "user_data": {"email": "ada@example.org"}}
    objects = {"properties": {}, "user_properties": {}, "consent": {"a": "1"}}
    event = {"event_name": "purchase", **dict.fromkeys(names, "EUR"), **texts, **nested, **objects}
    item = own.parse_item(event)
    assert isinstance(item, ProtocolEvent)
    assert (item.properties, item.problems) == ({}, [])
    identifiers = own.IDENTIFIERS.keys() - {"anonymous_id"}
    assert {"kind", "consent", "purposes", "site", "chosen_ts"} | identifiers == ConsentChoice.model_fields.keys()
    choice = choices.parse_item({"client_id": "c", "consent": {"cmp.a": "0"}, "site": "shop.example"})
    assert isinstance(choice, choices.SentChoice)


CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
DOCUMENT = schemathesis.openapi.from_dict(build_api_document())
OPERATIONS: list[Any] = [operation.ok() for operation in cast(Iterable[Any], DOCUMENT.get_all_operations())]


@pytest.mark.parametrize("operation", OPERATIONS, ids=[f"{operation.method} {operation.path}" for operation in OPERATIONS])
def test_answers_are_as_the_document_says(collector: ServedCollector, operation: Any) -> None:
    """Whatever fits the document is answered as it says: no failure but 503, and no memory is kept."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @settings(
        max_examples=examples(100), deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(operation.as_strategy(), st.booleans())
    def send(case: Any, is_keyed: bool) -> None:
        headers = {"Authorization": f"Bearer {collector.key}"} if is_keyed else {}
        case.headers = {**(case.headers or {}), **headers}
        response = case.call(base_url=f"http://127.0.0.1:{collector.port}")
        assert response.status_code < 500 or response.status_code == 503, json.dumps(response.text)
        case.validate_response(response, checks=CHECKS)
        collector.sink.records.clear()

    send()
    assert collector.metric("headwater_refused_total", door="collector", reason="FAILED") == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY_KB
