"""The table of doors: each path with its method, where its write key stands, and how its payload becomes items. Pure.

A new protocol is a module of this package and its lines in `DOORS`; `http/server.py` builds the routes from them.
"""

from collections.abc import Callable, Mapping
from enum import Enum
from functools import partial
from typing import Any, NamedTuple

from infra.http.headers import basic_user, bearer_token
from streams.collector.event import InvalidItem, Item
from streams.collector.protocols import choices, ga4, own, segment, snowplow
from streams.collector.protocols.choices import SentChoice


class RequestHead(NamedTuple):
    """The parts of a request in which a write key may stand before the payload is read."""

    authorization: str
    """The header `Authorization`."""
    query: Mapping[str, str]


class KeyLocation(NamedTuple):
    """Where a door's clients put their write key."""

    find_in_head: Callable[[RequestHead], str | None]
    """Returns the clear key, or None where the payload must be asked."""
    find_in_payload: Callable[[Any], object] = lambda _payload: ""
    """May raise InvalidField."""


class AnswerFormat(Enum):
    """How a door answers."""

    SUMMARY = "accepted and refused items as JSON"
    OK_TEXT = "ok"
    PIXEL = "an image of one pixel"
    EMPTY = "200 without a body"
    VALIDATION = "the problems of each item; nothing is kept"


class EventDoor(NamedTuple):
    """A door through which events come. The payload is the JSON body of a POST and the query of a GET."""

    path: str
    key_location: KeyLocation
    extract_items: Callable[[Any], list[Any]]
    """Items of a payload. InvalidField where it has none."""
    parse_item: Callable[[Any], Item]
    method: str = "POST"
    answer: AnswerFormat = AnswerFormat.SUMMARY


class ChoiceDoor(NamedTuple):
    """A door through which consent choices come without an event, as a JSON body."""

    path: str
    key_location: KeyLocation
    extract_items: Callable[[Any], list[Any]]
    """Items of a payload. InvalidField where it has none."""
    parse_item: Callable[[Any], SentChoice | InvalidItem]
    method: str = "POST"


def _query_parameter(name: str) -> KeyLocation:
    return KeyLocation(lambda head: head.query.get(name, ""))


BEARER = KeyLocation(lambda head: bearer_token(head.authorization))
BASIC_OR_BODY = KeyLocation(lambda head: basic_user(head.authorization) or None, segment.find_write_key)
APP_ID = KeyLocation(lambda _head: None, snowplow.find_write_key)

DOORS: tuple[EventDoor | ChoiceDoor, ...] = (
    EventDoor("/v1/events", BEARER, own.extract_items, own.parse_item),
    ChoiceDoor("/v1/consent", BEARER, choices.extract_items, choices.parse_item),
    *(
        EventDoor(f"/v1/{call}", BASIC_OR_BODY, partial(segment.extract_items, call=call), segment.parse_item)
        for call in ("batch", *segment.CALLS)
    ),
    # Trackers repeat most refusals for ever: what breaks the contract is a dead letter and a 200.
    EventDoor(snowplow.POST_PATH, APP_ID, snowplow.extract_items, snowplow.parse_item, answer=AnswerFormat.OK_TEXT),
    EventDoor("/i", _query_parameter("aid"), lambda query: [query], snowplow.parse_item, "GET", AnswerFormat.PIXEL),
    # The Measurement Protocol answers nothing about invalid events; `/debug` does.
    EventDoor("/mp/collect", _query_parameter("api_secret"), ga4.extract_items, ga4.parse_item, answer=AnswerFormat.EMPTY),
    EventDoor(
        "/debug/mp/collect",
        _query_parameter("api_secret"),
        ga4.extract_items,
        ga4.parse_item,
        answer=AnswerFormat.VALIDATION,
    ),
)

__all__ = ["DOORS", "AnswerFormat", "ChoiceDoor", "EventDoor", "KeyLocation", "RequestHead"]
