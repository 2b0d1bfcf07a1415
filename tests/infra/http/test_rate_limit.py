"""Token buckets, one a caller."""

from infra.http.rate_limit import RateLimit


def test_a_caller_gets_its_rate_and_no_more() -> None:
    """Burst first, then the rate; other callers are not affected; memory is bounded."""
    limit = RateLimit(per_second=10, burst=3, callers=2)
    assert [limit.allow("a", 0.0) for _ in range(4)] == [True, True, True, False]
    assert limit.allow("b", 0.0)
    assert limit.allow("a", 0.1)
    assert not limit.allow("a", 0.1)
    for caller in "cdef":
        limit.allow(caller, 0.2)
    assert len(limit._buckets) == 2


def test_a_clock_that_goes_back_adds_no_tokens_and_takes_none() -> None:
    """The wall clock of the gauge may be set back."""
    limit = RateLimit(per_second=1, burst=2)
    assert limit.allow("a", 100.0)
    assert limit.allow("a", 50.0)
    assert not limit.allow("a", 50.5)
    assert limit.allow("a", 51.0)
