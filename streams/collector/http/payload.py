"""The payload of a request: the parsed JSON of its body, or the fields of its query."""

import json
from typing import Any

from aiohttp import web

from infra.http.headers import header_text
from streams.collector.fields.repeated_keys import MAX_LEVELS, RepeatedKeys
from streams.collector.fields.tolerant_json import ParsedBody, load_body, names_wide_encoding
from streams.collector.http.rejections import RejectionReason, RequestRejected


def parse_json(body: bytes) -> ParsedBody:
    """Return the JSON of a body, repeated keys as `RepeatedKeys`. RequestRejected where it is invalid or too deep."""
    try:
        parsed = load_body(body)
    except json.JSONDecodeError as error:
        if names_wide_encoding(body):
            raise RequestRejected(
                RejectionReason.INVALID_JSON, "the body must be JSON in UTF-8: it is UTF-16 or UTF-32"
            ) from None
        position = f" (line {error.lineno}, column {error.colno})" if error.doc else ""
        raise RequestRejected(RejectionReason.INVALID_JSON, f"the body must be JSON in UTF-8{position}") from None
    if parsed.depth > MAX_LEVELS:
        raise RequestRejected(RejectionReason.TOO_DEEP)
    return parsed


def query_fields(request: web.Request) -> dict[str, Any]:
    """Return the fields of a query. Of a repeated name the first value counts, and the others are kept as `earlier`."""
    fields: dict[str, Any] = {}
    earlier: list[tuple[str, Any]] = []
    for name, value in request.query.items():
        if name in fields:
            earlier.append((header_text(name), header_text(value)))
        else:
            fields[header_text(name)] = header_text(value)
    return RepeatedKeys(fields.items(), earlier) if earlier else fields


__all__ = ["parse_json", "query_fields"]
