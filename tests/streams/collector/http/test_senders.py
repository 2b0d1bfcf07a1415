"""What the collector takes from the head of a request: origins, addresses, agents."""

import socket
from collections.abc import Iterator

import pytest

from infra.http.cors import AllowedOrigins
from streams.collector.http.options import CollectorOptions
from tests.streams.collector.http.served import ServedCollector

SHOP = "https://shop.example"


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedCollector]:
    """A collector behind one proxy, with listed origins."""
    origins = AllowedOrigins([SHOP, "https://*.shop.example"])
    options = CollectorOptions(trusted_proxies=1, origins=origins)
    with ServedCollector(tmp_path_factory.mktemp("senders"), options) as served:
        yield served


@pytest.mark.parametrize("requested", ["anonymousid,authorization,content-type", "content-encoding", "SP-Anonymous, x-own"])
@pytest.mark.parametrize("path", ["/v1/track", "/com.snowplowanalytics.snowplow/tp2", "/mp/collect?api_secret=x"])
def test_a_preflight_of_a_listed_origin(collector: ServedCollector, path: str, requested: str) -> None:
    """Allows the headers that it asks for, and credentials."""
    asking = {"Origin": SHOP, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": requested}
    answer = collector.send("OPTIONS", path, headers=asking)
    allowed = {name: value for name, value in answer.headers.items() if name.startswith("access-control-allow")}
    assert answer.status == 204
    assert (allowed["access-control-allow-origin"], allowed["access-control-allow-credentials"]) == (SHOP, "true")
    assert (allowed["access-control-allow-headers"], "POST" in allowed["access-control-allow-methods"]) == (requested, True)
    assert answer.headers["vary"] == "Origin, Access-Control-Request-Headers"


def test_a_preflight_without_headers_or_with_malformed_ones(collector: ServedCollector) -> None:
    """Gets the list of the headers that the doors read."""
    for requested in ("", "a\tb", "x" * 3_000):
        answer = collector.send("OPTIONS", "/v1/track", headers={"Origin": SHOP, "Access-Control-Request-Headers": requested})
        assert "AnonymousId" in answer.headers["access-control-allow-headers"]


@pytest.mark.parametrize(
    ("path", "status"), [("/v1/events", 401), ("/nowhere", 404), ("/v1/events?key={key}", 400), ("/health/live", 404)]
)
def test_every_answer_can_be_read_by_a_listed_page(collector: ServedCollector, path: str, status: int) -> None:
    """Errors too."""
    answer = collector.send("POST", path.format(key=collector.key), b"{", {"Origin": SHOP})
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (status, SHOP)
    assert (answer.headers["vary"], answer.headers["access-control-allow-credentials"]) == ("Origin", "true")


def test_an_origin_that_is_not_listed(collector: ServedCollector) -> None:
    """Gets no permission, says why, and is counted by its name; the 51st name is `other`. A page of this host is none."""
    answer = collector.send("OPTIONS", "/v1/track", headers={"Origin": "https://other.example"})
    assert (answer.status, answer.json["code"]) == (403, "ORIGIN")
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["vary"] == "Origin"
    assert collector.metric("headwater_origin_unlisted_total", origin="https://other.example") == 1
    for number in range(50):
        collector.send("GET", "/health/live", headers={"Origin": f"https://o{number}.example"})
    assert collector.metric("headwater_origin_unlisted_total", origin="other") == 1
    collector.send("GET", "/health/live", headers={"Origin": f"http://127.0.0.1:{collector.port}"})
    assert collector.metric("headwater_origin_unlisted_total", origin="other") == 1


def test_subdomains_by_wildcard(collector: ServedCollector) -> None:
    """Exactly the subdomains."""
    for origin, is_allowed in {"https://a.shop.example": True, "https://xshop.example": False}.items():
        answer = collector.send("GET", "/health/live", headers={"Origin": origin})
        assert ("access-control-allow-origin" in answer.headers) is is_allowed


@pytest.mark.parametrize(
    ("forwarded", "prefix"),
    [
        ("10.77.0.1, 198.51.100.23", "198.51.100.0"),
        ("[2001:db8:9:1::5]:443", "2001:db8:9::"),
        ("198.51.100.23:5000", "198.51.100.0"),
        ("::ffff:198.51.100.23", "198.51.100.0"),
        ("unknown", ""),
        ("", "127.0.0.0"),
    ],
)
def test_the_entry_of_the_trusted_proxy_is_the_address(collector: ServedCollector, forwarded: str, prefix: str) -> None:
    """Not what the client wrote before it; ports and brackets are read."""
    collector.post("/v1/events", {"event_name": "x"}, **{"X-Forwarded-For": forwarded})
    assert [event["ip_prefix"] for event in collector.take_events()] == [prefix]


def test_sp_anonymous_keeps_no_address_and_no_network_id(collector: ServedCollector) -> None:
    """Neither that of the request nor the one in the event; the visitor's own cookie stays."""
    schema = "iglu:com.snowplowanalytics.snowplow/payload_data/jsonschema/1-0-4"
    item = {"aid": collector.key, "e": "pv", "tnuid": "n-1", "duid": "c-1", "ip": "192.0.2.7"}
    path = "/com.snowplowanalytics.snowplow/tp2"
    for headers, identifiers, prefix in (({}, 2, "192.0.2.0"), ({"SP-Anonymous": "*"}, 1, "")):
        collector.send("POST", path, {"schema": schema, "data": [item]}, headers)
        (event,) = collector.take_events()
        assert (len(event["identifiers"]), event["ip_prefix"]) == (identifiers, prefix)
    collector.post("/v1/events", {"event_name": "x", "ip_override": "192.0.2.7"}, **{"SP-Anonymous": "*"})
    assert [event["ip_prefix"] for event in collector.take_events()] == [""]


def test_bytes_of_an_agent_that_are_no_utf8_are_replaced(collector: ServedCollector) -> None:
    """The event is accepted with the rest of the agent."""
    assert collector.post("/v1/events", {"event_name": "x"}, **{"User-Agent": "Navegadorão/1.0"}).status == 200
    (event,) = collector.take_events()
    assert event["user_agent"] == "Navegador�o/1.0"


def test_a_request_that_is_no_http_is_logged_without_its_data(
    collector: ServedCollector, caplog: pytest.LogCaptureFixture
) -> None:
    """It is answered 400, and neither its key nor its event stands in a log; addresses that are no text pass too."""
    with socket.create_connection(("127.0.0.1", collector.port), 10) as connection:
        connection.sendall(b"GET /i?e=pv&aid=secret-key&page=\xff HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 400 " in connection.recv(100)
    assert "secret-key" not in caplog.text
    assert collector.send("GET", f"/i?e=pv&aid={collector.key}&page=%ff%00").status == 200
    assert len(collector.take_events()) == 1
