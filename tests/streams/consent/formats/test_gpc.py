"""Global Privacy Control: objections, silence, and unreadable values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.consent.formats.consent_value import ConsentValue
from streams.consent.formats.gpc import parse_gpc


@pytest.mark.parametrize("text", ["1", "true", "True", "TRUE", "yes", "on", " 1 ", "1\n"])
def test_what_objects(text: str) -> None:
    """The header's only value, and the words that pages send for it."""
    assert parse_gpc(text) is ConsentValue.DENY


@pytest.mark.parametrize("text", ["", " ", "0", "false", "FALSE", " 0"])
def test_what_says_nothing(text: str) -> None:
    """The absence of an objection is UNKNOWN, not a grant."""
    assert parse_gpc(text) is ConsentValue.UNKNOWN


@pytest.mark.parametrize("text", ["2", "?1", "1,1", "null", "undefined", "no", "off", "[]", "\uff11", "granted"])
def test_what_cannot_be_read(text: str) -> None:
    """Any other value is INVALID."""
    assert parse_gpc(text) is ConsentValue.INVALID


@given(st.text())
def test_no_text_grants(text: str) -> None:
    """No value of GPC grants."""
    assert parse_gpc(text) in (ConsentValue.DENY, ConsentValue.INVALID, ConsentValue.UNKNOWN)
