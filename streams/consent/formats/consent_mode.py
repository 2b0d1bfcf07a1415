"""Reads Google Consent Mode v2: gcs, gcd, npa and the four signals by name. Pure.

Google documents gcs and does not document gcd: the forms below are those that its tags send, and the policy says what the
letters mean. Any other form is INVALID for all four signals, and denies.
"""

import re
from collections.abc import Iterable, Mapping

from streams.consent.formats.consent_value import ConsentValue, parse_value, strictest
from streams.consent.formats.signal_format import FormatInput, FormatResult, PurposeEvaluator, result_of
from streams.consent.formats.signal_names import CONSENT_MODE_SIGNALS, MODE
from streams.consent.policy import Purpose, Regime

GCS = re.compile(r"G1([01-])([01-])", re.ASCII)
"""`G1`, then ad_storage and analytics_storage: 1 granted, 0 denied, - not set."""
GCS_FLAGS: Mapping[str, ConsentValue] = {"1": ConsentValue.GRANT, "0": ConsentValue.DENY, "-": ConsentValue.UNKNOWN}
GCD = re.compile(
    r"""
    1                         # version
    [123]([A-Za-z])           # ad_storage: a digit without a meaning for consent, then the letter of default and update
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


def parse_gcs(gcs: str) -> Mapping[str, ConsentValue]:
    """The values of ad_storage and analytics_storage in gcs; empty for an empty string. Surrounding blanks are ignored."""
    gcs = gcs.strip()
    if not gcs:
        return {}
    flags = GCS.fullmatch(gcs)
    return ALL_INVALID if flags is None else {"ad_storage": GCS_FLAGS[flags[1]], "analytics_storage": GCS_FLAGS[flags[2]]}


def parse_gcd(gcd: str, letters: Mapping[str, ConsentValue]) -> Mapping[str, ConsentValue]:
    """The values of all four signals in gcd by the policy's letters; empty for an empty string. Surrounding blanks are ignored.

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
    """The strictest value of each Consent Mode signal, from gcs, gcd, `cm.<signal>` and npa (non-personalised ads).

    Empty without any of these; an empty text is INVALID.
    """
    if MODE_NAMES.isdisjoint(values):
        return {}
    tables = [
        *(parse_gcs(gcs) or ALL_INVALID for gcs in values.get("gcs", ())),
        *(parse_gcd(gcd, letters) or ALL_INVALID for gcd in values.get("gcd", ())),
        *({name.removeprefix("cm."): parse_value(text)} for name in MODE for text in values.get(name, ())),
        *(
            {"ad_personalization": word}
            for npa in values.get("npa", ())
            if (word := _parse_npa(npa)) is not ConsentValue.UNKNOWN
        ),
    ]
    if not tables:
        return {}
    return {name: strictest(table.get(name, ConsentValue.UNKNOWN) for table in tables) for name in CONSENT_MODE_SIGNALS}


def _parse_npa(text: str) -> ConsentValue:
    """A yes to non-personalised ads denies personalisation; a no says nothing."""
    return {ConsentValue.GRANT: ConsentValue.DENY, ConsentValue.DENY: ConsentValue.UNKNOWN}.get(
        parse_value(text), ConsentValue.INVALID
    )


def combine_signals(mode: Mapping[str, ConsentValue], names: Iterable[str]) -> ConsentValue:
    """The value for a purpose that needs all of these signals: a grant only if each signal is one."""
    if not mode:
        return ConsentValue.UNKNOWN
    words = [mode.get(name, ConsentValue.UNKNOWN) for name in names]
    word = strictest(words)
    return (
        ConsentValue.UNKNOWN
        if word in (ConsentValue.GRANT, ConsentValue.UNCONFIRMED) and ConsentValue.UNKNOWN in words
        else word
    )


def evaluate_consent_mode(event: FormatInput) -> Iterable[PurposeEvaluator]:
    """All Consent Mode signals of an event together.

    They narrow what a platform's own choices or a TC string grant, and add nothing to them.
    """
    mode = consent_mode(event.signals.values, event.policy.letters)
    if not mode:
        return []
    narrows = event.signals.from_platform or bool(event.tc_strings)

    def evaluate(purpose: Purpose, _name: str) -> FormatResult | None:
        value = combine_signals(mode, purpose.consent_mode)
        if value is ConsentValue.UNCONFIRMED and event.regime is Regime.OPT_OUT:
            value = ConsentValue.GRANT
        return result_of(ConsentValue.UNKNOWN if value is ConsentValue.GRANT and narrows else value)

    return [evaluate]


__all__ = ["GCD", "GCS", "combine_signals", "consent_mode", "evaluate_consent_mode", "parse_gcd", "parse_gcs"]
