"""Event ids: which of them identify an event, and what replaces one that does not. Pure."""

import hashlib
import re
from typing import Any

from streams.collector.fields.repeated_keys import dumps

MAX_ID = 128
_WORDS = frozenset(
    {
        "undefined", "undef", "null", "nil", "none", "nan", "notset", "na", "unknown", "empty", "false", "true", "objectobject",
    }
)  # fmt: skip
"""What tags send when they have no id; lower case, letters and digits only."""
_NOTHING = re.compile(r"[\W_]*|[\W_]*0[\W_0]*")
_TEMPLATE = re.compile(r"\{\{|\$\{|#\{|<%|\[%|\{%|%%[^%]+%%|\[\[|@@[^@]+@@")


def readable_event_id(event_id: str) -> str:
    """Return the id; a digest of one that is longer than its column; empty where it identifies nothing."""
    if len(event_id) > MAX_ID:
        return hashlib.sha256(event_id.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    text = event_id.strip()
    # Most ids have a digit beyond 0, or are longer than every word.
    if len(text) > 16 and "{" not in text and "%" not in text and "@" not in text and "[" not in text and text.strip("0-"):
        return text
    if _NOTHING.fullmatch(text) or re.sub(r"[\W_]+", "", text).lower() in _WORDS or _TEMPLATE.search(text):
        return ""
    return text


def content_to_derive(item: Any, has_time: bool) -> bytes:
    """Return the bytes from which the id of an item without one is derived; empty where nothing dates the item.

    Two events without a time may be equal although they are two, so their ids are random.
    """
    return dumps(item) if has_time else b""


__all__ = ["MAX_ID", "content_to_derive", "readable_event_id"]
