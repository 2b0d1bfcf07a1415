"""Names of fields that carry consent: which are signals, objects or lists of them, and how each is read. Pure."""

import re
from collections.abc import Mapping
from enum import Enum
from functools import lru_cache
from typing import Any, NamedTuple

from streams.consent.formats.signal_names import CONSENT_MODE_SIGNALS, fold
from streams.consent.formats.vocabulary import is_objection

MAX_NAME = 1_024  # characters: cut further once it is masked, because half an address is not recognised
MAX_CACHED_FIELDS = 8_192  # names of fields that are remembered

FLAGS = frozenset(
    {"gdprapplies", "gpc", "secgpc", "globalprivacycontrol", "npa", "xganpa", "nonpersonalizedads", "dnt", "rdp", "ldu"}
)
"""Folded names of signals that state a fact: their true and false neither grant nor deny."""


MODE_NAMES = frozenset(name.replace("_", "") for name in CONSENT_MODE_SIGNALS)
ALIASES = {
    "xganpa": "npa", "gcsparam": "gcs", "gcdparam": "gcd", "gdprconsent": "tc_string", "euconsentv2": "tc_string",
    "gppstring": "gpp", "uspstring": "us_privacy", "usprivacystring": "us_privacy", "secgpc": "gpc",
    "globalprivacycontrol": "gpc",
}  # fmt: skip
"""Folded field names by which tags send a signal -> the signal's name."""
CONTAINER_STRINGS = {"xgagcs": "gcs", "xgagcd": "gcd"}
"""Consent Mode in a tag container's event data. `x-ga-gcs` is kept beside a `gcs` with another value."""
SIGNAL_NAMES = frozenset(
    {
        "gcs", "gcd", "npa", "nonpersonalizedads", "tcstring", "tceventstatus", "gdprapplies", "gpp", "gpc", "usprivacy",
        *MODE_NAMES, *ALIASES,
    }
)  # fmt: skip
"""Folded names that are consent signals in any object of an event."""
OBJECTS = frozenset({"consent", "consents", "consentmode", "consentstate", "consentsettings", "consentpreferences"})
"""Folded names of fields that contain a consent object."""
CATEGORIES = "categorypreferences"
MANAGEMENT = "consentmanagement"
LEAVES = SIGNAL_NAMES | frozenset(CONTAINER_STRINGS)
"""Folded names of signals whose value is never an object."""

_NOUNS = "(categor(y|ies)|consents?|groups?|ids?|purposes?|scopes?|services?|vendors?)"
_GRANTS = "(enabled|allowed|granted|accepted)"
_DENIALS = "(disabled|denied|rejected|refused|declined|disallowed|withdrawn|revoked|blocked)"
_GRANTED_LIST = re.compile(rf"{_GRANTS}({_NOUNS}*)|{_NOUNS}+{_GRANTS}")
_DENIED_LIST = re.compile(rf"{_DENIALS}({_NOUNS}*)|{_NOUNS}+{_DENIALS}")


@lru_cache(8_192)
def is_flag(name: str) -> bool:
    """Return whether true and false under this name become `1` and `0`, because they neither grant nor deny."""
    bare = fold(name)
    return bare in FLAGS or is_objection(bare)


class ConsentRole(Enum):
    """How a field outside the consent object is read."""

    OBJECT = "consent object"
    MANAGEMENT = "RudderStack's consent object"
    CATEGORIES = "Segment's categories"
    PLATFORM = "a platform's own words"
    CHOICES = "one of a platform's own words"
    SIGNAL = "one signal"
    CONTAINER_STRING = "one signal of a tag container"


class SignalField(NamedTuple):
    """A consent field outside the consent object."""

    role: ConsentRole
    name: str
    """The signal's name."""


def _classify(name: str) -> SignalField | None:
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
    return SignalField(ConsentRole.SIGNAL, ALIASES.get(bare, name)) if bare in SIGNAL_NAMES else None


# A plain dictionary, because every field of every event is looked up, and most are no signals.
_FIELDS: dict[str, SignalField | None] = {}
_UNCACHED = SignalField(ConsentRole.SIGNAL, "")


def classify_field(name: str) -> SignalField | None:
    """Return how a field of this name is read; None where it is no consent field. Cached."""
    field = _FIELDS.get(name, _UNCACHED)
    if field is not _UNCACHED:
        return field
    name = name[:MAX_NAME]
    if len(_FIELDS) >= MAX_CACHED_FIELDS:
        _FIELDS.clear()
    field = _FIELDS[name] = _classify(name)
    return field


def find_signal_fields(fields: Mapping[str, Any]) -> list[str]:
    """Return the names of the fields that are consent signals in any object."""
    candidates = [name for name in fields if _FIELDS.get(name, _UNCACHED) is not None]
    return [name for name in candidates if classify_field(name) is not None] if candidates else candidates


@lru_cache(8_192)
def classify_list(name: str) -> str:
    """Return what a list of this name means for its items: `granted`, `denied`, or empty where unknown."""
    bare = fold(name)
    return "denied" if _DENIED_LIST.fullmatch(bare) else "granted" if _GRANTED_LIST.fullmatch(bare) else ""


__all__ = [
    "ALIASES",
    "CATEGORIES",
    "CONTAINER_STRINGS",
    "LEAVES",
    "MANAGEMENT",
    "MAX_NAME",
    "MODE_NAMES",
    "OBJECTS",
    "ConsentRole",
    "SignalField",
    "classify_field",
    "classify_list",
    "find_signal_fields",
    "is_flag",
]
