"""Event requests as browsers' tags send them: beacons without a header of theirs, short paths, lines. Pure."""

import gzip
from dataclasses import replace
from urllib.parse import urlencode

import orjson

from infra.ops.simulator.protocols.bodies import (
    build_headers,
    build_own_item,
    build_properties,
    build_segment_item,
    build_snowplow_request,
    iso_time,
    page_url,
    write_key,
)
from infra.ops.simulator.protocols.messages import Json, Post, SendStamp
from infra.ops.simulator.protocols.signals import event_signals
from infra.ops.simulator.world.acts import Defect, SimulatedEvent, SimulatedRequest

TEXT = {"Content-Type": "text/plain;charset=UTF-8"}
"""What a browser says of a beacon's text, and Segment's SDK of its requests, so that they need no preflight."""
PARAMETERS = {"currency": "cu"}
"""Properties that Google's tag has parameters of its own for."""


def build_browser_request(request: SimulatedRequest, stamp: SendStamp) -> Post:
    """Build the request of a browser's tag in its device's protocol."""
    return BUILDERS[request.device.door](request, stamp)


def compress(post: Post) -> Post:
    """Return a request with its body in gzip."""
    return replace(post, body=gzip.compress(post.body, 1, mtime=0), headers={**post.headers, "Content-Encoding": "gzip"})


def _build_beacon(request: SimulatedRequest, stamp: SendStamp) -> Post:
    """Build a beacon to the door of own JSON: the key is in the query."""
    items = [build_own_item(event, stamp) for event in request.events]
    headers = build_headers(request, stamp) | TEXT
    return Post("/v1/events", orjson.dumps({"events": items}), headers, {"key": write_key(request, stamp)})


def _build_segment(request: SimulatedRequest, stamp: SendStamp) -> Post:
    """Build what Segment's browser SDK sends: a call to a short path, or a batch. The key is in the body."""
    items = [build_segment_item(event, stamp) for event in request.events]
    shared: Json = {"sentAt": iso_time(stamp.now_ms), "writeKey": write_key(request, stamp)}
    headers = build_headers(request, stamp) | TEXT
    if len(items) == 1 and isinstance(items[0], dict):
        return Post("/v1/t", orjson.dumps({**items[0], **shared}), headers)
    return Post("/v1/b", orjson.dumps({"batch": items, **shared}), headers)


def _build_snowplow(request: SimulatedRequest, stamp: SendStamp) -> Post:
    """Build what Snowplow's tracker sends with server anonymisation: neither address nor network user id may be kept."""
    post = build_snowplow_request(request, stamp)
    return replace(post, headers={**post.headers, "SP-Anonymous": "*"})


def _build_gtag(request: SimulatedRequest, stamp: SendStamp) -> Post:
    """Build what Google's tag sends: shared parameters in the query, an event a line of the body."""
    device, first = request.device, request.events[0]
    signals = event_signals(first, stamp)
    query = {"v": "2", "tid": "G-SIM", "cid": device.cookie, "gcs": signals["gcs"], "gcd": signals["gcd"]}
    if first.login:
        query["uid"] = first.person.account
    body = "\r\n".join(_build_line(event, stamp) for event in request.events)
    headers = build_headers(request, stamp) | TEXT
    return Post("/g/collect", body.encode(), headers, {**query, "ep.write_key": write_key(request, stamp)})


def _build_line(event: SimulatedEvent, stamp: SendStamp) -> str:
    if event.defect is Defect.NOT_AN_OBJECT:
        return event.mark("dd")
    fields = {"dl": page_url(event), "dt": event.mark("an"), "ep.event_id": event.id}
    if event.defect is not Defect.NO_NAME:
        fields["en"] = event.name
    for name, value in build_properties(event, stamp).items():
        fields[PARAMETERS.get(name, f"{'epn' if isinstance(value, float) else 'ep'}.{name}")] = str(value)
    return urlencode(fields)


BUILDERS = {"headwater": _build_beacon, "segment": _build_segment, "snowplow": _build_snowplow, "ga4": _build_gtag}

__all__ = ["build_browser_request", "compress"]
