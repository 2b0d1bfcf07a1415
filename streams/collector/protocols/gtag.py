"""Google's browser tag (`/g/collect`): its parameters are translated to events of the Measurement Protocol. Pure.

A GET has one event in its query. A POST's body has an event a line, and its query what all of them share. `ep.` and `epn.` are
parameters of the event (text, number), `up.` and `upn.` properties of the user, `pr1`, `pr2`, ... products.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

from streams.collector.event import Item, ProtocolEvent
from streams.collector.fields.repeated_keys import RepeatedKeys, build_object, dumps, put_field
from streams.collector.protocols import ga4

SHARED = {
    "cid": "client_id", "uid": "user_id", "gcs": "gcs", "gcd": "gcd", "npa": "npa", "dma": "dma", "dma_cps": "dma_cps",
    "gdpr": "gdpr_applies", "gdpr_consent": "tc_string", "_uip": "ip_override", "ua": "user_agent",
}  # fmt: skip
"""Parameters -> fields of the Measurement Protocol's body."""
PARAMS = {
    "dl": "page_location", "dr": "page_referrer", "dt": "page_title", "ul": "language", "sr": "screen_resolution",
    "sid": "session_id", "sct": "session_number", "seg": "session_engaged", "cu": "currency", "_et": "engagement_time_msec",
    "_dbg": "debug_mode", "gtm": "gtm",
}  # fmt: skip
"""Parameters -> parameters of the event."""
PRODUCT = {
    "id": "item_id", "nm": "item_name", "br": "item_brand", "ca": "item_category", "c2": "item_category2",
    "c3": "item_category3", "c4": "item_category4", "c5": "item_category5", "va": "item_variant", "pr": "price",
    "qt": "quantity", "cp": "coupon", "ds": "discount", "af": "affiliation", "ln": "item_list_name", "li": "item_list_id",
    "lp": "index", "lo": "location_id", "pi": "promotion_id", "pn": "promotion_name", "cn": "creative_name",
    "cs": "creative_slot",
}  # fmt: skip
"""Abbreviations within `pr1`, ... -> fields of a product."""
KEYS = ("ep.write_key", "ep.api_secret", "tid")
"""Where a write key may stand: parameters that the page adds to its configuration, or the measurement id itself."""


class GtagRequest(dict[str, Any]):
    """`query`: parameters that all events share. `lines`: the parameters of each event."""


def read_request(query: Mapping[str, Any], body: bytes) -> GtagRequest:
    """Return the parameters of a request."""
    lines = [line for line in body.decode("utf-8", "replace").splitlines() if line.strip()] or [""]
    return GtagRequest(query=query, lines=[_parse_line(line) for line in lines])


def _parse_line(line: str) -> dict[str, Any]:
    pairs = parse_qsl(line, keep_blank_values=True, errors="replace")
    fields = dict(reversed(pairs))
    return fields if len(fields) == len(pairs) else RepeatedKeys(fields.items(), pairs[::-1])


def find_write_key(request: GtagRequest) -> object:
    """Return the first parameter that may be a write key; empty where there is none."""
    sources = [request["query"], *request["lines"][:1]]
    return next((source[name] for name in KEYS for source in sources if _is_write_key(source.get(name))), "")


def _is_write_key(value: object) -> bool:
    return isinstance(value, str) and value.startswith("hw_")


def extract_items(request: GtagRequest) -> list[Any]:
    """Return the events, each with the parameters that all share."""
    return [{"query": request["query"], "event": event} for event in request["lines"]]


def parse_item(item: Any) -> Item:
    """Parse one event."""
    parameters = _all_fields(item["query"], item["event"])
    products = [_parse_product(value) for name, value in parameters if _is_product(name)]
    shared: list[tuple[str, Any]] = []
    # The products come first: a parameter of that name stays beside them.
    params: dict[str, Any] = {"items": products} if products else {}
    traits: dict[str, Any] = {}
    for name, value in parameters:
        if name == "en" or _is_product(name) or (name in KEYS and _is_write_key(value)):
            continue
        if name in SHARED:
            shared.append((SHARED[name], value))
        elif name.startswith(("ep.", "epn.")):
            put_field(params, name.partition(".")[2], value)
        elif name.startswith(("up.", "upn.")):
            put_field(traits, name.partition(".")[2], value)
        else:
            put_field(params, PARAMS.get(name, name), value)
    event = {"name": item["event"].get("en", item["query"].get("en")), "params": params, "user_properties": traits}
    # The event's own parameter counts; another value that all share stays as a repeated key, which may be a refusal.
    return _with_own_id(ga4.parse_item({"shared": build_object(shared[::-1]), "event": event}), item)


def _is_product(name: str) -> bool:
    return name[:2] == "pr" and name[2:].isdigit()


def _all_fields(query: Mapping[str, Any], event: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the parameters of an event, then those that all share, each with its repetitions."""
    sources = (event, query)
    return [pair for source in sources for pair in (*source.items(), *getattr(source, "earlier", ()))]


def _parse_product(text: str) -> dict[str, Any]:
    """Parse `idX~nmShoe~pr19.9~k0colour~v0red`."""
    product: dict[str, Any] = {}
    names: dict[str, str] = {}
    for part in text.split("~"):
        code, value = part[:2], unquote_plus(part[2:])
        if code[:1] == "k" and code[1:].isdigit() and code[1:] not in names:
            names[code[1:]] = value
        elif code[:1] == "v" and code[1:] in names:
            put_field(product, names.pop(code[1:]), value)
        elif part:
            put_field(product, PRODUCT.get(code, code), value)
    for number, name in names.items():  # names without a value
        put_field(product, f"k{number}", name)
    return product


def _with_own_id(event: Item, item: Any) -> Item:
    """Derive the id from the page's random number and the request's number, which a retry repeats."""
    fields = {**item["query"], **item["event"]}
    if isinstance(event, ProtocolEvent) and fields.get("_p") and fields.get("_s"):
        return replace(event, derive_from=dumps([item["query"], item["event"]]))
    return event


__all__ = ["extract_items", "find_write_key", "parse_item", "read_request"]
