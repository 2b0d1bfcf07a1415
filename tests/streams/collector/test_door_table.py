"""The table of doors: paths, methods and where a write key is looked for."""

import re
from pathlib import Path
from typing import Any

import pytest

from streams.collector.event import InvalidField
from streams.collector.protocols.doors import DOORS, DiscardDoor, KeyLocation, RequestHead
from streams.collector.protocols.snowplow import PAYLOAD

README = Path(__file__).resolve().parents[3] / "streams" / "collector" / "README.md"
LOCATIONS = {f"{door.method} {door.path}": door.key_location for door in DOORS if not isinstance(door, DiscardDoor)}


def head(authorization: str = "", **query: str) -> RequestHead:
    """The head of a request."""
    return RequestHead(authorization, query)


def test_no_path_stands_twice() -> None:
    """Each door has a method and path of its own."""
    assert len({(door.method, door.path) for door in DOORS}) == len(DOORS)


def test_the_readme_names_every_door() -> None:
    """The table of the README has the method and the path of each."""
    rows = [line.split("|")[1] for line in README.read_text().splitlines() if line.startswith("| `")]
    listed = {path for row in rows for code in re.findall("`([^`]+)`", row) for path in expand(code.split()[-1])}
    assert [door.path for door in DOORS if door.path not in listed] == []


def expand(path: str) -> list[str]:
    """The paths that braces stand for: `/a/{b,c}` is `/a/b` and `/a/c`."""
    head, brace, rest = path.partition("{")
    inner, _, tail = rest.partition("}")
    return [f"{head}{name}{tail}" for name in inner.split(",")] if brace else [path]


def candidates(location: KeyLocation, request_head: RequestHead, payload: Any) -> list[object]:
    """Every text that may be the key, in the order in which they are tried."""
    in_payload = [location.find_in_payload(payload)] if location.find_in_payload else []
    return [key for key in (*location.find_in_head(request_head), *in_payload) if key]


@pytest.mark.parametrize(
    ("door", "request_head", "payload", "keys"),
    [
        ("POST /v1/events", head("Bearer k"), {}, ["k"]),
        ("POST /v1/events", head("Basic azo="), {"writeKey": "body"}, ["k"]),
        ("POST /v1/events", head("Bearer k", writeKey="q", key="r"), {}, ["k", "q", "r"]),
        ("POST /v1/consent", head("bearer k"), {}, ["k"]),
        ("POST /v1/batch", head("Basic azo="), {"writeKey": "body"}, ["k", "body"]),
        ("POST /v1/track", head(), {"writeKey": "body"}, ["body"]),
        ("POST /v1/track", head(writeKey="q", key="r"), {"writeKey": "body"}, ["q", "body"]),
        ("POST /v1/track", head("Digest k"), [], []),
        ("GET /pixel/v1/page", head(writeKey="q"), {"writeKey": "q"}, ["q"]),
        ("GET /v1/pixel/page", head(), {"data": "eyJ3cml0ZUtleSI6ImsifQ"}, ["k"]),
        ("POST /com.snowplowanalytics.snowplow/tp2", head(), {"schema": f"{PAYLOAD}1", "data": [{}, {"aid": "a"}]}, ["a"]),
        ("POST /com.snowplowanalytics.snowplow/tp2", head(aid="a"), {"schema": f"{PAYLOAD}1", "data": []}, []),
        ("POST /i", head(), {"e": "pv", "aid": "a"}, ["a"]),
        ("GET /i", head(aid="a"), {}, ["a"]),
        ("POST /mp/collect", head(api_secret="s"), {}, ["s"]),
        ("POST /debug/mp/collect", head("Bearer k"), {}, []),
    ],
)
def test_where_a_write_key_stands(door: str, request_head: RequestHead, payload: Any, keys: list[str]) -> None:
    """In the head first, then in the payload where the protocol has a place for it there."""
    assert candidates(LOCATIONS[door], request_head, payload) == keys


def test_a_payload_that_is_none_of_the_protocol_is_refused_before_its_key() -> None:
    """Snowplow's key stands in its events, so a body without events is a contract violation."""
    with pytest.raises(InvalidField, match="self-describing"):
        candidates(LOCATIONS["POST /com.snowplowanalytics.snowplow/tp2"], head(), [])
