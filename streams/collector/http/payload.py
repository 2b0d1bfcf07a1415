"""The payload of a request: the parsed JSON of its body, or the fields of its query."""

from typing import Any

import orjson
from aiohttp import web

from infra.http.body import UndecodableBody, read_body
from streams.collector.fields.repeated_keys import MAX_LEVELS, RepeatedKeys, loads_with_depth
from streams.collector.http.rejections import RejectionReason, RequestRejected

BODY_S = 10.0
"""Seconds that a body may take."""
ENCODINGS = ("", "identity", "gzip", "deflate")


async def read_bytes(request: web.Request) -> bytes:
    """Return the decompressed body. RequestRejected where it is late or its encoding is not one of `ENCODINGS`."""
    try:
        body = await read_body(request, BODY_S)
    except TimeoutError:
        raise RequestRejected(RejectionReason.INVALID_JSON, f"the body did not come within {BODY_S:g} s") from None
    except UndecodableBody:
        raise RequestRejected(RejectionReason.ENCODING) from None
    if request.headers.get("Content-Encoding", "").lower() not in ENCODINGS:
        raise RequestRejected(RejectionReason.ENCODING)
    return body


def parse_json(body: bytes) -> Any:
    """Return the JSON of a body, repeated keys as `RepeatedKeys`. RequestRejected where it is invalid or too deep."""
    try:
        parsed, depth = loads_with_depth(body)
    except orjson.JSONDecodeError as error:
        position = f" (line {error.lineno}, column {error.colno})" if error.doc else ""
        raise RequestRejected(RejectionReason.INVALID_JSON, f"the body must be JSON in UTF-8{position}") from None
    if depth > MAX_LEVELS:
        raise RequestRejected(RejectionReason.TOO_DEEP)
    return parsed


def query_fields(request: web.Request) -> dict[str, Any]:
    """Return the fields of a query. Of a repeated name the first value counts, and the others are kept as `earlier`."""
    fields = dict(request.query)
    if len(fields) == len(request.query):
        return fields
    earlier = [(name, value) for name in fields for value in request.query.getall(name)[1:]]
    return RepeatedKeys(fields.items(), earlier)


__all__ = ["parse_json", "query_fields", "read_bytes"]
