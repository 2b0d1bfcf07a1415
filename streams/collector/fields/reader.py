"""Reads the optional fields of an object. What does not fit costs only itself: it is noted, and left over as it was sent."""

from collections.abc import Collection, Iterator, Mapping
from math import isfinite
from typing import Any

from infra.parsing.address import parse_address
from infra.parsing.money import Money, parse_money
from infra.parsing.times import parse_time
from streams.collector.event import InvalidField
from streams.collector.fields.repeated_keys import RepeatedKeys, number_repeats, put_field
from streams.identity.nodes import identifier_text

MAX_NAME = 128
NOTHING: Mapping[str, Any] = {}
SCALARS = frozenset({str, int, float, bool, type(None)})


class FieldReader:
    """Reads the fields of one object, and knows which were read.

    `problems` collects `field: what was expected`, with the object's path in front of the field's name and without any value.
    A field that is null or an empty text counts as absent, and as read. Of a repeated key the last value counts, and the
    earlier ones are left over as `name#2`, `name#3`, ...
    """

    __slots__ = ("_fields", "_path", "_problems", "_read", "_skipped")

    def __init__(self, fields: Mapping[str, Any], problems: list[str], path: str = "") -> None:
        self._fields = fields
        self._problems = problems
        self._path = path
        self._read: set[str] = set()
        self._skipped: set[str] = set()

    @property
    def fields(self) -> Mapping[str, Any]:
        """The object."""
        return self._fields

    def text(self, *names: str) -> str:
        """Return the first of these fields that is a text or a number, as text; empty where none is."""
        fields = self._fields
        for name in names:
            if name not in fields:
                continue
            value = fields[name]
            if type(value) is str:
                self._read.add(name)
                if value:
                    return value
            elif value is None:
                self._read.add(name)
            elif (type(value) is int or type(value) is float) and isfinite(value):
                self._read.add(name)
                return str(value)
            else:
                self.note(name, "text")
        return ""

    def event_name(self, *names: str) -> str:
        """Return the event's name. One that is too long is noted, and cut once it is masked. InvalidField without any."""
        for name in names:
            value = self._fields.get(name)
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                continue
            self._read.add(name)
            text = str(value).strip()
            if len(text) > MAX_NAME:
                self.note(name, f"at most {MAX_NAME} characters")
            if text:
                return text
        raise InvalidField(f"{names[0]} must be text of 1 to {MAX_NAME} characters")

    def identifier(self, *names: str) -> str:
        """Return the first of these fields that can identify somebody: a text, or a number that has all its digits."""
        for name in names:
            value = self._fields.get(name)
            if type(value) is float:
                if text := identifier_text(value):
                    self._read.add(name)
                    return text
                self.note(name, "text, because a number of this size or with decimals loses digits")
            elif value is not None and (text := self.text(name)):
                return text
        return ""

    def identifiers(self, *names: str) -> list[str]:
        """Return every identifier in the first of these fields that has one: an identifier or a list of them."""
        for name in names:
            value = self._fields.get(name)
            if type(value) is list:
                entries = [FieldReader({name: entry}, self._problems, self._path) for entry in value]
                texts = [text for entry in entries if (text := entry.identifier(name))]
                if not any(any(entry.rest()) for entry in entries):
                    self._read.add(name)
                if texts:
                    return texts
            elif text := self.identifier(name):
                return [text]
        return []

    def money(self, *names: str) -> Money:
        """Return the first of these amounts that is not 0, else 0. Unreadable ones and all further ones are left over."""
        zeros = []
        for name in names:
            value = self._fields.get(name)
            if value is None or value == "":
                self._read.add(name)
                continue
            money = parse_money(value)
            if money is None:
                self.note(name, "an amount such as 19.90")
            elif money.amount:
                self._read.add(name)
                return money
            else:
                zeros.append(name)
        self._read.update(zeros[:1])
        return Money(0.0, "")

    def time(self, *names: str) -> int | None:
        """Return milliseconds UTC from the first of these fields that is a time (`infra.parsing.times`); None where none is."""
        for name in names:
            value = self._fields.get(name)
            if value is None or value == "":
                self._read.add(name)
            elif (moment := parse_time(value)) is not None:
                self._read.add(name)
                return moment
            else:
                self.note(name, "a time after 1973: milliseconds or seconds since 1970, or ISO 8601")
        return None

    def object(self, *names: str) -> "FieldReader":
        """Return a reader of the first of these fields that is an object; of an empty object where none is."""
        for name in names:
            value = self._fields.get(name)
            if isinstance(value, Mapping):
                self._read.add(name)
                return FieldReader(value, self._problems, f"{self._path}{name}.")
            if value is None or value in ("", []):
                self._read.add(name)
            else:
                self.note(name, "an object")
        return FieldReader(NOTHING, self._problems, f"{self._path}{names[0]}.")

    def address(self, name: str) -> str:
        """Return an IP address as it was sent; empty where there is none."""
        value = self._fields.get(name)
        if isinstance(value, str) and value and parse_address(value) is None:
            self.note(name, "an IP address")
            return ""
        return self.text(name)

    def take(self, name: str) -> Any:
        """Return a field as it was sent, repeated names in it numbered; None where it is absent. It counts as read."""
        self._read.add(name)
        return number_repeats(self._fields.get(name))

    def skip(self, names: Collection[str]) -> None:
        """Count fields as read, with every value of a repeated one: they are kept elsewhere, or never."""
        self._read.update(names)
        self._skipped.update(names)

    def skip_equal(self, name: str, value: Any) -> None:
        """Count a field as read where it repeats a value that was read elsewhere."""
        if self._fields.get(name) == value:
            self._read.add(name)

    def note(self, name: str, expected: str) -> None:
        """Note that a field does not fit."""
        self._problems.append(f"{self._path}{name}: {expected}")

    def rest(self, prefix: str = "") -> Iterator[tuple[str, Any]]:
        """Yield (name, value) of the fields that were not read, with `prefix` in front of their names."""
        for name, value in self._fields.items():
            if name not in self._read:
                member = number_repeats(value) if type(value) not in SCALARS else value
                yield (prefix + name, member) if prefix else (name, member)
        if isinstance(self._fields, RepeatedKeys):
            for name, value in self._fields.numbered():
                if name.rpartition("#")[0] not in self._skipped:
                    yield prefix + name, number_repeats(value)


def merge_fields(*sources: Iterator[tuple[str, Any]]) -> dict[str, Any]:
    """Return the fields of all sources. Where two have a name with different values, the later one is kept as `name#2`, ..."""
    merged: dict[str, Any] = {}
    for source in sources:
        for name, value in source:
            put_field(merged, name, value)
    return merged


def flatten_objects(fields: Iterator[tuple[str, Any]], levels: int = 3) -> Iterator[tuple[str, Any]]:
    """Yield fields with objects replaced by their members, `outer.inner`, down to this number of levels."""
    for name, value in fields:
        if levels > 1 and isinstance(value, Mapping) and value:
            yield from flatten_objects(((f"{name}.{inner}", member) for inner, member in value.items()), levels - 1)
        else:
            yield name, value


__all__ = ["FieldReader", "flatten_objects", "merge_fields"]
