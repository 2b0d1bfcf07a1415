"""US Privacy strings: every string of version 1, other spellings, and invalid strings."""

from itertools import product

import pytest

from streams.consent.formats.consent_value import ConsentValue
from streams.consent.formats.gpp import parse_us_privacy


@pytest.mark.parametrize(("notice", "opted_out", "covered"), list(product("YN-", repeat=3)))
def test_every_string_of_version_1(notice: str, opted_out: str, covered: str) -> None:
    """An opt-out or a missing notice denies; "did not opt out" grants; the agreement changes nothing."""
    word = parse_us_privacy(f"1{notice}{opted_out}{covered}")
    if opted_out == "Y" or notice == "N":
        assert word is ConsentValue.DENY
    else:
        assert word is (ConsentValue.GRANT if opted_out == "N" else ConsentValue.UNKNOWN)


@pytest.mark.parametrize("text", ["1yyn", " 1YYN", "1YyN\n", "\t1NYN "])
def test_case_and_blanks(text: str) -> None:
    """Case and surrounding blanks are ignored."""
    assert parse_us_privacy(text) is ConsentValue.DENY


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_an_empty_string(text: str) -> None:
    """An empty string is UNKNOWN."""
    assert parse_us_privacy(text) is ConsentValue.UNKNOWN


@pytest.mark.parametrize(
    "text", ["1", "1YN", "1YNNN", "2YNN", "0YNN", "YNN", "1 YNN", "1YN\u00d1", "null", "true", "1yesno", "-", "1Y\u2010N"]
)
def test_what_is_none(text: str) -> None:
    """Another version, length or letter is INVALID."""
    assert parse_us_privacy(text) is ConsentValue.INVALID
