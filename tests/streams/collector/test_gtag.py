"""Google's browser tag: `/g/collect` with one event in the query, or several in the lines of a body."""

from urllib.parse import urlencode

from streams.collector.event import ProtocolEvent
from streams.collector.protocols import gtag

QUERY = {
    "v": "2", "tid": "G-TEST01", "gtm": "45je4", "_p": "17", "cid": "11.22", "ul": "de-de", "sr": "1920x1080", "sid": "170",
    "sct": "3", "seg": "1", "dl": "https://shop.example/a?gclid=g1", "dr": "https://x.example/", "dt": "Start", "gcs": "G101",
    "gcd": "13l3l3l2l1", "npa": "0", "_s": "1",
}  # fmt: skip


def parse(query: dict[str, str], body: str = "") -> list[ProtocolEvent]:
    """Return the events of a request; fails where one is invalid."""
    events = [gtag.parse_item(item) for item in gtag.extract_items(gtag.read_request(query, body.encode()))]
    assert all(isinstance(event, ProtocolEvent) for event in events), events
    return [event for event in events if isinstance(event, ProtocolEvent)]


def test_one_event_in_the_query() -> None:
    """Page, session, consent and parameters reach their fields."""
    (event,) = parse(
        {**QUERY, "en": "purchase", "ep.transaction_id": "o-1", "epn.value": "19.90", "cu": "EUR", "up.tier": "gold"}
    )
    assert (event.name, event.protocol, event.identifiers) == ("purchase", "ga4", [("cookie", "11.22")])
    assert (event.page_url, event.page_referrer, event.page_title) == (QUERY["dl"], "https://x.example/", "Start")
    assert (event.language, event.screen, event.session_id) == ("de-de", "1920x1080", "170")
    assert (event.order_id, event.value, event.currency) == ("o-1", 19.9, "EUR")
    assert event.signals == {"gcs": "G101", "gcd": "13l3l3l2l1", "npa": "0"}
    assert (event.user_properties, event.click_ids) == ({"tier": "gold"}, {"gclid": "g1"})
    assert event.properties["session_number"] == "3"


def test_an_event_a_line() -> None:
    """Lines share the query; equal lines have equal content, and the request's number tells requests apart."""
    lines = [urlencode({"en": "scroll", "epn.percent_scrolled": "90"}), urlencode({"en": "click", "_et": "5"}), ""]
    scroll, click = parse(QUERY, "\r\n".join(lines))
    assert (scroll.name, scroll.properties["percent_scrolled"]) == ("scroll", "90")
    assert (click.name, click.properties["engagement_time_msec"]) == ("click", "5")
    assert scroll.session_id == click.session_id == "170"
    assert scroll.derive_from == parse(QUERY, "\r\n".join(lines))[0].derive_from != click.derive_from
    assert parse({**QUERY, "_s": "2"}, lines[0])[0].derive_from != scroll.derive_from


def test_products() -> None:
    """`pr1` with abbreviations, and parameters of the product's own."""
    (event,) = parse({**QUERY, "en": "view_item", "pr1": "idp%201~nmShoe~brB~pr19.9~qt2~k0colour~v0red", "pr2": "idp2"})
    assert event.items == [
        {"item_id": "p 1", "item_name": "Shoe", "brand": "B", "price": "19.9", "quantity": "2", "colour": "red"},
        {"item_id": "p2"},
    ]


def test_a_refusal_of_all_events_is_not_lifted_by_one() -> None:
    """The values of query and line both stay."""
    (event,) = parse({**QUERY, "gcs": "G100"}, "en=x&gcs=G111")
    assert set(event.signals.values()) >= {"G100", "G111"}


def test_where_a_key_may_stand() -> None:
    """In parameters that the page adds to its configuration, never in the properties."""
    query = {**QUERY, "en": "x", "ep.write_key": "hw_a"}
    assert gtag.find_write_key(gtag.read_request(query, b"")) == "hw_a"
    assert gtag.find_write_key(gtag.read_request(QUERY, b"en=x&ep.api_secret=hw_b")) == "hw_b"
    assert gtag.find_write_key(gtag.read_request(QUERY, b"en=x")) == ""
    assert "hw_a" not in str(parse(query)[0].properties)
