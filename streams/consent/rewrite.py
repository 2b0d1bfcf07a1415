"""Strips and anonymises events as bytes: kept fields are copied as slices, and only what may hold a click id is decoded.

The same results as `strip.py` gives on decoded records, several times faster.
"""

import re
from collections.abc import Callable
from io import BytesIO
from typing import Any

from fastavro import parse_schema, schemaless_reader, schemaless_writer

from schemas.codec import HEADER_BYTES, HeadSlicer, Undecodable
from schemas.registry import Contract
from streams.consent.clickids import ClickIds
from streams.consent.policy import BITS, Policy
from streams.consent.strip import DECISION_TOKEN, HOUR_MS, UNCLEANED, Shape

Change = Callable[[bytes], bytes]
"""The bytes of one field -> what is written instead."""


class Field:
    """One field of a contract, read and written alone."""

    def __init__(self, schema: dict[str, Any], empty: Any) -> None:
        self.name: str = schema["name"]
        self._type = parse_schema(schema["type"], _write_hint=False)
        self.empty = self.write(empty)
        self.is_map = isinstance(self._type, dict) and self._type.get("values") == "string"
        self.is_text = self._type == "string" or self.is_map

    def write(self, value: Any) -> bytes:
        """The bytes of a value."""
        out = BytesIO()
        schemaless_writer(out, self._type, value)
        return out.getvalue()

    def read(self, data: bytes) -> Any:
        """The value. Undecodable."""
        try:
            return schemaless_reader(BytesIO(data), self._type, None)
        except (EOFError, ValueError, IndexError, TypeError, OverflowError, MemoryError) as error:
            raise Undecodable(f"broken datum: {type(error).__name__}") from None


class Rewriter:
    """Rewrites events of one contract by one policy."""

    def __init__(self, contract: Contract, policy: Policy, click_ids: ClickIds) -> None:
        names = contract.names
        self._slicer = HeadSlicer(contract, names[-1])
        self._shape = Shape(contract)
        fields = contract.parsed["fields"]
        self._fields = [Field(field, self._shape.empty[field["name"]]) for field in fields]
        self._policy = policy
        self._click_ids = click_ids
        listed = b"|".join(re.escape(name.encode()) for name in click_ids.names)
        # In a text, a click id is a parameter. In a map it may be a key or stand in JSON, which can spell it with escapes.
        self._suspect = re.compile(rb"\\u|" + listed, re.IGNORECASE)
        self._token = re.compile(DECISION_TOKEN.encode(), re.IGNORECASE)
        self._strips: dict[int, list[Change | bytes | None]] = {}
        self._anonymises = self._plan_anonymous()

    def strip(self, value: bytes, mask: int) -> bytes:
        """The datum of a framed event without what the granted purposes do not cover."""
        plan = self._strips.get(mask)
        if plan is None:
            plan = self._strips[mask] = self._plan_strip(mask)
        return self._apply(value, plan)

    def anonymise(self, value: bytes, event_id: str) -> bytes:
        """The datum of a framed event with the allow-list only, under a new id."""
        plan = list(self._anonymises)
        plan[self._index("event_id")] = self._field("event_id").write(event_id)
        return self._apply(value, plan)

    def _apply(self, value: bytes, plan: list[Change | bytes | None]) -> bytes:
        ends = self._slicer.ends(value)
        if ends[-1] != len(value):
            raise Undecodable(f"{len(value) - ends[-1]} bytes left over after the last field")
        parts, kept_from, begin = [], HEADER_BYTES, HEADER_BYTES
        for end, change in zip(ends, plan, strict=True):
            if change is not None:
                parts.append(value[kept_from:begin])
                parts.append(change if isinstance(change, bytes) else change(value[begin:end]))
                kept_from = end
            begin = end
        parts.append(value[kept_from:])
        return b"".join(parts)

    def _plan_strip(self, mask: int) -> list[Change | bytes | None]:
        denied = set(self._shape.denied(self._policy, mask))
        plan: list[Change | bytes | None] = []
        for field in self._fields:
            if field.name in denied:
                plan.append(field.empty)
            elif field.is_text and field.name not in UNCLEANED:
                plan.append(self._cleaning(field, mask))
            else:
                plan.append(None)
        return plan

    def _cleaning(self, field: Field, mask: int) -> Change | None:
        marketing = not mask & BITS["marketing"]
        token = not mask & BITS["personalization"] and field.name == "properties"
        if not marketing and not token:
            return None

        def change(data: bytes) -> bytes:
            if len(data) == 1:
                return data  # empty
            clicks = marketing and (b"=" in data or b"%" in data or (field.is_map and self._suspect.search(data) is not None))
            tokens = token and self._token.search(data) is not None
            if not clicks and not tokens:
                return data
            content = field.read(data)
            if clicks:
                clean = self._click_ids.clean_text if isinstance(content, str) else self._click_ids.clean_map
                content = clean(content)
            if tokens:
                content = {key: text for key, text in content.items() if key.lower() != DECISION_TOKEN}
            return field.write(content)

        return change

    def _plan_anonymous(self) -> list[Change | bytes | None]:
        kept = set(self._policy.anonymous_fields)
        plan: list[Change | bytes | None] = [None if field.name in kept else field.empty for field in self._fields]
        region = self._field("region")
        plan[self._index("region")] = lambda data: region.write(region.read(data)[:2])
        for name in ("collector_ts", "event_ts"):
            plan[self._index(name)] = self._to_hour(self._field(name))
        return plan

    def _to_hour(self, field: Field) -> Change:
        return lambda data: field.write(field.read(data) // HOUR_MS * HOUR_MS)

    def _index(self, name: str) -> int:
        return next(i for i, field in enumerate(self._fields) if field.name == name)

    def _field(self, name: str) -> Field:
        return self._fields[self._index(name)]
