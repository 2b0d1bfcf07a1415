"""One worker's view of the graph: reads slots level by level and retries until every link of a batch is written.

A batch takes one round trip for all of its nodes and one more for each level of parents that is not cached; then links and
demotions, then labels, each in one round trip. Every write is idempotent.

Identifier sets whose resolved columns are cached and still valid are not read again. If the writes of a batch, or writes of
other workers that it reads, may affect them, they are read like the others.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence

from infra.errors import Retryable
from streams.identity.graph.identifier_set import IdentifierSet
from streams.identity.graph.limits import NOTHING, Pair
from streams.identity.graph.store import GraphStore
from streams.identity.graph.union_find import ERASED, GraphView, Nodes, Slot, Write, plan, plan_labels, undo_writes

MAX_CACHED_SLOTS = 200_000
ROUNDS = 50
"""Attempts to write the links of a batch while other workers write the same slots; then the batch is retried later."""

SlotReads = dict[str, Slot | None]
"""Slots that a batch has read from the store or written to it, cached ones aside; None: the node has no slot."""


RenameLookup = Callable[[Iterable[Nodes]], Mapping[str, str]]
"""Node tuples -> former nodes and the newer nodes of the same identifiers, where a tuple has both."""


def no_renames(_node_tuples: Iterable[Nodes]) -> Mapping[str, str]:
    """Return no renames, for deployments that do not rotate keys."""
    return NOTHING


class Graph:
    """A store with a bounded cache of slots that are in the log; rewrites of other workers arrive by broadcast."""

    def __init__(self, store: GraphStore, renamed: RenameLookup = no_renames) -> None:
        self.store = store
        self._renamed = renamed
        self._cache: OrderedDict[str, Slot] = OrderedDict()
        self._generation = 0
        """Incremented by each rewritten slot, here or in another worker; invalidates all cached resolved columns."""
        self.erased: dict[str, Slot] = {}
        """All erased nodes: they must be recognised while the store is unavailable too. There are few."""

    def cached_slots(self, nodes: Iterable[str]) -> dict[str, Slot | None]:
        """Return the cached slots of nodes, None for those that are not cached."""
        return {node: self._cache.get(node) for node in nodes}

    def look_up(self, view: GraphView, reads: SlotReads, identifier_sets: Iterable[IdentifierSet]) -> set[IdentifierSet]:
        """Read every slot that these depend on into `view`, level by level; return the sets without valid cached columns.

        The store is read at least once.
        """
        cached, uncached, nodes = list[IdentifierSet](), set[IdentifierSet](), set[str]()
        for identifiers in identifier_sets:
            valid = identifiers.resolved is not None and (identifiers.generation == self._generation or not identifiers.nodes)
            if valid or identifiers.cache_columns(self._cache, self._generation):
                cached.append(identifiers)
                nodes.add(identifiers.root)
            else:
                uncached.add(identifiers)
                nodes.update(identifiers.nodes)
        nodes.discard("")
        self._read(view, reads, nodes)
        self._read_uncached(view, reads, uncached, self._with_linked_root(view, cached))
        return {identifiers for identifiers in uncached if not identifiers.cache_columns(view.slots, self._generation)}

    def _with_linked_root(self, view: GraphView, cached: Iterable[IdentifierSet]) -> list[IdentifierSet]:
        """Return the sets whose root, which had no slot, has one now."""
        slots = view.slots
        return [identifiers for identifiers in cached if identifiers.root and slots.get(identifiers.root) is not None]

    def _read_uncached(
        self, view: GraphView, reads: SlotReads, uncached: set[IdentifierSet], more: Sequence[IdentifierSet]
    ) -> None:
        if more:
            uncached.update(more)
            self._read(view, reads, {node for identifiers in more for node in identifiers.nodes})

    def _read(self, view: GraphView, reads: SlotReads, nodes: Iterable[str]) -> None:
        missing = self._follow_cached(view, nodes)
        while True:
            batch = list(missing)
            slots = dict(zip(batch, self.store.read(batch), strict=True))
            view.slots.update(slots)
            reads.update(slots)
            missing = self._follow_cached(view, batch)
            if not missing:
                return

    def _follow_cached(self, view: GraphView, nodes: Iterable[str]) -> set[str]:
        """Follow `nodes` upwards through cached slots; return the nodes that must be read from the store."""
        missing = view.missing(nodes)
        while cached := {node: slot for node in missing if (slot := self._cache.get(node)) is not None}:
            view.slots.update(cached)
            missing = view.missing(missing)
        return missing

    def apply_links(
        self,
        view: GraphView,
        reads: SlotReads,
        identifier_sets: Mapping[IdentifierSet, int],
        uncached: set[IdentifierSet],
        day: int,
    ) -> dict[str, Write]:
        """Write every link, demotion and label that these sets require; return the last own write of each node.

        `combinations` maps each set to its first event. Only sets in `uncached` are planned; sets that their writes may affect
        are added to it. `day` (since 1970) counts towards limits. Raises Retryable when other workers keep changing the same
        slots.
        """
        own_writes: dict[str, Write] = {}
        full: dict[str, str] = {}
        admitted: set[tuple[str, str]] = set()
        for _ in range(ROUNDS):
            events: dict[Nodes, int] = {}
            for identifiers, at in identifier_sets.items():
                if identifiers in uncached:
                    events.setdefault(identifiers.nodes, at)
            writes, pairs = plan(view, events, full, self._renamed(events))
            cached = [identifiers for identifiers in identifier_sets if identifiers not in uncached] if writes else []
            if affected := self._affected(view, writes, cached):
                undo_writes(view, writes)
                self._read_uncached(view, reads, uncached, affected)
            elif full_holders := self._find_full(pairs, admitted, day):
                full |= full_holders
                undo_writes(view, writes)
            elif self._write(view, reads, writes, own_writes) and self._write(
                view, reads, plan_labels(view, events), own_writes
            ):
                return own_writes
            else:
                self._read_uncached(
                    view, reads, uncached, [identifiers for identifiers in identifier_sets if identifiers not in uncached]
                )
        raise Retryable("other workers link the same nodes all the time")

    def _find_full(self, pairs: Iterable[Pair], admitted: set[tuple[str, str]], day: int) -> dict[str, str]:
        """Return holder -> rule for holders without room for a new member; pairs in `admitted` are not requested again."""
        requested = [pair for pair in dict.fromkeys(pairs) if pair[:2] not in admitted]
        answers = self.store.admit(requested, day) if requested else ()
        admitted.update(pair[:2] for pair in requested)
        return {pair.holder: pair.limit.rule for pair, room in zip(requested, answers, strict=True) if not room}

    def _affected(self, view: GraphView, writes: Sequence[Write], cached: Sequence[IdentifierSet]) -> Sequence[IdentifierSet]:
        """Return the sets that planned writes may affect: a link affects those under its root, a rewrite affects all."""
        return cached if any(write.expected is not None for write in writes) else self._with_linked_root(view, cached)

    def _write(self, view: GraphView, reads: SlotReads, writes: Sequence[Write], own_writes: dict[str, Write]) -> bool:
        """Write slots and return whether all writes were applied; slots that other workers wrote instead are read anew."""
        if not writes:
            return True
        lost_nodes = []
        for write, applied in zip(writes, self.store.write(writes), strict=True):
            if applied:
                own_writes[write.node] = write
                view.slots[write.node] = reads[write.node] = write.slot
            else:
                lost_nodes.append(write.node)
        for node in lost_nodes:
            view.slots.pop(node, None)
            self._cache.pop(node, None)
        if lost_nodes:
            self._read(view, reads, lost_nodes)
        return not lost_nodes

    # -- memory

    def remember(self, view: GraphView) -> None:
        """Cache slots that are in the log. Rewrites of slots that left the cache meanwhile arrive by broadcast."""
        cached = self._cache
        for node, slot in view.slots.items():
            if slot is not None and slot.logged and (current := cached.get(node)) is not slot:
                self._replace(node, current, slot)

    def apply_committed(self, node: str, slot: Slot) -> None:
        """Apply a slot that any worker has committed."""
        if slot.epoch:
            self._generation += 1  # a first slot is no rewrite: sets whose root has no slot read the root with every batch
        self._replace(node, self._cache.get(node), slot)

    def forget(self, node: str) -> None:
        """Remove an expired node from the cache."""
        current = self._cache.get(node)
        if current is None or not current.epoch:
            self._cache.pop(node, None)
            self._generation += 1  # even where the node is not cached: cached columns may depend on it

    def _replace(self, node: str, current: Slot | None, slot: Slot) -> None:
        """Cache a slot unless a newer one is cached."""
        if slot.state == ERASED:
            self.erased[node] = slot
        if current is None:
            if len(self._cache) >= MAX_CACHED_SLOTS:
                self._cache.popitem(last=False)
        elif current.epoch > slot.epoch:
            return
        elif current != slot:
            self._generation += 1
        self._cache[node] = slot
