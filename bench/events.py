"""Realistic encoded events for benchmarks: about 500 bytes, 60 combinations of signals, 5,000 visitors."""

import base64
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from schemas.codec import decode, encode
from schemas.registry import Registry

CHOICES = [
    {"cmp.analytics": "granted", "cmp.marketing": "granted", "cmp.personalization": "granted"},
    {"gcs": "G111", "gcd": "13r3r3r3r5"},
    {"cmp.analytics": "granted", "cmp.marketing": "denied", "cmp.personalization": "granted"},
    {"gcs": "G100", "gcd": "13q3q3q3q5"},
]
WEIGHTS = [45, 30, 15, 10]
COUNTRIES = ["DE", "FR", "US", "AT", "NL", "IT", "ES", "PL", "SE", "GB", "CH", "BE", "DK", "NO", "IE"]
FIRST_TS = 1_790_000_000_000


VENDORS = 1_200
SHARES = {"all": 0.7, "none": 0.1, "some": 0.2}
VISITING = 1_000
"""Concurrent visitors."""
DAY_DS = 864_000
"""A day in deciseconds, the unit of TC strings."""

PAGE_VIEW: Mapping[str, Any] = {
    "source": "web-de",
    "site": "shop.example",
    "heartbeat": False,
    "event_ts_source": "corrected",
    "protocol": "headwater",
    "tag_version": "gtm-server/1.0",
    "page_title": "A product that many people look at",
    "page_referrer": "https://www.search.example/",
    "user_agent": "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML) Safari/605.1.15",
    "device_class": "desktop",
    "ip_prefix": "203.0.113.0",
    "properties": {"plan": "b", "items": '[{"id":"sku-1","price":19.9}]', "list": "home"},
}
"""Fields that all benchmark events share."""


def tc_strings(weights: Sequence[float], seed: int = 2) -> list[str]:
    """Return a different TC string for each weight, as consent platforms write them now.

    By weight, 70 % accept all, 10 % reject all, and the rest choose.
    """
    rng = random.Random(seed)
    vendors = sum(1 << bit for bit in range(VENDORS) if rng.random() < 0.65)
    today = FIRST_TS // 100 // DAY_DS
    texts: dict[str, None] = {}
    assigned = dict.fromkeys(SHARES, 0.0)
    while len(texts) < len(weights):
        # The kind that is farthest below its share comes next; otherwise the few heaviest strings would decide the mixture.
        kind = max(SHARES, key=lambda kind: SHARES[kind] * (sum(assigned.values()) + 1) - assigned[kind])
        purposes = {"all": 0xFFE000, "none": 0, "some": rng.getrandbits(11) << 13 | 1 << 23}[kind]
        allowed = {"all": vendors, "none": 0, "some": vendors & rng.getrandbits(VENDORS)}[kind]
        updated = rng.randrange(300)
        created = updated + rng.randrange(300)
        fields = (
            (2, 6), ((today - created) * DAY_DS, 36), ((today - updated) * DAY_DS, 36),
            (300, 12), (rng.randrange(1, 6), 12), (1, 6), (100, 12), (210, 12),
            (5, 6), (1, 1), (0, 1), (0, 12), (purposes, 24), (purposes & 0x3FE000, 24), (0, 1), (100, 12), (VENDORS, 16),
            (0, 1), (allowed, VENDORS), (VENDORS, 16), (0, 1), (allowed >> 1, VENDORS), (0, 12),
        )  # fmt: skip
        text = f"{_text(fields)}.{_text(((1, 3), (VENDORS, 16), (0, 1), (vendors, VENDORS)))}"
        if text not in texts:
            assigned[kind] += weights[len(texts)]
            texts[text] = None
    return list(texts)


def _text(fields: tuple[tuple[int, int], ...]) -> str:
    """Encode (value, width) fields one after another, six bits a character."""
    bits, width = 0, 0
    for value, size in fields:
        bits, width = bits << size | value, width + size
    spare = -width % 24
    data = (bits << spare).to_bytes((width + spare) // 8)
    return base64.urlsafe_b64encode(data).decode()[: -(-width // 6)]


def tc_events(registry: Registry, n: int, strings: int = 50_000, each: int = 20) -> Iterator[tuple[bytes, bytes]]:
    """Yield (key, value) as `raw_events`, but with TC strings: each visitor has one, drawn from a Zipf law (exponent 1.1).

    A visitor sends `each` events on average, interleaved with those of a thousand others; every visitor is new.
    """
    rng = random.Random(3)
    weights = [rank**-1.1 for rank in range(1, strings + 1)]
    contract, texts = registry.latest("events.raw"), tc_strings(weights)
    visitor_texts = rng.choices(texts, weights, k=n // each + VISITING)
    for i, (_, value) in enumerate(raw_events(registry, n)):
        event, visitor = decode(registry, value)[1], i // each + rng.randrange(VISITING)
        event["identifiers"] = [f"2{visitor:032x}"]
        event["signals"] = {"tc_string": visitor_texts[visitor], "gdpr_applies": "1", "tc_event_status": "tcloaded"}
        event["region"] = "DE"
        yield event["identifiers"][0].encode(), encode(contract, event)


def raw_events(registry: Registry, n: int, seed: int = 1, chosen: float = 0.0) -> Iterator[tuple[bytes, bytes]]:
    """Yield (key, value) of `n` records for events.raw.

    75 % are granted in full, 15 % without marketing, 10 % denied; 10 % carry click ids. `chosen`: share of events that carry
    the time of their choice, so that the consent ledger learns from them.
    """
    rng = random.Random(seed)
    contract = registry.latest("events.raw")
    choices, countries = rng.choices(CHOICES, WEIGHTS, k=5_000), rng.choices(COUNTRIES, k=5_000)
    for i in range(n):
        at = rng.randrange(len(choices))
        visitor = f"2{at:032x}"
        # A click id is in the address of a visit's first page only.
        click = f"&gclid=Cj0KCQ{i:x}" if rng.random() < 0.1 else ""
        choice_time = {"chosen_ts": str(FIRST_TS + i)} if rng.random() < chosen else {}
        event = {
            "event_id": f"{i:032x}",
            "event_name": rng.choice(["page_view", "add_to_cart", "purchase", "view_item"]),
            **PAGE_VIEW,
            "collector_ts": FIRST_TS + i,
            "region": countries[at],
            "signals": choices[at] | choice_time,
            "identifiers": [visitor],
            "event_ts": FIRST_TS + i - 40,
            "page_url": f"https://shop.example/p/{rng.randrange(900)}?utm_source=news{click}",
        }
        yield visitor.encode(), encode(contract, event)
