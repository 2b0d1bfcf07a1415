"""The real browser SDKs, unmodified, in a real browser, on pages of another origin: each event arrives with its fields."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from streams.collector.write_keys import KeyKind
from tests.house.senders.beacons import build_beacons, build_images, image_paths, page_of, posted_paths
from tests.house.senders.page_server import PageServer
from tests.house.senders.receiver import Receiver
from tests.support.browser import BrowserMissing, PageReport, find_browser, visit_pages

CASES = {
    **dict.fromkeys(("segment", "segment-batching"), "segment.html"),
    **dict.fromkeys(("rudderstack", "rudderstack-batch", "rudderstack-beacon"), "rudderstack.html"),
    **dict.fromkeys(("snowplow", "snowplow-anonymous", "snowplow-get", "snowplow-path"), "snowplow.html"),
    "gtag": "gtag.html",
    "beacons": "beacons.html",
}
CALLS = ["identify", "page", "Order Completed", "group", "alias"]
SNOWPLOW_EVENTS = [
    *("page_view", "size_chosen", "struct", "snowplow_ecommerce_action"),
    *("focus_form", "change_form", "submit_form"),
]
CONSENT = {"cmp.analytics": "granted", "cmp.marketing": "denied"}
OPTIONS = ("--snowplow-path", "com.acme/track")


class Visit(NamedTuple):
    """Pages that were visited, and the collector that they sent to."""

    receiver: Receiver
    reports: dict[str, PageReport]

    def events(self, case: str, names: list[str]) -> dict[str, dict[str, Any]]:
        """Return the events of a page, which must be these. A failure shows what the browser did."""
        try:
            return self.receiver.named_events(case, names)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.reports[case]}") from None


@pytest.fixture(scope="module")
def visit(modules: Path, broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visit]:
    """All pages, visited at once and left."""
    try:
        find_browser()
    except BrowserMissing as missing:
        pytest.skip(str(missing))
    pages = PageServer(modules)
    options = ("--cors-origin", pages.origin, *OPTIONS)
    receiver = Receiver(broker, tmp_path_factory.mktemp("receiver"), KeyKind.BROWSER, options)
    receiver.wait_ready()
    urls = {case: f"{pages.origin}/{page}?case={case}" for case, page in CASES.items()}
    settings = {
        "collector": receiver.address,
        "key": receiver.key,
        "snowplowEvents": len(SNOWPLOW_EVENTS),
        "beacons": [asdict(beacon) for beacon in build_beacons(receiver.url, receiver.key)],
        "images": build_images(receiver.url, receiver.key),
    }
    pages.configure(receiver.key, settings)
    with visit_pages(list(urls.values()), modules) as reports:
        yield Visit(receiver, {case: reports[url] for case, url in urls.items()})
    pages.stop()
    receiver.stop()


@pytest.mark.parametrize("case", CASES)
def test_no_page_fails(visit: Visit, case: str) -> None:
    """Its scripts throw nothing, the browser logs no error, and every request ends with a status of success."""
    report = visit.reports[case]
    assert report.errors == []
    assert report.logs == []
    assert [request for request in report.requests if request.rpartition(" ")[2] not in ("200", "204")] == []


@pytest.mark.parametrize("case", ["segment", "segment-batching"])
def test_segment_in_a_browser(visit: Visit, case: str) -> None:
    """@segment/analytics-next: a request a call to short paths, and a batch that is sent when the page is left."""
    events = visit.events(case, CALLS)
    for event in events.values():
        assert_from_page(event, "segment", "analytics.js/next-")
        assert (event["signals"], event["timezone"]) == (CONSENT, "Europe/Vienna")
    assert events["identify"]["user_properties"] == {"plan": "gold"}
    assert kinds_of(events["identify"]) == "023"
    assert (events["page"]["properties"]["name"], events["page"]["properties"]["shelf"]) == ("Red shoes", "left")
    assert_order(events["Order Completed"])
    assert events["Order Completed"]["session_id"] == "4711"
    assert (events["group"]["group_id"], events["group"]["properties"]["group.seats"]) == ("company-1", "7")
    assert kinds_of(events["alias"]) == "02"


@pytest.mark.parametrize("case", ["rudderstack", "rudderstack-batch", "rudderstack-beacon"])
def test_rudderstack_in_a_browser(visit: Visit, case: str) -> None:
    """@rudderstack/analytics-js: a request a call, a full batch, and beacons when the page is left."""
    events = visit.events(case, CALLS)
    for event in events.values():
        assert_from_page(event, "segment", "RudderLabs JavaScript SDK/")
        assert {name: event["signals"].get(name) for name in CONSENT} == CONSENT
        assert (event["screen"], event["page_referrer"], len(event["session_id"])) == ("1366x768", "", 13)
        assert event["user_properties"] == {"plan": "gold"}
    assert kinds_of(events["identify"]) == "023"
    assert (events["page"]["properties"]["name"], events["page"]["properties"]["shelf"]) == ("Red shoes", "left")
    assert_order(events["Order Completed"])
    assert (events["group"]["group_id"], events["group"]["properties"]["group.seats"]) == ("company-1", "7")
    assert kinds_of(events["alias"]) == "023"


@pytest.mark.parametrize("case", ["snowplow", "snowplow-get", "snowplow-path"])
def test_snowplow_in_a_browser(visit: Visit, case: str) -> None:
    """@snowplow/browser-tracker with credentials, by POST, by GET and to a path of the owner's, and two of its plugins."""
    events = visit.events(case, SNOWPLOW_EVENTS)
    for event in events.values():
        assert_from_page(event, "snowplow", "js-")
        assert (event["signals"], event["timezone"], event["screen"]) == (CONSENT, "Europe/Vienna", "1366x768")
        assert (kinds_of(event), len(event["session_id"])) == ("02", 36)
    assert events["size_chosen"]["properties"]["size"] == "42"
    assert (events["struct"]["properties"]["se_ca"], events["struct"]["value"]) == ("shelf", 0)
    assert_order(events["snowplow_ecommerce_action"])
    assert (events["change_form"]["properties"]["value"], events["change_form"]["value"]) == ("42", 0)
    assert "42" in events["submit_form"]["properties"]["elements"]


def test_snowplow_without_identifiers(visit: Visit) -> None:
    """With server anonymisation an event has neither an identifier nor an address nor a session, and its other fields."""
    events = visit.events("snowplow-anonymous", SNOWPLOW_EVENTS)
    for event in events.values():
        assert_from_page(event, "snowplow", "js-")
        assert (event["identifiers"], event["ip_prefix"], event["session_id"], event["signals"]) == ([], "", "", CONSENT)
    assert_order(events["snowplow_ecommerce_action"])


def test_requests_as_of_googles_tag(visit: Visit) -> None:
    """Events come from a body of several lines, from a query and from a beacon, each with what its request shares."""
    events = visit.events("gtag", ["page_view", "scroll", "purchase", "user_engagement", "page_left"])
    for event in events.values():
        assert_from_page(event, "ga4", "")
        assert (event["session_id"], event["screen"]) == ("1700000001", "1366x768")
        assert event["signals"] == {"gcs": "G110", "gcd": "13r3q3r3q5", "npa": "1"}
        assert kinds_of(event) == "02"
    assert events["scroll"]["properties"]["percent_scrolled"] == "90"
    assert events["page_left"]["properties"]["shelf"] == "left"
    assert events["purchase"]["user_properties"] == {"plan": "gold"}
    assert_order(events["purchase"])


def test_a_beacon_to_every_door_arrives(visit: Visit) -> None:
    """As text/plain, which needs no preflight, and once as JSON, which does; images arrive too."""
    paths = [*posted_paths(), *image_paths(), "/v1/events"]
    events = visit.receiver.events("beacons", len(paths))
    assert sorted(event["page_url"] for event in events) == sorted(map(page_of, paths)), visit.reports["beacons"]
    assert {kinds_of(event)[-1] for event in events} <= {"2", "3"}


def test_a_beacon_with_a_choice_arrives(visit: Visit) -> None:
    """The door for choices takes one too."""
    (choice,) = visit.receiver.wait_for("consent.signals", 1)
    assert choice["signals"] == {"cmp.marketing": "denied"}


def test_nothing_became_a_dead_letter(visit: Visit) -> None:
    """The collector understood every request."""
    visit.receiver.events("beacons", len(posted_paths()))
    assert visit.receiver.records("events.dead") == []


def assert_from_page(event: dict[str, Any], protocol: str, tag: str) -> None:
    """The event has what the browser says of its page and of itself."""
    assert (event["protocol"], event["site"], event["source"]) == (protocol, "localhost", "shop")
    # Both pages name a user as the previous id, and no two users are merged.
    assert [problem.partition(":")[0] for problem in event["problems"]] == ["previousId"] * (event["event_name"] == "alias")
    assert event["tag_version"].startswith(tag)
    assert (event["device_class"], event["bot"], event["language"].lower()) == ("desktop", False, "de-at")
    # Snowplow's plugins and self-describing events send no title.
    assert event["page_title"] == "Red shoes" or (protocol == "snowplow" and event["event_name"] != "page_view")


def assert_order(event: dict[str, Any]) -> None:
    """The event has the order that all pages send."""
    assert (event["order_id"], event["value"], event["currency"]) == ("o-1", 39.8, "EUR")
    items = [(item["item_id"], item["item_name"], item.get("quantity")) for item in event["items"]]
    assert items == [("p-1", "Shoe", "2"), ("p-2", "Lace", None)]
    assert event["items"][0]["price"] == "19.9"


def kinds_of(event: dict[str, Any]) -> str:
    """Return the tiers of an event's identifiers: 0 a user, 1 a device, 2 a cookie, 3 an address."""
    return "".join(node[0] for node in event["identifiers"])
