"""The first-party id cookie: set, renewed and deleted by the consent that a request brings, at every door."""

import base64
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import orjson
import pytest

from infra.errors import ConfigError
from infra.http.cors import AllowedOrigins
from streams.collector.http.id_cookie import IdCookies, IdCookieSettings
from streams.collector.http.options import CollectorOptions
from streams.collector.signals.policy_source import PolicySource
from streams.collector.signals.storage_consent import StorageRules
from streams.consent.policy import PACKAGED
from streams.identity.nodes import NodeKeys, node
from tests.streams.collector.http.served import SECRET, Answer, ServedCollector

SHOP = "https://shop.example"
VALUE = "hw1.AAAAAAAAAAAAAAAAAAAAAA"
BROWSER = {"Cookie": f"other=1; hw_id={VALUE}", "Host": "collect.shop.example"}
GRANTED, DENIED = {"cmp.analytics": "granted"}, {"cmp.analytics": "denied"}


def options(**settings: Any) -> CollectorOptions:
    """Return options with a cookie `hw_id`, by the packaged policy."""
    origins = AllowedOrigins([SHOP])
    cookies = IdCookies(IdCookieSettings("hw_id", **settings), StorageRules(PolicySource(None)), origins)
    return CollectorOptions(region_header="X-Region", origins=origins, micro=True, id_cookies=cookies)


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedCollector]:
    """A collector that sets the cookie."""
    with ServedCollector(tmp_path_factory.mktemp("cookies"), options(domain="shop.example")) as served:
        yield served


@pytest.fixture(autouse=True)
def no_records(collector: ServedCollector) -> None:
    """Each test sees its own records only."""
    collector.sink.records.clear()


def cookie_node(value: str) -> str:
    """Return the pseudonym of a cookie's value."""
    return node(NodeKeys.derive(SECRET), "cookie", value) or ""


def set_value(answer: Answer) -> str:
    """Return the value of the cookie that an answer sets; empty where it sets none."""
    match = re.match(r"hw_id=(hw1\.[\w-]{22});", answer.headers.get("set-cookie", ""))
    return match[1] if match else ""


def own(*consents: Any, **fields: Any) -> list[dict[str, Any]]:
    """Return an own event for each consent object."""
    return [{"event_name": "page_view", "client_id": "c-1", "consent": consent, **fields} for consent in consents]


# -- every door


class Sending(NamedTuple):
    """A request of one door."""

    method: str
    path: str
    body: bytes = b""


def segment(consent: dict[str, str], key: str) -> Sending:
    """A Segment batch, whose key is in the body."""
    call = {"type": "track", "event": "Signed Up", "anonymousId": "a-1", "messageId": "m-1", "context": {"consent": consent}}
    return Sending("POST", "/v1/batch", orjson.dumps({"writeKey": key, "batch": [call]}))


def pixel(consent: dict[str, str], key: str) -> Sending:
    """A Segment image pixel."""
    call = {"event": "Opened", "anonymousId": "a-1", "writeKey": key, "context": {"consent": consent}}
    return Sending("GET", "/v1/pixel/track?" + urlencode({"data": base64.b64encode(orjson.dumps(call)).decode()}))


def snowplow_item(consent: dict[str, str], key: str) -> dict[str, str]:
    """A Snowplow page view with a consent entity."""
    entity = {"schema": "iglu:com.headwater/consent/jsonschema/1-0-0", "data": consent}
    contexts = {"schema": "iglu:com.snowplowanalytics.snowplow/contexts/jsonschema/1-0-0", "data": [entity]}
    return {"e": "pv", "aid": key, "duid": "d-1", "eid": "e-1", "co": orjson.dumps(contexts).decode()}


def snowplow(consent: dict[str, str], key: str) -> Sending:
    """A Snowplow POST."""
    schema = "iglu:com.snowplowanalytics.snowplow/payload_data/jsonschema/1-0-4"
    body = {"schema": schema, "data": [snowplow_item(consent, key)]}
    return Sending("POST", "/com.snowplowanalytics.snowplow/tp2", orjson.dumps(body))


def snowplow_get(consent: dict[str, str], key: str) -> Sending:
    """A Snowplow GET."""
    return Sending("GET", "/i?" + urlencode(snowplow_item(consent, key)))


def ga4(consent: dict[str, str], key: str) -> Sending:
    """The Measurement Protocol."""
    body = {"client_id": "1.2", "consent": consent, "events": [{"name": "page_view"}]}
    return Sending("POST", f"/mp/collect?api_secret={key}", orjson.dumps(body))


def gtag(consent: dict[str, str], key: str) -> Sending:
    """Google's browser tag, whose signal is `gcs`."""
    gcs = "G101" if consent == GRANTED else "G100" if consent == DENIED else ""
    return Sending("POST", "/g/collect?" + urlencode({"cid": "1.2", "gcs": gcs, "ep.write_key": key}), b"en=page_view")


def own_json(consent: dict[str, str], key: str) -> Sending:
    """Own JSON, with the key in the query, as beacons send it."""
    return Sending("POST", f"/v1/events?key={key}", orjson.dumps(own(consent)))


DOORS = [own_json, segment, pixel, snowplow, snowplow_get, ga4, gtag]
EventSender = Callable[[dict[str, str], str], Sending]


def send(collector: ServedCollector, sending: Sending, headers: dict[str, str] | None = None) -> Answer:
    """Send a request as a browser does; its answer, which is 200."""
    answer = collector.send(*sending, headers={"Host": "collect.shop.example", **(headers or {})})
    assert answer.status in (200, 204), answer.body
    return answer


@pytest.mark.parametrize("door", DOORS)
def test_a_grant_sets_a_cookie_that_identifies_the_event(collector: ServedCollector, door: EventSender) -> None:
    """With all attributes; its pseudonym stands beside the event's own, and its value nowhere."""
    answer = send(collector, door(GRANTED, collector.key))
    value = set_value(answer)
    attributes = set(answer.headers["set-cookie"].split("; ")[1:])
    assert attributes == {"Domain=shop.example", "HttpOnly", "Max-Age=34128000", "Path=/", "SameSite=Lax", "Secure"}
    assert answer.headers["cache-control"] == "no-store"
    assert all(value.encode() not in record.value for record in collector.sink.records)
    (event,) = collector.take_events()
    assert cookie_node(value) in event["identifiers"]
    assert len(event["identifiers"]) == 2


@pytest.mark.parametrize("door", DOORS)
def test_a_returning_visitor_keeps_the_value(collector: ServedCollector, door: EventSender) -> None:
    """And the life of the cookie is renewed."""
    assert set_value(send(collector, door(GRANTED, collector.key), BROWSER)) == VALUE
    assert cookie_node(VALUE) in collector.take_events()[0]["identifiers"]


@pytest.mark.parametrize("door", DOORS)
def test_a_refusal_deletes_the_cookie_and_does_not_use_it(collector: ServedCollector, door: EventSender) -> None:
    """Of the domain and of the host alone; where there is none, nothing is set."""
    answer = send(collector, door(DENIED, collector.key), BROWSER)
    assert answer.headers["set-cookie"].startswith("hw_id=; ")
    assert "Max-Age=0" in answer.headers["set-cookie"]
    assert "set-cookie" not in send(collector, door(DENIED, collector.key)).headers
    assert cookie_node(VALUE) not in [name for event in collector.take_events() for name in event["identifiers"]]


@pytest.mark.parametrize("door", DOORS)
def test_silence_in_an_unknown_region_changes_nothing(collector: ServedCollector, door: EventSender) -> None:
    """No cookie is set, and one that is there is neither renewed nor deleted nor used."""
    for headers in ({}, BROWSER):
        assert "set-cookie" not in send(collector, door({}, collector.key), headers).headers
    assert cookie_node(VALUE) not in [name for event in collector.take_events() for name in event["identifiers"]]


# -- what decides


@pytest.mark.parametrize(
    ("consent", "headers", "outcome"),
    [
        ({"cmp.analytics": "granted"}, {}, "renewed"),
        ({"cmp.marketing": "granted"}, {}, ""),
        ({"cmp.marketing": "denied"}, {}, ""),
        ({"cmp.analytics": "maybe"}, {}, ""),
        ({"tc_string": "unreadable", "gdpr_applies": "1", "tc_event_status": "tcloaded"}, {}, ""),
        ({"analytics_storage": "granted"}, {}, "renewed"),
        ({"analytics_storage": "denied"}, {}, "deleted"),
        ({"cmp.analytics": "granted", "analytics_storage": "denied"}, {}, "deleted"),
        ({}, {"X-Region": "US-TX"}, "renewed"),
        ({"cmp.analytics": "denied"}, {"X-Region": "US-TX"}, "deleted"),
        ({}, {"X-Region": "DE"}, ""),
        ({"cmp.analytics": "granted"}, {"SP-Anonymous": "*"}, ""),
        ({"cmp.analytics": "denied"}, {"SP-Anonymous": "*"}, ""),
        ({"cmp.analytics": "granted"}, {"Sec-GPC": "1"}, "renewed"),
    ],
)
def test_the_policy_decides(collector: ServedCollector, consent: Any, headers: dict[str, str], outcome: str) -> None:
    """By signals and region, for the purpose analytics, as the consent stage does: the same policy ignores GPC there."""
    counts = {name: collector.metric("headwater_id_cookies_total", outcome=name) for name in ("set", "renewed", "deleted")}
    answer = collector.post("/v1/events", own(consent), **BROWSER, **headers)
    changed = {
        name: count - counts[name]
        for name in counts
        if (count := collector.metric("headwater_id_cookies_total", outcome=name)) != counts[name]
    }
    assert answer.status == 200
    assert changed == ({outcome: 1} if outcome else {})
    assert ("set-cookie" in answer.headers) is bool(outcome)
    assert (cookie_node(VALUE) in collector.take_events()[0]["identifiers"]) is (outcome == "renewed")


def test_gpc_counts_where_the_policy_says_so(tmp_path: Path) -> None:
    """It prevents a cookie and keeps one from being renewed; a signal is no choice, so the cookie is not deleted."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(PACKAGED.read_text().replace("denied_by_gpc: false", "denied_by_gpc: true"))
    cookies = IdCookies(IdCookieSettings("hw_id"), StorageRules(PolicySource(policy)), AllowedOrigins())
    with ServedCollector(tmp_path, CollectorOptions(id_cookies=cookies)) as served:
        assert "set-cookie" in served.post("/v1/events", own(GRANTED), **BROWSER).headers
        assert "set-cookie" not in served.post("/v1/events", own(GRANTED), **BROWSER, **{"Sec-GPC": "1"}).headers
        refused = served.post("/v1/events", own(DENIED), **BROWSER, **{"Sec-GPC": "1"})
        assert "Max-Age=0" in refused.headers["set-cookie"]


def test_a_signal_that_the_mask_hides_grants_nothing(collector: ServedCollector) -> None:
    """The consent stage sees `[user id]` in its place, and so does the cookie."""
    answer = collector.post("/v1/events", own(GRANTED, user_id="granted"), **BROWSER)
    assert collector.take_events()[0]["signals"]["cmp.analytics"] != "granted"
    assert "set-cookie" not in answer.headers


def test_a_request_has_one_cookie(collector: ServedCollector) -> None:
    """The last event decides, and any refusal wins; the id belongs to the events that grant."""
    answer = collector.post("/v1/events", own({}, GRANTED), Host="collect.shop.example")
    value = set_value(answer)
    assert [cookie_node(value) in event["identifiers"] for event in collector.take_events()] == [False, True]
    assert "set-cookie" not in collector.post("/v1/events", own(GRANTED, {}), Host="collect.shop.example").headers
    assert [len(event["identifiers"]) for event in collector.take_events()] == [1, 1]
    answer = collector.post("/v1/events", own(GRANTED, DENIED, GRANTED), **BROWSER)
    assert "Max-Age=0" in answer.headers["set-cookie"]
    assert [cookie_node(VALUE) in event["identifiers"] for event in collector.take_events()] == [True, False, True]


def test_choices_delete_and_never_set(collector: ServedCollector) -> None:
    """A refusal and a withdrawal of analytics; a grant waits for an event, a withdrawal of marketing changes nothing."""
    choices: list[tuple[dict[str, Any], bool]] = [
        ({"consent": DENIED}, True),
        ({"kind": "withdrawal"}, True),
        ({"kind": "withdrawal", "purposes": ["analytics"]}, True),
        ({"kind": "withdrawal", "purposes": ["marketing"]}, False),
        ({"consent": GRANTED}, False),
    ]
    for choice, is_deleted in choices:
        answer = collector.post("/v1/consent", {"client_id": "c-1", **choice}, **BROWSER)
        assert answer.status in (200, 204), answer.body
        assert ("Max-Age=0" in answer.headers.get("set-cookie", "")) is is_deleted


# -- who may have one


def test_a_forged_value_is_replaced(collector: ServedCollector) -> None:
    """So that no page makes two visitors one person."""
    for forged in ("everybody", "hw1.short", "hw2.AAAAAAAAAAAAAAAAAAAAAA", f"{VALUE}x"):
        answer = collector.post("/v1/events", own(GRANTED), Host="collect.shop.example", Cookie=f"hw_id={forged}")
        assert set_value(answer) not in ("", forged)


def test_values_are_random(collector: ServedCollector) -> None:
    """Two visitors have two."""
    values = {set_value(collector.post("/v1/events", own(GRANTED), Host="collect.shop.example")) for _ in range(20)}
    assert len(values) == 20


def test_pages_of_other_sites(collector: ServedCollector) -> None:
    """Only a listed origin, by https, gets a cookie that is sent across sites; the others get none."""
    cross = {"Sec-Fetch-Site": "cross-site", "Origin": SHOP}
    answer = collector.post("/v1/events", own(GRANTED), Host="collect.shop.example", **cross)
    assert {"SameSite=None", "Secure"} <= set(answer.headers["set-cookie"].split("; "))
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert answer.headers["access-control-allow-origin"] == SHOP
    for headers in ({"Origin": "https://other.example"}, {"Origin": SHOP, "Host": "127.0.0.1"}):
        answer = collector.post("/v1/events", own(GRANTED), **{"Host": "collect.shop.example", **cross, **headers})
        assert "set-cookie" not in answer.headers
    collector.sink.records.clear()
    collector.post("/v1/events", own(GRANTED), **BROWSER, **cross | {"Origin": "https://other.example"})
    assert cookie_node(VALUE) not in collector.take_events()[0]["identifiers"]


@pytest.mark.parametrize(
    ("headers", "is_secure"),
    [
        ({"Host": "127.0.0.1:8080"}, False),
        ({"Host": "localhost:8080"}, False),
        ({"Host": "[::1]:8080"}, False),
        ({"Host": "localhost", "X-Forwarded-Proto": "https"}, True),
        ({"Host": "collect.shop.example"}, True),
        ({"Host": "collect.other.example:8443"}, True),
    ],
)
def test_secure_and_domain(collector: ServedCollector, headers: dict[str, str], is_secure: bool) -> None:
    """Secure unless the request is http to this machine; the domain only where the host belongs to it."""
    attributes = collector.post("/v1/events", own(GRANTED), **headers).headers["set-cookie"].split("; ")
    assert ("Secure" in attributes) is is_secure
    assert ("Domain=shop.example" in attributes) is ("shop" in headers["Host"])


def test_servers_and_imports_have_none(collector: ServedCollector) -> None:
    """Each of their requests would be a new visitor."""
    answer = collector.post("/v1/events", own(GRANTED), **BROWSER, Authorization=f"Bearer {collector.other_key}")
    assert (answer.status, "set-cookie" in answer.headers) == (200, False)
    assert len(collector.take_events()[0]["identifiers"]) == 1


def test_a_container_relays_it(collector: ServedCollector) -> None:
    """The header names the visitor's value, and that of the answer what to set; an empty value deletes."""
    relay = {"Authorization": f"Bearer {collector.other_key}", "X-Headwater-Id-Cookie": ""}
    answer = collector.post("/v1/events", own(GRANTED), **relay)
    value = answer.headers["x-headwater-id-cookie"]
    assert (answer.headers["x-headwater-id-cookie-max-age"], "set-cookie" in answer.headers) == ("34128000", False)
    assert cookie_node(value) in collector.take_events()[0]["identifiers"]
    relay["X-Headwater-Id-Cookie"] = value
    assert collector.post("/v1/events", own(GRANTED), **relay).headers["x-headwater-id-cookie"] == value
    answer = collector.post("/v1/events", own(DENIED), **relay)
    assert (answer.headers["x-headwater-id-cookie"], answer.headers["x-headwater-id-cookie-max-age"]) == ("", "0")
    assert "x-headwater-id-cookie" not in collector.post("/v1/events", own({}), **relay).headers


# -- what must not happen


def test_the_value_is_in_no_preview_and_no_dead_letter(collector: ServedCollector) -> None:
    """Not even encrypted: a dead letter keeps the body, and the cookie is in a header."""
    collector.send("GET", "/micro/reset")
    collector.post("/v1/events", [*own(GRANTED, GRANTED, echoed=VALUE), {"consent": GRANTED}], **BROWSER)
    assert VALUE.encode() not in collector.send("GET", "/micro/all").body
    assert all(VALUE.encode() not in record.value for record in collector.sink.records)
    ((_, _, body),) = collector.take_letters()
    assert VALUE.encode() not in body


def test_a_rejected_request_sets_none(collector: ServedCollector) -> None:
    """Neither one without a key, nor one that is no JSON, nor one that Kafka and the spool do not take."""
    assert "set-cookie" not in collector.post("/v1/events", own(GRANTED), Authorization="Bearer x", **BROWSER).headers
    assert "set-cookie" not in collector.post("/v1/events", b"{", **BROWSER).headers
    collector.sink.full = True
    answer = collector.post("/v1/events", own(GRANTED), **BROWSER)
    collector.sink.full = False
    assert (answer.status, "set-cookie" in answer.headers) == (503, False)


def test_without_the_option_there_is_none(tmp_path: Path) -> None:
    """The cookie of a request is not read either."""
    with ServedCollector(tmp_path) as served:
        assert "set-cookie" not in served.post("/v1/events", own(GRANTED), **BROWSER).headers
        assert len(served.take_events()[0]["identifiers"]) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "a b"}, "--id-cookie must be"),
        ({"name": ""}, "--id-cookie must be"),
        ({"name": "hw_id", "domain": ".shop.example"}, "--id-cookie-domain must be"),
        ({"name": "hw_id", "domain": "https://shop.example"}, "--id-cookie-domain must be"),
        ({"name": "__Host-id", "domain": "shop.example"}, "__Host-"),
        ({"name": "hw_id", "days": 401}, "--id-cookie-days"),
        ({"name": "hw_id", "days": 0}, "--id-cookie-days"),
    ],
)
def test_settings_that_no_browser_accepts(settings: dict[str, Any], message: str) -> None:
    """Are refused at the start, by the option's name."""
    with pytest.raises(ConfigError, match=message):
        IdCookieSettings(**settings)
