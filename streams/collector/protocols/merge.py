"""RudderStack's `merge` call (`POST /v1/merge`), which names identifiers of one person. It is read as `alias`. Pure."""

from collections.abc import Mapping
from typing import Any

from streams.collector.event import InvalidItem, Item
from streams.collector.fields.repeated_keys import overlay
from streams.collector.protocols import segment

TRAITS = {"email": "email", "mobile": "phone", "phone": "phone", "phone_number": "phone", "phonenumber": "phone"}
IDENTIFIERS = {
    "user_id": "userId",
    "userid": "userId",
    "anonymous_id": "anonymousId",
    "anonymousid": "anonymousId",
    "cookie_id": "anonymousId",
}
INSTEAD = "send POST /v1/alias with userId and previousId, or POST /v1/identify with the traits email and phone"


def parse_item(item: Any) -> Item:
    """Parse one merge. InvalidItem, which says what to send instead, where it names nothing that identifies a person here."""
    if not isinstance(item, dict):
        return InvalidItem(f"a merge must be an object: {INSTEAD}")
    properties = item.get("mergeProperties")
    if not isinstance(properties, list) or not all(isinstance(entry, dict) for entry in properties):
        return InvalidItem(f"mergeProperties must be an array of objects with type and value: {INSTEAD}")
    identifiers: dict[str, Any] = {}
    traits: dict[str, Any] = {}
    devices: dict[str, Any] = {}
    for entry in properties:
        kind, value = str(entry.get("type", "")).lower().replace("-", "_"), entry.get("value")
        if kind in TRAITS:
            traits[TRAITS[kind]] = value
        elif kind in IDENTIFIERS:
            identifiers[IDENTIFIERS[kind]] = value
        elif kind in ("device_id", "deviceid"):
            devices["id"] = value
        else:
            return InvalidItem(f"a type of mergeProperties is no identifier of Headwater: {INSTEAD}")
    return segment.parse_item(_as_alias(item, identifiers, traits, devices))


def _as_alias(
    item: dict[str, Any], identifiers: Mapping[str, Any], traits: Mapping[str, Any], devices: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the merge as an alias call; the identifiers beside `mergeProperties` come first."""
    fields: dict[str, Any] = {"type": "alias", "traits": traits}
    if devices:
        context = item.get("context")
        fields["context"] = overlay(context if isinstance(context, dict) else {}, {"device": devices})
    return overlay(identifiers, overlay(item, fields))


__all__ = ["parse_item"]
