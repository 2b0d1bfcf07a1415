"""How many examples property tests try: a fifth by default, all of them with HEADWATER_TESTS=full (`make test-full`)."""

import os

FULL = os.environ.get("HEADWATER_TESTS") == "full"
LEAST = 20


def examples(full: int) -> int:
    """Examples of a property test whose full number this is."""
    return full if FULL else min(full, max(LEAST, full // 5))
