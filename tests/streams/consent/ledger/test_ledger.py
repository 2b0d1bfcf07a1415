"""Stored states: order does not matter, denials win ties, withdrawals last until a newer grant."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.consent.ledger.ledger import (
    DAY_MS,
    ERASED,
    SKEW_MS,
    ChoiceDates,
    Claim,
    Moment,
    StateValue,
    apply_claim,
    apply_state,
    apply_withdrawal,
    date_choice,
    evaluate_state,
    merge,
)

NAMES = [*(f"a.{kind}" for kind in ("withdrawn", "granted", "denied", "seen_granted", "seen_denied")), ERASED]
STATES = st.dictionaries(st.sampled_from(NAMES), st.integers(1, 9))

# state, time of the event, time of its own choice, what it recalls
TABLE: list[tuple[dict[str, int], int, int, StateValue]] = [
    ({}, 9, 0, StateValue.NOTHING),
    ({"a.granted": 3}, 9, 0, StateValue.GRANTED),
    ({"a.granted": 3}, 2, 0, StateValue.NOTHING),  # never granted to what came before
    ({"a.denied": 3}, 2, 0, StateValue.REFUSED),  # denial is
    ({"a.denied": 3}, 9, 3, StateValue.REFUSED),
    ({"a.denied": 3}, 9, 4, StateValue.DENIED),  # not held against the event's own newer grant
    ({"a.granted": 3, "a.denied": 3}, 9, 0, StateValue.WITHDRAWN),
    ({"a.granted": 2, "a.denied": 3}, 9, 0, StateValue.WITHDRAWN),
    ({"a.granted": 4, "a.denied": 3}, 9, 0, StateValue.GRANTED),
    ({"a.granted": 3, "a.seen_denied": 4}, 9, 0, StateValue.DENIED),
    ({"a.seen_granted": 4, "a.denied": 3}, 9, 0, StateValue.WITHDRAWN),  # a grant without a time lifts nothing
    ({"a.seen_granted": 4, "a.seen_denied": 3}, 9, 0, StateValue.GRANTED),
    ({"a.seen_granted": 3, "a.seen_denied": 4}, 9, 0, StateValue.DENIED),
    ({"a.granted": 3, "a.withdrawn": 5}, 9, 0, StateValue.WITHDRAWN),
    ({"a.granted": 5, "a.withdrawn": 5}, 9, 0, StateValue.WITHDRAWN),
    ({"a.granted": 6, "a.withdrawn": 5}, 9, 0, StateValue.GRANTED),
    ({"a.seen_granted": 8, "a.withdrawn": 5}, 9, 0, StateValue.WITHDRAWN),  # a signal that says no time lifts nothing
    ({"a.withdrawn": 5}, 9, 5, StateValue.WITHDRAWN),
    ({"a.withdrawn": 5}, 9, 6, StateValue.DENIED),  # not held against the event's own newer grant
    ({"a.withdrawn": 5}, 2, 0, StateValue.WITHDRAWN),  # a replay is decided again
    ({"b.granted": 3}, 9, 0, StateValue.NOTHING),
]


@pytest.mark.parametrize(("times", "now", "chosen", "memory"), TABLE)
def test_table_of_memories(times: dict[str, int], now: int, chosen: int, memory: StateValue) -> None:
    """Each state has the value that the table says."""
    assert evaluate_state(times, "a", Moment(now, chosen)) is memory


def test_what_is_too_old_is_forgotten() -> None:
    """A grant and a denial older than the policy's limit do not count; a withdrawal still does."""
    assert evaluate_state({"a.granted": 3}, "a", Moment(9, 0, 4)) is StateValue.NOTHING
    assert evaluate_state({"a.denied": 3}, "a", Moment(9, 0, 4)) is StateValue.NOTHING
    assert evaluate_state({"a.withdrawn": 3}, "a", Moment(9, 0, 4)) is StateValue.WITHDRAWN


@given(STATES, STATES, STATES)
def test_states_merge_in_any_order(first: dict[str, int], second: dict[str, int], third: dict[str, int]) -> None:
    """Merging is commutative, associative and idempotent, so replays and fenced workers change nothing."""
    assert merge(first, second) == merge(second, first)
    assert merge(merge(first, second), third) == merge(first, merge(second, third))
    assert merge(merge(first, second), second) == merge(first, second)


ONE = frozenset({"a"})
GRANT, DENIAL = Claim(ONE, frozenset()), Claim(frozenset(), ONE)


@given(STATES, st.integers(1, 9), st.integers(1, 9), st.integers(0, 9))
def test_a_denial_never_adds_a_grant(times: dict[str, int], at: int, now: int, chosen: int) -> None:
    """Applying a denial or a withdrawal turns no state into a grant."""
    before = evaluate_state(times, "a", Moment(now, chosen))
    for change in (apply_claim(times, DENIAL, ChoiceDates(at, at), at, True), apply_withdrawal(times, ["a"], at)):
        after = evaluate_state(merge(times, change.times), "a", Moment(now, chosen))
        assert after is not StateValue.GRANTED or before is StateValue.GRANTED


@given(st.permutations([(True, 3), (False, 5), (True, 4), (False, 7), (True, 9), (False, 2)]), st.integers(1, 6))
def test_choices_with_times_end_in_the_same_state_in_any_order(choices: list[tuple[bool, int]], n: int) -> None:
    """What a dated choice adds does not depend on the state before."""
    times: dict[str, int] = {}
    for granted, at in choices[:n]:
        times = merge(times, apply_claim(times, GRANT if granted else DENIAL, ChoiceDates(at, at), 10, False).times)
    newest = {granted: max((at for which, at in choices[:n] if which is granted), default=0) for granted in (True, False)}
    expected = {"a.granted": newest[True], "a.denied": newest[False]}
    assert times == {name: at for name, at in expected.items() if at}


def test_a_denial_after_a_grant_is_a_withdrawal() -> None:
    """A dated denial after a grant is a withdrawal; without a grant before, or without a time, it is a refusal only."""
    when = ChoiceDates(5, 5)
    assert apply_claim({"a.granted": 3}, DENIAL, when, 9, False) == ({"a.denied": 5}, ("a",), ("a",))
    assert apply_claim({}, DENIAL, when, 9, False) == ({"a.denied": 5}, (), ("a",))
    assert apply_claim({"a.granted": 7}, DENIAL, when, 9, False) == ({"a.denied": 5}, (), ())
    assert apply_claim({"a.granted": 3, "a.denied": 5}, DENIAL, when, 9, False) == ({}, (), ())
    assert apply_claim({"a.seen_granted": 3}, DENIAL, ChoiceDates(0, 0), 9, True) == ({"a.seen_denied": 9}, (), ())
    assert apply_state({"a.granted": 3}, {"a.denied": 5}) == ({"a.denied": 5}, ("a",), ("a",))


def test_signals_without_a_time_are_taken_down_once_a_day() -> None:
    """Undated grants are stored where the policy uses them or after a refusal, and only on a change or after a day."""
    undated = ChoiceDates(0, 0)
    assert apply_claim({}, GRANT, undated, 5, False).times == {}
    assert apply_claim({}, GRANT, undated, 5, True).times == {"a.seen_granted": 5}
    assert apply_claim({"a.seen_denied": 4}, GRANT, undated, 5, False).times == {"a.seen_granted": 5}
    assert apply_claim({"a.seen_granted": 5}, GRANT, undated, 6, True).times == {}
    assert apply_claim({"a.seen_granted": 5}, GRANT, undated, 5 + DAY_MS, True).times == {"a.seen_granted": 5 + DAY_MS}
    assert apply_claim({"a.seen_granted": 5, "a.seen_denied": 6}, GRANT, undated, 7, True).times == {"a.seen_granted": 7}
    assert apply_claim({}, DENIAL, undated, 5, False).times == {"a.seen_denied": 5}
    assert apply_claim({"a.seen_denied": 5}, DENIAL, undated, 6, False).times == {}


NOON = 20_000 * DAY_MS + DAY_MS // 2
MORNING, EVENING = NOON - DAY_MS // 2, NOON + DAY_MS // 2 - 1
TODAY, YESTERDAY, TOMORROW = (MORNING, MORNING), (MORNING - DAY_MS,) * 2, (MORNING + DAY_MS,) * 2


@pytest.mark.parametrize(
    ("claim", "is_choice", "expected"),
    [
        (GRANT, False, ChoiceDates(0, 0)),
        (GRANT, True, ChoiceDates(NOON, NOON)),
        (GRANT._replace(chosen=NOON - 9), True, ChoiceDates(NOON - 9, NOON - 9)),
        (GRANT._replace(chosen=NOON + SKEW_MS), False, ChoiceDates(NOON, NOON)),
        (GRANT._replace(chosen=NOON + SKEW_MS + 1), True, ChoiceDates(0, NOON, True)),
        (GRANT._replace(chosen=None), False, ChoiceDates(0, NOON, True)),
        (GRANT._replace(days=TODAY), False, ChoiceDates(MORNING, EVENING)),
        (GRANT._replace(days=YESTERDAY), True, ChoiceDates(MORNING - DAY_MS, MORNING - 1)),
        (GRANT._replace(days=TODAY), True, ChoiceDates(MORNING, EVENING)),
        (GRANT._replace(days=TODAY, acted=True), True, ChoiceDates(NOON, NOON)),
        (GRANT._replace(days=YESTERDAY, acted=True), True, ChoiceDates(MORNING - DAY_MS, MORNING - 1)),
        (GRANT._replace(days=TOMORROW), False, ChoiceDates(0, EVENING)),
        (GRANT._replace(days=(YESTERDAY[0], TODAY[0])), False, ChoiceDates(MORNING - DAY_MS, EVENING)),
    ],
)
def test_when_a_choice_counts_as_made(claim: Claim, is_choice: bool, expected: ChoiceDates) -> None:
    """A grant counts from the earliest, a refusal from the latest time; unreadable and future times date refusals only."""
    assert date_choice(claim, NOON, is_choice) == expected
    assert date_choice(claim, NOON, is_choice, undated_grants_lift=True).granted_at == (expected.granted_at or NOON)
