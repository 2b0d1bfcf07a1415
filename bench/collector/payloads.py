"""Realistic events of three protocols, and the HTTP requests that carry them. Seeded.

About 600 bytes an event as browsers and tag containers send it: identifiers, page, device, consent, a few properties; every
twentieth event is a purchase with two products. A thousand visitors, of whom three in ten have an account.
"""

import random
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import orjson

from streams.collector.protocols import own, segment, snowplow

AGENTS = (
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.4 Safari/605.1.15",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
    "Mozilla/5.0 (Linux; Android 14; SM-S921B) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Mobile Safari/537.36",
)
CONSENT = ({"gcs": "G111", "gcd": "13r3r3r3r5"}, {"cmp.analytics": "granted", "cmp.marketing": "denied"})
VISITORS = 1_000
PURCHASES = 0.05
LANGUAGES = ("de-DE", "en-US", "fr-FR")
SCREENS = ("1920x1080", "1440x900", "390x844")
SCHEMA = "iglu:com.snowplowanalytics.snowplow"


class Visit(NamedTuple):
    """What an event of any protocol says."""

    number: int
    visitor: int
    event_id: str
    at_ms: int
    page: str
    agent: str
    is_purchase: bool

    @property
    def client_id(self) -> str:
        """The browser's cookie."""
        return f"{1_122_334_000 + self.visitor}.{1_690_000_000 + self.visitor}"

    @property
    def user_id(self) -> str | None:
        """The account of three visitors in ten."""
        return f"customer-{self.visitor}" if self.visitor % 10 < 3 else None

    @property
    def address(self) -> str:
        """The visitor's IP address."""
        return f"198.51.{self.visitor % 256}.{self.visitor % 199 + 1}"

    @property
    def products(self) -> list[dict[str, Any]]:
        """Two products."""
        skus = (self.number % 97, self.number % 89)
        return [{"item_id": f"SKU-{sku}", "item_name": f"Chair {sku}", "price": 49.9 + sku, "quantity": 1} for sku in skus]


class Workload(NamedTuple):
    """A protocol as load: its door, and how its events and bodies look."""

    path: str
    build_item: Callable[[Visit, str], dict[str, Any]]
    build_body: Callable[[Sequence[dict[str, Any]]], Any]
    extract_items: Callable[[Any], list[Any]]
    parse_item: Callable[[Any], Any]


def draw_visits(count: int, seed: int = 7) -> list[Visit]:
    """Return events of `VISITORS` visitors, each with an id of its own."""
    rng = random.Random(seed)
    now = time.time_ns() // 1_000_000
    return [
        Visit(
            number,
            rng.randrange(VISITORS),
            str(uuid.UUID(int=rng.getrandbits(128), version=4)),
            now - rng.randrange(30_000),
            f"https://shop.example/products/{rng.randrange(900)}?utm_source=news&utm_medium=email&variant={rng.randrange(9)}",
            rng.choice(AGENTS),
            rng.random() < PURCHASES,
        )
        for number in range(count)
    ]


def _own_item(visit: Visit, _key: str) -> dict[str, Any]:
    item: dict[str, Any] = {
        "event_name": "page_view",
        "event_id": visit.event_id,
        "client_id": visit.client_id,
        "event_ts": visit.at_ms,
        "page_location": visit.page,
        "page_title": "A chair that many people look at",
        "page_referrer": "https://www.search.example/",
        "user_agent": visit.agent,
        "ip_override": visit.address,
        "language": LANGUAGES[visit.visitor % 3],
        "screen_resolution": SCREENS[visit.visitor % 3],
        "consent": CONSENT[visit.visitor % 2],
        "plan": "b",
        "list": "home",
        "engagement_time_msec": visit.number % 9_000,
        "scroll_depth": visit.number % 100,
    }
    if visit.user_id:
        item["user_id"] = visit.user_id
    if visit.is_purchase:
        item |= {"event_name": "purchase", "order_id": f"T-{visit.number}", "value": 119.8, "currency": "EUR"}
        item["items"] = visit.products
    return item


def _segment_item(visit: Visit, _key: str) -> dict[str, Any]:
    width, _, height = SCREENS[visit.visitor % 3].partition("x")
    item: dict[str, Any] = {
        "type": "track",
        "event": "Product Viewed",
        "messageId": f"ajs-{visit.event_id}",
        "anonymousId": visit.client_id,
        "timestamp": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(visit.at_ms / 1_000)),
        "context": {
            "library": {"name": "analytics.js", "version": "1.66.0"},
            "page": {"url": visit.page, "title": "A chair that many people look at", "referrer": "https://www.search.example/"},
            "userAgent": visit.agent,
            "ip": visit.address,
            "locale": LANGUAGES[visit.visitor % 3],
            "timezone": "Europe/Berlin",
            "screen": {"width": int(width), "height": int(height)},
            "consent": {"categoryPreferences": {"analytics": True, "marketing": visit.visitor % 2 == 0}},
        },
        "properties": {"plan": "b", "list": "home", "position": visit.number % 40, "category": "Chairs"},
    }
    if visit.user_id:
        item["userId"] = visit.user_id
    if visit.is_purchase:
        item["event"] = "Order Completed"
        products = [{"product_id": product.pop("item_id"), **product} for product in visit.products]
        item["properties"] |= {"order_id": f"T-{visit.number}", "revenue": 119.8, "currency": "EUR", "products": products}
    return item


def _snowplow_item(visit: Visit, key: str) -> dict[str, Any]:
    consent = {"schema": "iglu:com.headwater/consent/jsonschema/1-0-0", "data": CONSENT[visit.visitor % 2]}
    entities = [
        consent,
        {"schema": f"{SCHEMA}/web_page/jsonschema/1-0-0", "data": {"id": visit.event_id}},
        {"schema": "iglu:com.acme/experiment/jsonschema/1-0-0", "data": {"plan": "b", "position": visit.number % 40}},
    ]
    item = {
        "e": "pv",
        "eid": visit.event_id,
        "aid": key,
        "p": "web",
        "tv": "js-3.24.0",
        "dtm": str(visit.at_ms),
        "url": visit.page,
        "page": "A chair that many people look at",
        "refr": "https://www.search.example/",
        "ua": visit.agent,
        "ip": visit.address,
        "lang": LANGUAGES[visit.visitor % 3],
        "res": SCREENS[visit.visitor % 3],
        "tz": "Europe/Berlin",
        "duid": f"d{visit.client_id}",
        "vid": "3",
        "co": orjson.dumps({"schema": f"{SCHEMA}/contexts/jsonschema/1-0-0", "data": entities}).decode(),
    }
    if visit.user_id:
        item["uid"] = visit.user_id
    if visit.is_purchase:
        item |= {"e": "tr", "tr_id": f"T-{visit.number}", "tr_tt": "119.80", "tr_cu": "EUR"}
    return item


def _segment_batch(items: Sequence[dict[str, Any]]) -> Any:
    return {"batch": items, "sentAt": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())}


WORKLOADS = {
    "own": Workload("/v1/events", _own_item, lambda items: {"events": items}, own.extract_items, own.parse_item),
    "segment": Workload(
        "/v1/batch", _segment_item, _segment_batch, lambda body: segment.extract_items(body, "batch"), segment.parse_item
    ),
    "snowplow": Workload(
        snowplow.POST_PATH,
        _snowplow_item,
        lambda items: {"schema": f"{SCHEMA}/payload_data/jsonschema/1-0-4", "data": items},
        snowplow.extract_items,
        snowplow.parse_item,
    ),
}


def build_bodies(workload: Workload, key: str, events: int, size: int) -> list[bytes]:
    """Return bodies of `size` events each."""
    items = [workload.build_item(visit, key) for visit in draw_visits(events)]
    return [orjson.dumps(workload.build_body(items[at : at + size])) for at in range(0, events, size)]


def build_requests(workload: Workload, key: str, events: int, size: int) -> list[bytes]:
    """Return whole HTTP requests of `size` events each, as a client with a connection kept alive sends them."""
    head = (
        f"POST {workload.path} HTTP/1.1\r\nHost: collector\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
    )
    return [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in build_bodies(workload, key, events, size)]


__all__ = ["WORKLOADS", "Visit", "Workload", "build_bodies", "build_requests", "draw_visits"]
