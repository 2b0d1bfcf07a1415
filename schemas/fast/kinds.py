"""Kinds of fields that the fast readers and writers tell apart."""

from typing import Any

MAPS = "maps"
"""Kind of an array of maps of strings."""


def field_kind(schema: Any) -> Any:
    """Return the kind of a parsed schema: string (also bytes), boolean, long (also int), double, array, map or array of maps.

    Arrays and maps are those of strings; an array of maps of strings is `MAPS`.

    Every other schema is returned as it is, and must be read by `schemas.codec.read_datum`.
    """
    if isinstance(schema, str):
        kind = {"bytes": "string", "int": "long"}.get(schema, schema)
        if kind in ("string", "boolean", "long", "double"):
            return kind
    elif isinstance(schema, dict) and "string" in (schema.get("values"), schema.get("items")):
        return str(schema["type"])
    elif isinstance(schema, dict) and field_kind(schema.get("items")) == "map":
        return MAPS
    elif isinstance(schema, dict) and schema["type"] in ("int", "long"):
        return "long"  # a logical type's integer
    return schema
