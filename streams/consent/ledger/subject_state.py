"""What a worker keeps of the ledger: states by partition, those not yet in the view, and where each audit chain ends."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Self

from infra.telemetry.metrics import Metrics
from streams.consent.decision.audit import ChainHead
from streams.consent.decision.decision_cache import DecisionCache, EncodedDecision, EventSignals
from streams.consent.ledger.ledger import REFUSALS, SEEN_DENIED, Times, entry, is_refused, merge
from streams.consent.ledger.store import States, StateStore, state_key
from streams.consent.policy import BITS

KEPT_STATES = 200_000
"""A worker's, of all its partitions. Subjects without a state are kept too: most have none."""
KEPT_VISITORS = 32_768
"""A worker's too. They are few because each may hold on to what it said, which is larger than a state."""

REFUSING = frozenset(entry(purpose, refusal) for purpose in BITS for refusal in REFUSALS)
UNDATED = frozenset(entry(purpose, SEEN_DENIED) for purpose in BITS)
OTHERS_KEPT_S = 1.0
"""How long what was read of an event's other identifiers is believed: another worker may learn something of them."""
VIEWS_AT_ONCE = 4
"""Partitions whose views are opened between two batches."""

Scope = tuple[str, str]
"""(regulation, group of sites) that something is remembered for."""
Place = tuple[Scope, bytes]
"""Scope and subject of a state."""


class SubjectState:
    """The state of one subject, and what it has learned from last."""

    __slots__ = ("learned_from", "refuses", "refuses_undated", "times", "until")

    def __init__(self, times: Times) -> None:
        self.times = times
        self.refuses = not REFUSING.isdisjoint(times) and any(is_refused(times, purpose) for purpose in BITS)
        self.refuses_undated = not UNDATED.isdisjoint(times)
        self.learned_from = 0
        """Number of what was learned from last."""
        self.until = 0
        """Collector time from which the same is worth learning from again, milliseconds UTC."""

    def knows(self, number: int, time: int) -> bool:
        """Whether an event of this time that says this tells nothing new."""
        return self.learned_from == number and time < self.until

    def has_learned(self, number: int, until: int) -> Self:
        """Take down that it knows this, until then."""
        self.learned_from, self.until = number, until
        return self


Visitor = tuple[DecisionCache, EventSignals, str, int, int, dict[int, EncodedDecision]]
"""A subject with one identifier, whose last event said what its state knows: the same again needs no look-up, teaches nothing.

Its event's lineage and what it said; the group of the site; the collector times from and until which that holds (milliseconds
UTC, within the day of what was said); and the decisions by rule, under what is remembered of it.
"""


Table = dict[bytes, SubjectState | None]
"""Subject -> what is known, None for nothing. One for each scope."""


class PartitionState:
    """One partition, as long as the worker holds it."""

    def __init__(self, head: ChainHead) -> None:
        self.head = head
        self.tables: dict[Scope, Table] = {}
        self.others: dict[Place, SubjectState | None] = {}
        """Of identifiers that events have beside their keys: their states are kept elsewhere."""
        self.others_until = 0.0
        self.kept = 0
        self.visitors: dict[bytes, Visitor] = {}
        """By subject."""
        self.unsaved: dict[str, Times] = {}
        """Changed and not in the view yet: committed a moment ago, or about to be."""
        self.committed: dict[str, Times] = {}
        """Of those, what is committed and waits for the store."""
        self.open = False

    def refresh_others(self, subject: bytes) -> None:
        """Let events that have this subject beside their key know what was just learned of it."""
        for scope, table in self.tables.items():
            if (scope, subject) in self.others and subject in table:
                self.others[scope, subject] = table[subject]

    def table(self, scope: Scope) -> Table:
        """The subjects of one scope."""
        table = self.tables.get(scope)
        if table is None:
            table = self.tables[scope] = {}
        return table


class LedgerCache:
    """All partitions of one worker."""

    def __init__(self, store: StateStore, metrics: Metrics, partition_of: Callable[[bytes], int]) -> None:
        self._store = store
        self._partition_of = partition_of
        self._metrics = metrics
        self._holdings: dict[int, PartitionState] = {}

    def restore(self, partition: int, head: ChainHead | None) -> None:
        """Begin a partition at the end of its audit chain; None = as far as is known."""
        holding = self._holdings.setdefault(partition, PartitionState(ChainHead()))
        if head is not None:
            holding.head = head

    def revoke(self, partition: int) -> None:
        """Forget a partition."""
        self._holdings.pop(partition, None)

    def drop(self, partition: int) -> None:
        """Forget what was looked up for a partition; it is looked up again."""
        holding = self._holdings.get(partition)
        if holding is not None:
            holding.tables, holding.visitors, holding.others, holding.kept = {}, {}, {}, 0

    def trim(self, partition: int, now: float) -> None:
        """Keep memory bounded; between batches only, because a batch relies on what it has looked up. `now`: seconds UTC."""
        holding = self._holdings.get(partition)
        if holding is not None and not now <= holding.others_until <= now + OTHERS_KEPT_S:
            holding.others, holding.others_until = {}, now + OTHERS_KEPT_S
        if holding is not None and holding.kept > KEPT_STATES // len(self._holdings):
            self.drop(partition)
        elif holding is not None and len(holding.visitors) > KEPT_VISITORS // len(self._holdings):
            holding.visitors = {}

    def forget(self) -> None:
        """Forget what was looked up; for another policy, whose scopes are others."""
        for partition in self._holdings:
            self.drop(partition)

    def holding(self, partition: int) -> PartitionState:
        """A partition whose view is complete. Retryable while the store is away."""
        holding = self._holdings.setdefault(partition, PartitionState(ChainHead()))
        if not holding.open:
            self._store.open(partition)
            holding.open = True
        return holding

    def open_views(self) -> None:
        """Open views of partitions that no batch has opened yet, and those that were lost. Retryable.

        A few at a time: the worker does nothing else meanwhile.
        """
        for partition in self._store.incomplete(list(self._holdings))[:VIEWS_AT_ONCE]:
            self._store.open(partition)
            self._holdings[partition].open = True

    def load(self, partition: int, missing: Iterable[Place]) -> None:
        """Look up subjects that are not known yet, in one round trip. Retryable."""
        places = list(missing)
        if not places:
            return
        holding = self.holding(partition)
        keys = [state_key(*scope, subject.decode()) for scope, subject in places]
        for (scope, subject), key, stored in zip(places, keys, self._store.read(partition, keys), strict=True):
            unsaved = holding.unsaved.get(key)
            times = stored if unsaved is None else merge(stored or {}, unsaved)
            holding.table(scope)[subject] = None if times is None else SubjectState(times)
        holding.kept += len(places)
        self._metrics.count("headwater_consent_lookups_total", len(places))

    def load_others(self, partition: int, missing: Iterable[Place]) -> None:
        """Look up identifiers that are not their event's key, wherever their states are kept, in one round trip. Retryable."""
        places = list(missing)
        if not places:
            return
        by_partition: dict[int, list[Place]] = {}
        for place in places:
            by_partition.setdefault(self._partition_of(place[1]), []).append(place)
        keys = {
            elsewhere: [state_key(*scope, subject.decode()) for scope, subject in some]
            for elsewhere, some in by_partition.items()
        }
        stored = self._store.read_elsewhere(keys)
        others = self.holding(partition).others
        for elsewhere, some in by_partition.items():
            unsaved = self._holdings[elsewhere].unsaved if elsewhere in self._holdings else {}
            for place, key in zip(some, keys[elsewhere], strict=True):
                times = merge(stored[key] or {}, unsaved.get(key, {}))
                others[place] = SubjectState(times) if times else None
        self._metrics.count("headwater_consent_lookups_total", len(places))

    def saving(self, partition: int, states: States, at: int) -> partial[None]:
        """The hook that writes these states to the view once they are committed."""
        self.holding(partition).unsaved.update(states)
        return partial(self._save, partition, states, at)

    def _save(self, partition: int, states: States, at: int) -> None:
        holding = self._holdings.get(partition)
        if holding is None:  # the next owner finds them on the topic
            self._store.write(partition, states, at)
            return
        # Whatever an earlier hook could not write goes too: the view is complete up to `at`, or not said to be.
        holding.committed.update(states)
        self._store.write(partition, holding.committed, at)
        for key, times in holding.committed.items():
            if holding.unsaved.get(key) is times:
                del holding.unsaved[key]
        holding.committed = {}
