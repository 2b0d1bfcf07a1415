"""The simulator's TC strings, decoded by the consent stage's decoder."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.ops.simulator.world.tc_strings import DAY_MS, tc_string
from streams.consent.formats.reason import ConsentReason
from streams.consent.formats.tc_string import decode, has_purpose
from streams.consent.formats.tcf import Demand, judge

TODAY = 20_787 * DAY_MS


@pytest.mark.parametrize(("grants", "reason"), [(True, ConsentReason.OK_CONSENT), (False, ConsentReason.PURPOSE)])
def test_a_string_of_today_is_judged_as_it_is_meant(grants: bool, reason: ConsentReason) -> None:
    """Valid by the rules of TCF 2.3, disclosed vendors included."""
    consent = decode(tc_string(TODAY, grants=grants))
    assert judge(consent, Demand((1, 3, 4, 7)), None, TODAY + 1_000) is reason
    assert all(has_purpose(consent.purposes_consent, purpose) == grants for purpose in range(1, 12))


@given(st.integers(1_600_000_000_000, 4_000_000_000_000))
def test_its_time_is_the_beginning_of_a_day(now: int) -> None:
    """As platforms round it."""
    assert decode(tc_string(now, grants=True)).last_updated_ms == now // DAY_MS * DAY_MS
