"""The rules of the TCF: each enforcement rule, and the whole matrix against a truth written by hand."""

from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.consent.formats.gvl import Gvl, Vendor
from streams.consent.formats.reason import ConsentReason
from streams.consent.formats.tc_string import Restriction, TcString, Vendors
from streams.consent.formats.tcf import Demand, judge

DAY = 86_400_000
OLD = 1_767_225_600_000  # 2026-01-01, before disclosure became mandatory
NEW = 1_775_001_600_000  # 2026-04-01
VENDOR = 77
EVERYTHING = (1 << 24) - 1
IN, OUT = Vendors(VENDOR, 1), Vendors(VENDOR, 0)


def tc(**replaced: Any) -> TcString:
    """A string that grants everything to the vendor, with some fields replaced; created when it was last updated."""
    fields: dict[str, Any] = {
        "created_ms": replaced.get("last_updated_ms", NEW), "last_updated_ms": NEW,
        "cmp_id": 7, "cmp_version": 1, "gvl_version": 9, "policy_version": 5,
        "service_specific": True, "special_features": 0, "purposes_consent": EVERYTHING, "purposes_li": EVERYTHING,
        "purpose_one_treatment": False, "vendors_consent": IN, "vendors_li": IN, "restrictions": {},
        "disclosed": IN, **replaced,
    }  # fmt: skip
    return TcString(**fields)


def listed(**replaced: Any) -> Gvl:
    """A vendor list with the vendor in it."""
    declared: dict[str, Any] = {"purposes": {1, 2, 3}, "li_purposes": {7, 8}, "flexible": set(), "deleted_ms": None, **replaced}
    return Gvl(9, {VENDOR: Vendor(**declared)})


LIST = listed()

# string, purposes, vendor, list, reason
R = ConsentReason
TABLE: list[tuple[TcString, tuple[int, ...], int, Gvl | None, ConsentReason]] = [
    (tc(), (1, 2), VENDOR, LIST, R.OK_CONSENT),
    (tc(), (1, 7), VENDOR, LIST, R.OK_LI),
    (tc(), (1, 2), 0, None, R.OK_CONSENT),
    (tc(service_specific=False), (1,), 0, None, R.MALFORMED),
    (tc(cmp_id=0), (1,), 0, None, R.MALFORMED),
    (tc(cmp_id=1), (1,), 0, None, R.MALFORMED),
    (tc(policy_version=3), (1,), 0, None, R.VERSION),
    (tc(policy_version=4), (1,), 0, None, R.OK_CONSENT),
    (tc(last_updated_ms=NEW + DAY), (1,), 0, None, R.OK_CONSENT),
    (tc(last_updated_ms=NEW + DAY + 1), (1,), 0, None, R.FUTURE),
    (tc(last_updated_ms=NEW - 395 * DAY), (1,), 0, None, R.OK_CONSENT),
    (tc(last_updated_ms=NEW - 396 * DAY), (1,), 0, None, R.STALE),
    (tc(created_ms=NEW + 1), (1,), 0, None, R.MALFORMED),
    (tc(created_ms=NEW + DAY), (1,), 0, None, R.MALFORMED),
    (tc(created_ms=NEW + DAY + 1), (1,), 0, None, R.FUTURE),
    (tc(created_ms=NEW + DAY, last_updated_ms=NEW + DAY), (1,), 0, None, R.OK_CONSENT),
    (tc(created_ms=NEW - 700 * DAY), (1,), 0, None, R.OK_CONSENT),
    (tc(created_ms=0), (1,), 0, None, R.OK_CONSENT),
    (tc(created_ms=OLD + 1, last_updated_ms=OLD), (1,), 0, None, R.MALFORMED),
    (tc(created_ms=NEW, last_updated_ms=NEW - 396 * DAY), (1,), 0, None, R.STALE),
    (tc(disclosed=None), (1,), 0, None, R.NOT_DISCLOSED),
    (tc(disclosed=None, policy_version=4), (1,), VENDOR, LIST, R.NOT_DISCLOSED),
    (tc(disclosed=None, last_updated_ms=OLD), (1,), VENDOR, LIST, R.OK_CONSENT),
    (tc(disclosed=OUT), (1,), VENDOR, LIST, R.NOT_DISCLOSED),
    (tc(purposes_consent=0), (1,), VENDOR, LIST, R.PURPOSE),
    (tc(purposes_consent=1 << 23), (1, 2), 0, None, R.PURPOSE),
    (tc(purpose_one_treatment=True), (1,), VENDOR, LIST, R.PURPOSE),
    (tc(vendors_consent=OUT), (1,), VENDOR, LIST, R.VENDOR),
    (tc(vendors_li=OUT), (7,), VENDOR, LIST, R.VENDOR),
    (tc(purposes_li=0), (7,), VENDOR, LIST, R.PURPOSE),
    (tc(), (5,), VENDOR, LIST, R.GVL_UNKNOWN),
    (tc(), (1,), VENDOR, Gvl(9, {}), R.OK_CONSENT),
    (tc(purposes_consent=0), (7,), VENDOR, None, R.GVL_UNKNOWN),
    (tc(vendors_consent=OUT), (7,), VENDOR, None, R.GVL_UNKNOWN),
    (tc(purposes_consent=0, purposes_li=0), (7,), VENDOR, None, R.PURPOSE),
    (tc(), (1,), VENDOR, listed(deleted_ms=NEW), R.VENDOR),
    (tc(), (1,), VENDOR, listed(deleted_ms=NEW + 1), R.OK_CONSENT),
    *((tc(), (n,), VENDOR, listed(purposes=set(), li_purposes={n}), R.LI_FORBIDDEN) for n in (1, 3, 4, 5, 6)),
    *((tc(), (n,), VENDOR, listed(purposes=set(), li_purposes={n}), R.OK_LI) for n in (2, 7, 8, 9, 10)),
    (tc(restrictions={2: (Restriction(0, ((70, 80),)),)}), (2,), VENDOR, LIST, R.RESTRICTED),
    (tc(restrictions={2: (Restriction(0, ((78, 80),)),)}), (2,), VENDOR, LIST, R.OK_CONSENT),
    (tc(restrictions={2: (Restriction(0, ((77, 77),)),)}), (2,), VENDOR, None, R.RESTRICTED),
    (tc(restrictions={2: (Restriction(2, ((77, 77),)),)}), (2,), VENDOR, None, R.RESTRICTED),
    (tc(restrictions={2: (Restriction(1, ((77, 77),)), Restriction(2, ((77, 77),)))}), (2,), VENDOR, LIST, R.RESTRICTED),
    (tc(restrictions={2: (Restriction(1, ((77, 77),)), Restriction(0, ((1, 90),)))}), (2,), VENDOR, LIST, R.RESTRICTED),
    (tc(restrictions={3: (Restriction(2, ((77, 77),)),)}), (3,), VENDOR, listed(flexible={3}), R.LI_FORBIDDEN),
]  # fmt: skip


@pytest.mark.parametrize(("string", "purposes", "vendor", "gvl", "reason"), TABLE)
def test_table_of_rules(
    string: TcString, purposes: tuple[int, ...], vendor: int, gvl: Gvl | None, reason: ConsentReason
) -> None:
    """Each string allows or denies for the reason the table gives."""
    assert judge(string, Demand(purposes, vendor), gvl, NEW) is reason


FAR = (1 << 36) * 100


@given(
    st.integers(0, FAR) | st.integers(NEW - 2 * DAY, NEW + 3 * DAY),
    st.integers(0, FAR) | st.integers(NEW - 2 * DAY, NEW + 3 * DAY),
)
def test_no_string_of_impossible_times_grants(created_ms: int, last_updated_ms: int) -> None:
    """A string is granted only if it was created first, then updated, not a day ahead of now, and not too long ago."""
    reason = judge(tc(created_ms=created_ms, last_updated_ms=last_updated_ms), Demand((1,), 0), None, NEW)
    possible = created_ms <= last_updated_ms and NEW - 395 * DAY <= last_updated_ms <= NEW + DAY
    assert (reason is ConsentReason.OK_CONSENT) == possible
    assert possible or reason in (ConsentReason.FUTURE, ConsentReason.STALE, ConsentReason.MALFORMED)


# Restriction of the publisher, default basis of the vendor, flexible -> on which basis it works then. Written by hand.
BASES: dict[tuple[int | None, str, bool], str] = {
    (None, "consent", False): "consent",
    (None, "consent", True): "consent",
    (None, "li", False): "li",
    (None, "li", True): "li",
    (0, "consent", False): "none",
    (0, "consent", True): "none",
    (0, "li", False): "none",
    (0, "li", True): "none",
    (1, "consent", False): "consent",
    (1, "consent", True): "consent",
    (1, "li", False): "none",
    (1, "li", True): "consent",
    (2, "consent", False): "none",
    (2, "consent", True): "li",
    (2, "li", False): "li",
    (2, "li", True): "li",
}
BITS = tuple(product((False, True), repeat=4))
"""Purpose consent, purpose LI, vendor consent, vendor LI."""


@pytest.mark.parametrize(("restriction", "default", "flexible"), BASES)
def test_the_enforcement_matrix(restriction: int | None, default: str, flexible: bool) -> None:
    """Restriction x flexible x default basis x bits x disclosed: all 512 cells are as computed by hand."""
    purpose = 2
    gvl = listed(
        purposes={purpose} if default == "consent" else set(),
        li_purposes={purpose} if default == "li" else set(),
        flexible={purpose} if flexible else set(),
    )
    restrictions = {} if restriction is None else {purpose: (Restriction(restriction, ((VENDOR, VENDOR),)),)}
    basis = BASES[restriction, default, flexible]
    for (purpose_consent, purpose_li, vendor_consent, vendor_li), disclosed in product(BITS, (False, True)):
        string = tc(
            restrictions=restrictions,
            purposes_consent=purpose_consent << 24 - purpose,
            purposes_li=purpose_li << 24 - purpose,
            vendors_consent=IN if vendor_consent else OUT,
            vendors_li=IN if vendor_li else OUT,
            disclosed=IN if disclosed else OUT,
        )
        allowed = disclosed and (
            (basis == "consent" and purpose_consent and vendor_consent) or (basis == "li" and purpose_li and vendor_li)
        )
        reason = judge(string, Demand((purpose,), VENDOR), gvl, NEW)
        assert (reason in (ConsentReason.OK_CONSENT, ConsentReason.OK_LI)) == allowed
        if allowed:
            assert reason is (ConsentReason.OK_CONSENT if basis == "consent" else ConsentReason.OK_LI)
        elif basis == "none":
            assert reason is ConsentReason.RESTRICTED
