"""Builds the contract's `signals` map of an event from the consent fields of any protocol. Pure.

No signal is interpreted or dropped: the consent stage reads an unreadable value as denied. A signal with several values is kept
under `name`, `name#2`, ..., and the consent stage applies the strictest.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from streams.collector.fields.repeated_keys import dumps, pairs
from streams.collector.signals.field_roles import (
    CATEGORIES,
    CONTAINER_STRINGS,
    LEAVES,
    MANAGEMENT,
    MAX_NAME,
    MODE_NAMES,
    ConsentRole,
    classify_field,
    classify_list,
    find_signal_fields,
    is_flag,
)
from streams.consent.formats.signal_names import WHOLE, fold

MAX_JSON = 8_192  # characters of a value that is written as JSON
MAX_LEVELS = 4  # names that a flattened name may be made of
MAX_SIGNALS = 512

MANAGEMENT_DETAILS = {"provider": "platform", "resolutionstrategy": ""}
"""Folded fields of RudderStack's consent object that are no choice -> their signal's name; empty = none."""

TOO_MANY = f"more than {MAX_SIGNALS} signals"
EVERYTHING = "cmp.all"
"""The consent stage reads it as every purpose."""
NOT_SELECTED = "cmp.not_selected"
"""A refusal under a name that no policy maps: it denies the purposes that no other signal mentions."""


class SignalBuilder:
    """Builds the signals of one event. The order of calls only decides which of two values gets the plain name."""

    __slots__ = ("_signals",)

    def __init__(self, signals: Mapping[str, str] | None = None) -> None:
        self._signals = dict(signals or {})

    def as_map(self) -> dict[str, str]:
        """Return the contract's map of signals."""
        return self._signals

    def put(self, name: str, text: str) -> None:
        """Add a signal. Where it is present with another value, both are kept."""
        name = name.strip()[:MAX_NAME]
        present = self._signals.get(name)
        if present == text:
            return
        if len(self._signals) >= MAX_SIGNALS:
            # The map is bounded, and a signal beyond the bound may be a refusal.
            self._signals[WHOLE] = TOO_MANY
        elif present is None:
            self._signals[name] = text
        else:
            count = 2
            while self._signals.get(f"{name}#{count}", text) != text:
                count += 1
            self._signals[f"{name}#{count}"] = text

    def add_consent(self, consent: Any) -> None:
        """Add a consent object; a value that is no object becomes the signal `consent`."""
        if isinstance(consent, Mapping):
            self._add_fields(consent, "", 1)
        else:
            self.put(WHOLE, dumps(consent).decode() if isinstance(consent, bool) else to_signal_text(consent))

    def add_management(self, consent: Any) -> None:
        """Add RudderStack's consent object: allowed and denied ids, and the platform's name."""
        if not isinstance(consent, Mapping):
            self.add_consent(consent)
            return
        for name, value in pairs(consent):
            detail = MANAGEMENT_DETAILS.get(fold(name[:MAX_NAME]))
            if detail is None:
                self._add(name, value, "", 1)
            elif detail and isinstance(value, str) and value:
                self.put(detail, value)

    def add_categories(self, name: str, categories: Any) -> None:
        """Add Segment's categories: one boolean per purpose, under the platform's names."""
        if isinstance(categories, Mapping):
            for category, value in categories.items() if type(categories) is dict else pairs(categories):
                if type(value) is bool:
                    self.put(_category_name(category[:MAX_NAME]), "granted" if value else "denied")
                else:
                    bare = fold(category[:MAX_NAME])
                    self._add(category, value, "" if bare in MODE_NAMES else "cmp.", 2)
        else:
            self.put(name, to_signal_text(categories))

    def add_signal_fields(self, fields: Mapping[str, Any]) -> list[str]:
        """Add the fields that are consent signals in any object. Returns their names."""
        names = [name for name in find_signal_fields(fields) if not _is_campaign(name, fields[name])]
        container_strings = []
        for name, value in [(name, fields[name]) for name in names] if type(fields) is dict else pairs(fields):
            field = classify_field(name)
            if field is None or _is_campaign(name, value):
                continue
            if field.role is ConsentRole.CONTAINER_STRING:
                container_strings.append((field, value))
            elif field.role is ConsentRole.OBJECT:
                self.add_consent(value)
            else:
                self._ADDERS[field.role](self, field.name, value)
        # A container's string gets the plain name only where no other signal has it.
        for field, value in container_strings:
            self._add_container_string(field.name, value)
        return names

    def _add_management(self, _name: str, value: Any) -> None:
        self.add_management(value)

    def _add_choices(self, name: str, value: Any) -> None:
        self._add(name, value, "", 1)

    def _add_container_string(self, name: str, value: Any) -> None:
        plain, text = CONTAINER_STRINGS[fold(name)], to_signal_text(value)
        if self._signals.setdefault(plain, text) != text:
            self.put(name, text)

    _ADDERS: Mapping[ConsentRole, Callable[["SignalBuilder", str, Any], None]] = {
        ConsentRole.MANAGEMENT: _add_management,
        ConsentRole.CATEGORIES: add_categories,
        ConsentRole.PLATFORM: _add_choices,
        ConsentRole.CHOICES: _add_choices,
        ConsentRole.SIGNAL: _add_choices,
    }

    def _add_fields(self, fields: Mapping[str, Any], prefix: str, level: int) -> None:
        signals = self._signals
        for name, value in fields.items() if type(fields) is dict else pairs(fields):
            if type(value) is str:
                full = prefix + name[:MAX_NAME].strip() if prefix else _top_name(name[:MAX_NAME])
                if full not in signals and len(signals) < MAX_SIGNALS and len(full) <= MAX_NAME:
                    signals[full] = value
                else:
                    self.put(full, value)
            else:
                self._add(name, value, prefix, level)

    def _add(self, name: str, value: Any, prefix: str, level: int) -> None:
        """Add one field of a consent object. `prefix`: names of the objects around it; `level`: number of names so far."""
        if isinstance(value, str):
            self.put(_full_name(name, prefix), value)
        elif isinstance(value, bool):
            true_text, false_text = ("1", "0") if is_flag(name[:MAX_NAME]) else ("granted", "denied")
            self.put(_full_name(name, prefix), true_text if value else false_text)
        elif isinstance(value, Mapping):
            self._add_object_field(name, value, prefix, level)
        elif isinstance(value, list):
            self._add_list(name, value, prefix)
        else:
            self.put(_full_name(name, prefix), to_signal_text(value))

    def _add_object_field(self, name: str, value: Mapping[str, Any], prefix: str, level: int) -> None:
        name = name[:MAX_NAME]
        bare, full = fold(name), _full_name(name, prefix)
        if bare == CATEGORIES and not prefix:
            self.add_categories(name, value)
        elif bare == MANAGEMENT and not prefix:
            self.add_management(value)
        else:
            # Under a signal's name an object is an unreadable value, whatever it contains.
            is_leaf = bare in LEAVES or fold(full[:MAX_NAME]).startswith(("cmp.", "cm."))
            if is_leaf or not value or level >= MAX_LEVELS:
                self.put(full, to_signal_text(value))
            if level < MAX_LEVELS:
                self._add_fields(value, f"{full}.", level + 1)

    def _add_list(self, name: str, values: list[Any], prefix: str) -> None:
        decision = classify_list(name[:MAX_NAME])
        items = [text for value in values if (text := _list_item(value))]
        if decision == "denied":
            for item in items:
                self.put(f"cmp.{item}", decision)
            if len(items) != len(values):
                self.put(_full_name(name, prefix), to_signal_text(values))
        elif decision and items and len(items) == len(values):
            for item in items:
                self.put(f"cmp.{item}", decision)
        else:
            # An empty list of allowed items also ends here: it allows nothing.
            self.put(_full_name(name, prefix), to_signal_text(values))

    def add_scopes(self, scopes: Any, decision: str) -> bool:
        """Add scopes that are all granted or all denied. Returns whether there is at least one and each is readable."""
        items = [_list_item(scope) for scope in scopes] if isinstance(scopes, Sequence) and not isinstance(scopes, str) else []
        for item in items:
            if item:
                self.put(f"cmp.{item}", decision)
        return bool(items) and all(items)


def _is_campaign(name: str, value: Any) -> bool:
    """Return whether `cmp` is an advertising campaign: a text or a number, not a consent platform's object."""
    return type(value) in (str, int, float) and fold(name[:MAX_NAME]) == "cmp"


def add_gpc(signals: Mapping[str, str], header: str) -> dict[str, str]:
    """Return an event's signals with the request's `Sec-GPC` header; where they differ both are kept."""
    builder = SignalBuilder({"gpc": header})
    for name, value in signals.items():
        builder.put(name, value)
    return builder.as_map()


def _full_name(name: str, prefix: str) -> str:
    return prefix + name[:MAX_NAME].strip() if prefix else _top_name(name[:MAX_NAME])


@lru_cache(8_192)
def _top_name(name: str) -> str:
    """Return the signal name of a field at the top of a consent object."""
    name = name.strip()
    # Consent Mode's names mean the same in every protocol.
    return f"cm.{name}" if fold(name) in MODE_NAMES else name


@lru_cache(8_192)
def _category_name(category: str) -> str:
    name = _top_name(category)
    return name if fold(category) in MODE_NAMES else f"cmp.{name}"


def _list_item(value: Any) -> str:
    """Return an item of a list of names as text; empty where it is neither text nor integer."""
    return value.strip() if isinstance(value, str) else str(value) if type(value) is int else ""


def to_signal_text(value: Any) -> str:
    """Return a value as a signal's text: text unchanged, numbers formatted, `null`, and the rest as JSON."""
    if isinstance(value, str):
        return value
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "granted" if value else "denied"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        # Data frames write 1 as 1.0, and JSON has one number type.
        return str(int(value))
    return str(value) if isinstance(value, int | float) else dumps(value).decode()[:MAX_JSON]


__all__ = ["EVERYTHING", "NOT_SELECTED", "SignalBuilder", "add_gpc", "to_signal_text"]
