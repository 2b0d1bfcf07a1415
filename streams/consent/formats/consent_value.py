"""The values that a consent signal can have for a purpose, and the words that consent platforms send for them. Pure."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType

from streams.consent.formats.signal_names import fold

MAX_WORD = 32
"""Characters."""


class ConsentValue(StrEnum):
    """What a signal says about a purpose."""

    __hash__ = str.__hash__  # an enum's own is Python code

    GRANT = "grant"
    DENY = "deny"
    UNKNOWN = "unknown"
    UNCONFIRMED = "unconfirmed"
    """Granted by a default that the visitor has never confirmed."""
    INVALID = "invalid"
    UNDECODED = "undecoded"
    """Present, but in a format that is not read: never a grant."""


GRANTS = (
    "granted", "grant", "true", "1", "yes", "y", "on", "allow", "allowed", "accept", "accepted", "enabled", "enable", "active",
    "optin", "optedin", "consented", "agreed",
)  # fmt: skip
DENIALS = (
    "denied", "deny", "false", "0", "no", "n", "off", "disallow", "disallowed", "reject", "rejected", "refuse", "refused",
    "disabled", "disable", "inactive", "decline", "declined", "optout", "optedout", "withdrawn", "withdraw", "revoked",
    "blocked", "objected", "dismissed", "notgranted", "notallowed", "notaccepted", "notconsented",
)  # fmt: skip
WORDS: Mapping[str, ConsentValue] = MappingProxyType(
    dict.fromkeys(GRANTS, ConsentValue.GRANT) | dict.fromkeys(DENIALS, ConsentValue.DENY)
)
"""Folded words of consent platforms; every other word is INVALID."""


def parse_value(text: str) -> ConsentValue:
    """The value of a consent platform's word; INVALID for any other text."""
    if len(text) > MAX_WORD:
        return ConsentValue.INVALID
    folded = fold(text.strip())
    return ConsentValue.INVALID if folded in ("0", "1") and folded != text.strip() else WORDS.get(folded, ConsentValue.INVALID)


def strictest(words: Iterable[ConsentValue]) -> ConsentValue:
    """The most restrictive value: deny beats grant, and invalid counts as deny.

    A denial precedes what cannot be read, because it is stored.
    """
    distinct = set(words)
    for word in (ConsentValue.DENY, ConsentValue.INVALID, ConsentValue.UNDECODED, ConsentValue.UNCONFIRMED, ConsentValue.GRANT):
        if word in distinct:
            return word
    return ConsentValue.UNKNOWN


__all__ = ["DENIALS", "GRANTS", "WORDS", "ConsentValue", "parse_value", "strictest"]
