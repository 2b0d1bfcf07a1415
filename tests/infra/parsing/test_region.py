"""Regions are ISO 3166 codes and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.parsing.region import region_of, region_within


@pytest.mark.parametrize(
    ("text", "region"),
    [("US", "US"), ("us", "US"), (" de ", "DE"), ("us-ca", "US-CA"), ("GB-SCT", "GB-SCT"), ("FR-75", "FR-75")],
)
def test_codes(text: str, region: str) -> None:
    """Countries and their parts, in either case."""
    assert region_of(text) == region


@pytest.mark.parametrize(
    "text", ["", "U", "USA", "Austria", "ß", "uß", "ı", "ıs", "ＵＳ", "U\u017f", "US-", "US-CALI", "US CA", "ﬁ", "1S", "US\x00"]
)
def test_what_is_no_code(text: str) -> None:
    """Words, letters that only fold to ASCII, and full-width letters are no region."""
    assert region_of(text) == ""


@given(st.text(max_size=6))
def test_only_ascii_folds(text: str) -> None:
    """A region was ASCII before it was folded."""
    assert not region_of(text) or text.strip().isascii()


@pytest.mark.parametrize(
    ("country", "part", "region"),
    [
        ("US", "CA", "US-CA"), ("us", "us-ca", "US-CA"), ("US", "usca", "US-CA"), ("US", "", "US"), ("US", "California", "US"),
        ("US", "US", "US"), ("DE", "US-CA", ""), ("DE", "US", "DE-US"), ("", "US-CA", ""), ("Germany", "BE", ""),
        ("US-CA", "CA", "US-CA"), ("US-CA", "TX", "US"), ("US", "ß", "US"), ("US", "CÃ", "US"),
    ],
)  # fmt: skip
def test_parts_of_countries(country: str, part: str, region: str) -> None:
    """A part belongs to the country beside it, and what disagrees is no region."""
    assert region_within(country, part) == region
