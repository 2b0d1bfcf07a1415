"""Image pixels of Segment and RudderStack: one call in the query of a GET. Pure.

RudderStack's names every field (`context.page.url=...`), Segment's holds the call as base64 of JSON (`data=...`).
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import orjson

from streams.collector.event import InvalidField
from streams.collector.fields.repeated_keys import RepeatedKeys, loads, pairs
from streams.collector.protocols import segment

MAX_LEVELS = 8
"""Names of one dotted field."""


def extract_items(query: Mapping[str, Any], call: str) -> list[Any]:
    """Return the call of a query. InvalidField where `data` is no base64 of a JSON object."""
    if "data" in query:
        return segment.extract_items(_decode_call(str(query["data"])), call=call)
    return segment.extract_items(_nest_fields(query), call=call)


def find_write_key(query: Mapping[str, Any]) -> object:
    """Return the key inside `data`, where Segment's pixels have it; empty where there is none."""
    return segment.find_write_key(_decode_call(str(query["data"]))) if "data" in query else ""


def _decode_call(data: str) -> Any:
    text = data.replace(" ", "+").replace("-", "+").replace("_", "/").rstrip("=")  # a + in a query is a blank
    try:
        return loads(base64.b64decode(text + "=" * (-len(text) % 4), validate=True))
    except (binascii.Error, ValueError, orjson.JSONDecodeError):
        raise InvalidField("data must be base64 of a JSON object") from None


def _nest_fields(query: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields as objects: `context.page.url` is `url` of `page` of `context`. A repeated name stays repeated."""
    fields: dict[str, Any] = {}
    for name, value in pairs(query):
        if name == "writeKey":
            continue
        *outer, last = name.split(".", MAX_LEVELS)
        target = fields
        for part in outer:
            if not isinstance(target.get(part), dict):
                target[part] = RepeatedKeys(())
            target = target[part]
        if last in target and isinstance(target, RepeatedKeys):
            target.earlier.append((last, target[last]))
        target[last] = value
    return fields


__all__ = ["extract_items", "find_write_key"]
