"""Paths, methods and places of the write key, over HTTP."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from infra.errors import ConfigError
from streams.collector.http.options import CollectorOptions
from streams.collector.http.routes import check_base_path
from streams.collector.protocols.doors import build_doors
from tests.streams.collector.http.served import ServedCollector

TP2 = "/com.snowplowanalytics.snowplow/tp2"
PAYLOAD = "iglu:com.snowplowanalytics.snowplow/payload_data/jsonschema/1-0-4"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedCollector]:
    """A collector beneath a base path, with a Snowplow path of its own."""
    options = CollectorOptions(base_path="/t", snowplow_paths=("com.acme/track",), micro=True)
    with ServedCollector(tmp_path_factory.mktemp("paths"), options) as collector:
        yield collector


@pytest.fixture
def collector(served: ServedCollector) -> ServedCollector:
    """The collector, whose sink is empty."""
    served.sink.records.clear()
    return served


def names(collector: ServedCollector) -> list[str]:
    """Names of the events that arrived."""
    return [event["event_name"] for event in collector.take_events()]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/track", "Order"),
        ("/v1/t", "Order"),
        ("/v1/p", "page"),
        ("/v1/i", "identify"),
        ("/v1/g", "group"),
        ("/v1/s", "screen"),
        ("/v1/a", "alias"),
        ("/v1/track/", "Order"),
        ("//v1//track", "Order"),
        ("/t/v1/t/", "Order"),
    ],
)
def test_segment_calls_under_every_path(collector: ServedCollector, path: str, name: str) -> None:
    """Short names, final and double slashes and the base path lead to the call; the body is text/plain with the key in it."""
    body = {"event": "Order", "userId": "u-1", "previousId": "u-0", "anonymousId": "c-1", "writeKey": collector.key}
    answer = collector.send("POST", path, body, {"Content-Type": "text/plain"})
    assert (answer.status, names(collector)) == (200, [name])


@pytest.mark.parametrize("path", ["/v1/batch", "/v1/b", "/v1/import", "/beacon/v1/batch"])
def test_a_beacons_key_stands_in_the_query(collector: ServedCollector, path: str) -> None:
    """A batch that navigator.sendBeacon sends can set no header."""
    body = {"batch": [{"type": "track", "event": "Order", "anonymousId": "c-1"}]}
    answer = collector.send("POST", f"{path}?writeKey={collector.key}", body, {"Content-Type": "text/plain;charset=UTF-8"})
    assert (answer.status, names(collector)) == (200, ["Order"])


@pytest.mark.parametrize("parameter", ["writeKey", "key"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/events", {"event_name": "x", "client_id": "c"}),
        ("/v1/consent", {"client_id": "c", "kind": "withdrawal"}),
    ],
)
def test_own_doors_take_the_key_from_the_query(
    collector: ServedCollector, path: str, body: dict[str, Any], parameter: str
) -> None:
    """As well as from the header."""
    assert collector.send("POST", f"{path}?{parameter}={collector.key}", body).json["accepted"] == 1


def test_the_first_active_key_counts(collector: ServedCollector) -> None:
    """A proxy's own password in `Authorization` does not hide the key in the query."""
    proxy = "Basic " + base64.b64encode(b"staging:secret").decode()
    answer = collector.post(f"/v1/events?key={collector.key}", {"event_name": "x"}, Authorization=proxy)
    assert (answer.status, names(collector)) == (200, ["x"])


def test_bytes_in_the_key_that_are_no_text_are_an_unknown_key(collector: ServedCollector) -> None:
    """In the header, and half a surrogate pair in the body."""
    assert collector.post("/v1/events", {"event_name": "x"}, Authorization="Bearer é").json["code"] == "UNKNOWN_KEY"
    body = b'{"event": "x", "writeKey": "\\ud800"}'
    assert collector.post("/v1/track", body, Authorization="").json["code"] == "UNKNOWN_KEY"


def test_metrics_of_an_sdk_are_answered_and_not_kept(collector: ServedCollector) -> None:
    """200, counted, and no record."""
    before = collector.metric("headwater_requests_total", door="/v1/m", status="200")
    assert collector.send("POST", "/v1/m", {"series": [{"type": "Counter"}]}).status == 200
    assert collector.metric("headwater_requests_total", door="/v1/m", status="200") == before + 1
    assert collector.sink.records == []


def test_a_merge_is_an_alias(collector: ServedCollector) -> None:
    """The identifiers that RudderStack merges are those of one event; a foreign one is a dead letter that says what to send."""
    properties = [{"type": "email", "value": "a@b.example"}, {"type": "mobile", "value": "+1-202-555-0146"}]
    assert collector.post("/v1/merge", {"type": "merge", "userId": "u-1", "mergeProperties": properties}).status == 200
    (event,) = collector.take_events()
    assert (event["event_name"], len(event["identifiers"])) == ("alias", 3)
    answer = collector.post("/v1/merge", {"userId": "u-1", "mergeProperties": [{"type": "loyalty", "value": "7"}]})
    assert (answer.status, "/v1/alias" in answer.json["message"]) == (400, True)
    assert [reason for reason, _, _ in collector.take_letters()] == ["CONTRACT"]


def test_pixels(collector: ServedCollector) -> None:
    """RudderStack's with a field a parameter, Segment's with base64 of a call."""
    query = f"writeKey={collector.key}&anonymousId=c-1&context.page.url=https%3A%2F%2Fshop.example%2Fa&properties.color=red"
    answer = collector.send("GET", f"/pixel/v1/page?{query}&context.consent.gcs=G100")
    assert (answer.status, answer.headers["content-type"]) == (200, "image/gif")
    (event,) = collector.take_events()
    assert (event["page_url"], event["properties"], event["signals"]) == (
        "https://shop.example/a",
        {"color": "red"},
        {"gcs": "G100"},
    )
    call = base64.b64encode(orjson.dumps({"writeKey": collector.key, "event": "Opened", "userId": "u-1"})).decode()
    assert collector.send("GET", f"/v1/pixel/track?data={call}").status == 200
    assert names(collector) == ["Opened"]
    assert collector.send("GET", "/v1/pixel/track?data=%20%20!").json["code"] == "CONTRACT"


@pytest.mark.parametrize("path", [TP2, "/com.acme/track", "/i"])
def test_snowplow_paths(collector: ServedCollector, path: str) -> None:
    """The tracker's own path, a configured one, and the pixel's by POST."""
    answer = collector.send("POST", path, {"schema": PAYLOAD, "data": [{"aid": collector.key, "e": "pv"}]})
    assert (answer.status, answer.body, names(collector)) == (200, b"ok", ["page_view"])


def test_app_ids_of_one_batch(collector: ServedCollector) -> None:
    """Each event belongs to its app id's source; one of an unknown app id is a dead letter, whichever stands first."""
    items = [{"aid": aid, "e": "pv"} for aid in ("some-app", collector.key, collector.other_key)] + [{"e": "pp"}]
    assert collector.send("POST", TP2, {"schema": PAYLOAD, "data": items}).status == 200
    records = list(collector.sink.records)
    assert [event["source"] for event in collector.take_events()] == ["web-de", "web-de", "app"]
    collector.sink.records += records
    ((reason, source, body),) = collector.take_letters()
    assert (reason, source, orjson.loads(body)) == ("CONTRACT", "web-de", {"aid": "some-app", "e": "pv"})
    assert collector.send("POST", TP2, {"schema": PAYLOAD, "data": [{"aid": "some-app", "e": "pv"}]}).status == 401


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics", "/t/health/ready/"])
def test_head_is_answered_like_get(collector: ServedCollector, path: str) -> None:
    """Load balancers ask with HEAD, also beneath the base path."""
    got, head = collector.send("GET", path), collector.send("HEAD", path)
    assert (got.status, head.status, head.body) == (200, 200, b"")


@pytest.mark.parametrize(
    ("path", "product"),
    [
        ("/e/", "PostHog"),
        ("/capture", "PostHog"),
        ("/batch", "PostHog"),
        ("/decide/?v=3", "PostHog"),
        ("/matomo.php", "Matomo"),
        ("/track", "Mixpanel"),
        ("/2/httpapi", "Amplitude"),
        ("/b/ss/suite/1/JS-2.0/s123", "Adobe"),
        ("/api/event", "Plausible"),
        ("/tr", "Meta"),
        ("/j/collect?v=1", "Google"),
    ],
)
def test_another_products_sender_is_told_what_to_use(collector: ServedCollector, path: str, product: str) -> None:
    """404 with the product and what Headwater takes instead."""
    answer = collector.send("POST", path, b"{}")
    assert (answer.status, answer.json["code"]) == (404, "NOT_FOUND")
    assert product in answer.json["message"]
    assert "/v1/events" in answer.json["message"]


def test_a_wrong_method_is_told_the_right_one(collector: ServedCollector) -> None:
    """The message names the method that the door takes."""
    assert "takes POST" in collector.send("GET", "/v1/events").json["message"]


def test_configured_paths_are_checked_at_the_start(tmp_path: Path) -> None:
    """A path that is none, or that a door has already, stops the start."""
    for path in ("track", "a/b/c", "com.acme/tr ack", "v1/track", TP2):
        with pytest.raises(ConfigError, match="--snowplow-path"):
            build_doors([path])
    assert [check_base_path(path) for path in ("", "/", "t", "/t/", "/a/b")] == ["", "", "/t", "/t", "/a/b"]
    with pytest.raises(ConfigError, match="--base-path"):
        check_base_path("/a b")
