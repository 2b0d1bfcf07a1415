"""JSON that keeps repeated keys: parsers silently drop all but the last, and a dropped value may be a refusal. Pure.

Repeated keys are rare. The fast path compares the number of parsed keys with the number of keys in the text.
"""

import json
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any

import orjson

MAX_LEVELS = 33
"""Levels of objects and arrays of a request body, including the body: values may be nested 32 levels deep."""

_KEY_END = re.compile(rb'"[ \t\r\n]*:')


class RepeatedKeys(dict[str, Any]):
    """An object with repeated keys. Its items are the last values; `earlier` holds the other pairs in order."""

    def __init__(self, pairs: Iterable[tuple[str, Any]], earlier: Iterable[tuple[str, Any]] = ()) -> None:
        super().__init__(pairs)
        self.earlier = list(earlier)

    def numbered(self) -> Iterator[tuple[str, Any]]:
        """Yield the earlier values that say something else than the last one, under `name#2`, `name#3`, ..."""
        names, numbers = set(self), dict[str, int]()
        for name, value in self.earlier:
            if value in (None, "") or (value == self.get(name) and type(value) is type(self.get(name))):
                continue
            # A name may be repeated thousands of times, so that the search goes on where it ended.
            number = numbers.get(name, 2)
            while (free := f"{name}#{number}") in names:
                number += 1
            numbers[name] = number + 1
            names.add(free)
            yield free, value


def loads(raw: bytes) -> Any:
    """Parse JSON; objects with repeated keys become `RepeatedKeys`. Raises orjson.JSONDecodeError."""
    parsed = orjson.loads(raw)
    keys = _count_keys(parsed)
    return _loads_repeated(raw, parsed) if keys and _may_repeat(raw, keys) else parsed


def loads_with_depth(raw: bytes) -> tuple[Any, int]:
    """Return `loads(raw)` and its number of levels. Levels beyond `MAX_LEVELS` are not searched for repeated keys."""
    parsed = orjson.loads(raw)
    keys, depth = count_keys_and_depth(parsed)
    if depth <= MAX_LEVELS and keys and _may_repeat(raw, keys):
        parsed = _loads_repeated(raw, parsed)
    return parsed, depth


def count_keys_and_depth(value: Any) -> tuple[int, int]:
    """Return (number of keys, number of levels) of a parsed value. Counting stops beyond `MAX_LEVELS`."""
    keys = depth = 0
    level = [value] if type(value) is dict or type(value) is list else []
    while level and depth <= MAX_LEVELS:
        depth += 1
        inner = []
        for outer in level:
            if type(outer) is dict:
                keys += len(outer)
                values: Iterable[Any] = outer.values()
            else:
                values = outer
            inner += [child for child in values if type(child) is dict or type(child) is list]
        level = inner
    return keys, depth


def _count_keys(value: Any) -> int:
    keys = 0
    containers = [value] if type(value) is dict or type(value) is list else []
    while containers:
        outer: Any = containers.pop()
        if type(outer) is dict:
            keys += len(outer)
            outer = outer.values()
        for child in outer:
            if type(child) is dict or type(child) is list:
                containers.append(child)
    return keys


def all_values(source: Mapping[str, Any], name: str) -> list[Any]:
    """Return every value of a name; the effective one is last."""
    if not isinstance(source, RepeatedKeys):
        return [source[name]] if name in source else []
    return [value for key, value in pairs(source) if key == name]


def pairs(source: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield every (name, value) pair; the effective ones come last."""
    if isinstance(source, RepeatedKeys):
        yield from source.earlier
    yield from source.items()


def select_fields(source: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return the fields of these names, including repeated ones."""
    chosen = set(names)
    fields = {name: value for name, value in source.items() if name in chosen}
    if not isinstance(source, RepeatedKeys):
        return fields
    return RepeatedKeys(fields.items(), [(name, value) for name, value in source.earlier if name in chosen])


def overlay(base: Mapping[str, Any], top: Mapping[str, Any], both: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Return `{**base, **top}`. For the names in `both`, the overridden value is kept as a repeated key."""
    overridden = [(name, base[name]) for name in both if name in base and name in top]
    earlier = [pair for source in (base, top) if isinstance(source, RepeatedKeys) for pair in source.earlier]
    merged = {**base, **top}
    return RepeatedKeys(merged.items(), [*earlier, *overridden]) if earlier or overridden else merged


def unused_name(name: str, names: Container[str]) -> str:
    """Return the name, or the name with `#2`, `#3`, ... where `names` already has it."""
    if name not in names:
        return name
    number = 2
    while f"{name}#{number}" in names:
        number += 1
    return f"{name}#{number}"


def put_field(fields: dict[str, Any], name: str, value: Any) -> None:
    """Add a field. Where the name has another value already, this one is kept as `name#2`, `name#3`, ..."""
    free, number = name, 2
    while free in fields and fields[free] != value:
        free, number = f"{name}#{number}", number + 1
    fields[free] = value


def number_repeats(value: Any) -> Any:
    """Return a value with the repeated keys of its objects under `name#2`, ...; the same object where it has none."""
    if isinstance(value, list):
        members = [number_repeats(member) for member in value]
        return members if any(new is not old for new, old in zip(members, value, strict=True)) else value
    if not isinstance(value, Mapping):
        return value
    fields = {name: number_repeats(member) for name, member in value.items()}
    if isinstance(value, RepeatedKeys):
        return fields | {name: number_repeats(member) for name, member in value.numbered()}
    return fields if any(member is not value[name] for name, member in fields.items()) else value


def dumps(value: Any) -> bytes:
    """Return the JSON of a value from `loads`, with its repeated keys. Values that JSON lacks are written as `str`."""
    return orjson.dumps(value, default=_to_json, option=orjson.OPT_PASSTHROUGH_SUBCLASS)


def _to_json(value: Any) -> Any:
    if isinstance(value, RepeatedKeys):
        return orjson.Fragment(b"{%s}" % b",".join(b"%s:%s" % (dumps(name), dumps(member)) for name, member in pairs(value)))
    return str(value)


def _may_repeat(raw: bytes, keys: int) -> bool:
    """Return whether the text may have more keys than were parsed. In doubt True."""
    has_spaced_quotes = b'" ' in raw or b'"\n' in raw or b'"\r' in raw or b'"\t' in raw
    if not has_spaced_quotes and b'\\\\"' not in raw:
        # A quote inside a string is escaped by one backslash, and a colon follows the closing quote of each key.
        return raw.count(b'":') - raw.count(b'\\":') != keys
    return sum(_is_quote(raw, match.start()) for match in _KEY_END.finditer(raw)) != keys


def _is_quote(raw: bytes, at: int) -> bool:
    """Return whether the quote at this index delimits a string: an even number of backslashes precedes it."""
    first = at
    while first and raw[first - 1] == 0x5C:
        first -= 1
    return (at - first) % 2 == 0


def build_object(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of these (name, value) pairs; `RepeatedKeys` where a name is repeated."""
    values = dict(fields)
    if len(values) == len(fields):
        return values
    last = {name: index for index, (name, _) in enumerate(fields)}
    return RepeatedKeys(values.items(), [pair for index, pair in enumerate(fields) if last[pair[0]] != index])


def _loads_repeated(raw: bytes, parsed: Any) -> Any:
    """Parse with repeated keys. Numbers are parsed by orjson."""
    repeats = False

    def built(fields: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal repeats
        values = build_object(fields)
        repeats = repeats or type(values) is RepeatedKeys
        return values

    try:
        slow = json.loads(raw, object_pairs_hook=built, parse_int=orjson.loads, parse_float=orjson.loads)
    except RecursionError:
        # Only JSON inside a string field can be nested that deep: the depth of bodies is checked before.
        raise orjson.JSONDecodeError("nested too deep", "", 0) from None
    return slow if repeats else parsed


__all__ = [
    "MAX_LEVELS",
    "RepeatedKeys",
    "all_values",
    "build_object",
    "count_keys_and_depth",
    "dumps",
    "loads",
    "loads_with_depth",
    "number_repeats",
    "overlay",
    "pairs",
    "put_field",
    "select_fields",
    "unused_name",
]
