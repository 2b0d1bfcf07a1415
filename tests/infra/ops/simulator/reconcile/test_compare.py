"""The comparison detects every kind of fault."""

from array import array
from collections import Counter

import pytest

from infra.ops.simulator.ledger import ANONYMISED, DEAD, POISON, REFUSED, RESOLVED, LedgerIndex, RefusalLine, RunLine
from infra.ops.simulator.marks import event_id
from infra.ops.simulator.reconcile import compare
from infra.ops.simulator.reconcile.compare import LayerDeadLetters, LayerVerdict, RefusalRow
from infra.ops.simulator.reconcile.tally import Sighting, Tally

RUN = "abcdefab"
# Two resolved events of one account (all granted; analytics alone), then one of each other fate.
FATES = bytes([RESOLVED, RESOLVED, ANONYMISED, DEAD, POISON, REFUSED])
MASKS = bytes([7, 1, 0, 0, 0, 0])


@pytest.fixture
def expected() -> LedgerIndex:
    """A ledger of six events, each sent and taken once."""
    size = len(FATES)
    accounts = array("i", [0, 0] + [-1] * (size - 2))
    once = [1] * size
    flags = (bytearray(once), bytearray(once), bytearray(once))
    return LedgerIndex(RunLine(RUN, 1, size, 0), bytearray(FATES), bytearray(MASKS), *flags, accounts)


def sighting(n: int, mask: int, outcome: str, **more: object) -> Sighting:
    """Return a record of event `n` after the consent stage."""
    return Sighting(event_id(RUN, n), "page_view", outcome, mask, "2profile", "resolved")._replace(**more)  # type: ignore[arg-type] # test data


def walk(expected: LedgerIndex, *records: Sighting) -> LayerVerdict:
    """Return the result of a layer with these records, where one anonymised event is expected too."""
    tally = Tally(expected, {"random": 1})
    for record in records:
        tally.add_consented(record)
    return compare.once_row("layer", expected, {"random": 1}, tally)


GOOD = (sighting(0, 7, "pass"), sighting(1, 1, "strip"), Sighting("random", "page_view", "anonymise", 0, "", "anonymous"))


def test_a_layer_that_is_as_it_should_be_has_no_fault(expected: LedgerIndex) -> None:
    """Each event once, the anonymised one by its new id."""
    row = walk(expected, *GOOD)
    assert row.good
    assert (row.expected, row.observed) == (3, 3)


def test_a_missing_event_is_lost(expected: LedgerIndex) -> None:
    """Also an anonymised one."""
    assert walk(expected, *GOOD[1:]).lost == 1
    assert walk(expected, *GOOD[:2]).lost == 1


def test_an_event_that_is_there_twice_is_doubled(expected: LedgerIndex) -> None:
    """Also an anonymised one."""
    assert walk(expected, *GOOD, GOOD[0]).doubled == 1
    assert walk(expected, *GOOD, GOOD[2]).doubled == 1


@pytest.mark.parametrize(
    "record",
    [
        sighting(1, 1, "strip", marks={("mk", 1)}),
        sighting(1, 1, "strip", marks={("pz", 1)}),
        Sighting("random", "page_view", "anonymise", marks={("an", 2)}),
        sighting(0, 7, "pass", marks={("cl", 9)}),
        sighting(1, 3, "strip"),
        Sighting(event_id(RUN, 2), "page_view", "anonymise"),
    ],
    ids=["marketing", "personalization", "analytics", "clear", "mask", "id of an anonymised event"],
)
def test_what_was_not_granted_is_forbidden(expected: LedgerIndex, record: Sighting) -> None:
    """Fields of denied purposes, clear identifiers, purposes nobody granted, ids that should be gone."""
    others = [good for good in GOOD if good.event_id != record.event_id]
    assert walk(expected, *others, record).forbidden == 1


def test_markers_of_granted_purposes_are_lawful(expected: LedgerIndex) -> None:
    """The event with all purposes keeps its fields."""
    assert walk(expected, sighting(0, 7, "pass", marks={("mk", 0), ("an", 0), ("pz", 0)}), *GOOD[1:]).good


@pytest.mark.parametrize("n", [3, 4, 5, 99], ids=["dead", "poison", "refused", "unknown"])
def test_an_event_that_should_not_be_there_is_unexplained(expected: LedgerIndex, n: int) -> None:
    """Refused and dead events, and numbers that the ledger does not have."""
    assert walk(expected, *GOOD, sighting(n, 7, "pass")).unexplained == 1


def test_less_consent_than_was_given_is_unexplained(expected: LedgerIndex) -> None:
    """Stripping more than was refused is a fault, although nothing forbidden remains."""
    assert walk(expected, sighting(0, 1, "strip"), *GOOD[1:]).unexplained == 1


def test_an_event_that_was_never_acknowledged_may_be_missing_but_not_doubled(expected: LedgerIndex) -> None:
    """An event that was neither acknowledged nor refused may exist once."""
    expected.acked[0] = 0
    assert walk(expected, *GOOD[1:]).good
    assert walk(expected, *GOOD).good
    assert walk(expected, *GOOD, GOOD[0]).doubled == 1


def test_raw_wants_every_acknowledged_event_and_takes_copies(expected: LedgerIndex) -> None:
    """Copies are allowed in `events.raw`, because clients retry."""
    raw = Tally(expected)
    for n in (0, 0, 1, 2):
        raw.add_raw(Sighting(event_id(RUN, n), "page_view"), (RESOLVED, ANONYMISED))
    assert compare.raw_row(expected, raw).lost == 1  # the poison
    raw.count(4)
    assert compare.raw_row(expected, raw).good
    raw.add_raw(Sighting(event_id(RUN, 5), "page_view"), (RESOLVED, ANONYMISED))
    assert compare.raw_row(expected, raw).unexplained == 1


def test_consented_holds_one_record_for_each_raw_copy(expected: LedgerIndex) -> None:
    """The consent stage must write one record per raw copy."""
    raw, gate = Tally(expected), Tally(expected, {"random": 1})
    for n in (0, 0, 1):
        raw.add_raw(Sighting(event_id(RUN, n), "page_view"), (RESOLVED,))
    for record in GOOD:
        gate.add_consented(record)
    assert compare.consented_row(expected, raw, {"random": 1}, gate).lost == 1
    gate.add_consented(GOOD[0])
    assert compare.consented_row(expected, raw, {"random": 1}, gate).good
    gate.add_consented(GOOD[0])
    assert compare.consented_row(expected, raw, {"random": 1}, gate).doubled == 1


def test_one_person_has_one_profile_and_shares_it_with_nobody(expected: LedgerIndex) -> None:
    """A further profile is doubled, somebody else's is forbidden."""
    tally = Tally(expected)
    tally.add_consented(GOOD[0])
    tally.add_consented(GOOD[1])
    assert compare.profiles_row(tally).good
    tally.add_consented(sighting(1, 1, "strip", profile="2other"))
    assert compare.profiles_row(tally).doubled == 1
    expected.accounts[1] = 1
    tally.add_consented(sighting(1, 1, "strip"))
    assert compare.profiles_row(tally).forbidden == 1


def test_dead_letters_must_be_there_and_explained(expected: LedgerIndex) -> None:
    """One for the refused item, one for the poison, and none for anything else."""
    assert compare.dead_row("dead", expected, LayerDeadLetters(Counter({3: 1, 4: 1}))).good
    assert compare.dead_row("dead", expected, LayerDeadLetters(Counter({3: 1}))).lost == 1
    assert compare.dead_row("dead", expected, LayerDeadLetters(Counter({3: 1, 4: 2}))).doubled == 1
    assert compare.dead_row("dead", expected, LayerDeadLetters(Counter({3: 1, 4: 1, 5: 1}))).unexplained == 1
    assert compare.dead_row("dead", expected, LayerDeadLetters(Counter({3: 1, 4: 1, 0: 1}))).unexplained == 1
    stranger = LayerDeadLetters(Counter({3: 1, 4: 1}), Counter({"dead letter of consent: BUG": 1}))
    assert compare.dead_row("dead", expected, stranger).unexplained == 1


def test_a_refused_body_must_be_a_dead_letter(expected: LedgerIndex) -> None:
    """It was answered, though not accepted; one that was never answered need not be there."""
    expected.acked[3] = 0
    assert compare.dead_row("dead", expected, LayerDeadLetters(Counter({4: 1}))).lost == 1
    expected.answered[3] = 0
    assert compare.dead_row("dead", expected, LayerDeadLetters(Counter({4: 1}))).good


def test_joined_records_are_wanted_exactly_once() -> None:
    """Decisions, exposures and rewards."""
    assert compare.joined_row("x", ["a", "b"], {"a": 1, "b": 1}).good
    assert compare.joined_row("x", ["a", "b"], {"a": 1}).lost == 1
    assert compare.joined_row("x", ["a"], {"a": 2}).doubled == 1
    assert compare.joined_row("x", ["a"], {"a": 1, "c": 1}).unexplained == 1


def test_a_table_mirrors_its_topic_copy_by_copy() -> None:
    """A table must have as many copies as its topic; keys of other runs are ignored."""
    assert compare.mirrored_row("x", {"a": 1, "b": 2}, {"a": 1, "b": 2, "other": 7}).good
    assert compare.mirrored_row("x", {"a": 1, "b": 2}, {"a": 1, "b": 1}).lost == 1
    assert compare.mirrored_row("x", {"a": 1, "b": 2}, {"a": 1, "b": 3}).doubled == 1
    assert compare.mirrored_row("x", {"a": 1}, {}).lost == 1


def test_anonymised_events_of_other_runs_are_nobodys(expected: LedgerIndex) -> None:
    """Several runs share a house."""
    assert walk(expected, *GOOD, Sighting("of another run", "page_view", "anonymise", 0, "", "anonymous")).good


def test_counts_must_equal_the_layers() -> None:
    """Cell by cell: two errors that cancel out are still two errors."""
    assert compare.counts_row({"consent pass": 3}, {"consent pass": 3}).good
    row = compare.counts_row({"consent pass": 3, "consent strip": 2}, {"consent pass": 2, "consent strip": 3})
    assert (row.lost, row.doubled) == (1, 1)


def test_a_refusal_is_kept_unless_an_event_after_it_shows_more(expected: LedgerIndex) -> None:
    """In whatever layer: a purpose, a field, an id; and consent again is kept unless an event after it shows less."""
    expected.after = array("i", [0, 0, 1, -1, -1, -1])
    expected.refusals = {0: RefusalLine(0, "webhook", True), 1: RefusalLine(1, "webhook", False)}
    tally = Tally(expected)
    for record in GOOD:
        tally.add_consented(record)
    assert compare.refusal_rows(expected, tally.leaks, tally.shortfalls) == [RefusalRow("webhook", 2, 2, 1, 1, 2)]
    for leak in (sighting(1, 3, "strip"), sighting(1, 1, "strip", marks={("mk", 1)})):
        spoilt = Tally(expected)
        spoilt.add_consented(leak)
        assert compare.refusal_rows(expected, spoilt.leaks, spoilt.shortfalls)[0].effective == 1
    tally.add_consented(Sighting(event_id(RUN, 2), "page_view", "anonymise"))
    tally.add_consented(sighting(0, 1, "strip"))
    assert compare.refusal_rows(expected, tally.leaks, tally.shortfalls) == [RefusalRow("webhook", 2, 1, 1, 0, 2)]
