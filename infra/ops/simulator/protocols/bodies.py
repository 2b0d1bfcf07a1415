"""Event requests as servers send them, one builder per protocol. Pure."""

import base64
from datetime import UTC, datetime

import orjson

from infra.ops.simulator.protocols.messages import Json, Post, SendStamp
from infra.ops.simulator.protocols.signals import event_signals, nest_categories
from infra.ops.simulator.truth import PERSONALIZATION, expected_purposes
from infra.ops.simulator.world.acts import Defect, Device, SimulatedEvent, SimulatedRequest, VisitorChoice

SITE = "https://shop.example"
CONTEXTS = "iglu:com.snowplowanalytics.snowplow/contexts/jsonschema/1-0-1"
UNSTRUCT = "iglu:com.snowplowanalytics.snowplow/unstruct_event/jsonschema/1-0-0"


def _location(name: str, country: str, device: Device) -> Json:
    """Return the visitor's country in a server's field; browsers' requests carry it in the trusted header."""
    return {name: {country: device.region}} if device.region else {}


def region_header(device: Device, header: str) -> dict[str, str]:
    """Return the visitor's region in the header that the collector trusts."""
    return {header: device.region} if header and device.region else {}


def write_key(request: SimulatedRequest, stamp: SendStamp) -> str:
    """Return the write key, or an unknown one where that is the request's defect."""
    return "wrong-" + stamp.write_key[:8] if request.events[0].defect is Defect.WRONG_KEY else stamp.write_key


def build_headers(request: SimulatedRequest, stamp: SendStamp, authorization: str = "") -> dict[str, str]:
    """Return the headers that all protocols share."""
    device = request.device
    headers = {"Content-Type": "application/json", "User-Agent": device.agent, **region_header(device, stamp.region_header)}
    if device.choice is VisitorChoice.GPC:
        headers["Sec-GPC"] = "1"
    return {**headers, "Authorization": authorization} if authorization else headers


def page_url(event: SimulatedEvent) -> str:
    """Return the page of an event, with a click id."""
    return f"{SITE}{event.page}?gclid={event.mark('mk')}"


def _token(event: SimulatedEvent, stamp: SendStamp) -> str:
    """Return the decision's token, or, where personalization is denied, a marker that no layer may contain."""
    if not expected_purposes(event) & PERSONALIZATION:
        return event.mark("pz")
    return stamp.token if event.answers else ""


def build_properties(event: SimulatedEvent, stamp: SendStamp) -> Json:
    """Return the properties that all protocols share."""
    properties: Json = {"note": event.mark("an")}
    if event.defect is not Defect.NONE:
        properties["defect"] = event.mark("dd")
    if token := _token(event, stamp):
        properties["decision_token"] = token
    if event.order_id:
        properties.update(order_id=event.order_id, value=event.value, currency="EUR")
    return properties


def build_own_request(request: SimulatedRequest, stamp: SendStamp) -> Post:
    """Build a request of a tag-manager server container."""
    items = [build_own_item(event, stamp) for event in request.events]
    headers = build_headers(request, stamp, f"Bearer {write_key(request, stamp)}")
    return Post("/v1/events", orjson.dumps({"events": items}), headers)


def build_own_item(event: SimulatedEvent, stamp: SendStamp) -> Json | str:
    """Build a tag-manager server container's event data, common keys at the top."""
    if event.defect is Defect.NOT_AN_OBJECT:
        return event.mark("dd")
    device = event.device
    item: Json = {
        "event_id": event.id,
        "event_name": event.name,
        "event_ts": stamp.now_ms - event.age_ms,
        "client_id": device.cookie,
        "page_location": page_url(event),
        "page_title": event.mark("an"),
        "gclid": event.mark("mk"),
        "consent": event_signals(event, stamp),
        **_location("event_location", "country", device),
        **build_properties(event, stamp),
    }
    if event.login:
        item["user_id"] = event.person.account
    if event.email:
        item["user_data"] = {"email": event.person.email}
    if event.defect is Defect.NO_NAME:
        del item["event_name"]
    return item


def build_segment_request(request: SimulatedRequest, stamp: SendStamp) -> Post:
    """Build a batch of the Segment HTTP API."""
    items = [build_segment_item(event, stamp) for event in request.events]
    basic = base64.b64encode(f"{write_key(request, stamp)}:".encode()).decode()
    return Post(
        "/v1/batch",
        orjson.dumps({"batch": items, "sentAt": iso_time(stamp.now_ms)}),
        build_headers(request, stamp, f"Basic {basic}"),
    )


def build_segment_item(event: SimulatedEvent, stamp: SendStamp) -> Json | str:
    """Build a track call of the Segment HTTP API with common fields."""
    if event.defect is Defect.NOT_AN_OBJECT:
        return event.mark("dd")
    device = event.device
    context: Json = {
        "page": {"url": page_url(event), "title": event.mark("an")},
        "userAgent": device.agent,
        "library": {"name": "simulated", "version": "1"},
        "consent": nest_categories(event_signals(event, stamp)),
        **_location("location", "country", device),
    }
    if event.email:
        context["traits"] = {"email": event.person.email}
    item: Json = {
        "type": "track",
        "messageId": event.id,
        "event": event.name,
        "anonymousId": device.cookie,
        "timestamp": iso_time(stamp.now_ms - event.age_ms),
        "context": context,
        "properties": build_properties(event, stamp),
    }
    if event.login:
        item["userId"] = event.person.account
    if event.defect is Defect.NO_NAME:
        del item["event"]
    return item


def build_snowplow_request(request: SimulatedRequest, stamp: SendStamp) -> Post:
    """Build a batch of the Snowplow tracker protocol 2."""
    key = write_key(request, stamp)
    items = [_snowplow_item(event, stamp, key) for event in request.events]
    schema = "iglu:com.snowplowanalytics.snowplow/payload_data/jsonschema/1-0-4"
    headers = build_headers(request, stamp)
    return Post("/com.snowplowanalytics.snowplow/tp2", orjson.dumps({"schema": schema, "data": items}), headers)


def _snowplow_item(event: SimulatedEvent, stamp: SendStamp, app_id: str) -> Json | str:
    """Build a self-describing event of the Snowplow tracker protocol 2."""
    if event.defect is Defect.NOT_AN_OBJECT:
        return event.mark("dd")
    device = event.device
    data = {"schema": f"iglu:example.shop/{event.name}/jsonschema/1-0-0", "data": build_properties(event, stamp)}
    item: Json = {
        "e": "ue",
        "eid": event.id,
        "tv": "sim-1",
        "p": "web",
        "aid": app_id,
        "duid": device.cookie,
        "url": page_url(event),
        "page": event.mark("an"),
        "dtm": str(stamp.now_ms - event.age_ms),
        "stm": str(stamp.now_ms),
        "ue_pr": orjson.dumps({"schema": UNSTRUCT, "data": data}).decode(),
    }
    entities: list[Json] = []
    if consent := event_signals(event, stamp):
        entities.append({"schema": "iglu:com.headwater/consent/jsonschema/1-0-0", "data": consent})
    if device.region:
        entities.append({"schema": "iglu:example.shop/geolocation/jsonschema/1-0-0", "data": {"country": device.region}})
    if entities:
        item["co"] = orjson.dumps({"schema": CONTEXTS, "data": entities}).decode()
    if event.login:
        item["uid"] = event.person.account
    if event.defect is Defect.NO_NAME:
        del item["e"]
    return item


def build_ga4_request(request: SimulatedRequest, stamp: SendStamp) -> Post:
    """Build a request of the GA4 Measurement Protocol."""
    device = request.device
    first = request.events[0]
    body: Json = {"client_id": device.cookie, "events": [_ga4_item(event, stamp) for event in request.events]}
    if first.login:
        body["user_id"] = first.person.account
    body |= {"consent": event_signals(first, stamp), **_location("user_location", "country_id", device)}
    query = {"measurement_id": "G-SIM", "api_secret": write_key(request, stamp)}
    return Post("/mp/collect", orjson.dumps(body), build_headers(request, stamp), query)


def _ga4_item(event: SimulatedEvent, stamp: SendStamp) -> Json | str:
    """Build an event of the GA4 Measurement Protocol: name, params, timestamp_micros."""
    if event.defect is Defect.NOT_AN_OBJECT:
        return event.mark("dd")
    params = {
        **build_properties(event, stamp),
        "event_id": event.id,
        "page_location": page_url(event),
        "page_title": event.mark("an"),
    }
    item: Json = {"params": params, "timestamp_micros": (stamp.now_ms - event.age_ms) * 1000}
    if event.defect is not Defect.NO_NAME:
        item["name"] = event.name
    return item


def iso_time(ms: int) -> str:
    """Return a time in ISO 8601."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


BUILDERS = {
    "headwater": build_own_request,
    "segment": build_segment_request,
    "snowplow": build_snowplow_request,
    "ga4": build_ga4_request,
}
