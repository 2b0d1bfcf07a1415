"""What is remembered: order does not matter, denial wins ties, withdrawals last until something newer grants."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.consent.ledger import ERASED, Memory, Moment, Said, learn, merge, recall, withdraw

NAMES = [*(f"a.{what}" for what in ("withdrawn", "granted", "denied", "seen_granted", "seen_denied")), ERASED]
STATES = st.dictionaries(st.sampled_from(NAMES), st.integers(1, 9))

# state, time of the event, time of its own choice, what it recalls
TABLE: list[tuple[dict[str, int], int, int, Memory]] = [
    ({}, 9, 0, Memory.NOTHING),
    ({"a.granted": 3}, 9, 0, Memory.GRANTED),
    ({"a.granted": 3}, 2, 0, Memory.NOTHING),  # never granted to what came before
    ({"a.denied": 3}, 2, 0, Memory.DENIED),  # denial is
    ({"a.granted": 3, "a.denied": 3}, 9, 0, Memory.DENIED),
    ({"a.granted": 4, "a.denied": 3}, 9, 0, Memory.GRANTED),
    ({"a.granted": 3, "a.seen_denied": 4}, 9, 0, Memory.DENIED),
    ({"a.seen_granted": 4, "a.denied": 3}, 9, 0, Memory.GRANTED),
    ({"a.granted": 3, "a.withdrawn": 5}, 9, 0, Memory.WITHDRAWN),
    ({"a.granted": 5, "a.withdrawn": 5}, 9, 0, Memory.WITHDRAWN),
    ({"a.granted": 6, "a.withdrawn": 5}, 9, 0, Memory.GRANTED),
    ({"a.seen_granted": 8, "a.withdrawn": 5}, 9, 0, Memory.WITHDRAWN),  # a signal that says no time lifts nothing
    ({"a.withdrawn": 5}, 9, 5, Memory.WITHDRAWN),
    ({"a.withdrawn": 5}, 9, 6, Memory.DENIED),  # not held against the event's own newer grant
    ({"a.withdrawn": 5}, 2, 0, Memory.WITHDRAWN),  # a replay is decided again
    ({"b.granted": 3}, 9, 0, Memory.NOTHING),
]


@pytest.mark.parametrize(("times", "now", "chosen", "memory"), TABLE)
def test_table_of_memories(times: dict[str, int], now: int, chosen: int, memory: Memory) -> None:
    """Each state says to an event what the table says."""
    assert recall(times, "a", Moment(now, chosen)) is memory


def test_what_is_too_old_is_forgotten() -> None:
    """A grant and a denial older than the policy's limit count for nothing; a withdrawal goes on."""
    assert recall({"a.granted": 3}, "a", Moment(9, 0, 4)) is Memory.NOTHING
    assert recall({"a.denied": 3}, "a", Moment(9, 0, 4)) is Memory.NOTHING
    assert recall({"a.withdrawn": 3}, "a", Moment(9, 0, 4)) is Memory.WITHDRAWN


@given(STATES, STATES, STATES)
def test_states_merge_in_any_order(one: dict[str, int], two: dict[str, int], three: dict[str, int]) -> None:
    """Merging commutes, associates and repeats without effect: replays and zombies change nothing."""
    assert merge(one, two) == merge(two, one)
    assert merge(merge(one, two), three) == merge(one, merge(two, three))
    assert merge(merge(one, two), two) == merge(one, two)


@given(STATES, st.integers(1, 9), st.integers(1, 9), st.integers(0, 9))
def test_a_denial_never_adds_a_grant(times: dict[str, int], at: int, now: int, chosen: int) -> None:
    """Learning a denial or a withdrawal turns no memory into a grant."""
    before = recall(times, "a", Moment(now, chosen))
    for change in (learn(times, Said(frozenset(), frozenset({"a"}), at, at), at, True), withdraw(times, ["a"], at)):
        after = recall(merge(times, change.times), "a", Moment(now, chosen))
        assert after is not Memory.GRANTED or before is Memory.GRANTED


def test_a_denial_after_a_grant_is_a_withdrawal() -> None:
    """With known times it is; without a grant before, or without a time, it is not."""
    denial = Said(frozenset(), frozenset({"a"}), 5, 5)
    assert learn({"a.granted": 3}, denial, 9, False) == ({"a.withdrawn": 5, "a.denied": 5}, ("a",))
    assert learn({}, denial, 9, False) == ({"a.denied": 5}, ())
    assert learn({"a.granted": 7}, denial, 9, False).withdrawn == ()
    assert learn({"a.granted": 3, "a.withdrawn": 5, "a.denied": 5}, denial, 9, False) == ({}, ())
    assert learn({"a.seen_granted": 3}, denial._replace(denied_at=0), 9, True).withdrawn == ()


def test_signals_without_a_time_are_taken_down_once_a_day() -> None:
    """Only where the policy remembers them, and only when they change or a day has passed."""
    said = Said(frozenset({"a"}), frozenset(), 0, 0)
    day = 86_400_000
    assert learn({}, said, 5, False).times == {}
    assert learn({}, said, 5, True).times == {"a.seen_granted": 5}
    assert learn({"a.seen_granted": 5}, said, 6, True).times == {}
    assert learn({"a.seen_granted": 5}, said, 5 + day, True).times == {"a.seen_granted": 5 + day}
    assert learn({"a.seen_granted": 5, "a.seen_denied": 6}, said, 7, True).times == {"a.seen_granted": 7}
