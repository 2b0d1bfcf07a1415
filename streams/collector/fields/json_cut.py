"""Truncates nested values at whole members, so that every value keeps its name. Pure.

The consent stage recognises click ids by their names, which truncation at any character could remove.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

NAMING = frozenset({"key", "name", "id", "param", "parameter", "field", "type"})
"""Members that name their siblings: they are kept first."""
NOTHING = object()


def cut_text(text: str, limit: int) -> str:
    """Truncate a text to `limit` characters: JSON at whole members, any other text at its end."""
    if len(text) <= limit:
        return text
    if text.lstrip()[:1] in ("{", "["):
        try:
            return cut_value(orjson.loads(text), limit)
        except orjson.JSONDecodeError:
            pass
    return text[:limit]


def cut_value(value: Any, limit: int) -> str:
    """Return a value as JSON of at most `limit` characters: its leading members that fit, the last one truncated likewise."""
    text = orjson.dumps(value).decode()
    if len(text) <= limit:
        return text
    fitting = _fitting(value, limit)
    return "" if fitting is NOTHING else orjson.dumps(fitting).decode()


def _fitting(value: Any, room: int) -> Any:
    """Return the part of a value that fits into `room` characters of JSON; NOTHING where no part does."""
    size = _size(value)
    if size <= room:
        return value
    if not isinstance(value, list | Mapping) or room < 2:
        return NOTHING
    room -= 2  # its brackets
    fitted: list[tuple[str, Any]] = []
    for name, member in _members(value):
        room -= (_size(name) + 1 if isinstance(value, Mapping) else 0) + (1 if fitted else 0)  # its name, colon and comma
        fitting = _fitting(member, room)
        if fitting is NOTHING:
            break
        fitted.append((name, fitting))
        room -= _size(fitting)
    return dict(fitted) if isinstance(value, Mapping) else [member for _, member in fitted]


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from sorted(value.items(), key=lambda member: member[0].lower() not in NAMING)
    else:
        yield from (("", member) for member in value)


def _size(value: Any) -> int:
    return len(orjson.dumps(value).decode())


__all__ = ["cut_text", "cut_value"]
