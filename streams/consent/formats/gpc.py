"""Global Privacy Control: the `Sec-GPC` header, and `navigator.globalPrivacyControl` where a page sends it as a signal. Pure.

Source: W3C, "Global Privacy Control": the header's only value is `1`.
"""

from collections.abc import Iterable, Mapping

from streams.consent.formats.consent_value import ConsentValue, strictest
from streams.consent.formats.reason import ConsentReason
from streams.consent.formats.signal_format import MALFORMED, FormatInput, FormatResult, PurposeEvaluator

OBJECTIONS = frozenset({"1", "true", "yes", "on"})
SILENT = frozenset({"", "0", "false"})
RESULTS: Mapping[ConsentValue, FormatResult] = {
    ConsentValue.DENY: FormatResult(ConsentValue.DENY, ConsentReason.GPC),
    ConsentValue.INVALID: MALFORMED,
}


def parse_gpc(text: str) -> ConsentValue:
    """DENY for an objection, UNKNOWN for silence; anything else is INVALID, and denies. Case and blanks do not matter."""
    value = text.strip().lower()
    if value in SILENT:
        return ConsentValue.UNKNOWN
    return ConsentValue.DENY if value in OBJECTIONS else ConsentValue.INVALID


def evaluate_gpc(event: FormatInput) -> Iterable[PurposeEvaluator]:
    """The signal `gpc`, in regions where the policy counts it, about purposes that it denies."""
    texts = event.signals.values.get("gpc", ())
    if not texts or not event.policy.gpc_applies(event.region):
        return []
    result = RESULTS.get(strictest(map(parse_gpc, texts)))
    return [lambda purpose, _name: result if purpose.denied_by_gpc else None]


__all__ = ["evaluate_gpc", "parse_gpc"]
