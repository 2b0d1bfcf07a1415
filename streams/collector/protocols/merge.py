"""RudderStack's `merge` call (`POST /v1/merge`), which names identifiers of one person. It is read as `alias`. Pure."""

from collections.abc import Mapping
from typing import Any

from streams.collector.event import InvalidItem, Item
from streams.collector.fields.repeated_keys import RepeatedKeys, all_values, build_object, overlay, select_fields
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
    identifiers: list[tuple[str, Any]] = []
    traits: dict[str, list[Any]] = {}
    devices: list[tuple[str, Any]] = []
    for entry in properties:
        kind, values = str(entry.get("type", "")).lower().replace("-", "_"), all_values(entry, "value")
        if kind in TRAITS:
            traits.setdefault(TRAITS[kind], []).extend(values)
        elif kind in IDENTIFIERS:
            identifiers += [(IDENTIFIERS[kind], value) for value in values]
        elif kind in ("device_id", "deviceid"):
            devices += [("id", value) for value in values]
        else:
            return InvalidItem(f"a type of mergeProperties is no identifier of Headwater: {INSTEAD}")
    alias = _as_alias(item, build_object(identifiers), traits, build_object(devices))
    # What an entry has beside type and value is kept; a value itself would be an identifier in clear.
    further = [select_fields(entry, entry.keys() - {"type", "value"}) for entry in properties]
    complete = select_fields(alias, alias.keys() - {"mergeProperties"})
    return segment.parse_item(overlay(complete, {"mergeProperties": further}) if any(further) else complete)


def _as_alias(
    item: dict[str, Any], identifiers: Mapping[str, Any], traits: Mapping[str, Any], devices: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the merge as an alias call; the identifiers beside `mergeProperties` come first, and no other value is lost."""
    fields: dict[str, Any] = {"type": "alias", "traits": _add_fields(item.get("traits"), traits)}
    if devices:
        context = item.get("context")
        outer = context if isinstance(context, dict) else {}
        fields["context"] = overlay(outer, {"device": _add_fields(outer.get("device"), devices)})
    kinds = {"traits": dict} | ({"context": dict} if devices else {})
    replaced = [(name, item[name]) for name, kind in kinds.items() if name in item and not isinstance(item[name], kind)]
    return overlay(
        identifiers, overlay(RepeatedKeys(item.items(), [*_earlier(item), *replaced]), fields), frozenset(identifiers)
    )


def _add_fields(base: Any, fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return fields over those of an object that was sent, whose values of the same names stay as earlier ones."""
    return overlay(base, fields, frozenset(fields)) if isinstance(base, dict) else fields


def _earlier(item: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return item.earlier if isinstance(item, RepeatedKeys) else []


__all__ = ["parse_item"]
