"""Requests for each step of a journey: events, decisions, choices. Pure."""

import orjson

from infra.ops.simulator.protocols.bodies import BUILDERS, region_header
from infra.ops.simulator.protocols.browsers import build_browser_request, compress
from infra.ops.simulator.protocols.messages import Json, Post, SendStamp
from infra.ops.simulator.protocols.signals import flat_signals
from infra.ops.simulator.protocols.ways import SendingWay, choose_way
from infra.ops.simulator.truth import ANALYTICS, MARKETING, PERSONALIZATION
from infra.ops.simulator.world.acts import DecisionRequest, Defect, SimulatedRequest, Statement

PURPOSES = {"analytics": ANALYTICS, "marketing": MARKETING, "personalization": PERSONALIZATION}


def build_event_request(request: SimulatedRequest, stamp: SendStamp) -> Post:
    """Build the request in its device's protocol, in the way of its device, with its defects."""
    if request.events[0].defect is Defect.POISON:
        return Post("", b"\xff no contract knows this " + request.events[0].mark("dd").encode())
    way = choose_way(request)
    if way is SendingWay.BROWSER:
        return build_browser_request(request, stamp)
    post = BUILDERS[request.device.door](request, stamp)
    if way is SendingWay.COMPRESSED:
        return compress(post)
    if request.events[0].defect is Defect.BROKEN_BODY:
        # Only the end is missing, so that the dead letter of the body has the marker of each event.
        return Post(post.path, post.body[:-1], post.headers, post.query)
    return post


def build_decision_request(step: DecisionRequest, stamp: SendStamp) -> Post:
    """Build a widget's request to the decision API."""
    question = {
        "experiment": step.experiment,
        "visitor": step.device.cookie,
        "consent": flat_signals(step.device, stamp.now_ms),
    }
    headers = {"Content-Type": "application/json", **region_header(step.device, stamp.region_header)}
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
