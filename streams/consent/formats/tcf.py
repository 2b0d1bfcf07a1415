"""Evaluates TC strings for purposes by the rules of IAB TCF 2.2 and 2.3. Pure.

The first check that denies gives the reason.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from streams.consent.formats.consent_value import ConsentValue
from streams.consent.formats.gpp import GppString
from streams.consent.formats.gvl import Gvl, Vendor
from streams.consent.formats.reason import ConsentReason
from streams.consent.formats.signal_format import FormatInput, FormatResult, PurposeEvaluator
from streams.consent.formats.signal_set import SignalSet
from streams.consent.formats.tc_string import InvalidTcString, TcString, decode, has_purpose
from streams.consent.policy import Purpose

DAY_MS = 86_400_000
DISCLOSURE_SINCE_MS = 1_772_323_200_000
"""2026-03-01, when TCF 2.3 made the segment of disclosed vendors mandatory; by the date of the choice."""
CONSENT_ONLY = frozenset({1, 3, 4, 5, 6})
"""Purposes for which legitimate interest is no basis: 1 by law (ePrivacy), 3 to 6 since TCF 2.2."""
OLDEST_POLICY = 4
NOT_ALLOWED, CONSENT, LEGITIMATE_INTEREST = 0, 1, 2
"""Types of publisher restrictions; the last two also name the basis."""


MAX_CACHED, MAX_CACHED_LENGTH = 8_192, 2_048
"""Strings, characters."""
ACTED = "useractioncomplete"
FINAL_STATUS = ("tcloaded", ACTED)
"""Values of `tc_event_status` after which the visitor's choice stands; before them the banner is open."""
YES, NO = frozenset({"1", "true", "yes", "granted"}), frozenset({"0", "false", "no", "denied"})
"""Values of `gdpr_applies`."""

PENDING = FormatResult(ConsentValue.DENY, ConsentReason.PENDING)
UNMAPPED = FormatResult(ConsentValue.UNDECODED, ConsentReason.UNMAPPED)
GRANTING = (ConsentReason.OK_CONSENT, ConsentReason.OK_LI)
RESULTS: Mapping[ConsentReason, FormatResult] = {
    reason: FormatResult(ConsentValue.GRANT if reason in GRANTING else ConsentValue.DENY, reason) for reason in ConsentReason
}
"""What a TC string says, by the reason that `judge` gives."""


class Demand(NamedTuple):
    """What a string must allow for one purpose of the policy."""

    purposes: tuple[int, ...]
    """TCF purposes, all of them."""
    vendor: int = 0
    """Id on the Global Vendor List; 0 = none, purposes alone decide."""
    max_age_days: int = 395


def judge(tc: TcString, demand: Demand, gvl: Gvl | None, now_ms: int) -> ConsentReason:
    """OK_CONSENT or OK_LI, else why not. `gvl`: the version that the string names, None where it has not been imported."""
    whole = _whole(tc, demand, now_ms)
    if whole is not None:
        return whole
    granted = ConsentReason.OK_CONSENT
    for purpose in demand.purposes:
        reason = _purpose(tc, purpose, demand.vendor, gvl)
        if reason is ConsentReason.OK_LI:
            granted = reason
        elif reason is not ConsentReason.OK_CONSENT:
            return reason
    return granted


def _whole(tc: TcString, demand: Demand, now_ms: int) -> ConsentReason | None:
    """The reason to deny the string as a whole; None if there is none."""
    if not tc.service_specific or tc.cmp_id <= 1:
        return ConsentReason.MALFORMED
    if tc.policy_version < OLDEST_POLICY:
        return ConsentReason.VERSION
    if max(tc.created_ms, tc.last_updated_ms) > now_ms + DAY_MS:
        return ConsentReason.FUTURE
    if now_ms - tc.last_updated_ms > demand.max_age_days * DAY_MS:
        return ConsentReason.STALE
    if tc.created_ms > tc.last_updated_ms:
        return ConsentReason.MALFORMED  # both are rounded to a day, so no encoder writes a later creation
    if tc.disclosed is None and tc.last_updated_ms >= DISCLOSURE_SINCE_MS:
        return ConsentReason.NOT_DISCLOSED
    return None


def _purpose(tc: TcString, purpose: int, vendor: int, gvl: Gvl | None) -> ConsentReason:
    if not vendor:
        return _consented(tc, purpose)
    restricted = restrictions(tc, purpose, vendor)
    if NOT_ALLOWED in restricted or restricted == {CONSENT, LEGITIMATE_INTEREST}:
        return ConsentReason.RESTRICTED
    declared = None if gvl is None else gvl.vendors.get(vendor)
    if declared is None:
        # The vendor's legal basis is not known: consent is enough, legitimate interest is not.
        basis: int | ConsentReason = ConsentReason.RESTRICTED if LEGITIMATE_INTEREST in restricted else CONSENT
        unknown = True
    else:
        basis, unknown = _basis(declared, purpose, restricted, tc.last_updated_ms), False
    if isinstance(basis, ConsentReason):
        return basis
    reason = _allowed(tc, purpose, vendor, basis)
    if (
        unknown
        and reason in (ConsentReason.PURPOSE, ConsentReason.VENDOR)
        and _allowed(tc, purpose, vendor, LEGITIMATE_INTEREST) is ConsentReason.OK_LI
    ):
        return ConsentReason.GVL_UNKNOWN
    return reason


def restrictions(tc: TcString, purpose: int, vendor: int) -> set[int]:
    """Types of the publisher's restrictions of this purpose for this vendor."""
    return {
        restriction.type
        for restriction in tc.restrictions.get(purpose, ())
        if any(first <= vendor <= last for first, last in restriction.vendors)
    }


def _basis(vendor: Vendor, purpose: int, restricted: set[int], at_ms: int) -> int | ConsentReason:
    """The vendor's legal basis for this purpose under the publisher's restrictions, or the reason why it has none."""
    if vendor.deleted_ms is not None and vendor.deleted_ms <= at_ms:
        return ConsentReason.VENDOR
    if purpose in vendor.purposes:
        declared = CONSENT
    elif purpose in vendor.li_purposes:
        declared = LEGITIMATE_INTEREST
    else:
        return ConsentReason.GVL_UNKNOWN
    if not restricted or declared in restricted:
        return declared
    return min(restricted) if purpose in vendor.flexible else ConsentReason.RESTRICTED


def _allowed(tc: TcString, purpose: int, vendor: int, basis: int) -> ConsentReason:
    """Whether the visitor's bits allow the purpose on this basis."""
    if basis == LEGITIMATE_INTEREST:
        if purpose in CONSENT_ONLY:
            return ConsentReason.LI_FORBIDDEN
        if not has_purpose(tc.purposes_li, purpose):
            return ConsentReason.PURPOSE
        granted, reason = tc.vendors_li, ConsentReason.OK_LI
    else:
        reason = _consented(tc, purpose)
        if reason is not ConsentReason.OK_CONSENT:
            return reason
        granted = tc.vendors_consent
    if not granted.has(vendor):
        return ConsentReason.VENDOR
    # Before the segment was mandatory it could be missing, and checking it then would make a truncated string grant more.
    if tc.last_updated_ms >= DISCLOSURE_SINCE_MS and (tc.disclosed is None or not tc.disclosed.has(vendor)):
        return ConsentReason.NOT_DISCLOSED
    return reason


def _consented(tc: TcString, purpose: int) -> ConsentReason:
    if purpose == 1 and tc.purpose_one_treatment:
        return ConsentReason.PURPOSE  # the visitor was not asked about it
    return ConsentReason.OK_CONSENT if has_purpose(tc.purposes_consent, purpose) else ConsentReason.PURPOSE


# -- the TC strings of an event


def read_tc_string(text: str) -> TcString | ConsentReason:
    """A TC string, or why it cannot be decoded. Cached."""
    text = text.strip()
    return _decode_cached(text) if len(text) <= MAX_CACHED_LENGTH else _decode(text)


def _decode(text: str) -> TcString | ConsentReason:
    try:
        return decode(text)
    except InvalidTcString as error:
        return error.reason


_decode_cached = lru_cache(MAX_CACHED)(_decode)


def read_tc_strings(signals: SignalSet, gpp_strings: Iterable[GppString | ConsentReason]) -> list[TcString | ConsentReason]:
    """The TC strings of an event, and those within its GPP strings; the strictest of all counts."""
    within = (gpp.tc_string for gpp in gpp_strings if isinstance(gpp, GppString) and gpp.tc_string)
    return list(map(read_tc_string, dict.fromkeys((*signals.values.get("tc_string", ()), *within))))


def evaluate_tc_strings(event: FormatInput) -> Iterable[PurposeEvaluator]:
    """Each TC string of an event by itself."""
    return [_evaluator(tc, event) for tc in event.tc_strings]


def _evaluator(tc: TcString | ConsentReason, event: FormatInput) -> PurposeEvaluator:
    applies = gdpr_applies(event.signals)
    if isinstance(tc, ConsentReason):
        unreadable = FormatResult(ConsentValue.INVALID, tc)
        return lambda _purpose, _name: unreadable
    if applies is None or not is_final(event.signals):
        return lambda _purpose, _name: PENDING
    rules = event.policy.tcf
    gvl = event.lists.version(tc.gvl_version) if rules.vendor and event.lists is not None else None

    def evaluate(purpose: Purpose, _name: str) -> FormatResult | None:
        if not purpose.tcf:
            return UNMAPPED
        result = RESULTS[judge(tc, Demand(purpose.tcf, rules.vendor, rules.max_age_days), gvl, event.now)]
        # Where the page says that the GDPR does not apply, a string grants nothing; what it refuses is refused.
        return None if applies is False and result.value is ConsentValue.GRANT else result

    return evaluate


def gdpr_applies(signals: SignalSet) -> bool | None:
    """What the page says about the GDPR; None where it says nothing, nothing readable, or contradicts itself."""
    values = {value.strip().lower() for value in signals.values.get("gdpr_applies", ())}
    if not values:
        return None
    return True if values <= YES else False if values <= NO else None


def claims_gdpr(signals: SignalSet) -> bool:
    """Whether the page says, readably or not, that the GDPR applies, wherever the visitor seems to be."""
    return any(value.strip().lower() not in NO for value in signals.values.get("gdpr_applies", ()))


def is_final(signals: SignalSet) -> bool:
    """Whether the banner is closed: there is a status, and every status is a final one."""
    statuses = signals.values.get("tc_event_status", ())
    return bool(statuses) and all(status.strip().lower() in FINAL_STATUS for status in statuses)


def has_acted(signals: SignalSet) -> bool:
    """Whether the visitor has just chosen on this page."""
    return all(status.strip().lower() == ACTED for status in signals.values.get("tc_event_status", ("",)))
