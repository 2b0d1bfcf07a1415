"""Reference pages say what the code says."""

from pathlib import Path

import pytest

from infra.ops.reference import pages

FOLDER = Path(__file__).resolve().parents[3] / "docs/reference"


@pytest.mark.parametrize(("name", "text"), pages().items())
def test_a_page_is_what_the_code_says(name: str, text: str) -> None:
    """`python -m infra.ops.reference docs/reference` writes it anew."""
    assert (FOLDER / name).read_text() == text
