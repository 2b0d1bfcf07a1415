"""Image pixels of Segment and RudderStack: one call in the query of a GET. Pure.

RudderStack's names every field (`context.page.url=...`), Segment's holds the call as base64 of JSON (`data=...`).
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import orjson

from streams.collector.event import InvalidField
from streams.collector.fields.repeated_keys import MAX_LEVELS as MAX_DEPTH
from streams.collector.fields.repeated_keys import RepeatedKeys, loads_with_depth, overlay, pairs, select_fields
from streams.collector.protocols import segment

MAX_LEVELS = 8
"""Names of one dotted field."""


def extract_items(query: Mapping[str, Any], call: str) -> list[Any]:
    """Return the call of a query. InvalidField where `data` is no base64 of a JSON object."""
    if "data" in query:
        return segment.extract_items(_merge_query(_decode_call(str(query["data"])), query), call=call)
    return segment.extract_items(_nest_fields(query), call=call)


def find_write_key(query: Mapping[str, Any]) -> object:
    """Return the key inside `data`, where Segment's pixels have it; empty where there is none."""
    return segment.find_write_key(_decode_call(str(query["data"]))) if "data" in query else ""


def _merge_query(call: Any, query: Mapping[str, Any]) -> Any:
    """Return the call with the further fields of its query; the call's own count."""
    others = _nest_fields(select_fields(query, query.keys() - {"data", "type"}))
    return overlay(others, call, frozenset(others)) if others and isinstance(call, dict) else call


def _decode_call(data: str) -> Any:
    text = data.replace(" ", "+").replace("-", "+").replace("_", "/").rstrip("=")  # a + in a query is a blank
    try:
        call, depth = loads_with_depth(base64.b64decode(text + "=" * (-len(text) % 4), validate=True))
    except (binascii.Error, ValueError, orjson.JSONDecodeError):
        raise InvalidField("data must be base64 of a JSON object") from None
    if depth > MAX_DEPTH:
        raise InvalidField(f"data may be nested {MAX_DEPTH - 1} levels deep")
    return call


def _nest_fields(query: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields as objects: `context.page.url` is `url` of `page` of `context`. A repeated name stays repeated."""
    fields = RepeatedKeys(())
    for name, value in pairs(query):
        if name == "writeKey":
            continue
        *outer, last = name.split(".", MAX_LEVELS)
        target = fields
        for part in outer:
            if not isinstance(target.get(part), RepeatedKeys):
                _set(target, part, RepeatedKeys(()))
            target = target[part]
        _set(target, last, value)
    return fields


def _set(fields: RepeatedKeys, name: str, value: Any) -> None:
    if name in fields:
        fields.earlier.append((name, fields[name]))
    fields[name] = value


__all__ = ["extract_items", "find_write_key"]
