"""The Snowplow tracker protocol, version 2 (`tp2`, and `GET /i`). Pure. The app id (`aid`) is the write key."""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import orjson

from streams.collector.event import Item, Sent, Unusable, Wrong, click_ids_of, mapping, number, signals_of, text

PROTOCOL = "snowplow"
PAYLOAD = "iglu:com.snowplowanalytics.snowplow/payload_data/"
CONSENT = "iglu:com.headwater/consent/"
NAMES = {"pv": "page_view", "pp": "page_ping", "tr": "transaction", "ti": "transaction_item", "se": "struct"}
KINDS = (*NAMES, "ue")
MAX_ENTITIES = 50


def items_of(body: Any) -> list[Any]:
    """The events of a POST body. Wrong where it is no payload_data."""
    if not isinstance(body, dict) or not str(body.get("schema", "")).startswith(PAYLOAD):
        raise Wrong(f"the body must be self-describing JSON with a schema of {PAYLOAD}")
    if not isinstance(body.get("data"), list):
        raise Wrong("data must be an array")
    found: list[Any] = body["data"]
    return found


def write_key_of(items: list[Any]) -> str:
    """The app id of the request: that of its first event that has one."""
    return next((item["aid"] for item in items if isinstance(item, dict) and isinstance(item.get("aid"), str)), "")


def read(item: Any) -> Item:
    """One event."""
    if not isinstance(item, dict):
        return Unusable("an event must be an object")
    try:
        return _read(item)
    except Wrong as error:
        return Unusable(str(error))


def _read(said: Mapping[str, Any]) -> Sent:
    kind = said.get("e")
    if kind not in KINDS:
        raise Wrong(f"e must be one of {', '.join(KINDS)}")
    entities = _entities(said)
    name, properties = _self_described(said) if kind == "ue" else (NAMES[str(kind)], _plain(said))
    consent: dict[str, str] = {}
    for entity in entities:
        if text(entity, "schema").startswith(CONSENT):
            consent |= signals_of(mapping(entity, "data"))
        else:
            properties[f"entity.{_short(text(entity, 'schema'))}"] = entity.get("data")
    identifiers = [("user", text(said, "uid")), ("device", text(said, "tnuid")), ("cookie", text(said, "duid"))]
    return Sent(
        name,
        PROTOCOL,
        text(said, "eid"),
        identifiers=[(of, value) for of, value in identifiers if value],
        created=_ms(said, "ttm") or _ms(said, "dtm"),
        sent=_ms(said, "stm"),
        signals=consent,
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
        properties={k: v for k, v in properties.items() if k not in ("order_id", "value", "currency", "decision_token")},
    )


def _self_described(said: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and data of an unstructured event: the name is the middle of its schema's address."""
    outer = _json(said, "ue_pr", "ue_px")
    inner = mapping(outer, "data")
    schema = text(inner, "schema")
    if not schema.startswith("iglu:"):
        raise Wrong("ue_pr must hold self-describing JSON with an iglu schema")
    return _short(schema), dict(mapping(inner, "data"))


def _entities(said: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Contexts, version 1-0-0 and 1-0-1 alike."""
    if not said.get("co") and not said.get("cx"):
        return []
    data = _json(said, "co", "cx").get("data")
    if not isinstance(data, list) or len(data) > MAX_ENTITIES or not all(isinstance(entity, dict) for entity in data):
        raise Wrong(f"co must hold an array of at most {MAX_ENTITIES} self-describing entities")
    return data


def _json(said: Mapping[str, Any], plain: str, encoded: str) -> Mapping[str, Any]:
    """JSON in clear or in base64, URL-safe or not, padded or not."""
    if said.get(plain):
        raw = text(said, plain).encode()
    else:
        field = text(said, encoded).replace("-", "+").replace("_", "/")
        try:
            raw = base64.b64decode(field + "=" * (-len(field) % 4), validate=True)
        except binascii.Error:
            raise Wrong(f"{encoded} must be base64") from None
    try:
        found = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise Wrong(f"{plain} must be JSON") from None
    if not isinstance(found, dict):
        raise Wrong(f"{plain} must be a JSON object")
    return found


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
        raise Wrong(f"{name} must be milliseconds since 1970")
    return int(value)
