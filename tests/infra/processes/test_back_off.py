"""Pauses before another try."""

from itertools import islice

from infra.processes.back_off import BackOff


def test_pauses_double_up_to_the_longest() -> None:
    """Each failure in a row doubles the pause."""
    back_off = BackOff(0.25, 3.0)
    assert list(islice(back_off.pauses(), 6)) == [0.25, 0.5, 1.0, 2.0, 3.0, 3.0]
    assert [back_off.pause_s(failures) for failures in (1, 2, 5)] == [0.25, 0.5, 3.0]


def test_a_long_row_of_failures_does_not_overflow() -> None:
    """After a weekend of failures the pause is still the longest one."""
    assert BackOff(0.1, 5.0).pause_s(1_000_000) == 5.0


def test_each_row_of_failures_begins_anew() -> None:
    """Pauses are not shared between callers."""
    back_off = BackOff(1.0, 8.0)
    first = back_off.pauses()
    assert [next(first), next(first)] == [1.0, 2.0]
    assert next(back_off.pauses()) == 1.0
