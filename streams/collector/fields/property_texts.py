"""Values of properties as texts of limited number and length, and what the limits left out. Pure."""

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson

from streams.collector.fields.json_cut import cut_text

MAX_PROPERTIES = 200
MAX_NAME = 128
MAX_TEXT = 4_096
SHOWN = 5
"""Names of left-out properties that a problem lists."""


class PropertyTexts:
    """Converts the properties of one event, and notes in `problems` what a limit cut or left out."""

    __slots__ = ("_problems",)

    def __init__(self, problems: list[str]) -> None:
        self._problems = problems

    def flatten(self, properties: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
        """Return properties as texts: scalars formatted, nested values as JSON, nulls left out. `prefix` is for problems."""
        texts: dict[str, str] = {}
        for name, value in properties.items():
            if value is None:
                continue
            if len(texts) == MAX_PROPERTIES:
                self._note_left_out(list(properties), prefix)
                break
            text = value if type(value) is str else value_text(value)
            if len(text) > MAX_TEXT:
                text = cut_text(text, MAX_TEXT)
                self._problems.append(f"{prefix}{name[:MAX_NAME]}: at most {MAX_TEXT} characters")
            texts[name if len(name) <= MAX_NAME else self._short_name(name, prefix)] = text
        return texts

    def _short_name(self, name: str, prefix: str) -> str:
        """Cut a name, with a digest at its end that keeps it apart from names that begin alike."""
        self._problems.append(f"{prefix or 'properties'}: names of at most {MAX_NAME} characters")
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        return f"{name[: MAX_NAME - 9]}~{digest}"

    def _note_left_out(self, names: list[str], prefix: str) -> None:
        left_out = names[MAX_PROPERTIES:]
        shown = ", ".join(name[:MAX_NAME] for name in left_out[:SHOWN])
        self._problems.append(f"{prefix or 'properties'}: at most {MAX_PROPERTIES} fields, without {shown}"[:256])
        if len(left_out) > SHOWN:
            self._problems.append(f"{prefix or 'properties'}: {len(left_out) - SHOWN} further fields were left out")


def value_text(value: Any) -> str:
    """Return a value as text: a text itself, a scalar formatted, anything nested as JSON."""
    kind = type(value)
    if kind is str:
        return str(value)
    if kind is bool:
        return "true" if value else "false"
    if value is None:
        return ""
    return str(value) if kind is int or kind is float else orjson.dumps(value).decode()


__all__ = ["MAX_PROPERTIES", "PropertyTexts", "value_text"]
