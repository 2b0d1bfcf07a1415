"""The Snowplow tracker protocol, version 2 (`POST` to `tp2`, `GET /i`). Pure. The app id (`aid`) is the write key."""

import base64
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import lru_cache
from typing import Any

import orjson

from infra.parsing.times import YEAR_2000_MS, YEAR_2090_MS
from streams.collector.event import InvalidField, Item, ProtocolEvent, parse_object, read_object, read_text
from streams.collector.fields.amount import read_amount, read_currency
from streams.collector.fields.click_ids import read_click_ids
from streams.collector.fields.event_ids import content_to_derive
from streams.collector.fields.items import name_items
from streams.collector.fields.reader import FieldReader, merge_fields
from streams.collector.fields.region import merge_regions, normalise_location
from streams.collector.fields.repeated_keys import MAX_LEVELS, all_values, loads_with_depth, number_repeats
from streams.collector.protocols.snowplow_consent import VENDOR, add_choices, is_consent_schema
from streams.collector.signals.field_roles import OBJECTS
from streams.collector.signals.signals import SignalBuilder
from streams.consent.formats.signal_names import fold

PROTOCOL = "snowplow"
POST_PATH = "/com.snowplowanalytics.snowplow/tp2"
PAYLOAD = "iglu:com.snowplowanalytics.snowplow/payload_data/"
CONSENT = "iglu:com.headwater/consent/"
NAMES = {"pv": "page_view", "pp": "page_ping", "tr": "transaction", "ti": "transaction_item", "se": "struct"}
KINDS = (*NAMES, "ue")
MAX_ENTITIES = 500
"""Entities of one event; an event with more is refused, because one of them may be a refusal."""
PRODUCTS = frozenset({"product", "productFieldObject"})
"""Short names of the schemas of products: Snowplow's e-commerce, and Google's enhanced one."""
ORDERS = tuple(f"iglu:com.snowplowanalytics.snowplow.ecommerce/{name}/" for name in ("transaction", "refund"))
"""Schemas of orders in Snowplow's e-commerce; such an entity also stays among the properties."""
ORDER_IDS = ("order_id", "orderId", "transaction_id")
SESSION = "client_session"
ITEM_FIELDS = {"ti_sk": "item_id", "ti_nm": "item_name", "ti_ca": "category", "ti_pr": "price", "ti_qu": "quantity"}
"""Fields of a `transaction_item` -> names of the contract."""
UNKEPT = frozenset({"aid", "co", "cx", "e"})
"""Fields that are read elsewhere, or never kept: the app id is the write key."""
UNSTRUCTURED = frozenset({"ue_pr", "ue_px"})
"""Fields of an unstructured event."""

GEO = frozenset({"geo_country", "geo_region"})
MAX_SCHEMA = 256  # characters of a schema's URI by which it is classified


class SchemaKind(Enum):
    """How the data of an event or an entity is read, by its schema."""

    CONSENT = "consent object"
    CHOICE = "Snowplow's own consent schema"
    PLACE = "visitor's place"
    OTHER = "anything else"


Described = tuple[str, Mapping[str, Any]]
"""(schema, self-describing object) of an event or an entity."""


def extract_items(body: Any) -> list[Any]:
    """Return the events of a POST body. InvalidField where it is no `payload_data`."""
    if not isinstance(body, dict) or not str(body.get("schema", "")).startswith(PAYLOAD):
        raise InvalidField(f"the body must be self-describing JSON with a schema of {PAYLOAD}")
    if not isinstance(body.get("data"), list):
        raise InvalidField("data must be an array")
    events: list[Any] = body["data"]
    return events


def find_write_key(body: Any) -> str:
    """Return the app id of the first event of a POST body that has one; empty where none has. InvalidField as above."""
    items = extract_items(body)
    return next((item["aid"] for item in items if isinstance(item, dict) and isinstance(item.get("aid"), str)), "")


def parse_item(item: Any) -> Item:
    """Parse one event."""
    return parse_object(item, "an event", _parse)


def _parse(payload: Mapping[str, Any]) -> ProtocolEvent:
    kind, problems = _read_kind(payload), list[str]()
    fields = FieldReader(payload, problems)
    entities = _read_entities(payload)
    events = _unstructured_events(payload) if kind == "ue" else []
    name, event_data = _name_and_data(events[-1]) if events else (NAMES[kind], {})
    data = FieldReader(event_data, problems, "ue_pr.")
    signals, signal_names = _signals(payload, events, entities)
    fields.skip(UNKEPT | UNSTRUCTURED if events else UNKEPT)
    data.skip(signal_names)
    page_url, page_referrer = fields.text("url"), fields.text("refr")
    order, items = _open_order(entities, problems), [*_transaction_items(fields), *_products(entities)]
    order_id = fields.text("tr_id", "ti_id") or data.text(*ORDER_IDS) or order.text("transaction_id")
    value, currency = _read_value(name, fields, data, order, is_commerce=bool(order_id or items))
    created_ms, sent_ms = _read_ms(fields, "ttm") or _read_ms(fields, "dtm"), _read_ms(fields, "stm")
    return ProtocolEvent(
        name,
        PROTOCOL,
        fields.text("eid"),
        content_to_derive(payload, created_ms is not None or sent_ms is not None),
        identifiers=_read_identifiers(fields),
        created_ms=created_ms,
        sent_ms=sent_ms,
        signals=signals.as_map(),
        page_url=page_url,
        page_title=fields.text("page"),
        page_referrer=page_referrer,
        user_agent=fields.text("ua"),
        ip=fields.address("ip"),
        tag_version=fields.text("tv"),
        click_ids=read_click_ids(data, page_url, page_referrer),
        order_id=order_id,
        value=value,
        currency=currency,
        decision_token=data.text("decision_token"),
        items=items,
        session_id=fields.text("sid") or _read_session(entities),
        language=fields.text("lang"),
        screen=fields.text("res"),
        timezone=fields.text("tz"),
        properties=merge_fields(data.rest(), fields.rest(), _other_events(events), _other_entities(entities)),
        problems=problems,
        region=_read_region(payload, entities),
    )


def _read_kind(payload: Mapping[str, Any]) -> str:
    """Return the kind of an event. InvalidField for an unknown one."""
    kind = payload.get("e")
    if kind not in KINDS:
        raise InvalidField(f"e must be one of {', '.join(KINDS)}")
    return str(kind)


def _read_session(entities: "list[Described]") -> str:
    """Return the session of an entity, which stays among the properties."""
    sessions = [entity.get("data") for schema, entity in entities if _short_name(schema) == SESSION]
    return next((FieldReader(data, []).text("sessionId") for data in sessions if isinstance(data, dict)), "")


def _read_region(payload: Mapping[str, Any], entities: "list[Described]") -> str:
    if not entities and GEO.isdisjoint(payload):
        return ""
    return merge_regions(map(normalise_location, [payload, *_located_entities(entities)]))


def _read_identifiers(fields: FieldReader) -> list[tuple[str, str]]:
    identifiers = [
        ("user", fields.identifier("uid")),
        ("device", fields.identifier("tnuid")),
        ("cookie", fields.identifier("duid")),
    ]
    return [(kind, value) for kind, value in identifiers if value]


def _open_order(entities: "list[Described]", problems: list[str]) -> FieldReader:
    """Return a reader of the order in an entity of Snowplow's e-commerce plugin, of an empty object where there is none."""
    orders = [entity.get("data") for schema, entity in entities if schema.startswith(ORDERS)]
    return FieldReader(next((data for data in orders if isinstance(data, Mapping)), {}), problems, "entity.")


def _read_value(
    name: str, fields: FieldReader, data: FieldReader, order: FieldReader, *, is_commerce: bool
) -> tuple[float, str]:
    """Return (value, currency) of a transaction, else of an order, else of an event's data.

    A structured event's number is no money.
    """
    if fields.fields.get("tr_tt") not in (None, ""):
        money = fields.money("tr_tt")
        return money.amount, read_currency(fields, "tr_cu", "ti_cu") or money.currency
    if order.fields:
        money = order.money("revenue", "refund_amount")
        return money.amount, read_currency(order) or money.currency
    currency = read_currency(fields, "tr_cu", "ti_cu")
    value, data_currency = read_amount(name, data, is_commerce=is_commerce)
    return value, currency or data_currency


def _read_ms(fields: FieldReader, name: str) -> int | None:
    """Return a time in milliseconds, the protocol's only unit; None where there is none."""
    text = fields.fields.get(name)
    if text is None or text == "":
        return None
    is_number = isinstance(text, str | int) and str(text).isascii() and str(text).isdigit()
    if not (is_number and YEAR_2000_MS <= int(text) < YEAR_2090_MS):
        fields.note(name, "milliseconds since 1970")
        return None
    return int(fields.take(name))


def _transaction_items(fields: FieldReader) -> list[dict[str, Any]]:
    """Return the product of a `transaction_item`."""
    item = {common: fields.take(name) for name, common in ITEM_FIELDS.items() if name in fields.fields}
    return [item] if item else []


def _products(entities: "list[Described]") -> list[dict[str, Any]]:
    products = [entity.get("data") for schema, entity in entities if _short_name(schema) in PRODUCTS]
    return name_items(product for product in products if isinstance(product, dict))


def _other_events(events: "list[Described]") -> Iterator[tuple[str, Any]]:
    """Yield `event.<name>` of every unstructured event but the effective one: its data."""
    for schema, event in events[:-1]:
        yield f"event.{_short_name(schema)}", number_repeats(event.get("data"))


def _other_entities(entities: "list[Described]") -> Iterator[tuple[str, Any]]:
    """Yield `entity.<name>` of every entity but consent and products: its data, or a list where several have one schema."""
    by_name: dict[str, list[Any]] = {}
    for schema, entity in entities:
        name = _short_name(schema)
        if not schema.startswith(CONSENT) and not (name in PRODUCTS and isinstance(entity.get("data"), dict)):
            by_name.setdefault(name, []).append(entity.get("data"))
    for name, data in by_name.items():
        yield f"entity.{name}", number_repeats(data[0] if len(data) == 1 else data)


def _unstructured_events(payload: Mapping[str, Any]) -> list[Described]:
    """Return the unstructured events of an item; more than one where the field is repeated, the effective one last."""
    events = []
    for outer in _read_json_objects(payload, "ue_pr", "ue_px"):
        inner = read_object(outer, "data")
        schema = read_text(inner, "schema")
        if not schema.startswith("iglu:"):
            raise InvalidField("ue_pr must hold self-describing JSON with an iglu schema")
        events.append((schema, inner))
    if not events:
        raise InvalidField("ue_pr must be JSON")
    return events


def _name_and_data(event: Described) -> tuple[str, Mapping[str, Any]]:
    """Return the name, from its schema, and the data of an unstructured event."""
    schema, inner = event
    return _short_name(schema), read_object(inner, "data")


def _read_entities(payload: Mapping[str, Any]) -> list[Described]:
    """Return the entities of `co` and `cx`, of contexts 1-0-0 and 1-0-1."""
    entities: list[Described] = []
    for outer in _read_json_objects(payload, "co", "cx"):
        for data in all_values(outer, "data") or [None]:
            if not isinstance(data, list) or len(data) > MAX_ENTITIES or not all(isinstance(entity, dict) for entity in data):
                raise InvalidField(f"co must hold an array of at most {MAX_ENTITIES} self-describing entities")
            entities += [(read_text(entity, "schema"), entity) for entity in data]
    return entities


def _signals(payload: Mapping[str, Any], events: list[Described], entities: list[Described]) -> tuple[SignalBuilder, set[str]]:
    """Return the signals of entities, of Snowplow's consent schemas and of fields, and which fields of the event they are."""
    signals, signal_names = SignalBuilder(), set[str]()
    described = [(schema, data) for schema, inner in (*events, *entities) for data in all_values(inner, "data")]
    choices = False
    for schema, data in described:
        kind = _schema_kind(schema[:MAX_SCHEMA])
        if kind is SchemaKind.CONSENT:
            signals.add_consent(data)
        elif kind is SchemaKind.CHOICE:
            choices = True
        elif isinstance(data, Mapping):
            signal_names.update(signals.add_signal_fields(data))
    if choices:
        add_choices(signals, described)
    signals.add_signal_fields(payload)
    return signals, signal_names if events else set()


def _located_entities(entities: list[Described]) -> list[Mapping[str, Any]]:
    """Return the data of the entities that contain the visitor's region."""
    located = [entity.get("data") for schema, entity in entities if _schema_kind(schema[:MAX_SCHEMA]) is SchemaKind.PLACE]
    return [data for data in located if isinstance(data, Mapping)]


@lru_cache(1_024)
def _schema_kind(schema: str) -> SchemaKind:
    """Classify a schema."""
    short = _short_name(schema)
    if is_consent_schema(schema):
        return SchemaKind.CHOICE
    if schema.startswith(CONSENT) or (fold(short) in OBJECTS and not schema.startswith(VENDOR)):
        return SchemaKind.CONSENT
    return SchemaKind.PLACE if "geo" in short or "location" in short else SchemaKind.OTHER


def _read_json_objects(payload: Mapping[str, Any], plain: str, encoded: str) -> list[Mapping[str, Any]]:
    """Return the objects of a JSON field and of its base64 field (either alphabet, padded or not), the former last."""
    raws = [_decode_base64(value, encoded) for value in all_values(payload, encoded) if value]
    raws += [_to_bytes(value, plain) for value in all_values(payload, plain) if value]
    objects: list[Mapping[str, Any]] = []
    for raw in raws:
        try:
            value, depth = loads_with_depth(raw)
        except orjson.JSONDecodeError:
            raise InvalidField(f"{plain} must be JSON") from None
        if not isinstance(value, dict):
            raise InvalidField(f"{plain} must be a JSON object")
        if depth > MAX_LEVELS:
            raise InvalidField(f"{plain} may be nested {MAX_LEVELS - 1} levels deep")
        objects.append(value)
    return objects


def _to_bytes(value: Any, name: str) -> bytes:
    return value.encode() if isinstance(value, str) else read_text({name: value}, name).encode()


def _decode_base64(value: Any, name: str) -> bytes:
    field = value if isinstance(value, str) else read_text({name: value}, name)
    field = field.replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(field + "=" * (-len(field) % 4), validate=True)
    except ValueError:
        raise InvalidField(f"{name} must be base64") from None


def _short_name(schema: str) -> str:
    """Return the name of a schema: `iglu:vendor/name/jsonschema/1-0-0` -> `name`."""
    parts = schema.split("/")
    return parts[1] if len(parts) > 1 and parts[1] else "unknown"
