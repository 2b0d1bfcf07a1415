"""Whether a TC string allows a vendor what one of our purposes needs: the rules of IAB TCF 2.2 and 2.3, strictest first. Pure.

The order of the checks is the order in which they are decided; the first that denies gives the reason.
"""

from typing import NamedTuple

from streams.consent.formats.gvl import Gvl, Vendor
from streams.consent.formats.reason import ConsentReason
from streams.consent.formats.tc_string import TcString, has_purpose

DAY_MS = 86_400_000
DISCLOSURE_SINCE_MS = 1_772_323_200_000
"""2026-03-01, when TCF 2.3 made the segment of disclosed vendors mandatory; by the date of the choice."""
CONSENT_ONLY = frozenset({1, 3, 4, 5, 6})
"""Purposes for which legitimate interest is no basis: 1 by law (ePrivacy), 3 to 6 since TCF 2.2."""
OLDEST_POLICY = 4
NOT_ALLOWED, CONSENT, LEGITIMATE_INTEREST = 0, 1, 2
"""Types of publisher restrictions; the last two also name the basis."""


class Demand(NamedTuple):
    """What a string must allow."""

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
    """What is wrong with the string as a whole."""
    if not tc.service_specific or tc.cmp_id <= 1:
        return ConsentReason.MALFORMED
    if tc.policy_version < OLDEST_POLICY:
        return ConsentReason.VERSION
    if max(tc.created_ms, tc.last_updated_ms) > now_ms + DAY_MS:
        return ConsentReason.FUTURE
    if now_ms - tc.last_updated_ms > demand.max_age_days * DAY_MS:
        return ConsentReason.STALE
    if tc.created_ms > tc.last_updated_ms:
        return ConsentReason.MALFORMED  # both are rounded to a day, so no encoder writes a later creation, not even by hours
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
        # Nobody knows on which basis the vendor works: consent is enough, legitimate interest is not.
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
    """Types of the publisher's restrictions on this purpose that hold for this vendor."""
    return {
        restriction.type
        for restriction in tc.restrictions.get(purpose, ())
        if any(first <= vendor <= last for first, last in restriction.vendors)
    }


def _basis(vendor: Vendor, purpose: int, restricted: set[int], at_ms: int) -> int | ConsentReason:
    """On which basis the vendor works for this purpose, after what the publisher says; or why on none."""
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
    """Whether the visitor's bits allow it on this basis."""
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
    # Before it was mandatory the segment could be left out, so that a string cut short would have granted more.
    if tc.last_updated_ms >= DISCLOSURE_SINCE_MS and (tc.disclosed is None or not tc.disclosed.has(vendor)):
        return ConsentReason.NOT_DISCLOSED
    return reason


def _consented(tc: TcString, purpose: int) -> ConsentReason:
    if purpose == 1 and tc.purpose_one_treatment:
        return ConsentReason.PURPOSE  # the visitor was not asked about it
    return ConsentReason.OK_CONSENT if has_purpose(tc.purposes_consent, purpose) else ConsentReason.PURPOSE
