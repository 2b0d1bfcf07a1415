"""A beacon for each door that takes a POST, and an image for each that takes a GET and answers with one. Pure."""

import base64
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from streams.collector.protocols.doors import DOORS, AnswerFormat, ChoiceDoor, DiscardDoor, Door, EventDoor
from streams.collector.protocols.doors import SHORT_CALLS as CALLS_BY_LETTER

CASE = "beacons"
JSON_TYPE = "application/json"
PAYLOAD = "iglu:com.snowplowanalytics.snowplow/payload_data/jsonschema/1-0-4"
BATCHES = ("/v1/batch", "/v1/b", "/v1/import", "/beacon/v1/batch")


@dataclass(frozen=True)
class Beacon:
    """What a page passes to `navigator.sendBeacon`. Without a type the browser says text/plain."""

    address: str
    body: str
    type: str = ""


def page_of(path: str) -> str:
    """Return the page that the event for this door names."""
    return f"https://shop.example{path}?case={CASE}"


def posted_paths() -> list[str]:
    """Return the paths of the doors that keep what is posted to them as events."""
    return [
        door.path
        for door in DOORS
        if isinstance(door, EventDoor) and door.method == "POST" and door.answer is not AnswerFormat.VALIDATION
    ]


def image_paths() -> list[str]:
    """Return the paths of the doors that answer with an image."""
    return [door.path for door in DOORS if isinstance(door, EventDoor) and door.answer is AnswerFormat.PIXEL]


def build_beacons(url: str, key: str) -> list[Beacon]:
    """Return a beacon for each door of a POST, and for some a second one with the type of JSON, which needs a preflight."""
    beacons = [_build_beacon(door, url, key) for door in DOORS if door.method == "POST"]
    return [*beacons, *(Beacon(beacon.address, beacon.body, JSON_TYPE) for beacon in beacons if "/v1/events" in beacon.address)]


def _build_beacon(door: Door, url: str, key: str) -> Beacon:
    path, page = door.path, page_of(door.path)
    if isinstance(door, ChoiceDoor):
        return _json_beacon(f"{url}{path}?key={key}", {"client_id": "c-beacon", "consent": {"cmp.marketing": "denied"}})
    if isinstance(door, DiscardDoor):
        return _json_beacon(url + path, {"series": []})
    if path == "/v1/events":
        return _json_beacon(f"{url}{path}?key={key}", {"event_name": "beacon", "client_id": "c-beacon", "page_location": page})
    if path == "/g/collect":
        query = urlencode({"v": "2", "tid": "G-1", "cid": "1.2", "ep.write_key": key})
        return Beacon(f"{url}{path}?{query}", urlencode({"en": "beacon", "dl": page}))
    if path.endswith("/mp/collect"):
        event = {"name": "beacon", "params": {"page_location": page}}
        return _json_beacon(f"{url}{path}?api_secret={key}", {"client_id": "1.2", "events": [event]})
    if path == "/i" or "snowplow" in path:
        event = {"e": "pv", "p": "web", "tv": "js-4", "aid": key, "duid": "c-beacon", "url": page}
        return _json_beacon(url + path, {"schema": PAYLOAD, "data": [event]})
    return _segment_beacon(path, url, key)


def _segment_beacon(path: str, url: str, key: str) -> Beacon:
    """Return a call with the key in its body, or a batch with the key in its query, where RudderStack has it."""
    name = path.rpartition("/")[2]
    call = build_call(CALLS_BY_LETTER.get(name, name), path)
    if path == "/v1/merge":
        call["mergeProperties"] = [{"type": "email", "value": "ada@shop.example"}]
    if path in BATCHES:
        return _json_beacon(f"{url}{path}?writeKey={key}", {"batch": [{**call, "type": "track", "event": "beacon"}]})
    return _json_beacon(url + path, {**call, "writeKey": key})


def build_call(call: str, path: str) -> dict[str, Any]:
    """Return a call of the Segment API that names the page of this path."""
    fields: dict[str, Any] = {"anonymousId": "c-beacon", "context": {"page": {"url": page_of(path)}}}
    match call:
        case "track":
            fields["event"] = "beacon"
        case "group":
            fields["groupId"] = "company-1"
        case "alias":
            fields |= {"userId": "user-beacon", "previousId": "c-beacon"}
    return fields


def _json_beacon(address: str, body: dict[str, Any]) -> Beacon:
    return Beacon(address, json.dumps(body))


def build_images(url: str, key: str) -> list[str]:
    """Return the addresses of images whose requests are events."""
    return [f"{url}{path}?{urlencode(_image_query(path, key))}" for path in image_paths()]


def _image_query(path: str, key: str) -> dict[str, str]:
    if path == "/i":
        return {"e": "pv", "p": "web", "tv": "js-4", "aid": key, "duid": "c-beacon", "url": page_of(path)}
    name = path.rpartition("/")[2]
    if path.startswith("/v1/pixel/"):
        call = {**build_call(name, path), "writeKey": key}
        return {"data": base64.b64encode(json.dumps(call).encode()).decode()}
    return {"writeKey": key, "event": "beacon", "anonymousId": "c-beacon", "context.page.url": page_of(path)}


__all__ = ["CASE", "Beacon", "build_beacons", "build_images", "image_paths", "page_of", "posted_paths"]
