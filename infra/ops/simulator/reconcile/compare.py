"""Compares tallies of layers with the ledger: lost, doubled, forbidden and unexplained records. Pure."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from infra.ops.simulator.ledger import ANONYMISED, DEAD, POISON, RESOLVED, LedgerIndex
from infra.ops.simulator.reconcile.tally import Tally
from infra.ops.simulator.truth import ALL


@dataclass(frozen=True, slots=True)
class LayerVerdict:
    """Result of one layer."""

    layer: str
    expected: int
    observed: int
    lost: int = 0
    doubled: int = 0
    forbidden: int = 0
    unexplained: int = 0
    notes: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether every record is accounted for."""
        return not (self.lost or self.doubled or self.forbidden or self.unexplained)


@dataclass
class LayerDeadLetters:
    """Dead letters of one layer."""

    copies: Counter[int] = field(default_factory=Counter)
    """Event number -> dead letters about it."""
    unexplained: Counter[str] = field(default_factory=Counter)


def raw_row(expected: LedgerIndex, raw: Tally) -> LayerVerdict:
    """Check `events.raw`: every acknowledged event at least once. Copies are allowed, because clients retry."""
    required = lost = observed = 0
    for fate, acked, copies in zip(expected.fates, expected.acked, raw.copies, strict=True):
        if fate not in (RESOLVED, ANONYMISED, POISON):
            continue
        required += acked > 0
        lost += acked > 0 and copies == 0
        observed += copies > 0
    return _row("events.raw", _Cells(required, observed, lost, 0), raw)


def consented_row(expected: LedgerIndex, raw: Tally, anonymous: Mapping[str, int], consented: Tally) -> LayerVerdict:
    """Check `events.consented`: one record per copy in `events.raw`. `anonymous`: ids of anonymised copies -> count."""
    required = observed = lost = doubled = 0
    for fate, before, after in zip(expected.fates, raw.copies, consented.copies, strict=True):
        if fate == RESOLVED:
            required += before
            observed += after
            lost += max(0, before - after)
            doubled += max(0, after - before)
    cells = _sum(_Cells(required, observed, lost, doubled), _by_id(anonymous, consented.anonymised))
    return _row("events.consented", cells, consented)


def once_row(layer: str, expected: LedgerIndex, anonymous: Mapping[str, int], tally: Tally) -> LayerVerdict:
    """Check `events.resolved` or ClickHouse: every event exactly once. `anonymous`: ids of anonymised copies -> count."""
    required = observed = lost = doubled = 0
    for fate, acked, copies in zip(expected.fates, expected.acked, tally.copies, strict=True):
        if fate == RESOLVED:
            required += acked > 0
            observed += copies
            lost += acked > 0 and copies == 0
            doubled += max(0, copies - 1)
    cells = _sum(_Cells(required, observed, lost, doubled), _by_id(anonymous, tally.anonymised))
    return _row(layer, cells, tally)


def profiles_row(tally: Tally, layer: str = "profiles") -> LayerVerdict:
    """Check that each person has one profile, and no two people share one."""
    owners = Counter(profile for profiles in tally.profiles.values() for profile in profiles)
    doubled = sum(len(profiles) - 1 for profiles in tally.profiles.values())
    shared = sum(n - 1 for n in owners.values())
    notes = [f"{doubled} further profiles of one person"] * bool(doubled) + [f"{shared} people on another's profile"] * bool(
        shared
    )
    return LayerVerdict(layer, len(tally.profiles), len(owners), 0, doubled, shared, 0, tuple(notes))


def dead_row(layer: str, expected: LedgerIndex, letters: LayerDeadLetters) -> LayerVerdict:
    """Check dead letters: at least one per answered invalid item, exactly one per poison record, no others."""
    required = observed = lost = doubled = 0
    notes = Counter(letters.unexplained)
    for n, fate in enumerate(expected.fates):
        copies = letters.copies.get(n, 0)
        if fate in (DEAD, POISON):
            required += expected.answered[n]
            observed += copies > 0
            lost += expected.answered[n] > 0 and copies == 0
            doubled += max(0, copies - (1 if fate == POISON else expected.attempts[n]))
        elif copies:
            notes["event that should have lived"] += copies
    return LayerVerdict(layer, required, observed, lost, doubled, 0, notes.total(), _notes(notes))


def joined_row(layer: str, required: Iterable[str], observed: Mapping[str, int], lawful: Iterable[str] = ()) -> LayerVerdict:
    """Check bandit records by decision: each required one exactly once, each `lawful` one at most once."""
    required_ids = set(required)
    allowed = required_ids | set(lawful)
    lost = sum(1 for decision in required_ids if not observed.get(decision))
    doubled = sum(n - 1 for n in observed.values() if n > 1)
    strangers = sum(1 for decision in observed if decision not in allowed)
    notes = ("record that the ledger does not have",) * bool(strangers)
    return LayerVerdict(layer, len(required_ids), sum(observed.values()), lost, doubled, 0, strangers, notes)


def mirrored_row(layer: str, required: Mapping[str, int], observed: Mapping[str, int]) -> LayerVerdict:
    """Check that a table has the same keys and copies as its topic."""
    return LayerVerdict(layer, *_by_id(required, {key: n for key, n in observed.items() if key in required}))


def counts_row(layers: Mapping[str, int], counted: Mapping[str, int]) -> LayerVerdict:
    """Compare `stream.counts` with the layers, cell by cell."""
    lost = doubled = 0
    notes = []
    for cell in sorted(set(layers) | set(counted)):
        difference = counted.get(cell, 0) - layers.get(cell, 0)
        lost += max(0, -difference)
        doubled += max(0, difference)
        if difference:
            notes.append(f"{cell}: counted {counted.get(cell, 0)}, found {layers.get(cell, 0)}")
    return LayerVerdict("stream.counts", sum(layers.values()), sum(counted.values()), lost, doubled, 0, 0, tuple(notes))


@dataclass
class RefusalRow:
    """The refusals of one channel, and how many were effective."""

    channel: str
    played: int = 0
    effective: int = 0
    """Refusals that held for every later event, in every layer."""
    consented_again: int = 0
    """Refusals after which the visitor consented, later in the run."""
    granted_again: int = 0
    """Those after which every event with full consent has all its fields."""
    events: int = 0
    """Events that had to lose something."""


def refusal_rows(expected: LedgerIndex, leaks: Collection[int], shortfalls: Collection[int]) -> list[RefusalRow]:
    """Return refusals by channel. `leaks`, `shortfalls`: events that showed more, or less, than granted, in any layer."""
    after = expected.after
    leaked, short = {after[n] for n in leaks if n < len(after)}, {after[n] for n in shortfalls if n < len(after)}
    rows: dict[str, RefusalRow] = {}
    for refusal in expected.refusals.values():
        row = rows.setdefault(refusal.channel, RefusalRow(refusal.channel))
        row.played += 1
        row.effective += refusal.number not in leaked
        row.consented_again += refusal.consented_again
        row.granted_again += refusal.consented_again and refusal.number not in short
    for n, number in enumerate(after):
        if number in expected.refusals and expected.masks[n] != ALL and expected.fates[n] in (RESOLVED, ANONYMISED):
            rows[expected.refusals[number].channel].events += 1
    return list(rows.values())


class FaultTotals(NamedTuple):
    """Numbers of faulty records over all layers."""

    lost: int
    doubled: int
    forbidden: int
    unexplained: int


def total(rows: Iterable[LayerVerdict]) -> FaultTotals:
    """Return the faults over all layers."""
    rows = tuple(rows)
    return FaultTotals(
        sum(row.lost for row in rows),
        sum(row.doubled for row in rows),
        sum(row.forbidden for row in rows),
        sum(row.unexplained for row in rows),
    )


class _Cells(NamedTuple):
    expected: int
    observed: int
    lost: int
    doubled: int


def _by_id(expected: Mapping[str, int], observed: Mapping[str, int]) -> _Cells:
    ids = set(expected) | set(observed)
    differences = [observed.get(name, 0) - expected.get(name, 0) for name in ids]
    return _Cells(
        sum(expected.values()),
        sum(observed.values()),
        sum(max(0, -difference) for difference in differences),
        sum(max(0, difference) for difference in differences),
    )


def _sum(a: _Cells, b: _Cells) -> _Cells:
    return _Cells(*map(sum, zip(a, b, strict=True)))


def _row(layer: str, cells: _Cells, tally: Tally) -> LayerVerdict:
    notes = _notes(tally.forbidden) + _notes(tally.unexplained)
    return LayerVerdict(layer, *cells, tally.forbidden.total(), tally.unexplained.total(), notes)


def _notes(counter: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(f"{n} x {text}" for text, n in sorted(counter.items()) if n)
