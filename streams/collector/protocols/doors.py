"""The table of doors: each path with its method, where its write key stands, and how its payload becomes items. Pure.

A new protocol is a module of this package and its lines in `build_doors`; `http/routes.py` builds the routes from them.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import partial
from typing import Any, NamedTuple

from infra.errors import ConfigError
from infra.http.headers import basic_user, bearer_token
from streams.collector.event import InvalidItem, Item
from streams.collector.protocols import choices, ga4, gtag, merge, own, pixel, segment, snowplow
from streams.collector.protocols.choices import SentChoice


class RequestHead(NamedTuple):
    """The parts of a request in which a write key may stand before the payload is read."""

    authorization: str
    """The header `Authorization`."""
    query: Mapping[str, str]


class KeyLocation(NamedTuple):
    """Where a door's clients put their write key."""

    find_in_head: Callable[[RequestHead], list[str]]
    """Returns what may be the clear key, the likeliest first."""
    find_in_payload: Callable[[Any], object] | None = None
    """Returns the key in the parsed payload, where it may stand there. May raise InvalidField."""
    find_in_item: Callable[[Any], object] | None = None
    """Returns the key of one item, empty where it names none, at doors whose items may belong to several keys."""


class AnswerFormat(Enum):
    """How a door answers."""

    SUMMARY = "accepted and refused items as JSON"
    OK_TEXT = "ok"
    PIXEL = "an image of one pixel"
    EMPTY = "200 without a body"
    NO_CONTENT = "204"
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
    read_request: Callable[[Mapping[str, Any], bytes], Any] | None = None
    """Returns the payload of a query and a body, at doors whose payload is in both."""


class ChoiceDoor(NamedTuple):
    """A door through which consent choices come without an event, as a JSON body."""

    path: str
    key_location: KeyLocation
    extract_items: Callable[[Any], list[Any]]
    """Items of a payload. InvalidField where it has none."""
    parse_item: Callable[[Any], SentChoice | InvalidItem]
    method: str = "POST"


class DiscardDoor(NamedTuple):
    """A door whose payload is counted and not kept, so that senders do not repeat it."""

    path: str
    method: str = "POST"


def _keys_in_head(*parameters: str) -> Callable[[RequestHead], list[str]]:
    """Return a search of the header `Authorization`, either scheme, and of these parameters of the query.

    Pages that only send beacons can set no header, and a proxy's own password may stand where the key should.
    """

    def find(head: RequestHead) -> list[str]:
        keys = [bearer_token(head.authorization), basic_user(head.authorization)]
        return [key for key in (*keys, *(head.query.get(name, "") for name in parameters)) if key]

    return find


def _query_parameter(name: str) -> KeyLocation:
    return KeyLocation(lambda head: [head.query.get(name, "")])


def _find_app_id(item: Any) -> object:
    """Return the app id of one Snowplow event; empty where it names none."""
    return (item.get("aid") or "") if isinstance(item, dict) else ""


def _find_first_app_id(body: Any) -> object:
    return next((app_id for item in _path_items(body) if (app_id := _find_app_id(item))), "")


def _path_items(body: Any) -> list[Any]:
    """Return the events of a body at `/i`: those of a POST's `payload_data`, or the body itself."""
    return [body] if isinstance(body, dict) and "e" in body else snowplow.extract_items(body)


OWN = KeyLocation(_keys_in_head("writeKey", "key"))
SEGMENT = KeyLocation(_keys_in_head("writeKey"), segment.find_write_key)
PIXEL = KeyLocation(_keys_in_head("writeKey"), pixel.find_write_key)
APP_ID = KeyLocation(lambda _head: [], _find_first_app_id, _find_app_id)
SHORT_CALLS = {"t": "track", "p": "page", "i": "identify", "g": "group", "s": "screen", "a": "alias", "b": "batch"}
"""Names that analytics.js uses for the calls."""


def _segment_doors() -> list[EventDoor]:
    paths = {f"/v1/{call}": call for call in ("batch", *segment.CALLS)}
    paths |= {f"/v1/{short}": call for short, call in SHORT_CALLS.items()}
    paths |= {"/v1/import": "batch", "/beacon/v1/batch": "batch"}
    doors = [
        EventDoor(path, SEGMENT, partial(segment.extract_items, call=call), segment.parse_item) for path, call in paths.items()
    ]
    return [*doors, EventDoor("/v1/merge", SEGMENT, lambda body: [body], merge.parse_item)]


def _pixel_doors() -> list[EventDoor]:
    paths = {f"/pixel/v1/{call}": call for call in ("track", "page")} | {f"/v1/pixel/{call}": call for call in segment.CALLS}
    return [
        EventDoor(path, PIXEL, partial(pixel.extract_items, call=call), segment.parse_item, "GET", AnswerFormat.PIXEL)
        for path, call in paths.items()
    ]


def _snowplow_doors(paths: Sequence[str]) -> list[EventDoor]:
    """Return the doors of trackers; `paths` are further POST paths, `vendor/version`."""
    # Trackers repeat most refusals for ever: what breaks the contract is a dead letter and a 200.
    return [
        *(
            EventDoor(path, APP_ID, snowplow.extract_items, snowplow.parse_item, answer=AnswerFormat.OK_TEXT)
            for path in (snowplow.POST_PATH, *paths)
        ),
        EventDoor("/i", APP_ID, _path_items, snowplow.parse_item, answer=AnswerFormat.OK_TEXT),
        EventDoor("/i", _query_parameter("aid"), lambda query: [query], snowplow.parse_item, "GET", AnswerFormat.PIXEL),
    ]


def _ga4_doors() -> list[EventDoor]:
    # The Measurement Protocol answers nothing about invalid events; `/debug` does.
    answers = {"/mp/collect": AnswerFormat.EMPTY, "/debug/mp/collect": AnswerFormat.VALIDATION}
    location = _query_parameter("api_secret")
    doors = [EventDoor(path, location, ga4.extract_items, ga4.parse_item, answer=answer) for path, answer in answers.items()]
    browser = KeyLocation(_keys_in_head("api_secret", "writeKey", "key"), gtag.find_write_key)
    # Pages cannot read the answer to Google's tag; any but 204 is shown as a failed request by the browser's tools.
    answer = AnswerFormat.NO_CONTENT
    return doors + [
        EventDoor("/g/collect", browser, gtag.extract_items, gtag.parse_item, method, answer, gtag.read_request)
        for method in ("GET", "POST")
    ]


Door = EventDoor | ChoiceDoor | DiscardDoor


def build_doors(snowplow_paths: Sequence[str] = ()) -> tuple[Door, ...]:
    """Return every door. ConfigError where one of `snowplow_paths` is no path of its own."""
    doors: tuple[Door, ...] = (
        EventDoor("/v1/events", OWN, own.extract_items, own.parse_item),
        ChoiceDoor("/v1/consent", OWN, choices.extract_items, choices.parse_item),
        *_segment_doors(),
        DiscardDoor("/v1/m"),
        *_pixel_doors(),
        *_snowplow_doors([_check_path(path) for path in snowplow_paths]),
        *_ga4_doors(),
    )
    addresses = Counter((door.method, door.path) for door in doors)
    if repeated := [f"{method} {path}" for (method, path), count in addresses.items() if count > 1]:
        raise ConfigError(f"--snowplow-path: there is such a path already: {', '.join(repeated)}")
    return doors


def _check_path(path: str) -> str:
    if not _PATH.fullmatch(path):
        raise ConfigError(
            f"--snowplow-path must be vendor/version as in a tracker's postPath, like com.acme/track: {path!r:.200}"
        )
    return f"/{path.strip('/')}"


_PATH = re.compile(r"/?[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+/?")

DOORS = build_doors()

__all__ = [
    "DOORS",
    "AnswerFormat",
    "ChoiceDoor",
    "DiscardDoor",
    "Door",
    "EventDoor",
    "KeyLocation",
    "RequestHead",
    "build_doors",
]
