"""Realistic encoded records of events.consented for the identity stage: about 600 bytes, about two nodes each."""

import random
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import accumulate

from bench.events import FIRST_TS, PAGE_VIEW
from schemas.codec import encode
from schemas.registry import Registry

EXPONENT = 0.7
"""Exponent of the visitors' Zipf law: the busiest of 100,000 makes one event in a hundred."""
EACH = 4
"""Events per visitor on average; the rarest visitors do not come at all."""
NAMES = {"page_view": 60, "view_item": 30, "add_to_cart": 8, "purchase": 2}
DAY_MS = 86_400_000


def draw_visitors(n: int) -> Sequence[int]:
    """Return the visitor of each of `n` events, drawn from a Zipf law with a fixed seed."""
    ranks = range(1, max(1, n // EACH) + 1)
    return random.Random(4).choices(ranks, cum_weights=list(accumulate(rank**-EXPONENT for rank in ranks)), k=n)


def visits(registry: Registry, visitors: Sequence[int], day: int = 0) -> Iterator[tuple[bytes, bytes]]:
    """Yield (key, value) of one event per visitor; another `day` gives the same with other event ids and times.

    Every event has its visitor's cookie, seven in ten her device. One visitor in three has an account and is logged in half
    of the time; two in three of those also gave an e-mail address, which then comes with the user id.
    """
    rng = random.Random(5)
    contract = registry.latest("events.consented")
    begin = FIRST_TS + day * DAY_MS
    for i, visitor in enumerate(visitors):
        nodes = _nodes(visitor, rng)
        event = {
            "consent_outcome": "pass",
            "consent_purposes": 7,
            "consent_reasons": "analytics=GRANTED marketing=GRANTED personalization=GRANTED",
            "consent_policy": "5d1c0f6a2b7e",
            "consent_evidence": "9f86d081884c7d65",
            "event_id": f"{day:08x}{i:024x}",
            "event_name": rng.choices(list(NAMES), list(NAMES.values()))[0],
            **PAGE_VIEW,
            "collector_ts": begin + i,
            "region": "DE",
            "signals": {"cmp.analytics": "granted", "cmp.marketing": "granted", "cmp.personalization": "granted"},
            "identifiers": nodes,
            "event_ts": begin + i - 40,
            "page_url": f"https://shop.example/p/{rng.randrange(900)}?utm_source=news",
        }
        yield nodes[0].encode(), encode(contract, event)


def _nodes(visitor: int, rng: random.Random) -> list[str]:
    """Return the identity nodes of one event, strongest first."""
    nodes = []
    account = visitor % 3 == 0 and rng.random() < 0.5
    if account:
        nodes.append(_node("0", visitor))
    if rng.random() < 0.7:
        nodes.append(_node("1", visitor))
    nodes.append(_node("2", visitor))
    if account and visitor % 9:
        nodes.append(_node("3", visitor))
    return nodes


def _node(tier: str, visitor: int) -> str:
    return tier + blake2b(f"{tier}{visitor}".encode(), digest_size=16).hexdigest()
