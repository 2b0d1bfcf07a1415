"""The real server SDKs of npm, unmodified: each event arrives with its fields, compressed or not."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streams.collector.write_keys import KeyKind
from tests.house.senders.receiver import Receiver
from tests.support.npm_packages import SENDERS

CALLS = ["identify", "page", "screen", "Order Completed", "group", "alias"]
SNOWPLOW_EVENTS = ["page_view", "screen_view", "size_chosen", "struct"]
CONSENT = {"cmp.analytics": "granted", "cmp.marketing": "denied"}


@pytest.fixture(scope="module")
def receiver(modules: Path, broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """A collector with a server's key."""
    receiver = Receiver(broker, tmp_path_factory.mktemp("receiver"), KeyKind.SERVER)
    receiver.wait_ready()
    yield receiver
    receiver.stop()


def run_sdk(modules: Path, receiver: Receiver, script: str, case: str, *options: str) -> None:
    """Run a script of `servers/`, which ends once its events are sent."""
    command = ["node", str(SENDERS / "servers" / f"{script}.js"), receiver.url, receiver.key, case, *options]
    environment = os.environ | {"NODE_PATH": str(modules)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""


@pytest.mark.parametrize(
    ("script", "options", "tag"),
    [
        ("segment", [], "@segment/analytics-node/"),
        ("rudderstack", ["gzip"], "analytics-node/"),
        ("rudderstack", ["plain"], "analytics-node/"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else value,
)
def test_segment_and_rudderstack_on_a_server(
    modules: Path, receiver: Receiver, script: str, options: list[str], tag: str
) -> None:
    """@segment/analytics-node, and @rudderstack/rudder-sdk-node with and without gzip: every call arrives."""
    case = "-".join(["node", script, *options])
    run_sdk(modules, receiver, script, case, *options)
    events = receiver.named_events(case, CALLS)
    for event in events.values():
        assert_understood(event, "segment")
        assert event["tag_version"].startswith(tag)
    assert kinds_of(events["identify"]) == "023"
    assert events["identify"]["user_properties"] == {"plan": "gold"}
    assert events["screen"]["properties"]["name"] == "Cart"
    order = events["Order Completed"]
    assert (order["order_id"], order["value"], order["currency"]) == ("o-1", 39.8, "EUR")
    assert order["items"] == [{"item_id": "p-1", "item_name": "Shoe", "price": "19.9", "quantity": "2"}]
    assert (events["group"]["group_id"], events["group"]["properties"]["group.seats"]) == ("company-1", "7")
    assert kinds_of(events["alias"]) == "02"


@pytest.mark.parametrize("method", ["post", "get"])
def test_snowplow_on_a_server(modules: Path, receiver: Receiver, method: str) -> None:
    """@snowplow/node-tracker by POST and by GET, with base64 as it does by default."""
    case = f"node-snowplow-{method}"
    run_sdk(modules, receiver, "snowplow", case, method)
    events = receiver.named_events(case, SNOWPLOW_EVENTS)
    for event in events.values():
        assert_understood(event, "snowplow")
        assert (event["screen"], kinds_of(event)) == ("1366x768", "0")
        assert event["tag_version"].startswith("node-")
    assert events["page_view"]["page_title"] == "Red shoes"
    assert events["size_chosen"]["properties"]["size"] == "42"
    assert events["struct"]["properties"]["se_ca"] == "shelf"


def assert_understood(event: dict[str, Any], protocol: str) -> None:
    """The event has its protocol, language and consent, and nothing about it was unreadable."""
    assert (event["protocol"], event["language"], event["signals"], event["problems"]) == (protocol, "de-AT", CONSENT, [])


def kinds_of(event: dict[str, Any]) -> str:
    """Return the tiers of an event's identifiers: 0 a user, 1 a device, 2 a cookie, 3 an address."""
    return "".join(node[0] for node in event["identifiers"])
