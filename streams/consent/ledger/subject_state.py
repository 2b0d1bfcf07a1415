"""What a worker holds of the ledger in memory: states by partition, those not yet in the view, and the audit chains' heads."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Self

from infra.telemetry.metrics import Metrics
from streams.consent.decision.audit import ChainHead
from streams.consent.decision.decision_cache import KnownVisitor
from streams.consent.ledger.ledger import REFUSALS, SEEN_DENIED, Times, entry_name, is_refused, merge
from streams.consent.ledger.store import States, StateStore, state_key
from streams.consent.policy import BITS

MAX_STATES = 200_000
"""Of a worker, all partitions together. Subjects without a state count too: most have none."""
MAX_VISITORS = 32_768
"""Of a worker too. Fewer, because each may hold on to its signals, which are larger than a state."""

REFUSING = frozenset(entry_name(purpose, refusal) for purpose in BITS for refusal in REFUSALS)
UNDATED = frozenset(entry_name(purpose, SEEN_DENIED) for purpose in BITS)
OTHERS_VALID_S = 1.0
"""How long states of an event's other identifiers are believed: another worker may change them."""
MAX_OPENED = 4
"""Views that are opened in one tick."""

Scope = tuple[str, str]
"""(regulation, group of sites) that a state is stored for."""


StateKey = tuple[Scope, bytes]
"""What one state is stored under: scope and subject. A plain tuple, because several are made for each event."""


class SubjectState:
    """The stored state of one subject, and which signals it already covers."""

    __slots__ = ("known_signals", "refuses", "refuses_undated", "times", "until")

    def __init__(self, times: Times) -> None:
        self.times = times
        self.refuses = not REFUSING.isdisjoint(times) and any(is_refused(times, purpose) for purpose in BITS)
        self.refuses_undated = not UNDATED.isdisjoint(times)
        self.known_signals = 0
        """Number of the `EventSignals` that were stored last."""
        self.until = 0
        """Collector time from which the same signals may add something, milliseconds UTC."""

    def knows(self, number: int, time: int) -> bool:
        """Whether an event of this time with these signals adds nothing."""
        return self.known_signals == number and time < self.until

    def mark_known(self, number: int, until: int) -> Self:
        """Note that these signals add nothing before `until`."""
        self.known_signals, self.until = number, until
        return self


StateTable = dict[bytes, SubjectState | None]
"""Subject -> stored state, None where there is none. One table for each scope."""


class PartitionState:
    """What a worker holds in memory of one partition."""

    def __init__(self, head: ChainHead) -> None:
        self.head = head
        self.tables: dict[Scope, StateTable] = {}
        self.others: dict[StateKey, SubjectState | None] = {}
        """States of identifiers beside the events' keys; their own records may lie on other partitions."""
        self.others_until = 0.0
        """Until when `others` is believed, seconds UTC."""
        self.looked_up = 0
        """States in `tables`."""
        self.visitors: dict[bytes | None, KnownVisitor] = {}
        """By subject."""
        self.unsaved: dict[str, Times] = {}
        """Changed states that are not in the view yet: committed just now, or about to be."""
        self.committed: dict[str, Times] = {}
        """Those of `unsaved` that are committed and wait for the store."""
        self.open = False

    def refresh_others(self, subject: bytes) -> None:
        """Copy a subject's states to `others`, where events have it beside their key."""
        for scope, table in self.tables.items():
            if (scope, subject) in self.others and subject in table:
                self.others[scope, subject] = table[subject]

    def table(self, scope: Scope) -> StateTable:
        """The states of one scope."""
        table = self.tables.get(scope)
        if table is None:
            table = self.tables[scope] = {}
        return table


class LedgerCache:
    """All partitions of one worker, and the look-ups in the view."""

    def __init__(self, store: StateStore, metrics: Metrics, partition_of: Callable[[bytes], int]) -> None:
        self._store = store
        self._partition_of = partition_of
        self._metrics = metrics
        self._partitions: dict[int, PartitionState] = {}

    def restore(self, partition: int, head: ChainHead | None) -> None:
        """Take over a partition at the head of its audit chain; None = the head that is known."""
        state = self._partitions.setdefault(partition, PartitionState(ChainHead()))
        if head is not None:
            state.head = head

    def revoke(self, partition: int) -> None:
        """Forget a partition that another worker takes over."""
        self._partitions.pop(partition, None)

    def drop(self, partition: int) -> None:
        """Forget what was looked up for a partition."""
        state = self._partitions.get(partition)
        if state is not None:
            state.tables, state.visitors, state.others, state.looked_up = {}, {}, {}, 0

    def trim(self, partition: int, now: float) -> None:
        """Bound memory. Call it between batches only: a batch relies on what it has looked up. `now`: seconds UTC."""
        state = self._partitions.get(partition)
        if state is not None and not now <= state.others_until <= now + OTHERS_VALID_S:
            state.others, state.others_until = {}, now + OTHERS_VALID_S
        if state is not None and state.looked_up > MAX_STATES // len(self._partitions):
            self.drop(partition)
        elif state is not None and len(state.visitors) > MAX_VISITORS // len(self._partitions):
            state.visitors = {}

    def drop_all(self) -> None:
        """Forget what was looked up for all partitions."""
        for partition in self._partitions:
            self.drop(partition)

    def partition(self, partition: int) -> PartitionState:
        """The state of a partition, whose view is complete. Retryable while the store is away."""
        state = self._partitions.setdefault(partition, PartitionState(ChainHead()))
        if not state.open:
            self._store.open(partition)
            state.open = True
        return state

    def open_views(self) -> None:
        """Open views that no batch has opened yet, and those that were lost: `MAX_OPENED` at most, because the worker waits.

        Retryable.
        """
        for partition in self._store.incomplete(list(self._partitions))[:MAX_OPENED]:
            self._store.open(partition)
            self._partitions[partition].open = True

    def load(self, partition: int, missing: Iterable[StateKey]) -> None:
        """Look up states that are not in memory, in one round trip. Retryable."""
        keys = list(missing)
        if not keys:
            return
        state = self.partition(partition)
        names = list(map(_view_name, keys))
        for (scope, subject), name, stored in zip(keys, names, self._store.read(partition, names), strict=True):
            unsaved = state.unsaved.get(name)
            times = stored if unsaved is None else merge(stored or {}, unsaved)
            state.table(scope)[subject] = None if times is None else SubjectState(times)
        state.looked_up += len(keys)
        self._metrics.count("headwater_consent_lookups_total", len(keys))

    def load_others(self, partition: int, missing: Iterable[StateKey]) -> None:
        """Look up states of identifiers beside their event's key, on whatever partition, in one round trip. Retryable."""
        by_partition: dict[int, list[StateKey]] = {}
        for key in missing:
            by_partition.setdefault(self._partition_of(key[1]), []).append(key)
        if not by_partition:
            return
        stored = self._store.read_elsewhere({at: list(map(_view_name, keys)) for at, keys in by_partition.items()})
        others = self.partition(partition).others
        for at, keys in by_partition.items():
            unsaved = self._partitions[at].unsaved if at in self._partitions else {}
            for key in keys:
                name = _view_name(key)
                times = merge(stored[name] or {}, unsaved.get(name, {}))
                others[key] = SubjectState(times) if times else None
        self._metrics.count("headwater_consent_lookups_total", sum(map(len, by_partition.values())))

    def save_after_commit(self, partition: int, states: States, at: int) -> partial[None]:
        """A hook that writes these states to the view once they are committed."""
        self.partition(partition).unsaved.update(states)
        return partial(self._save, partition, states, at)

    def _save(self, partition: int, states: States, at: int) -> None:
        state = self._partitions.get(partition)
        if state is None:  # the next owner reads them from the topic
            self._store.write(partition, states, at)
            return
        # What an earlier hook could not write goes too: the view is complete up to `at`, or not marked as complete.
        state.committed.update(states)
        self._store.write(partition, state.committed, at)
        for key, times in state.committed.items():
            if state.unsaved.get(key) is times:
                del state.unsaved[key]
        state.committed = {}


def _view_name(key: StateKey) -> str:
    scope, subject = key
    return state_key(*scope, subject.decode())
