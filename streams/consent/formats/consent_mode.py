"""Google Consent Mode v2: what gcs, gcd and the signals' own words say, signal by signal. Pure.

Google documents gcs and does not document gcd: the forms below are the ones that its tags are seen to send, and the
letters' meaning stands in the policy. What has another form is INVALID for all four signals, and denies.
"""

import re
from collections.abc import Iterable, Mapping

from streams.consent.formats.signals import CONSENT_MODE_SIGNALS, MODE, ConsentValue, strictest, word_of

GCS = re.compile(r"G1([01-])([01-])", re.ASCII)
"""`G1`, then ad_storage and analytics_storage: 1 granted, 0 denied, - not set."""
GCS_FLAGS: Mapping[str, ConsentValue] = {"1": ConsentValue.GRANT, "0": ConsentValue.DENY, "-": ConsentValue.UNKNOWN}
GCD = re.compile(
    r"""
    1                         # version
    [123]([A-Za-z])           # ad_storage: a digit that says nothing of consent, then the letter of default and update
    [123]([A-Za-z])           # analytics_storage
    [123]([A-Za-z])           # ad_user_data
    [123]([A-Za-z])           # ad_personalization
    [1356]                    # the tails that are seen: 1 where no consent is set, else mostly 5
    (?:l1)?                   # since 2024 a fifth pair, always the same
    """,
    re.ASCII | re.VERBOSE,
)
MODE_NAMES = frozenset({"gcs", "gcd", "npa", *MODE})
ALL_INVALID: Mapping[str, ConsentValue] = dict.fromkeys(CONSENT_MODE_SIGNALS, ConsentValue.INVALID)


def gcs_words(gcs: str) -> Mapping[str, ConsentValue]:
    """What gcs says of ad_storage and analytics_storage; empty for an empty string. Blanks around it do not matter."""
    gcs = gcs.strip()
    if not gcs:
        return {}
    flags = GCS.fullmatch(gcs)
    return ALL_INVALID if flags is None else {"ad_storage": GCS_FLAGS[flags[1]], "analytics_storage": GCS_FLAGS[flags[2]]}


def gcd_words(gcd: str, letters: Mapping[str, ConsentValue]) -> Mapping[str, ConsentValue]:
    """What gcd says of all four signals, by the policy's letters; empty for an empty string. Blanks around it do not matter.

    A letter that the policy does not list, upper case included, is INVALID for its own signal.
    """
    gcd = gcd.strip()
    if not gcd:
        return {}
    pairs = GCD.fullmatch(gcd)
    if pairs is None:
        return ALL_INVALID
    return {
        name: letters.get(letter, ConsentValue.INVALID)
        for name, letter in zip(CONSENT_MODE_SIGNALS, pairs.groups(), strict=True)
    }


def consent_mode(values: Mapping[str, Iterable[str]], letters: Mapping[str, ConsentValue]) -> dict[str, ConsentValue]:
    """Each Consent Mode signal's word, from all values of gcs, gcd, `cm.<signal>` and npa (non-personalised ads); where they
    disagree, the strictest. Empty if there are none; an empty text is INVALID."""
    if MODE_NAMES.isdisjoint(values):
        return {}
    tables = [
        *(gcs_words(gcs) or ALL_INVALID for gcs in values.get("gcs", ())),
        *(gcd_words(gcd, letters) or ALL_INVALID for gcd in values.get("gcd", ())),
        *({name.removeprefix("cm."): word_of(text)} for name in MODE for text in values.get(name, ())),
        *(
            {"ad_personalization": word}
            for npa in values.get("npa", ())
            if (word := _npa_word(npa)) is not ConsentValue.UNKNOWN
        ),
    ]
    if not tables:
        return {}
    return {name: strictest(table.get(name, ConsentValue.UNKNOWN) for table in tables) for name in CONSENT_MODE_SIGNALS}


def _npa_word(text: str) -> ConsentValue:
    """A yes to ads without personalisation is a no to personalisation; a no to them says nothing."""
    return {ConsentValue.GRANT: ConsentValue.DENY, ConsentValue.DENY: ConsentValue.UNKNOWN}.get(
        word_of(text), ConsentValue.INVALID
    )


def consent_mode_word(mode: Mapping[str, ConsentValue], names: Iterable[str]) -> ConsentValue:
    """Consent Mode on a purpose that needs all of these signals: granted only if each one is."""
    if not mode:
        return ConsentValue.UNKNOWN
    words = [mode.get(name, ConsentValue.UNKNOWN) for name in names]
    word = strictest(words)
    return (
        ConsentValue.UNKNOWN
        if word in (ConsentValue.GRANT, ConsentValue.UNCONFIRMED) and ConsentValue.UNKNOWN in words
        else word
    )


__all__ = ["GCD", "GCS", "consent_mode", "consent_mode_word", "gcd_words", "gcs_words"]
