"""Advertising click ids inside other fields: parameters of addresses, nested, URL-encoded, in JSON text. Pure.

Not found: ids that a sender has encrypted or wrapped in base64, and bare values under a name of the sender's own making.
"""

import json
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote

LAYERS = 4
"""How many URL encodings are looked through."""
DEPTH = 32
"""How deep JSON is followed; what lies deeper is removed."""

_SEPARATOR = r"(?:26|23|3[bB])"  # & # ; percent-encoded
_TIDY = re.compile(r"[&;]+(?=[&;#]|$)|(?<=[?#])[&;]+|[?](?=#|$)|(?:%26)+(?=%26|$)|(?<=%3F)(?:%26)+|(?<=%3f)(?:%26)+")


class ClickIds:
    """Removes click ids, known by their names, from texts and property maps."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(name.lower() for name in names)
        listed = "|".join(sorted(map(re.escape, self.names), key=len, reverse=True)) or r"(?!)"
        # A name begins after anything that is no part of a name, or right after a percent-encoded separator.
        begin = rf"(?:(?<![A-Za-z0-9_])|(?<=[%25]3[fF])|(?<=[%25]{_SEPARATOR}))"
        # Its value ends at a separator, plain or encoded any number of times, or at what no address contains.
        value = rf"(?:[^&#;\s\"'<>\\%]|%(?!(?:25)*{_SEPARATOR}))*"
        self._parameter = re.compile(rf"{begin}(?:{listed})(?:\[[^\]]*\])?(?:=|%(?:25)*3[dD]){value}", re.IGNORECASE)
        self._left = re.compile(rf"(?<![A-Za-z0-9_])(?:{listed})(?:\[[^\]]*\])?\s*=", re.IGNORECASE)

    def clean_text(self, text: str) -> str:
        """An address or other text without click id parameters; what hides one too well loses its whole query."""
        if "=" not in text and "%" not in text:
            return text
        cleaned = self._parameter.sub("", text)
        if "%" in cleaned and self._hides(cleaned):
            cleaned = re.split(r"[?#%]", cleaned, maxsplit=1)[0]
            return "" if self._left.search(cleaned) else cleaned
        return _TIDY.sub("", cleaned) if cleaned != text else text

    def _hides(self, text: str) -> bool:
        """Whether a click id shows up once encodings are taken away, or there are more encodings than are looked through."""
        for _ in range(LAYERS):
            plain = unquote(text, errors="replace")
            if plain == text:
                return False
            if self._left.search(plain):
                return True
            text = plain
        return "%" in text and unquote(text, errors="replace") != text

    def clean_map(self, properties: dict[str, str]) -> dict[str, str]:
        """Properties without click ids: neither as keys, nor in their texts, nor in the JSON that some of them are."""
        return {key: self._clean_value(value) for key, value in properties.items() if key.lower() not in self.names}

    def _clean_value(self, value: str) -> str:
        if value[:1] in ("{", "["):
            doubled: list[str] = []
            try:
                found = json.loads(value, object_pairs_hook=lambda pairs: _keep_last(pairs, doubled))
                cleaned = self._walk(found, DEPTH)
            except (ValueError, RecursionError):
                return self.clean_text(value)
            # ASCII: what was escaped may be half of a surrogate pair, which has no UTF-8.
            return value if cleaned == found and not doubled else json.dumps(cleaned, separators=(",", ":"))
        return self.clean_text(value)

    def _walk(self, value: Any, depth: int) -> Any:
        if depth == 0:
            return None
        if isinstance(value, str):
            return self._clean_value(value) if len(value) > 2 else value
        if isinstance(value, list):
            return [self._walk(item, depth - 1) for item in value]
        if isinstance(value, dict):
            if any(isinstance(item, str) and item.lower() in self.names for item in value.values()):
                return {}  # {"key": "gclid", "value": ...}, as Google's tags write parameters
            return {key: self._walk(item, depth - 1) for key, item in value.items() if key.lower() not in self.names}
        return value


def _keep_last(pairs: list[tuple[str, Any]], doubled: list[str]) -> dict[str, Any]:
    """An object with its last keys; earlier ones of the same name are noted, because the text still has them."""
    found = dict(pairs)
    if len(found) != len(pairs):
        doubled.append("")
    return found
