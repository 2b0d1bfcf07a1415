"""Realistic encoded events for benchmarks: about 500 bytes, 60 combinations of signals, 5,000 visitors."""

import random
from collections.abc import Iterator

from schemas.codec import encode
from schemas.registry import Registry

CHOICES = [
    {"cmp.analytics": "granted", "cmp.marketing": "granted", "cmp.personalization": "granted"},
    {"gcs": "G111", "gcd": "13r3r3r3r5"},
    {"cmp.analytics": "granted", "cmp.marketing": "denied", "cmp.personalization": "granted"},
    {"gcs": "G100", "gcd": "13q3q3q3q5"},
]
WEIGHTS = [45, 30, 15, 10]
FIRST_TS = 1_790_000_000_000


def raw_events(registry: Registry, n: int, seed: int = 1, chosen: float = 0.0) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of `n` records for events.raw: 75 % granted in full, 15 % without marketing, 10 % denied; 10 % click ids.

    `chosen`: share of events that say when their choice was made, so that the consent ledger learns from them.
    """
    rng = random.Random(seed)
    contract = registry.latest("events.raw")
    for i in range(n):
        visitor = f"2{rng.randrange(5_000):032x}"
        # A click id stands in the address of the page that a visit begins with, not on every page.
        click = f"&gclid=Cj0KCQ{i:x}" if rng.random() < 0.1 else ""
        said = {"chosen_ts": str(FIRST_TS + i)} if rng.random() < chosen else {}
        country = rng.choice(["DE", "FR", "US", "AT", "NL", "IT", "ES", "PL", "SE", "GB", "CH", "BE", "DK", "NO", "IE"])
        event = {
            "event_id": f"{i:032x}",
            "event_name": rng.choice(["page_view", "add_to_cart", "purchase", "view_item"]),
            "source": "web-de",
            "site": "shop.example",
            "heartbeat": False,
            "collector_ts": FIRST_TS + i,
            "region": country,
            "signals": rng.choices(CHOICES, WEIGHTS)[0] | said,
            "identifiers": [visitor],
            "event_ts": FIRST_TS + i - 40,
            "event_ts_source": "corrected",
            "protocol": "headwater",
            "tag_version": "gtm-server/1.0",
            "page_url": f"https://shop.example/p/{rng.randrange(900)}?utm_source=news{click}",
            "page_title": "A product that many people look at",
            "page_referrer": "https://www.search.example/",
            "user_agent": "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML) Safari/605.1.15",
            "device_class": "desktop",
            "ip_prefix": "203.0.113.0",
            "properties": {"plan": "b", "items": '[{"id":"sku-1","price":19.9}]', "list": "home"},
        }
        yield visitor.encode(), encode(contract, event)
