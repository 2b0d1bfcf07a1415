"""Kinds of fields that the fast readers and writers tell apart."""

from typing import Any


def field_kind(schema: Any) -> Any:
    """Return the kind of a parsed schema: string (also bytes), boolean, long (also int), double, array or map of strings.

    Every other schema is returned as it is, and must be read by `schemas.codec.read_datum`.
    """
    if isinstance(schema, str):
        kind = {"bytes": "string", "int": "long"}.get(schema, schema)
        if kind in ("string", "boolean", "long", "double"):
            return kind
    elif isinstance(schema, dict) and "string" in (schema.get("values"), schema.get("items")):
        return str(schema["type"])
    elif isinstance(schema, dict) and schema["type"] in ("int", "long"):
        return "long"  # a logical type's integer
    return schema
