"""Truncation of nested values at whole members."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from streams.collector.fields.json_cut import cut_text, cut_value

VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text("abkeyname", max_size=5), inner, max_size=5),
    max_leaves=30,
)


def pairs(value: Any) -> set[tuple[str, str]]:
    """Return every (name, value) whose value is no object or list."""
    if isinstance(value, dict):
        return {(name, repr(member)) for name, member in value.items()}.union(*map(pairs, value.values()))
    return set().union(*map(pairs, value)) if isinstance(value, list) else set()


@given(st.lists(VALUES, max_size=6) | st.dictionaries(st.text("abc", max_size=3), VALUES, max_size=6), st.integers(2, 80))
def test_the_remaining_json_fits(value: Any, limit: int) -> None:
    """It is within the limit; what fits is unchanged, and every remaining scalar keeps its name."""
    text = cut_value(value, limit)
    assert len(text) <= limit
    whole = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    if len(whole) <= limit:
        assert json.loads(text) == value
    scalars = {pair for pair in pairs(json.loads(text)) if pair[1][0] not in "[{"}
    assert scalars <= pairs(value)


def test_names_are_kept_before_values() -> None:
    """In pairs of name and value, as in Google's tags, the name is kept first in either order."""
    remaining = json.loads(cut_value({"value": "Cj0K" * 3, "rest": "x" * 500, "key": "gclid"}, 60))
    assert remaining == {"key": "gclid", "value": "Cj0K" * 3}


def test_texts_that_are_json_are_cut_like_values_and_others_at_their_end() -> None:
    """A text that only begins like JSON is truncated at its end."""
    items = [{"item_id": f"sku-{n}", "gclid": "Cj0K"} for n in range(200)]
    remaining = json.loads(cut_text(json.dumps(items), 1_000))
    assert remaining == items[: len(remaining)]
    assert 20 < len(remaining) < 30
    assert cut_text("{" + "x" * 100, 10) == "{xxxxxxxxx"
    assert cut_text("x" * 100, 10) == "x" * 10
    assert cut_text('{"a": 1}', 10) == '{"a": 1}'
