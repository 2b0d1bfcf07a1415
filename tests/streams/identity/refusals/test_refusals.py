"""What nodes remember of refusals: the newest of each scope, in any order, and the signals for them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.identity.refusals import refusals as module
from streams.identity.refusals.refusals import (
    Refusal,
    Refusals,
    RememberedRefusal,
    Scope,
    confirm_signalled,
    from_text,
    merge_refusals,
    missing_refusals,
    newest_refusals,
    refusal_signals,
    refusals_of,
    to_text,
)

TEXTS = st.text(max_size=4) | st.sampled_from(["", "shop.example", "|", '"'])
SCOPES = st.builds(Scope, TEXTS, st.sampled_from(["", "opt-in", "opt-out"]), st.sampled_from(["", "analytics", "marketing"]))
TIMES = st.integers(0, 4) | st.integers(0, 1 << 53)
REFUSALS = st.builds(Refusal, TIMES, TIMES, TEXTS)
MEMORIES = st.dictionaries(SCOPES, st.builds(RememberedRefusal, REFUSALS, st.booleans()), max_size=6)


def without_flags(memories: Refusals) -> dict[Scope, Refusal]:
    """Return the refusals without their flags."""
    return {scope: memory.refusal for scope, memory in memories.items()}


def all_of(many: list[dict[Scope, RememberedRefusal]]) -> Refusals:
    """Merge one after the other."""
    memory: Refusals = {}
    for refusals in many:
        memory = merge_refusals(memory, refusals)
    return memory


@given(st.lists(MEMORIES, max_size=6).flatmap(lambda many: st.tuples(st.just(many), st.permutations(many))))
def test_the_order_does_not_matter(
    many: tuple[list[dict[Scope, RememberedRefusal]], list[dict[Scope, RememberedRefusal]]],
) -> None:
    """In any order and number, the largest refusal of each scope stays; then nothing is missing."""
    first, second = all_of(many[0]), all_of([*many[1], *many[0]])
    assert without_flags(first) == without_flags(second) == newest_refusals(many[0])
    assert missing_refusals(first, newest_refusals(many[0])) == {}


@given(st.lists(MEMORIES, max_size=6).flatmap(lambda many: st.tuples(st.just(many), st.permutations(many))))
def test_nor_where_there_are_too_many(
    many: tuple[list[dict[Scope, RememberedRefusal]], list[dict[Scope, RememberedRefusal]]],
) -> None:
    """The largest refusals stay, as if they had been bounded at the end only."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "MOST_REFUSALS", 3)
        bounded = [without_flags(all_of(some)) for some in many]
    largest = sorted(newest_refusals(many[0]).items(), key=lambda item: (item[1], item[0]))[-3:]
    assert bounded == [dict(largest)] * 2


@given(MEMORIES, MEMORIES)
def test_what_is_known_is_the_same_object(memory: dict[Scope, RememberedRefusal], new: dict[Scope, RememberedRefusal]) -> None:
    """A merge without news returns the same object, so that a store need not write."""
    both = merge_refusals(memory, new)
    assert merge_refusals(both, new) is both
    assert merge_refusals(both, memory) is both
    marked = confirm_signalled(both, new)
    assert confirm_signalled(marked, new) is marked
    assert without_flags(marked) == without_flags(both)


@given(MEMORIES, MEMORIES)
def test_only_what_was_signalled_is_marked(memory: dict[Scope, RememberedRefusal], new: dict[Scope, RememberedRefusal]) -> None:
    """A newer refusal than the signalled one stays pending, and no refusal is created."""
    marked = confirm_signalled(memory, new)
    assert marked.keys() == memory.keys()
    for scope, entry in marked.items():
        equal = scope in new and new[scope].refusal == entry.refusal
        assert entry.signalled == (memory[scope].signalled or equal)


@given(MEMORIES)
def test_texts_say_it_all(memories: dict[Scope, RememberedRefusal]) -> None:
    """Any site survives the round trip, and equal content has one text."""
    assert from_text(to_text(memories).encode()) == memories
    assert to_text(dict(reversed(memories.items()))) == to_text(memories)
    assert from_text(None) == {}


@given(st.dictionaries(SCOPES, REFUSALS, max_size=8))
def test_signals_say_every_refusal_once(refusals: dict[Scope, Refusal]) -> None:
    """Purposes refused together are one signal with times and evidence; all purposes are an empty list."""
    signalled: dict[Scope, Refusal] = {}
    for record in refusal_signals("2" + "a" * 32, refusals):
        refusal = Refusal(record["chosen_ts"], record["received_ts"], record["evidence"])
        for purpose in record["purposes"] or [""]:
            scope = Scope(record["site"], record["regulation"], purpose)
            assert scope not in signalled
            signalled[scope] = refusal
    assert signalled.items() <= refusals.items()
    for scope, refusal in refusals.items():
        assert signalled.get(scope) == refusal or signalled[scope._replace(purpose="")] == refusal


def test_a_record_becomes_one_refusal_a_purpose() -> None:
    """With its own time or that of its arrival; already signalled, because the consent room wrote it."""
    record = {
        "subject": "s", "site": "x", "regulation": "opt-out", "purposes": ["a", "b"], "withdrawn_ts": 3, "received_ts": 9,
        "evidence": "e",
    }  # fmt: skip
    remembered = RememberedRefusal(Refusal(3, 9, "e"), True)
    assert refusals_of(record) == {Scope("x", "opt-out", "a"): remembered, Scope("x", "opt-out", "b"): remembered}
    assert refusals_of({**record, "withdrawn_ts": 0, "purposes": []}) == {
        Scope("x", "opt-out", ""): RememberedRefusal(Refusal(9, 9, "e"), True)
    }
