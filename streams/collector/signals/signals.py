"""Consent signals of one event as its sender wrote them, under the names of the contract's `signals` map. Pure.

Every protocol builds them here. Nothing is judged and nothing vanishes: what the gate cannot read denies. A signal that stands
twice with different values is kept twice (`name`, `name#2`, ...): the gate takes the strictest.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import lru_cache
from typing import Any, NamedTuple

from streams.collector.fields.repeated import dumps, pairs
from streams.consent.formats.signal_names import CONSENT_MODE_SIGNALS, WHOLE, fold
from streams.consent.formats.vocabulary import is_objection

MAX_NAME = 1_024  # characters: cut further once it is masked, because half an address is not recognised
MAX_JSON = 8_192  # characters of a value that is written as JSON
MAX_LEVELS = 4  # names that a flattened name may be made of
MAX_SIGNALS = 512
MOST_FIELDS = 8_192  # names of fields that are remembered

TOO_MANY = f"more than {MAX_SIGNALS} signals"
EVERYTHING = "cmp.all"
"""The gate reads it as every purpose."""
NOT_SELECTED = "cmp.not_selected"
"""A refusal under a name that nothing maps: it denies the purposes of which no other signal speaks."""

FLAGS = frozenset(
    {"gdprapplies", "gpc", "secgpc", "globalprivacycontrol", "npa", "xganpa", "nonpersonalizedads", "dnt", "rdp", "ldu"}
)
"""Folded names of signals that are no choices: true and false say whether something is so."""

MODE_NAMES = frozenset(name.replace("_", "") for name in CONSENT_MODE_SIGNALS)
ALIASES = {
    "xganpa": "npa", "gcsparam": "gcs", "gcdparam": "gcd", "gdprconsent": "tc_string", "euconsentv2": "tc_string",
    "gppstring": "gpp", "uspstring": "us_privacy", "usprivacystring": "us_privacy", "secgpc": "gpc",
    "globalprivacycontrol": "gpc",
}  # fmt: skip
"""Names beside the consent object, folded, by which tags send a signal of another name."""
CONTAINER_STRINGS = {"xgagcs": "gcs", "xgagcd": "gcd"}
"""Consent Mode as a tag container's event data has it: the gate reads `x-ga-gcs` beside a `gcs` that disagrees."""
NAMED = frozenset(
    {
        "gcs", "gcd", "npa", "nonpersonalizedads", "tcstring", "tceventstatus", "gdprapplies", "gpp", "gpc", "usprivacy",
        *MODE_NAMES, *ALIASES,
    }
)  # fmt: skip
"""Folded names that are consent signals wherever they stand."""
OBJECTS = frozenset({"consent", "consents", "consentmode", "consentstate", "consentsettings", "consentpreferences"})
"""Folded names of fields that hold a consent object."""
CATEGORIES = "categorypreferences"
MANAGEMENT = "consentmanagement"
MANAGEMENT_DETAILS = {"provider": "platform", "resolutionstrategy": ""}
"""Fields of RudderStack's consent object that say nothing of the choice, and the signal that they are; empty = none."""
LEAVES = NAMED | frozenset(CONTAINER_STRINGS)
"""Folded names of signals whose value is never an object."""

_NOUNS = "(categor(y|ies)|consents?|groups?|ids?|purposes?|scopes?|services?|vendors?)"
_GRANTS = "(enabled|allowed|granted|accepted)"
_DENIALS = "(disabled|denied|rejected|refused|declined|disallowed|withdrawn|revoked|blocked)"
_GRANTED_LIST = re.compile(rf"{_GRANTS}({_NOUNS}*)|{_NOUNS}+{_GRANTS}")
_DENIED_LIST = re.compile(rf"{_DENIALS}({_NOUNS}*)|{_NOUNS}+{_DENIALS}")


@lru_cache(8_192)
def is_flag(name: str) -> bool:
    """Whether true and false under this name are written as `1` and `0`, for they are no grant and no denial."""
    bare = fold(name)
    return bare in FLAGS or is_objection(bare)


class ConsentRole(Enum):
    """What a field beside the consent object is to consent."""

    OBJECT = "consent object"
    MANAGEMENT = "RudderStack's consent object"
    CATEGORIES = "Segment's categories"
    PLATFORM = "a platform's own words"
    CHOICES = "one of a platform's own words"
    SIGNAL = "one signal"
    CONTAINER_STRING = "one signal of a tag container"


class SignalField(NamedTuple):
    """How to read a field beside the consent object."""

    place: ConsentRole
    name: str
    """Of the signal."""


def _field_of(name: str) -> SignalField | None:
    bare = fold(name)
    if bare in OBJECTS:
        return SignalField(ConsentRole.OBJECT, name)
    if bare in (MANAGEMENT, CATEGORIES):
        return SignalField(ConsentRole.MANAGEMENT if bare == MANAGEMENT else ConsentRole.CATEGORIES, name)
    if bare == "cmp":
        return SignalField(ConsentRole.PLATFORM, name)
    if bare.startswith(("cmp.", "cm.")):
        return SignalField(ConsentRole.CHOICES, name)
    if bare in CONTAINER_STRINGS:
        return SignalField(ConsentRole.CONTAINER_STRING, name)
    return SignalField(ConsentRole.SIGNAL, ALIASES.get(bare, name)) if bare in NAMED else None


# A plain dictionary: each field of each event is looked up, and most are known to be no signal.
_FIELDS: dict[str, SignalField | None] = {}
_UNSEEN = SignalField(ConsentRole.SIGNAL, "")


def field_of(name: str) -> SignalField | None:
    """What a field of this name is to consent; None for nothing."""
    field = _FIELDS.get(name, _UNSEEN)
    if field is not _UNSEEN:
        return field
    name = name[:MAX_NAME]
    if len(_FIELDS) >= MOST_FIELDS:
        _FIELDS.clear()
    field = _FIELDS[name] = _field_of(name)
    return field


def signal_fields(fields: Mapping[str, Any]) -> list[str]:
    """Names of the fields that are consent signals wherever they stand."""
    maybe = [name for name in fields if _FIELDS.get(name, _UNSEEN) is not None]
    return [name for name in maybe if field_of(name) is not None] if maybe else maybe


class SignalBuilder:
    """Builds the signals of one event. The order of calls decides which of two values has the plain name, and nothing else."""

    __slots__ = ("_signals",)

    def __init__(self, signals: Mapping[str, str] | None = None) -> None:
        self._signals = dict(signals or {})

    def as_map(self) -> dict[str, str]:
        """The contract's map."""
        return self._signals

    def put(self, name: str, text: str) -> None:
        """Add a signal; where it stands already with another value, both are kept."""
        name = name.strip()[:MAX_NAME]
        present = self._signals.get(name)
        if present == text:
            return
        if len(self._signals) >= MAX_SIGNALS:
            # The map is bounded, and what does not fit into it may be a refusal.
            self._signals[WHOLE] = TOO_MANY
        elif present is None:
            self._signals[name] = text
        else:
            count = 2
            while self._signals.get(f"{name}#{count}", text) != text:
                count += 1
            self._signals[f"{name}#{count}"] = text

    def add_consent(self, consent: Any) -> None:
        """Add a whole consent object; what is no object is the signal `consent`."""
        if isinstance(consent, Mapping):
            self._add_fields(consent, "", 1)
        else:
            self.put(WHOLE, dumps(consent).decode() if isinstance(consent, bool) else written(consent))

    def add_management(self, consent: Any) -> None:
        """Add RudderStack's consent object: ids that are allowed and denied, and what the platform is."""
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
        """Add Segment's categories: one boolean a purpose, under the platform's own names."""
        if isinstance(categories, Mapping):
            for category, value in categories.items() if type(categories) is dict else pairs(categories):
                if type(value) is bool:
                    self.put(_category_name(category[:MAX_NAME]), "granted" if value else "denied")
                else:
                    bare = fold(category[:MAX_NAME])
                    self._add(category, value, "" if bare in MODE_NAMES else "cmp.", 2)
        else:
            self.put(name, written(categories))

    def add_named(self, fields: Mapping[str, Any]) -> list[str]:
        """Add the fields of an event that are consent signals wherever they stand; their names."""
        names = [name for name in signal_fields(fields) if not _is_campaign(name, fields[name])]
        later = []
        for name, value in [(name, fields[name]) for name in names] if type(fields) is dict else pairs(fields):
            field = field_of(name)
            if field is None or _is_campaign(name, value):
                continue
            if field.place is ConsentRole.CONTAINER_STRING:
                later.append((field, value))
            elif field.place is ConsentRole.OBJECT:
                self.add_consent(value)
            else:
                self._ADDERS[field.place](self, field.name, value)
        # A container's strings take the plain name only where nothing else has it.
        for field, value in later:
            self._add_container_string(field.name, value)
        return names

    def _add_management(self, _name: str, value: Any) -> None:
        self.add_management(value)

    def _add_choices(self, name: str, value: Any) -> None:
        self._add(name, value, "", 1)

    def _add_container_string(self, name: str, value: Any) -> None:
        plain, text = CONTAINER_STRINGS[fold(name)], written(value)
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
        """Add one field of a consent object. `prefix`: names of the objects around it; `level`: how many names it has."""
        if isinstance(value, str):
            self.put(_full(name, prefix), value)
        elif isinstance(value, bool):
            yes, no = ("1", "0") if is_flag(name[:MAX_NAME]) else ("granted", "denied")
            self.put(_full(name, prefix), yes if value else no)
        elif isinstance(value, Mapping):
            self._add_object_field(name, value, prefix, level)
        elif isinstance(value, list):
            self._add_list(name, value, prefix)
        else:
            self.put(_full(name, prefix), written(value))

    def _add_object_field(self, name: str, value: Mapping[str, Any], prefix: str, level: int) -> None:
        name = name[:MAX_NAME]
        bare, full = fold(name), _full(name, prefix)
        if bare == CATEGORIES and not prefix:
            self.add_categories(name, value)
        elif bare == MANAGEMENT and not prefix:
            self.add_management(value)
        else:
            # Under the name of a signal an object is a value that cannot be read, whatever is in it.
            is_leaf = bare in LEAVES or fold(full[:MAX_NAME]).startswith(("cmp.", "cm."))
            if is_leaf or not value or level >= MAX_LEVELS:
                self.put(full, written(value))
            if level < MAX_LEVELS:
                self._add_fields(value, f"{full}.", level + 1)

    def _add_list(self, name: str, values: list[Any], prefix: str) -> None:
        word = list_word(name[:MAX_NAME])
        items = [text for one in values if (text := _item(one))]
        if word == "denied":
            for item in items:
                self.put(f"cmp.{item}", word)
            if len(items) != len(values):
                self.put(_full(name, prefix), written(values))
        elif word and items and len(items) == len(values):
            for item in items:
                self.put(f"cmp.{item}", word)
        else:
            # An empty list of what is allowed is here too: nothing is.
            self.put(_full(name, prefix), written(values))

    def add_scopes(self, scopes: Any, word: str) -> bool:
        """Add scopes of which all are granted or denied; whether there were any, and each was a text."""
        items = [_item(one) for one in scopes] if isinstance(scopes, Sequence) and not isinstance(scopes, str) else []
        for item in items:
            if item:
                self.put(f"cmp.{item}", word)
        return bool(items) and all(items)


def _is_campaign(name: str, value: Any) -> bool:
    """A text or a number named `cmp` is an advertising campaign's, not a consent platform's words."""
    return type(value) in (str, int, float) and fold(name[:MAX_NAME]) == "cmp"


def with_objection(signals: Mapping[str, str], header: str) -> dict[str, str]:
    """An event's signals and its request's `Sec-GPC`: both are kept where they differ."""
    joined = SignalBuilder({"gpc": header})
    for name, value in signals.items():
        joined.put(name, value)
    return joined.as_map()


def _full(name: str, prefix: str) -> str:
    return prefix + name[:MAX_NAME].strip() if prefix else _top_name(name[:MAX_NAME])


@lru_cache(8_192)
def _top_name(name: str) -> str:
    """The signal's name of a field of a consent object that nothing is around."""
    name = name.strip()
    # Consent Mode's names mean at every door what they mean at Google's.
    return f"cm.{name}" if fold(name) in MODE_NAMES else name


@lru_cache(8_192)
def _category_name(category: str) -> str:
    name = _top_name(category)
    return name if fold(category) in MODE_NAMES else f"cmp.{name}"


def _item(value: Any) -> str:
    """An item of a list of names; empty for what is none."""
    return value.strip() if isinstance(value, str) else str(value) if type(value) is int else ""


@lru_cache(8_192)
def list_word(name: str) -> str:
    """What a list of this name says of its items: `granted`, `denied`, or nothing that is known."""
    bare = fold(name)
    return "denied" if _DENIED_LIST.fullmatch(bare) else "granted" if _GRANTED_LIST.fullmatch(bare) else ""


def written(value: Any) -> str:
    """A value as the text of a signal: text as it is, numbers written out, null, and the rest as JSON."""
    if isinstance(value, str):
        return value
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "granted" if value else "denied"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        # A data frame writes 1 as 1.0: JSON knows one kind of numbers.
        return str(int(value))
    return str(value) if isinstance(value, int | float) else dumps(value).decode()[:MAX_JSON]


__all__ = ["EVERYTHING", "NOT_SELECTED", "SignalBuilder", "field_of", "list_word", "with_objection", "written"]
