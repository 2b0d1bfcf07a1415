"""The collector's parsers as targets of fuzzing: each takes any bytes, and either returns or refuses as its protocol does."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import orjson

from infra.http.compression import InflatedBodyTooLarge, UndecodableBody, decompress
from infra.parsing.address import client_address, parse_address
from infra.parsing.money import parse_money
from infra.parsing.times import parse_moment, parse_time
from infra.secrets import Secret
from infra.settings import PACKAGED_CONTRACTS
from schemas.boundary import Boundary, ContractViolation
from schemas.codec import encode
from schemas.registry import Registry
from streams.collector.event import InvalidField, InvalidItem, Item
from streams.collector.http.payload import parse_json
from streams.collector.http.rejections import RequestRejected
from streams.collector.normalise import Normaliser, RequestContext
from streams.collector.protocols import choices, ga4, gtag, merge, own, pixel, segment, snowplow
from streams.identity.nodes import NodeKeys

CONTRACT = Registry(PACKAGED_CONTRACTS).latest("events.raw")
NORMALISER = Normaliser(CONTRACT, NodeKeys.derive(Secret("for fuzzing only, forty characters long.")))
BOUNDARY: Boundary = Boundary(CONTRACT)
REQUEST = RequestContext("web", "shop.example", 1_795_514_401_000, ip="192.0.2.1")
MAX_ITEMS = 50
"""Items of an input that are parsed: a request's number of items is limited elsewhere."""
MAX_RECORD = 4_000_000
"""Bytes of a record: its properties, products and signals each have limits."""
MAX_INFLATED = 1_000_000
REFUSED = (InvalidField, RequestRejected)

Target = Callable[[bytes], None]


def _accept(item: Item) -> None:
    """Build the record of an event. The contract may refuse it, and its size is bounded."""
    if isinstance(item, InvalidItem):
        return
    _, record = NORMALISER.build_record(item, REQUEST, lambda _name: None)
    try:
        encoded = encode(CONTRACT, BOUNDARY.check(record))
    except ContractViolation:
        return
    assert len(encoded) <= MAX_RECORD, len(encoded)


def _parse_events(extract: Callable[[Any], list[Any]], parse: Callable[[Any], Item], data: bytes) -> None:
    try:
        items = extract(parse_json(data).payload)
    except REFUSED:
        return
    for item in items[:MAX_ITEMS]:
        _accept(parse(item))


def _parse_query(data: bytes) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = gtag.read_request({}, data)["lines"][0]
    return fields


def _parse_tag(data: bytes) -> None:
    query, _, body = data.partition(b"\n")
    for item in gtag.extract_items(gtag.read_request(_parse_query(query), body))[:MAX_ITEMS]:
        _accept(gtag.parse_item(item))


def _parse_pixel(data: bytes) -> None:
    try:
        items = pixel.extract_items(_parse_query(data), "track")
    except REFUSED:
        return
    for item in items:
        _accept(segment.parse_item(item))


def _parse_choices(data: bytes) -> None:
    try:
        items = choices.extract_items(parse_json(data).payload)
    except REFUSED:
        return
    for item in items[:MAX_ITEMS]:
        choices.parse_item(item)


def _parse_any_json(data: bytes) -> None:
    try:
        payload = parse_json(data).payload
    except REFUSED:
        return
    # Each byte may be an invalid one, which is three as a replacement character, and a number may become a text.
    assert len(orjson.dumps(payload)) <= 8 * len(data) + 2


def _inflate(data: bytes) -> None:
    for encoding in ("", "gzip", "deflate", "br", "br, gzip"):
        try:
            assert len(decompress(data, encoding, MAX_INFLATED)) <= MAX_INFLATED
        except (UndecodableBody, InflatedBodyTooLarge):
            continue


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _parse_addresses(data: bytes) -> None:
    parse_address(_text(data))
    client_address(_text(data), [_text(data)], 2)


def _parse_amount(data: bytes) -> None:
    parse_money(_text(data))


def _parse_times(data: bytes) -> None:
    parse_time(_text(data))
    parse_moment(_text(data), REQUEST.now_ms)


def _track(body: Any) -> list[Any]:
    return segment.extract_items(body, call="batch" if isinstance(body, dict) and "batch" in body else "track")


TARGETS: dict[str, Target] = {
    "own": partial(_parse_events, own.extract_items, own.parse_item),
    "segment": partial(_parse_events, _track, segment.parse_item),
    "snowplow": partial(_parse_events, snowplow.extract_items, snowplow.parse_item),
    "ga4": partial(_parse_events, ga4.extract_items, ga4.parse_item),
    "gtag": _parse_tag,
    "pixel": _parse_pixel,
    "merge": partial(_parse_events, lambda body: [body], merge.parse_item),
    "choices": _parse_choices,
    "tolerant_json": _parse_any_json,
    "compression": _inflate,
    "address": _parse_addresses,
    "money": _parse_amount,
    "times": _parse_times,
}

__all__ = ["TARGETS", "Target"]
