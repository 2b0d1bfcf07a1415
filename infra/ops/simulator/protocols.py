"""Request bodies by each protocol's public documentation, one builder per protocol. Pure."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from infra.ops.simulator.truth import ANALYTICS, MARKETING, PERSONALIZATION, expected_purposes
from infra.ops.simulator.world.acts import (
    DecisionRequest,
    Defect,
    Device,
    SimulatedEvent,
    SimulatedRequest,
    Statement,
    VisitorChoice,
)
from infra.ops.simulator.world.memory import CHOICE_EVENT
from infra.ops.simulator.world.tc_strings import DAY_MS, tc_string

Json = dict[str, Any]

SITE = "https://shop.example"


@dataclass(frozen=True, slots=True)
class SendStamp:
    """Values that are known only when a request is sent."""

    now_ms: int
    write_key: str
    region_header: str
    """Header that the collector trusts for the region; empty = none."""
    token: str = ""
    """Token of the decision that its events may refer to."""


@dataclass(frozen=True, slots=True)
class Post:
    """One HTTP POST."""

    path: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """The fields of a decision that a widget needs."""

    decision_id: str = ""
    arm: str = ""
    group: str = ""
    token: str = ""

    @classmethod
    def read(cls, body: Json) -> "Answer":
        """Build from the decision API's JSON."""
        return cls(*(str(body.get(name) or "") for name in ("decision_id", "arm", "group", "token")))


# Signals of a page for each choice. CMP keys are purposes; gcs/gcd as Google's tags write them (Consent Mode v2).
CMP: dict[VisitorChoice, dict[str, bool]] = {
    VisitorChoice.CMP_ALL: {"analytics": True, "marketing": True, "personalization": True},
    VisitorChoice.CMP_NONE: {"analytics": False, "marketing": False, "personalization": False},
    VisitorChoice.CMP_ANALYTICS: {"analytics": True, "marketing": False, "personalization": False},
    VisitorChoice.CMP_NO_MARKETING: {"analytics": True, "marketing": False, "personalization": True},
    VisitorChoice.CONFLICT: {"analytics": True, "marketing": True, "personalization": True},
    VisitorChoice.GPC: {"analytics": True, "marketing": True, "personalization": True},
    VisitorChoice.UNMAPPED: {"analytics": True},
}
ONETRUST: dict[VisitorChoice, dict[str, bool]] = {
    VisitorChoice.ONETRUST_NONE: {"C0001": True, "C0002": False, "C0003": False, "C0004": False},
    VisitorChoice.ONETRUST_NO_ADS: {"C0001": True, "C0002": True, "C0003": True, "C0004": False},
}
UNMAPPED = {"partner_sharing_v2": "denied"}
"""A site-specific name that no policy maps."""
PURPOSES = {"analytics": ANALYTICS, "marketing": MARKETING, "personalization": PERSONALIZATION}
MODE: dict[VisitorChoice, tuple[str, str]] = {
    VisitorChoice.MODE_ALL: ("G111", "13r3r3r3r5"),
    VisitorChoice.MODE_NONE: ("G100", "13q3q3q3q5"),
    VisitorChoice.MODE_ANALYTICS: ("G101", "13q3r3q3q5"),
    VisitorChoice.CONFLICT: ("G101", "13q3r3q3q5"),
}


def build_event_request(request: SimulatedRequest, stamp: SendStamp) -> Post:
    """Build the request in its device's protocol, with its defects."""
    if request.events[0].defect is Defect.POISON:
        return Post("", b"\xff no contract knows this " + request.events[0].mark("dd").encode())
    post = BUILDERS[request.device.door](request, stamp)
    if request.events[0].defect is Defect.BROKEN_BODY:
        return Post(post.path, post.body[: len(post.body) // 2], post.headers, post.query)
    return post


def build_decision_request(step: DecisionRequest, stamp: SendStamp) -> Post:
    """Build a widget's request to the decision API."""
    question = {
        "experiment": step.experiment,
        "visitor": step.device.cookie,
        "consent": _flat_signals(step.device, stamp.now_ms),
    }
    headers = {"Content-Type": "application/json", **_region(step.device, stamp.region_header)}
    return Post("/v1/decide", orjson.dumps(question), headers)


def build_consent_request(statement: Statement, stamp: SendStamp) -> Post:
    """Build the request of a consent platform's webhook or a privacy form to `POST /v1/consent`."""
    purposes = [name for name, bit in PURPOSES.items() if bit & statement.purposes]
    item: Json = dict(statement.identifiers)
    if statement.withdrawal:
        item |= {"kind": "withdrawal", "purposes": purposes}
    else:
        item["consent"] = {f"cmp.{purpose}": "granted" if statement.grants else "denied" for purpose in purposes}
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {stamp.write_key}"}
    return Post("/v1/consent", orjson.dumps(item), headers)


def consent_signals(device: Device, now_ms: int) -> Json:
    """Return a page's consent signals: the contract's names, and groups by the names of consent platforms."""
    consent: Json = {f"cmp.{purpose}": "granted" if yes else "denied" for purpose, yes in CMP.get(device.choice, {}).items()}
    if device.choice in MODE:
        consent["gcs"], consent["gcd"] = MODE[device.choice]
    if device.choice is VisitorChoice.GPC:
        consent["gpc"] = "1"
    if device.choice is VisitorChoice.UNMAPPED:
        consent |= UNMAPPED
    if device.choice in (VisitorChoice.TC_ALL, VisitorChoice.TC_NONE):
        grants = device.choice is VisitorChoice.TC_ALL
        day = now_ms - DAY_MS if grants else now_ms
        consent |= {
            "tc_string": tc_string(day // DAY_MS * DAY_MS, grants=grants),
            "gdpr_applies": "1",
            "tc_event_status": "tcloaded",
        }
    return consent | ONETRUST.get(device.choice, {})


def _flat_signals(device: Device, now_ms: int) -> dict[str, str]:
    """Return the signals with text values."""
    words = {True: "granted", False: "denied"}
    return {name: words.get(value, str(value)) for name, value in consent_signals(device, now_ms).items()}


def _consent(event: SimulatedEvent, stamp: SendStamp) -> Json:
    """Return the signals of an event."""
    consent = consent_signals(event.device, stamp.now_ms)
    if event.dated:
        consent["chosen_ts"] = stamp.now_ms
    if event.name == CHOICE_EVENT and "tc_string" in consent:
        consent["tc_event_status"] = "useractioncomplete"
    return consent


def _categories(consent: Json) -> Json:
    """Return signals with a consent platform's groups nested as Segment's wrappers send them."""
    groups = {name: value for name, value in consent.items() if isinstance(value, bool)}
    rest = {name: value for name, value in consent.items() if name not in groups}
    return rest | ({"categoryPreferences": groups} if groups else {})


def _location(name: str, country: str, device: Device) -> Json:
    """Return the visitor's country in a server's field; browsers' requests carry it in the trusted header."""
    return {name: {country: device.region}} if device.region else {}


def _region(device: Device, header: str) -> dict[str, str]:
    return {header: device.region} if header and device.region else {}


def _key(request: SimulatedRequest, stamp: SendStamp) -> str:
    return "wrong-" + stamp.write_key[:8] if request.events[0].defect is Defect.WRONG_KEY else stamp.write_key


def _headers(request: SimulatedRequest, stamp: SendStamp, authorization: str = "") -> dict[str, str]:
    device = request.device
    headers = {"Content-Type": "application/json", "User-Agent": device.agent, **_region(device, stamp.region_header)}
    if device.choice is VisitorChoice.GPC:
        headers["Sec-GPC"] = "1"
    return {**headers, "Authorization": authorization} if authorization else headers


def _url(event: SimulatedEvent) -> str:
    return f"{SITE}{event.page}?gclid={event.mark('mk')}"


def _token(event: SimulatedEvent, stamp: SendStamp) -> str:
    """Return the decision's token, or, where personalization is denied, a marker that no layer may contain."""
    if not expected_purposes(event) & PERSONALIZATION:
        return event.mark("pz")
    return stamp.token if event.answers else ""


def _properties(event: SimulatedEvent, stamp: SendStamp) -> Json:
    """Return the properties that all protocols share."""
    properties: Json = {"note": event.mark("an")}
    if event.defect is not Defect.NONE:
        properties["defect"] = event.mark("dd")
    if token := _token(event, stamp):
        properties["decision_token"] = token
    if event.order_id:
        properties.update(order_id=event.order_id, value=event.value, currency="EUR")
    return properties


def _own(request: SimulatedRequest, stamp: SendStamp) -> Post:
    items = [_own_item(event, stamp) for event in request.events]
    headers = _headers(request, stamp, f"Bearer {_key(request, stamp)}")
    return Post("/v1/events", orjson.dumps({"events": items}), headers)


def _own_item(event: SimulatedEvent, stamp: SendStamp) -> Json | str:
    """Build a tag-manager server container's event data, common keys at the top."""
    if event.defect is Defect.NOT_AN_OBJECT:
        return event.mark("dd")
    device = event.device
    item: Json = {
        "event_id": event.id,
        "event_name": event.name,
        "event_ts": stamp.now_ms - event.age_ms,
        "client_id": device.cookie,
        "page_location": _url(event),
        "page_title": event.mark("an"),
        "gclid": event.mark("mk"),
        "consent": _consent(event, stamp),
        **_location("event_location", "country", device),
        **_properties(event, stamp),
    }
    if event.login:
        item["user_id"] = event.person.account
    if event.email:
        item["user_data"] = {"email": event.person.email}
    if event.defect is Defect.NO_NAME:
        del item["event_name"]
    return item


def _segment(request: SimulatedRequest, stamp: SendStamp) -> Post:
    items = [_segment_item(event, stamp) for event in request.events]
    basic = base64.b64encode(f"{_key(request, stamp)}:".encode()).decode()
    return Post(
        "/v1/batch", orjson.dumps({"batch": items, "sentAt": _iso(stamp.now_ms)}), _headers(request, stamp, f"Basic {basic}")
    )


def _segment_item(event: SimulatedEvent, stamp: SendStamp) -> Json | str:
    """Build a track call of the Segment HTTP API with common fields."""
    if event.defect is Defect.NOT_AN_OBJECT:
        return event.mark("dd")
    device = event.device
    context: Json = {
        "page": {"url": _url(event), "title": event.mark("an")},
        "userAgent": device.agent,
        "library": {"name": "simulated", "version": "1"},
        "consent": _categories(_consent(event, stamp)),
        **_location("location", "country", device),
    }
    if event.email:
        context["traits"] = {"email": event.person.email}
    item: Json = {
        "type": "track",
        "messageId": event.id,
        "event": event.name,
        "anonymousId": device.cookie,
        "timestamp": _iso(stamp.now_ms - event.age_ms),
        "context": context,
        "properties": _properties(event, stamp),
    }
    if event.login:
        item["userId"] = event.person.account
    if event.defect is Defect.NO_NAME:
        del item["event"]
    return item


def _snowplow(request: SimulatedRequest, stamp: SendStamp) -> Post:
    key = _key(request, stamp)
    items = [_snowplow_item(event, stamp, key) for event in request.events]
    schema = "iglu:com.snowplowanalytics.snowplow/payload_data/jsonschema/1-0-4"
    headers = _headers(request, stamp)
    return Post("/com.snowplowanalytics.snowplow/tp2", orjson.dumps({"schema": schema, "data": items}), headers)


def _snowplow_item(event: SimulatedEvent, stamp: SendStamp, app_id: str) -> Json | str:
    """Build a self-describing event of the Snowplow tracker protocol 2."""
    if event.defect is Defect.NOT_AN_OBJECT:
        return event.mark("dd")
    device = event.device
    data = {"schema": f"iglu:example.shop/{event.name}/jsonschema/1-0-0", "data": _properties(event, stamp)}
    item: Json = {
        "e": "ue",
        "eid": event.id,
        "tv": "sim-1",
        "p": "web",
        "aid": app_id,
        "duid": device.cookie,
        "url": _url(event),
        "page": event.mark("an"),
        "dtm": str(stamp.now_ms - event.age_ms),
        "stm": str(stamp.now_ms),
        "ue_pr": orjson.dumps({"schema": UNSTRUCT, "data": data}).decode(),
    }
    entities: list[Json] = []
    if consent := _consent(event, stamp):
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


CONTEXTS = "iglu:com.snowplowanalytics.snowplow/contexts/jsonschema/1-0-1"
UNSTRUCT = "iglu:com.snowplowanalytics.snowplow/unstruct_event/jsonschema/1-0-0"


def _ga4(request: SimulatedRequest, stamp: SendStamp) -> Post:
    device = request.device
    first = request.events[0]
    body: Json = {"client_id": device.cookie, "events": [_ga4_item(event, stamp) for event in request.events]}
    if first.login:
        body["user_id"] = first.person.account
    body |= {"consent": _consent(first, stamp), **_location("user_location", "country_id", device)}
    query = {"measurement_id": "G-SIM", "api_secret": _key(request, stamp)}
    return Post("/mp/collect", orjson.dumps(body), _headers(request, stamp), query)


def _ga4_item(event: SimulatedEvent, stamp: SendStamp) -> Json | str:
    """Build an event of the GA4 Measurement Protocol: name, params, timestamp_micros."""
    if event.defect is Defect.NOT_AN_OBJECT:
        return event.mark("dd")
    params = {
        **_properties(event, stamp),
        "event_id": event.id,
        "page_location": _url(event),
        "page_title": event.mark("an"),
    }
    item: Json = {"params": params, "timestamp_micros": (stamp.now_ms - event.age_ms) * 1000}
    if event.defect is not Defect.NO_NAME:
        item["name"] = event.name
    return item


def _iso(ms: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


BUILDERS = {"headwater": _own, "segment": _segment, "snowplow": _snowplow, "ga4": _ga4}
