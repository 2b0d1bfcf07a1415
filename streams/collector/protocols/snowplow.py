"""The Snowplow tracker protocol, version 2 (`tp2`, and `GET /i`). Pure. The app id (`aid`) is the write key."""

import base64
from collections.abc import Mapping
from enum import Enum
from functools import lru_cache
from typing import Any

import orjson

from streams.collector.event import InvalidField, InvalidItem, Item, ProtocolEvent, click_ids_of, mapping, number, text, without
from streams.collector.fields.place import location, place_of
from streams.collector.fields.repeated import each, loads
from streams.collector.protocols.snowplow_consent import VENDOR, add_choices, is_consent_schema
from streams.collector.signals.signals import OBJECTS, SignalBuilder
from streams.consent.formats.signal_names import fold

PROTOCOL = "snowplow"
PAYLOAD = "iglu:com.snowplowanalytics.snowplow/payload_data/"
CONSENT = "iglu:com.headwater/consent/"
NAMES = {"pv": "page_view", "pp": "page_ping", "tr": "transaction", "ti": "transaction_item", "se": "struct"}
KINDS = (*NAMES, "ue")
MAX_ENTITIES = 50
TAKEN = frozenset({"order_id", "value", "currency", "decision_token"})

GEO = frozenset({"geo_country", "geo_region"})
MAX_SCHEMA = 256  # characters of a schema's address that tell its kind


class SchemaKind(Enum):
    """What the data of an event or an entity is, by its schema."""

    CONSENT = "consent object"
    CHOICE = "Snowplow's own consent schema"
    PLACE = "visitor's place"
    OTHER = "anything else"


Described = tuple[str, Mapping[str, Any]]
"""(schema, self-describing object) of an event or an entity."""


def items_of(body: Any) -> list[Any]:
    """The events of a POST body. Wrong where it is no payload_data."""
    if not isinstance(body, dict) or not str(body.get("schema", "")).startswith(PAYLOAD):
        raise InvalidField(f"the body must be self-describing JSON with a schema of {PAYLOAD}")
    if not isinstance(body.get("data"), list):
        raise InvalidField("data must be an array")
    found: list[Any] = body["data"]
    return found


def write_key_of(items: list[Any]) -> str:
    """The app id of the request: that of its first event that has one."""
    return next((item["aid"] for item in items if isinstance(item, dict) and isinstance(item.get("aid"), str)), "")


def read(item: Any) -> Item:
    """One event."""
    if not isinstance(item, dict):
        return InvalidItem("an event must be an object")
    try:
        return _read(item)
    except InvalidField as error:
        return InvalidItem(str(error))


def _read(said: Mapping[str, Any]) -> ProtocolEvent:
    kind = said.get("e")
    if kind not in KINDS:
        raise InvalidField(f"e must be one of {', '.join(KINDS)}")
    entities = _entities(said)
    events = _self_described(said) if kind == "ue" else []
    name, properties = _named_event(events[-1]) if events else (NAMES[str(kind)], _plain(said))
    signals, taken = _signals(said, events, entities)
    for schema, entity in entities:
        if not schema.startswith(CONSENT):
            properties[f"entity.{_short(schema)}"] = entity.get("data")
    identifiers = [("user", text(said, "uid")), ("device", text(said, "tnuid")), ("cookie", text(said, "duid"))]
    return ProtocolEvent(
        name,
        PROTOCOL,
        text(said, "eid"),
        identifiers=[(of, value) for of, value in identifiers if value],
        created=_ms(said, "ttm") or _ms(said, "dtm"),
        sent=_ms(said, "stm"),
        signals=signals.as_map(),
        page_url=text(said, "url"),
        page_title=text(said, "page"),
        page_referrer=text(said, "refr"),
        user_agent=text(said, "ua"),
        ip=text(said, "ip"),
        tag_version=text(said, "tv"),
        click_ids=click_ids_of(properties),
        order_id=text(said, "tr_id", "ti_id") or text(properties, "order_id"),
        value=number(said, "tr_tt", "se_va") or number(properties, "value"),
        currency=text(said, "tr_cu", "ti_cu") or text(properties, "currency"),
        decision_token=text(properties, "decision_token"),
        properties=without(properties, TAKEN | taken),
        region=place_of(map(location, [said, *_located(entities)])) if entities or not GEO.isdisjoint(said) else "",
    )


def _self_described(said: Mapping[str, Any]) -> list[Described]:
    """Unstructured events of an item: one, unless it was written twice; the one that counts stands last."""
    events = []
    for outer in _objects(said, "ue_pr", "ue_px"):
        inner = mapping(outer, "data")
        schema = text(inner, "schema")
        if not schema.startswith("iglu:"):
            raise InvalidField("ue_pr must hold self-describing JSON with an iglu schema")
        events.append((schema, inner))
    if not events:
        raise InvalidField("ue_pr must be JSON")
    return events


def _named_event(event: Described) -> tuple[str, dict[str, Any]]:
    """Name and data of an unstructured event: the name is the middle of its schema's address."""
    schema, inner = event
    return _short(schema), dict(mapping(inner, "data"))


def _entities(said: Mapping[str, Any]) -> list[Described]:
    """Contexts, version 1-0-0 and 1-0-1 alike, of both fields that may hold them."""
    entities: list[Described] = []
    for outer in _objects(said, "co", "cx"):
        for data in each(outer, "data") or [None]:
            if not isinstance(data, list) or len(data) > MAX_ENTITIES or not all(isinstance(one, dict) for one in data):
                raise InvalidField(f"co must hold an array of at most {MAX_ENTITIES} self-describing entities")
            entities += [(text(entity, "schema"), entity) for entity in data]
    return entities


def _signals(said: Mapping[str, Any], events: list[Described], entities: list[Described]) -> tuple[SignalBuilder, set[str]]:
    """Signals of consent entities, of Snowplow's own schemas and of fields; which fields of the event's data they are."""
    signals, taken = SignalBuilder(), set[str]()
    described = [(schema, data) for schema, inner in (*events, *entities) for data in each(inner, "data")]
    choices = False
    for schema, data in described:
        kind = _kind(schema[:MAX_SCHEMA])
        if kind is SchemaKind.CONSENT:
            signals.add_consent(data)
        elif kind is SchemaKind.CHOICE:
            choices = True
        elif isinstance(data, Mapping):
            taken.update(signals.add_named(data))
    if choices:
        add_choices(signals, described)
    signals.add_named(said)
    return signals, taken if events else set()


def _located(entities: list[Described]) -> list[Mapping[str, Any]]:
    """Data of the entities that say where the visitor is."""
    placed = [entity.get("data") for schema, entity in entities if _kind(schema[:MAX_SCHEMA]) is SchemaKind.PLACE]
    return [data for data in placed if isinstance(data, Mapping)]


@lru_cache(1_024)
def _kind(schema: str) -> SchemaKind:
    """What data of this schema says of consent, or of the visitor's place."""
    short = _short(schema)
    if is_consent_schema(schema):
        return SchemaKind.CHOICE
    if schema.startswith(CONSENT) or (fold(short) in OBJECTS and not schema.startswith(VENDOR)):
        return SchemaKind.CONSENT
    return SchemaKind.PLACE if "geo" in short or "location" in short else SchemaKind.OTHER


def _objects(said: Mapping[str, Any], plain: str, encoded: str) -> list[Mapping[str, Any]]:
    """Objects of two fields, JSON in clear and in base64 (URL-safe or not, padded or not); those in clear stand last."""
    raws = [_decoded(value, encoded) for value in each(said, encoded) if value]
    raws += [_encoded(value, plain) for value in each(said, plain) if value]
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


def _encoded(value: Any, name: str) -> bytes:
    return value.encode() if isinstance(value, str) else text({name: value}, name).encode()


def _decoded(value: Any, name: str) -> bytes:
    field = value if isinstance(value, str) else text({name: value}, name)
    field = field.replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(field + "=" * (-len(field) % 4), validate=True)
    except ValueError:
        raise InvalidField(f"{name} must be base64") from None


def _plain(said: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of structured events and transactions, under their protocol names."""
    return {name: value for name, value in said.items() if name.startswith(("se_", "tr_", "ti_", "pp_"))}


def _short(schema: str) -> str:
    """`iglu:vendor/name/jsonschema/1-0-0` -> `name`."""
    parts = schema.split("/")
    return parts[1] if len(parts) > 1 and parts[1] else "unknown"


def _ms(said: Mapping[str, Any], name: str) -> int | None:
    value = text(said, name)
    if not value:
        return None
    if not value.isdigit() or len(value) > 14:
        raise InvalidField(f"{name} must be milliseconds since 1970")
    return int(value)
