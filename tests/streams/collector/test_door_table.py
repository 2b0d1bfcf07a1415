"""The table of doors: paths, methods and where a write key is looked for."""

import re
from pathlib import Path
from typing import Any

import pytest

from streams.collector.event import InvalidField
from streams.collector.protocols.doors import DOORS, RequestHead
from streams.collector.protocols.snowplow import PAYLOAD

README = Path(__file__).resolve().parents[3] / "streams" / "collector" / "README.md"
BY_PATH = {door.path: door for door in DOORS}


def head(authorization: str = "", **query: str) -> RequestHead:
    """The head of a request."""
    return RequestHead(authorization, query)


def test_no_path_stands_twice() -> None:
    """Each door has a path of its own."""
    assert len(BY_PATH) == len(DOORS)


def test_the_readme_names_every_door() -> None:
    """The table of the README has the method and the path of each."""
    rows = "".join(line for line in README.read_text().splitlines() if line.startswith("| `"))
    calls = re.search(r"/v1/\{([a-z,]+)\}", rows)
    assert calls
    listed = rows + "".join(f" /v1/{call}`" for call in calls[1].split(","))
    assert [door.path for door in DOORS if f"{door.path}`" not in listed] == []


@pytest.mark.parametrize(
    ("path", "request_head", "payload", "key"),
    [
        ("/v1/events", head("Bearer k"), {}, "k"),
        ("/v1/events", head("Basic azo="), {"writeKey": "body"}, ""),
        ("/v1/consent", head("bearer k"), {}, "k"),
        ("/v1/batch", head("Basic azo="), {"writeKey": "body"}, "k"),
        ("/v1/track", head(), {"writeKey": "body"}, "body"),
        ("/v1/track", head("Bearer k"), [], ""),
        ("/com.snowplowanalytics.snowplow/tp2", head(), {"schema": f"{PAYLOAD}1", "data": [{}, {"aid": "a"}]}, "a"),
        ("/com.snowplowanalytics.snowplow/tp2", head(aid="a"), {"schema": f"{PAYLOAD}1", "data": []}, ""),
        ("/i", head(aid="a"), {}, "a"),
        ("/mp/collect", head(api_secret="s"), {}, "s"),
        ("/debug/mp/collect", head("Bearer k"), {}, ""),
    ],
)
def test_where_a_write_key_stands(path: str, request_head: RequestHead, payload: Any, key: str) -> None:
    """In the head where the protocol has a place for it there, else in the payload; nothing elsewhere counts."""
    location = BY_PATH[path].key_location
    in_head = location.find_in_head(request_head)
    assert (location.find_in_payload(payload) if in_head is None else in_head) == key


def test_a_payload_that_is_none_of_the_protocol_is_refused_before_its_key() -> None:
    """Snowplow's key stands in its events, so a body without events is a contract violation."""
    with pytest.raises(InvalidField, match="self-describing"):
        BY_PATH["/com.snowplowanalytics.snowplow/tp2"].key_location.find_in_payload([])
