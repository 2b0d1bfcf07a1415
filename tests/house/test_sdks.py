"""The real Python SDKs, unmodified, deliver events that are found in ClickHouse with consent, profile and properties."""

import uuid
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
from ga4mp import GtagMP
from rudderstack.analytics.client import Client as RudderClient
from segment.analytics.client import Client as SegmentClient
from snowplow_tracker import Emitter, SelfDescribing, SelfDescribingJson, Subject, Tracker

from tests.house.standing import StandingHouse

CONSENT = {"cmp.analytics": "granted", "cmp.marketing": "denied", "cmp.personalization": "granted"}
PREFERENCES = {"categoryPreferences": {"analytics": True, "marketing": False, "personalization": True}}
NO_MARKETING = 5


class LandedEvent(NamedTuple):
    """Columns of an event in ClickHouse."""

    protocol: str
    purposes: int
    profile: str
    plan: str


def landed_event(house: StandingHouse, mark: str) -> LandedEvent:
    """The one event with this property `mark`."""
    columns = "protocol, consent_purposes, profile_id, properties['plan']"
    (row,) = house.rows(f"properties['mark'] = '{mark}'", columns)
    return LandedEvent(*row)


def send_by_segment(house: StandingHouse, mark: str) -> None:
    """segment-analytics-python."""
    client = SegmentClient(house.key, host=house.settings["collector_url"], sync_mode=True, max_retries=2)
    client.track("u-segment", "Plan Chosen", {"mark": mark, "plan": "gold"}, context={"consent": PREFERENCES})


def send_by_rudder(house: StandingHouse, mark: str) -> None:
    """rudder-sdk-python, which compresses its bodies."""
    client = RudderClient(house.key, host=house.settings["collector_url"], gzip=True, max_retries=2)
    client.track("u-rudder", "Plan Chosen", {"mark": mark, "plan": "gold"}, context={"consent": PREFERENCES})
    client.join()


def send_by_snowplow(house: StandingHouse, mark: str) -> None:
    """snowplow-tracker, with base64-encoded events, as it does by default."""
    address = urlsplit(house.settings["collector_url"])
    emitter = Emitter(address.hostname or "", protocol="http", port=address.port, batch_size=1)
    tracker = Tracker("test", emitter, Subject().set_user_id("u-snowplow"), app_id=house.key)
    chosen = SelfDescribingJson("iglu:example.shop/plan_chosen/jsonschema/1-0-0", {"mark": mark, "plan": "gold"})
    consent = SelfDescribingJson("iglu:com.headwater/consent/jsonschema/1-0-0", CONSENT)
    tracker.track(SelfDescribing(chosen, context=[consent]))
    tracker.flush()


def send_by_ga4(house: StandingHouse, mark: str) -> None:
    """ga4mp; it has no option for the address, so its attribute is set on the instance."""
    client = GtagMP(measurement_id="G-1", api_secret=house.key, client_id="1234567890.1234567890")
    client._base_domain = f"{house.settings['collector_url']}/mp/collect"
    event = client.create_new_event("plan_chosen")
    for name, value in {"mark": mark, "plan": "gold", "gcs": "G101", "gcd": "13q3r3q3r5"}.items():
        event.set_event_param(name, value)
    client.send([event])


@pytest.mark.parametrize(
    ("send", "protocol"),
    [(send_by_segment, "segment"), (send_by_rudder, "segment"), (send_by_snowplow, "snowplow"), (send_by_ga4, "ga4")],
)
def test_an_sdks_event_arrives_whole(house: StandingHouse, send: object, protocol: str) -> None:
    """Its consent was enforced, it has a profile, and its properties are there."""
    mark = uuid.uuid4().hex
    assert callable(send)
    send(house, mark)
    event = landed_event(house, mark)
    assert (event.protocol, event.purposes, event.plan) == (protocol, NO_MARKETING, "gold")
    assert len(event.profile) == 33
