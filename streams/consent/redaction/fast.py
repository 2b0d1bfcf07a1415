"""Strips and anonymises encoded events: fields that stay are copied as slices, and clean values are not decoded again.

The results equal those of `reference.py` on decoded records, several times faster.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from functools import lru_cache
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from fastavro import parse_schema, schemaless_reader, schemaless_writer

from infra.parsing.region import region_of
from schemas.codec import HEADER_BYTES, Undecodable
from schemas.fast.head_columns import MIN_BATCH, HeadColumns, Offsets
from schemas.fast.head_slicer import HeadSlicer
from schemas.fast.primitives import read_long, text_bytes
from schemas.registry import Contract
from streams.consent.policy import BITS, Policy
from streams.consent.redaction.click_ids import ClickIds
from streams.consent.redaction.reference import (
    HOUR_MS,
    SIGNALS,
    UNCLEANED,
    ContractShape,
    clean_value,
    cleaners,
    known_signals,
)

Change = Callable[[bytes], bytes]
"""The bytes of a field -> the bytes that are written instead."""
Ends = Sequence[int]
"""The offset behind each field of an event."""
NONE: Set[bytes] = frozenset()
MAX_CACHED = 1_024
MAX_CACHED_BYTES = 1_024
HOURS, COUNTRY = ("collector_ts", "event_ts"), "region"
"""Fields of which an anonymised event keeps a part."""
VARYING = ("signals", "page_url", "page_title", "page_referrer", "properties")
"""Fields that are cleaned alone: their neighbours repeat more often without them."""
MAX_CLEAN, MAX_CLEAN_BYTES, MAX_CLEAN_SIGNALS_BYTES = 2_048, 512, 4_096
"""Cached clean values of each field: how many, and the largest in bytes; the last of signals."""


class FieldChange(NamedTuple):
    """What is written for neighbouring fields."""

    first: int
    """Number of the first field."""
    last: int
    change: Change | bytes
    """Always the same bytes, or a function of theirs."""
    unchanged: Set[bytes] = NONE
    """Bytes that `change` is known to leave as they are."""


Plan = list[FieldChange]
"""In the order of fields."""


class Datum:
    """Encodes and decodes one Avro type."""

    def __init__(self, schema: Any) -> None:
        self._schema = parse_schema(schema, _write_hint=False)

    def write(self, value: Any) -> bytes:
        """Encode a value. Undecodable for a number out of range."""
        out = BytesIO()
        try:
            schemaless_writer(out, self._schema, value)
        except OverflowError:
            raise Undecodable("a number out of range") from None
        return out.getvalue()

    def read(self, data: bytes) -> Any:
        """Decode a value. Undecodable."""
        try:
            return schemaless_reader(BytesIO(data), self._schema, None)
        except (EOFError, ValueError, IndexError, TypeError, OverflowError, MemoryError) as error:
            raise Undecodable(f"broken datum: {type(error).__name__}") from None


class ContractField(Datum):
    """One field of a contract."""

    def __init__(self, schema: dict[str, Any], empty: Any) -> None:
        super().__init__(schema["type"])
        self.schema = schema
        self.name: str = schema["name"]
        self.empty = self.write(empty)
        self.holds_text = _holds_text(schema["type"])


def _holds_text(kind: Any) -> bool:
    """Whether values of an Avro type are texts, or hold some."""
    if isinstance(kind, list):
        return any(map(_holds_text, kind))
    if isinstance(kind, dict):
        return _holds_text(kind.get("values") or kind.get("items") or kind["type"])
    return bool(kind == "string")


class FieldRun(Datum):
    """Neighbouring fields of a contract, as a record of their own."""

    def __init__(self, fields: Sequence[ContractField]) -> None:
        columns = [{"name": field.name, "type": field.schema["type"]} for field in fields]
        super().__init__({"type": "record", "name": "FieldRun", "fields": columns})


class Rewriter:
    """Redacts events of one contract under one policy."""

    def __init__(self, contract: Contract, policy: Policy, click_ids: ClickIds) -> None:
        names = contract.names
        self._ends = HeadSlicer(contract, names[-1]).ends
        self._columns = HeadColumns(contract, names[-1])
        self._shape = ContractShape(contract)
        fields = contract.parsed["fields"]
        self._fields = [ContractField(field, self._shape.empty[field["name"]]) for field in fields]
        self._policy = policy
        self._click_ids = click_ids
        self._reads = policy.reads
        self._strips: dict[int, Plan] = {}
        self._anonymises = self._plan_anonymous()
        self._hours = [names.index(name) for name in HOURS]
        changed = {place for first, last, *_ in self._anonymises for place in range(first, last + 1)}
        self._kept_runs = _runs(place for place in range(1, len(names)) if place not in changed or names[place] == COUNTRY)
        self._anonymous: dict[tuple[Any, ...], bytes] = {}
        """Anonymised events without their id, by the parts that stay and their hours."""

    def ends(self, values: Sequence[bytes]) -> list[Ends | None]:
        """The ends of the fields of many events; None for each that must be read alone."""
        if len(values) < MIN_BATCH:
            return [None] * len(values)
        columns = self._columns.read(values)
        ends: list[Ends | None] = np.stack(columns.ends, axis=1).tolist()
        for odd in np.flatnonzero(~columns.sound):
            ends[odd] = None
        return ends

    def strip(self, value: bytes, mask: int, ends: Ends | None = None) -> bytes:
        """The datum of a framed event, stripped of what the granted purposes do not cover. Undecodable."""
        plan = self._strips.get(mask)
        if plan is None:
            plan = self._strips[mask] = self._plan_strip(mask)
        return self._apply(value, self._checked_ends(value, ends), plan)

    def anonymise(self, value: bytes, event_id: str) -> bytes:
        """The datum of a framed event with the allow-list only, under a new id. Undecodable."""
        return text_bytes(event_id) + self._rest(value)

    def anonymise_many(self, values: Sequence[bytes], event_ids: Sequence[str]) -> list[bytes | None]:
        """The same for many events; None for each that must be read alone.

        Many events have the same rest, so it is cached by what it is made of.
        """
        if len(values) < MIN_BATCH:
            return [None] * len(values)
        columns = self._columns.read(values)
        sound = columns.sound & (columns.ends[-1] == columns.sizes)
        parts = [_slices(values, columns.ends[first - 1], columns.ends[last]) for first, last in self._kept_runs]
        hours = [(columns.numbers[place] // HOUR_MS).tolist() for place in self._hours]
        data: list[bytes | None] = []
        all_parts = zip(*parts, *hours, strict=True)
        for value, event_id, whole, parts_of_event in zip(values, event_ids, sound.tolist(), all_parts, strict=True):
            rest = (self._anonymous.get(parts_of_event) or self._cache_rest(value, parts_of_event)) if whole else None
            data.append(rest and text_bytes(event_id) + rest)
        return data

    def _rest(self, value: bytes) -> bytes:
        return self._apply(value, self._checked_ends(value, None), [FieldChange(0, 0, b""), *self._anonymises])

    def _cache_rest(self, value: bytes, parts: tuple[Any, ...]) -> bytes | None:
        try:
            rest = self._rest(value)
        except Undecodable:
            return None
        if sum(map(len, parts[: len(self._kept_runs)])) <= MAX_CACHED_BYTES:
            if len(self._anonymous) >= MAX_CACHED:
                self._anonymous.clear()
            self._anonymous[parts] = rest
        return rest

    def _checked_ends(self, value: bytes, ends: Ends | None) -> Ends:
        """The ends of an event's fields. Undecodable where bytes follow the last field."""
        ends = ends or self._ends(value)
        if ends[-1] != len(value):
            raise Undecodable(f"{len(value) - ends[-1]} bytes left over after the last field")
        return ends

    def _apply(self, value: bytes, ends: Ends, plan: Plan) -> bytes:
        parts: list[bytes] = []
        copied_to = HEADER_BYTES
        for first, last, change, unchanged in plan:
            begin, end = ends[first - 1] if first else HEADER_BYTES, ends[last]
            if isinstance(change, bytes):
                parts += (value[copied_to:begin], change)
            elif (old := value[begin:end]) not in unchanged and (changed := change(old)) is not old:
                parts += (value[copied_to:begin], changed)
            else:
                continue
            copied_to = end
        parts.append(value[copied_to:])
        return b"".join(parts)

    def _plan_strip(self, mask: int) -> Plan:
        denied = set(self._shape.denied(self._policy, mask))
        applied = cleaners(mask, self._click_ids)
        changes: Plan = [FieldChange(at, at, field.empty) for at, field in enumerate(self._fields) if field.name in denied]
        remaining = [at for at, field in enumerate(self._fields) if field.name not in denied]
        if not mask & BITS["analytics"] and SIGNALS not in denied:
            at = list(self._shape.purposes).index(SIGNALS)
            remaining.remove(at)
            changes.append(FieldChange(at, at, self._reduced_signals(self._fields[at], applied)))
        if applied:
            cleaned = [at for at in remaining if self._fields[at].holds_text and self._fields[at].name not in UNCLEANED]
            changes += [self._cleaned(first, last, applied) for first, last in self._text_runs(cleaned)]
        return _merged(sorted(changes, key=lambda change: change.first))

    def _text_runs(self, places: Iterable[int]) -> list[tuple[int, int]]:
        """Neighbouring fields that are cleaned together, as (first, last)."""
        alone = {at for at, field in enumerate(self._fields) if field.name in VARYING}
        together = _runs(at for at in places if at not in alone)
        return [*together, *((at, at) for at in places if at in alone)]

    def _cleaned(self, first: int, last: int, applied: Sequence[ClickIds]) -> FieldChange:
        """Removal of click ids and tokens from neighbouring fields; clean bytes are cached."""
        fields = FieldRun(self._fields[first : last + 1])
        # A visitor's consent string is long, and comes with each event.
        limit = MAX_CLEAN_SIGNALS_BYTES if self._fields[first].name == SIGNALS else MAX_CLEAN_BYTES
        clean: set[bytes] = set()

        def change(data: bytes) -> bytes:
            if any(cleaner.may_hold_bytes(data) for cleaner in applied):
                cleaned = _clean(fields, data, applied)
                if cleaned is not None:
                    return cleaned
            if len(data) <= limit:
                if len(clean) >= MAX_CLEAN:
                    clean.clear()
                clean.add(data)
            return data

        return FieldChange(first, last, change, clean)

    def _reduced_signals(self, field: "ContractField", applied: Sequence[ClickIds]) -> Change:
        def change(data: bytes) -> bytes:
            signals = field.read(data)
            for cleaner in applied:
                signals = cleaner.clean_map(signals)
            return field.write(known_signals(signals, self._reads))

        cached = lru_cache(MAX_CACHED)(change)
        return lambda data: cached(data) if len(data) <= MAX_CACHED_BYTES else change(data)

    def _plan_anonymous(self) -> Plan:
        """The plan for all fields but the event id, which is first and always new."""
        changes: Plan = []
        for place, field in enumerate(self._fields[1:], start=1):
            if field.name == COUNTRY:
                changes.append(FieldChange(place, place, self._to_country(field)))
            elif field.name in HOURS:
                changes.append(FieldChange(place, place, self._to_hour(field)))
            elif field.name not in self._policy.anonymous_fields:
                changes.append(FieldChange(place, place, field.empty))
        return _merged(changes)

    def _to_country(self, field: ContractField) -> Change:
        return lru_cache(MAX_CACHED)(lambda data: field.write(region_of(field.read(data))[:2]))

    def _to_hour(self, field: ContractField) -> Change:
        written = lru_cache(MAX_CACHED)(lambda hour: field.write(hour * HOUR_MS))
        return lambda data: written(read_long(data, 0) // HOUR_MS)


def _clean(fields: FieldRun, data: bytes, applied: Sequence[ClickIds]) -> bytes | None:
    """Neighbouring fields without click ids and tokens; None where they have none. Undecodable."""
    values = fields.read(data)
    if not any(cleaner.may_hold(_texts(values)) for cleaner in applied):
        return None
    cleaned = values
    for cleaner in applied:
        cleaned = {name: clean_value(value, cleaner) for name, value in cleaned.items()}
    return None if cleaned == values else fields.write(cleaned)


def _texts(values: dict[str, Any]) -> Iterator[str]:
    """The texts in fields, keys of maps included."""
    for value in values.values():
        for part in value if isinstance(value, list) else (value,):
            if isinstance(part, str):
                yield part
            elif isinstance(part, dict):
                yield from part
                yield from part.values()


def _slices(values: Sequence[bytes], begins: Offsets, ends: Offsets) -> list[bytes]:
    return [value[begin:end] for value, begin, end in zip(values, begins.tolist(), ends.tolist(), strict=True)]


def _runs(places: Iterable[int]) -> list[tuple[int, int]]:
    """(first, last) of each run of neighbouring numbers."""
    runs: list[tuple[int, int]] = []
    for place in places:
        first = runs.pop()[0] if runs and runs[-1][1] == place - 1 else place
        runs.append((first, place))
    return runs


def _merged(changes: Plan) -> Plan:
    """The plan with neighbouring constants joined."""
    plan: Plan = []
    for following in changes:
        before = plan[-1] if plan else None
        if (
            before is not None
            and before.last == following.first - 1
            and isinstance(before.change, bytes)
            and isinstance(following.change, bytes)
        ):
            plan[-1] = FieldChange(before.first, following.last, before.change + following.change)
        else:
            plan.append(following)
    return plan
