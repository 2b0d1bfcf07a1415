"""Products of an event, from the forms that protocols have for them, under the names of the contract's `items`. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from streams.collector.fields.reader import FieldReader
from streams.collector.fields.repeated_keys import number_repeats

MAX_ITEMS = 200
NAMES = {
    "product_id": "item_id", "productId": "item_id", "id": "item_id",
    "name": "item_name", "product_name": "item_name",
    "item_brand": "brand", "item_category": "category", "item_variant": "variant",
    "item_list_name": "list", "list_name": "list",
}  # fmt: skip
"""Names of protocols -> names of the contract. Other names stay as they are."""


def read_items(reader: FieldReader, *names: str) -> list[dict[str, Any]]:
    """Return the products of the first of these fields that is a list of objects; none where there is none."""
    for name in names:
        value = reader.fields.get(name)
        if value is None or value in ("", []):
            reader.take(name)
        elif isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
            reader.take(name)
            if len(value) > MAX_ITEMS:
                reader.note(name, f"at most {MAX_ITEMS} products are kept, the others are left out")
            return name_items(value[:MAX_ITEMS])
        else:
            reader.note(name, "an array of objects")
    return []


def name_items(items: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return products under the names of the contract. Where two names of one mean the same, the later keeps its own."""
    named = []
    for item in map(number_repeats, items):
        product: dict[str, Any] = {}
        for name, value in item.items():
            common = NAMES.get(name, name)
            product[name if common in product or (common != name and common in item) else common] = value
        named.append(product)
    return named


__all__ = ["MAX_ITEMS", "name_items", "read_items"]
