"""Records of `events.raw` with a value in every field."""

from schemas.codec import Record


def raw(**fields: object) -> Record:
    """A record of `events.raw` with these fields; every field of a purpose has a value of its own."""
    return {
        "event_id": "e-1",
        "event_name": "purchase",
        "source": "web-de",
        "site": "shop.example",
        "heartbeat": False,
        "collector_ts": 1_764_000_123_456,
        "region": "DE",
        "signals": {},
        "identifiers": ["2" + "ab" * 16],
        "decision_token": "token-of-the-decision",
        "order_id": "order-17",
        "value": 12.5,
        "currency": "EUR",
        "event_ts": 1_764_000_120_000,
        "event_ts_source": "device",
        "protocol": "ga4",
        "tag_version": "tag 1",
        "page_url": "https://shop.example/p?gclid=click-in-page&q=1",
        "page_title": "a title",
        "page_referrer": "https://search.example/?next=https%3A%2F%2Fx%2F%3Ffbclid%3Dclick-in-referrer%26a%3Db",
        "user_agent": "agent of a browser",
        "device_class": "mobile",
        "bot": False,
        "ip_prefix": "192.0.2.0",
        "click_ids": {"gclid": "click-in-field"},
        "match_tokens": {"email": "match-token"},
        "properties": {
            "note": "a note",
            "gclid": "click-as-key",
            "link": "https://x/?a=1&msclkid=click-in-property",
            "deep": '{"u": ["https://x/?wbraid=click-in-json", {"key": "ttclid", "value": "click-as-pair"}]}',
            "decision_token": "token-as-property",
        },
        "items": [
            {"item_id": "sku-1", "link": "https://x/?a=1&fbclid=click-in-item", "gclid": "click-as-key-of-item"},
            {"item_name": "a lamp", "url": "https://x/?decision_token=token-in-item"},
        ],
        "session_id": "session-5",
        "group_id": "company-6",
        "language": "de-AT",
        "screen": "1920x1080",
        "timezone": "Europe/Vienna",
        "user_properties": {"plan": "gold plan", "gclid": "click-in-trait", "decision_token": "token-in-trait"},
        "problems": ["value: a number", "see https://x/?gclid=click-in-problem"],
        "imported": False,
        **fields,
    }


MARKETING = (
    b"click-in-page", b"click-in-referrer", b"click-in-field", b"match-token", b"click-as-key", b"click-in-property",
    b"click-in-json", b"click-as-pair", b"click-in-item", b"click-as-key-of-item", b"click-in-trait", b"click-in-problem",
)  # fmt: skip
PERSONALIZATION = (b"token-of-the-decision", b"token-as-property", b"token-in-item", b"token-in-trait")
ANALYTICS = (
    b"ab" * 16, b"order-17", b"a title", b"agent of a browser", b"mobile", b"192.0.2.0", b"a note", b"shop.example/p",
    b"sku-1", b"a lamp", b"session-5", b"company-6", b"de-AT", b"1920x1080", b"Europe/Vienna", b"gold plan",
)  # fmt: skip
