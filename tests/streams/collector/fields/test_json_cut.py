"""Long nested values: cut at whole members, never within a pair of a name and its value."""

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
    """Every name with its value, if that is no object or list."""
    if isinstance(value, dict):
        return {(name, repr(member)) for name, member in value.items()}.union(*map(pairs, value.values()))
    return set().union(*map(pairs, value)) if isinstance(value, list) else set()


@given(st.lists(VALUES, max_size=6) | st.dictionaries(st.text("abc", max_size=3), VALUES, max_size=6), st.integers(2, 80))
def test_what_is_left_is_json_that_fits(value: Any, limit: int) -> None:
    """Of at most that length; what fits is untouched, and every scalar that is left has the name that it had."""
    text = cut_value(value, limit)
    assert len(text) <= limit
    whole = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    if len(whole) <= limit:
        assert json.loads(text) == value
    scalars = {pair for pair in pairs(json.loads(text)) if pair[1][0] not in "[{"}
    assert scalars <= pairs(value)


def test_what_names_a_value_stays_before_it() -> None:
    """As Google's tags write parameters: the name is kept before the value, whichever stands first."""
    remaining = json.loads(cut_value({"value": "Cj0K" * 3, "rest": "x" * 500, "key": "gclid"}, 60))
    assert remaining == {"key": "gclid", "value": "Cj0K" * 3}


def test_texts_that_are_json_are_cut_like_values_and_others_at_their_end() -> None:
    """A text that only begins like JSON is an ordinary text."""
    items = [{"item_id": f"sku-{n}", "gclid": "Cj0K"} for n in range(200)]
    remaining = json.loads(cut_text(json.dumps(items), 1_000))
    assert remaining == items[: len(remaining)]
    assert 20 < len(remaining) < 30
    assert cut_text("{" + "x" * 100, 10) == "{xxxxxxxxx"
    assert cut_text("x" * 100, 10) == "x" * 10
    assert cut_text('{"a": 1}', 10) == '{"a": 1}'
