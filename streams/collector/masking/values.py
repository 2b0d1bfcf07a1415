"""Masks nested values: names and texts of objects and arrays at any depth. Pure but for a cache."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from streams.collector.fields.repeated_keys import unused_name
from streams.collector.masking.field_names import Category, category_of
from streams.collector.masking.patterns import REMOVED

MAX_DEPTH = 64
"""Levels of nested values, including JSON in texts. Deeper values are removed."""

MAX_SEARCHED = 16_384
"""Characters of a text that are searched; the rest is cut off, because the contract's limit is lower."""
TORN = 2_048
"""Characters that are left out at the end of a text of which only the beginning was searched: an address may be torn there."""
MIN_NUMBER = 100_000
"""Smaller numbers are not treated as ids."""

MaskText = Callable[[str, Category, int], str]
"""(text, category of its field, depth) -> masked text."""


def collect_texts(value: Mapping[str, Any] | list[Any], name: str, texts: list[str]) -> bool:
    """Append all names and texts of a field's value to `texts`. Returns whether any name in it is personal."""
    personal = False
    if isinstance(value, list):
        for inner in value:
            kind = type(inner)
            if kind is str:
                texts.append(inner)
            elif kind is dict or kind is list:
                personal |= collect_texts(inner, name, texts)
            elif (kind is int or kind is float) and inner >= MIN_NUMBER:
                texts.append(str(inner))
        return personal
    personal = has_personal_key(name, tuple(value))
    texts += value
    for key, inner in value.items():
        kind = type(inner)
        if kind is str:
            texts.append(inner)
        elif kind is dict or kind is list:
            personal |= collect_texts(inner, key, texts)
        elif (kind is int or kind is float) and inner >= MIN_NUMBER:
            texts.append(str(inner))
    return personal


@lru_cache(maxsize=4_096)
def has_personal_key(name: str, keys: tuple[str, ...]) -> bool:
    """Return whether any of these keys is a personal name, within an object in the field `name`."""
    return any(category_of(f"{name}.{key}").is_masked for key in keys)


def mask_value(value: Any, mask_text: MaskText, name: str = "", category: Category = Category.OTHER, depth: int = 0) -> Any:
    """Return a masked copy of a value; the same object where nothing is masked.

    `name` and `category` are those of the value's field. Beneath a personal name every leaf is masked.
    """
    if isinstance(value, str):
        if len(value) <= MAX_SEARCHED:
            return mask_text(value, category, depth)
        return mask_text(value[:MAX_SEARCHED], category, depth)[:-TORN]
    if isinstance(value, dict | list):
        if depth >= MAX_DEPTH:
            return REMOVED
        return (
            _mask_object(value, mask_text, name, category, depth)
            if isinstance(value, dict)
            else _mask_list(value, mask_text, name, category, depth)
        )
    if isinstance(value, int | float) and not isinstance(value, bool):
        if category.is_masked:
            return value if value in (0, 1) else category.value
        if value >= MIN_NUMBER:
            text = str(value)
            masked = mask_text(text, category, depth)
            return value if masked == text else masked
    return value


def _mask_object(value: Mapping[str, Any], mask_text: MaskText, name: str, category: Category, depth: int) -> Mapping[str, Any]:
    masked: dict[str, Any] = {}
    changed = False
    for key, inner in value.items():
        key_category = category_of(f"{name}.{key}")
        effective = category if category.is_masked and not key_category.is_masked else key_category
        masked_inner = mask_value(inner, mask_text, key, effective, depth + 1)
        masked_key = mask_text(key, Category.OTHER, depth + 1)
        changed = changed or masked_inner is not inner or masked_key is not key
        masked[unused_name(masked_key, masked) if masked_key is not key else key] = masked_inner
    return masked if changed else value


def _mask_list(value: list[Any], mask_text: MaskText, name: str, category: Category, depth: int) -> list[Any]:
    masked = [mask_value(inner, mask_text, name, category, depth + 1) for inner in value]
    return masked if any(masked_inner is not inner for masked_inner, inner in zip(masked, value, strict=True)) else value
