"""Advertising click ids: from fields of their own, and out of the addresses of the page and its referrer. Pure."""

import re
from urllib.parse import unquote_plus

from streams.collector.fields.reader import FieldReader

CLICK_IDS = ("gclid", "gclsrc", "gbraid", "wbraid", "dclid", "fbclid", "msclkid", "ttclid", "twclid", "li_fat_id")
_PARAMETER = re.compile(rf"[?&#;]({'|'.join(CLICK_IDS)})=([^&#;\s]+)")
_FIELDS = frozenset(CLICK_IDS)


def read_click_ids(fields: FieldReader, *addresses: str) -> dict[str, str]:
    """Return click ids by name. A field of its own comes before the page's address, and that before the referrer's."""
    click_ids: dict[str, str] = {}
    for address in reversed(addresses):
        if "=" in address:
            click_ids |= {name: unquote_plus(value) for name, value in reversed(_PARAMETER.findall(address))}
    if not _FIELDS.isdisjoint(fields.fields):
        click_ids |= {name: text for name in CLICK_IDS if (text := fields.text(name))}
    return click_ids


__all__ = ["CLICK_IDS", "read_click_ids"]
