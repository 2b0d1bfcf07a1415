"""Evaluates GPP strings and US Privacy strings for purposes. Pure."""

from collections.abc import Iterable
from functools import lru_cache

from streams.consent.formats.consent_value import ConsentValue, strictest
from streams.consent.formats.gpp import (
    GppString,
    InvalidGpp,
    decode,
    evaluate_canadian_section,
    evaluate_us_section,
    parse_us_privacy,
)
from streams.consent.formats.reason import ConsentReason
from streams.consent.formats.signal_format import (
    MALFORMED,
    FormatInput,
    FormatResult,
    PurposeEvaluator,
    objection_result,
    result_of,
)
from streams.consent.policy import Purpose

MAX_CACHED, MAX_CACHED_LENGTH = 8_192, 2_048
"""Strings, characters."""


def read_gpp_string(text: str) -> GppString | ConsentReason:
    """A GPP string, or MALFORMED where nothing of it can be decoded. Cached."""
    return _decode_cached(text) if len(text) <= MAX_CACHED_LENGTH else _decode(text)


def _decode(text: str) -> GppString | ConsentReason:
    try:
        return decode(text)
    except InvalidGpp:
        return ConsentReason.MALFORMED


_decode_cached = lru_cache(MAX_CACHED)(_decode)


def evaluate_gpp(event: FormatInput) -> Iterable[PurposeEvaluator]:
    """All GPP strings of an event together: the strictest section counts."""
    return [lambda purpose, _name: _evaluate(event, purpose)] if event.gpp_strings else []


def _evaluate(event: FormatInput, purpose: Purpose) -> FormatResult | None:
    """US sections state objections to sale, sharing and advertising, as GPC does; the Canadian one consent to purposes.

    A section that cannot be read may hold an objection.
    """
    readable = [gpp for gpp in event.gpp_strings if isinstance(gpp, GppString)]
    consents = [evaluate_canadian_section(gpp.canada, purpose.tcf) for gpp in readable if gpp.canada is not None]
    results = {result_of(value) for value in consents}
    if purpose.denied_by_gpc:
        objections = [evaluate_us_section(section) for gpp in readable for section in gpp.us]
        objections += [parse_us_privacy(gpp.usp) for gpp in readable]
        results.add(objection_result(strictest(objections), event.regime))
        if len(readable) < len(event.gpp_strings) or any(gpp.unreadable for gpp in readable):
            results.add(MALFORMED)
    # A refusal that was read is stored, whatever else cannot be read.
    by_value = {result.value: result for result in results if result is not None}
    return by_value.get(ConsentValue.DENY) or by_value.get(ConsentValue.INVALID) or by_value.get(ConsentValue.GRANT)


def unreadable_sections(strings: Iterable[GppString | ConsentReason]) -> tuple[int, ...]:
    """Ids of sections that cannot be read; 0 for a header, or a string of which nothing can be."""
    return tuple(sorted({section for gpp in strings for section in (gpp.unreadable if isinstance(gpp, GppString) else (0,))}))


def evaluate_us_privacy(event: FormatInput) -> Iterable[PurposeEvaluator]:
    """The signal `us_privacy`, about purposes that GPC denies; an empty string is INVALID."""
    texts = event.signals.values.get("us_privacy", ())
    if not texts:
        return []
    value = strictest(parse_us_privacy(text) if text.strip() else ConsentValue.INVALID for text in texts)
    result = objection_result(value, event.regime)
    return [lambda purpose, _name: result if purpose.denied_by_gpc else None]


__all__ = ["evaluate_gpp", "evaluate_us_privacy", "read_gpp_string", "unreadable_sections"]
