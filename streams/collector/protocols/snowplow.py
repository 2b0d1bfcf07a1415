"""The Snowplow tracker protocol, version 2 (`POST` to `tp2`, `GET /i`). Pure. The app id (`aid`) is the write key."""

import base64
from collections.abc import Mapping
from enum import Enum
from functools import lru_cache
from typing import Any

import orjson

from streams.collector.event import (
    InvalidField,
    Item,
    ProtocolEvent,
    drop_fields,
    parse_object,
    read_click_ids,
    read_number,
    read_object,
    read_text,
)
from streams.collector.fields.region import merge_regions, normalise_location
from streams.collector.fields.repeated_keys import all_values, loads
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
MAX_ENTITIES = 50
MAPPED_FIELDS = frozenset({"order_id", "value", "currency", "decision_token"})

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
    kind = payload.get("e")
    if kind not in KINDS:
        raise InvalidField(f"e must be one of {', '.join(KINDS)}")
    entities = _read_entities(payload)
    events = _unstructured_events(payload) if kind == "ue" else []
    name, properties = _name_and_data(events[-1]) if events else (NAMES[str(kind)], _protocol_fields(payload))
    signals, signal_names = _signals(payload, events, entities)
    for schema, entity in entities:
        if not schema.startswith(CONSENT):
            properties[f"entity.{_short_name(schema)}"] = entity.get("data")
    identifiers = [
        ("user", read_text(payload, "uid")),
        ("device", read_text(payload, "tnuid")),
        ("cookie", read_text(payload, "duid")),
    ]
    return ProtocolEvent(
        name,
        PROTOCOL,
        read_text(payload, "eid"),
        identifiers=[(id_kind, value) for id_kind, value in identifiers if value],
        created_ms=_read_ms(payload, "ttm") or _read_ms(payload, "dtm"),
        sent_ms=_read_ms(payload, "stm"),
        signals=signals.as_map(),
        page_url=read_text(payload, "url"),
        page_title=read_text(payload, "page"),
        page_referrer=read_text(payload, "refr"),
        user_agent=read_text(payload, "ua"),
        ip=read_text(payload, "ip"),
        tag_version=read_text(payload, "tv"),
        click_ids=read_click_ids(properties),
        order_id=read_text(payload, "tr_id", "ti_id") or read_text(properties, "order_id"),
        value=read_number(payload, "tr_tt", "se_va") or read_number(properties, "value"),
        currency=read_text(payload, "tr_cu", "ti_cu") or read_text(properties, "currency"),
        decision_token=read_text(properties, "decision_token"),
        properties=drop_fields(properties, MAPPED_FIELDS | signal_names),
        region=merge_regions(map(normalise_location, [payload, *_located_entities(entities)]))
        if entities or not GEO.isdisjoint(payload)
        else "",
    )


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


def _name_and_data(event: Described) -> tuple[str, dict[str, Any]]:
    """Return the name, from its schema, and the data of an unstructured event."""
    schema, inner = event
    return _short_name(schema), dict(read_object(inner, "data"))


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
            value = loads(raw)
        except orjson.JSONDecodeError:
            raise InvalidField(f"{plain} must be JSON") from None
        if not isinstance(value, dict):
            raise InvalidField(f"{plain} must be a JSON object")
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


def _protocol_fields(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of structured events, transactions and page pings, under their protocol names."""
    return {name: value for name, value in payload.items() if name.startswith(("se_", "tr_", "ti_", "pp_"))}


def _short_name(schema: str) -> str:
    """Return the name of a schema: `iglu:vendor/name/jsonschema/1-0-0` -> `name`."""
    parts = schema.split("/")
    return parts[1] if len(parts) > 1 and parts[1] else "unknown"


def _read_ms(payload: Mapping[str, Any], name: str) -> int | None:
    value = read_text(payload, name)
    if not value:
        return None
    if not value.isdigit() or len(value) > 14:
        raise InvalidField(f"{name} must be milliseconds since 1970")
    return int(value)
