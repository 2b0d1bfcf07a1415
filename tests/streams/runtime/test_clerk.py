"""What a clerk is asked for, and by which topic."""

import pytest

from streams.runtime.clerk import ERASURES, REQUESTS, asks


@pytest.mark.parametrize(
    ("topic", "request_", "asked"),
    [
        (REQUESTS, {"kind": "withdrawal"}, True),
        (REQUESTS, {"kind": "erasure"}, False),
        (ERASURES, {"state": "begun"}, False),
        (ERASURES, {"state": "asked"}, True),
    ],
)
def test_erasures_are_answered_where_the_ids_are(topic: str, request_: dict[str, str], asked: bool) -> None:
    """Withdrawals on their topic; an erasure on its own, and only once the ids are marked in the graph."""
    assert asks(topic, request_) is asked
