"""Workers on one graph, in one thread: each can be interrupted at any single write, by a crash or by another worker's batch."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from infra.secrets import Secret
from infra.telemetry.metrics import Metrics
from schemas.codec import Record, decode, encode
from streams.identity.graph.limits import NOTHING, Pair
from streams.identity.graph.slots import MERGES, slot_of
from streams.identity.graph.store import ClaimHolders, MemoryGraphStore
from streams.identity.graph.union_find import GraphView, Slot, Write
from streams.identity.nodes import alias
from streams.identity.reading import CONSENTED, RESOLVED
from streams.identity.refusals.refusals import Refusals
from streams.identity.refusals.revocation import REVOCATIONS, SIGNALS
from streams.identity.stage import IdentityDependencies, IdentityStage
from streams.runtime.stage import Batch, Outcome
from tests.streams.identity.line import REGISTRY, event, revocation

ALIAS = alias(Secret("for tests only, forty characters long..."))

Nodes = tuple[str, ...]
X = TypeVar("X")
Y = TypeVar("Y")


class Ended(Exception):
    """The worker's process has crashed."""


class InterruptedStore(MemoryGraphStore):
    """A store with a hook before each single write."""

    def __init__(self) -> None:
        super().__init__()
        self.before_write: Callable[[], None] = lambda: None

    def claim(self, claims: Mapping[bytes, bytes], now: float, topic_id: str = "") -> ClaimHolders:
        """See `GraphStore`."""
        call, holders = super().claim, dict[bytes, bytes]()
        for claim in claims.items():
            holders |= self._one(lambda item: call(dict(item), now, topic_id)(), claim)
        return lambda: holders

    def write(self, writes: Sequence[Write]) -> list[bool]:
        """See `GraphStore`."""
        call = super().write
        return [self._one(call, write)[0] for write in writes]

    def admit(self, pairs: Sequence[Pair], day: int) -> list[bool]:
        """See `GraphStore`."""
        call = super().admit
        return [self._one(lambda item: call(item, day), pair)[0] for pair in pairs]

    def confirm(self, slots: Iterable[tuple[str, Slot]]) -> None:
        """See `GraphStore`."""
        for slot in slots:
            self._one(super().confirm, slot)

    def add_refusals(self, refusals: Mapping[str, Refusals]) -> None:
        """See `GraphStore`."""
        for item in refusals.items():
            self._one(lambda entry: super(InterruptedStore, self).add_refusals(dict(entry)), item)

    def confirm_refusals(self, refusals: Mapping[str, Refusals]) -> None:
        """See `GraphStore`."""
        for item in refusals.items():
            self._one(lambda entry: super(InterruptedStore, self).confirm_refusals(dict(entry)), item)

    def _one(self, call: Callable[[Sequence[X]], Y], argument: X) -> Y:
        self.before_write()
        return call([argument])


class WatchedStore(InterruptedStore):
    """A store with a hook before each single read too."""

    def read(self, nodes: Sequence[str]) -> list[Slot | None]:
        """See `GraphStore`."""
        self.before_write()
        return super().read(nodes)

    def children(self, nodes: Sequence[str]) -> list[set[str]]:
        """See `GraphStore`."""
        self.before_write()
        return super().children(nodes)

    def refusals(self, nodes: Sequence[str]) -> list[Refusals]:
        """See `GraphStore`."""
        self.before_write()
        return super().refusals(nodes)


class SureStore(InterruptedStore):
    """Negative control: a worker that takes remembered refusals for signalled."""

    def add_refusals(self, refusals: Mapping[str, Refusals]) -> None:
        """Store refusals as signalled."""
        super().add_refusals(
            {
                node: {scope: memory._replace(signalled=True) for scope, memory in memories.items()}
                for node, memories in refusals.items()
            }
        )


class TransitionStore(InterruptedStore):
    """Negative control: a worker that logs its own writes only, and not pending slots that it reads."""

    def read(self, nodes: Sequence[str]) -> list[Slot | None]:
        """Return every slot as logged."""
        return [None if slot is None else slot._replace(logged=True) for slot in super().read(nodes)]


class TightStore(InterruptedStore):
    """A store in which each holder may hold one member."""

    def admit(self, pairs: Sequence[Pair], day: int) -> list[bool]:
        """See `GraphStore`."""
        return super().admit([pair._replace(limit=pair.limit._replace(most=1)) for pair in pairs], day)


class LabelFirstStore(InterruptedStore):
    """Negative control: a worker that claims a user's label before the link."""

    def write(self, writes: Sequence[Write]) -> list[bool]:
        """Write the labels of the users that are linked, then the writes."""
        won = []
        for write in writes:
            if write.expected is None and write.node[0] != "0" and write.slot.parent[0] == "0":
                super().write([Write(write.slot.parent, None, Slot(write.node, logged=False), write.position)])
            won += super().write([write])
        return won


@dataclass
class Plan:
    """The interruptions of a run."""

    size: int
    """Events of a batch."""
    ends: dict[int, bool] = field(default_factory=dict)
    """Number of a write, over all workers -> the worker crashes before it (True), or another worker runs a batch first."""
    uncommitted: frozenset[int] = frozenset()
    """Numbers of batches whose worker crashes before the commit."""
    unconfirmed: frozenset[int] = frozenset()
    """Numbers of batches whose worker crashes between the commit and the hooks after it."""


class Withdrawal(NamedTuple):
    """A record of `consent.revocations`."""

    subject: str
    at: int
    """When, milliseconds UTC."""


class World:
    """Partitions of events or withdrawals, one worker each, and the log."""

    def __init__(
        self,
        store: InterruptedStore,
        partitions: Sequence[Sequence[tuple[int, Nodes] | Withdrawal]],
        plan: Plan,
        newer: Mapping[str, str] = NOTHING,
    ) -> None:
        self.store = store
        self._newer = newer
        """Former nodes -> nodes of the same identifiers under newer keys."""
        self.log: list[Record] = []
        self.signals: list[Record] = []
        """Committed signals to the consent room."""
        self.outputs: dict[int, list[Record]] = {}
        """Number of an event -> records that left for it."""
        self._partitions = partitions
        self._plan = plan
        self._next = [0] * len(partitions)
        self._workers = [self._worker() for _ in partitions]
        self.writes = self._batches = 0
        self._busy = set[int]()
        store.before_write = self._before_write

    def _worker(self) -> IdentityStage:
        room = IdentityStage(REGISTRY, self.store, Metrics(), IdentityDependencies(ALIAS, renamed=self._renamed))
        room.on_broadcast(MERGES, self._broadcast(self.log))
        return room

    def _renamed(self, combinations: Iterable[Nodes]) -> Mapping[str, str]:
        both = [(node, self._newer.get(node), nodes) for nodes in combinations for node in nodes]
        return {node: newer for node, newer, nodes in both if newer is not None and newer in nodes}

    @staticmethod
    def _broadcast(records: Iterable[Record]) -> list[tuple[bytes | None, bytes | None]]:
        return [(b"", encode(REGISTRY.latest(MERGES), record)) for record in records]

    def _before_write(self) -> None:
        self.writes += 1
        happens = self._plan.ends.get(self.writes)
        if happens is True:
            raise Ended
        if happens is False:
            for worker in range(len(self._partitions)):
                if worker not in self._busy and self._next[worker] < len(self._partitions[worker]):
                    self._step(worker)
                    return

    def run(self) -> None:
        """Run until every event of every partition is processed."""
        while waiting := [at for at, n in enumerate(self._next) if n < len(self._partitions[at])]:
            self._step(waiting[self._batches % len(waiting)])
        self.store.before_write = lambda: None
        self._commit(self._workers[0].on_tick(1e9))

    def _commit(self, outcome: Outcome) -> None:
        """Append the records to the log, broadcast them, and run the hooks."""
        self._append(outcome)
        for hook in outcome.after_commit:
            hook()

    def _append(self, outcome: Outcome) -> None:
        committed = [decode(REGISTRY, value or b"")[1] for _, value, _ in outcome.out.get(MERGES, ())]
        self.log += committed
        self.signals += [decode(REGISTRY, value or b"")[1] for _, value, _ in outcome.out.get(SIGNALS, ())]
        for other in self._workers:
            other.on_broadcast(MERGES, self._broadcast(committed))

    def _step(self, worker: int) -> None:
        """Run one batch of a worker; a worker that crashes restarts from its last commit."""
        self._busy.add(worker)
        self._batches += 1
        number, first = self._batches, self._next[worker]
        items = self._partitions[worker][first : first + self._plan.size]
        topic = REVOCATIONS if isinstance(items[0], Withdrawal) else CONSENTED
        values = [
            revocation(item.subject, withdrawn_ts=item.at) if isinstance(item, Withdrawal) else event(*item) for item in items
        ]
        batch = Batch(topic, worker, [b"k"] * len(values), values, range(first, first + len(values)))
        try:
            outcome = self._workers[worker].handle(batch, 0)
            if number in self._plan.uncommitted:
                raise Ended
            self._next[worker] = first + len(values)
            for _, value, _ in outcome.out.get(RESOLVED, ()):
                record = decode(REGISTRY, value or b"")[1]
                self.outputs.setdefault(int(record["event_id"][1:]), []).append(record)
            self._append(outcome)
            if number in self._plan.unconfirmed:
                raise Ended
            for hook in outcome.after_commit:
                hook()
        except Ended:
            self._workers[worker] = self._worker()
        finally:
            self._busy.discard(worker)

    # -- results

    def live(self) -> dict[str, Slot]:
        """Return the graph in the store."""
        return {node: slot._replace(logged=True) for node, slot in self.store.slots.items()}

    def logged(self) -> dict[str, Slot]:
        """Return the graph by its log alone, whatever its order."""
        slots: dict[str, Slot] = {}
        for record in self.log:
            slot, current = slot_of(record), slots.get(record["node"])
            if current is None or current.epoch <= slot.epoch:
                slots[record["node"]] = slot
        return slots


def groups_of(slots: dict[str, Slot], nodes: Iterable[str]) -> set[frozenset[str]]:
    """Return the sets of nodes that have the same root."""
    view = GraphView({**dict.fromkeys(nodes), **slots})
    groups: dict[str, set[str]] = {}
    for node in nodes:
        groups.setdefault(view.find(node), set()).add(node)
    return {frozenset(group) for group in groups.values()}
