"""The graph as one worker sees it: read level by level, written until every link that a batch asks for is won.

One round trip for all nodes of a batch, one more for each step up that is not remembered; then links and demotions, then
labels, each in one round trip. Everything written is safe to write again.

Combinations whose stamp is known to hold are not looked at again. What a batch writes, or finds written by others, may touch
them: those are then looked at like the others.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence

from infra.errors import Retryable
from streams.identity.graph.identifier_set import IdentifierSet
from streams.identity.graph.store import GraphStore
from streams.identity.graph.union_find import ERASED, NOTHING, GraphView, Nodes, Pair, Slot, Write, plan, plan_labels, undo

KEPT_SLOTS = 200_000
ROUNDS = 50
"""How often a batch starts its links anew because other workers were faster, before it waits a little."""

Met = dict[str, Slot | None]
"""What a batch has read or written of the graph, and not remembered."""


Renamed = Callable[[Iterable[Nodes]], Mapping[str, str]]
"""Combinations -> nodes that are former ones, and the newer nodes of the same identifiers, both in one of them."""


def no_names(_combinations: Iterable[Nodes]) -> Mapping[str, str]:
    """Where no keys are rotated."""
    return NOTHING


class Graph:
    """A store, and a bounded memory of slots that are in the log: other workers' rewrites reach it by broadcast."""

    def __init__(self, store: GraphStore, renamed: Renamed = no_names) -> None:
        self.store = store
        self._renamed = renamed
        self._kept: OrderedDict[str, Slot] = OrderedDict()
        self._age = 0
        """Grows with each slot that was rewritten, here or elsewhere: no stamp from before holds any more."""
        self.erased: dict[str, Slot] = {}
        """All there are: what was erased must be known even while the store is away. Few are."""

    def known(self, nodes: Iterable[str]) -> dict[str, Slot | None]:
        """What is remembered of nodes."""
        return {node: self._kept.get(node) for node in nodes}

    def look_up(self, view: GraphView, met: Met, combinations: Iterable[IdentifierSet]) -> set[IdentifierSet]:
        """Read all that these hang on, level by level, into `view`, the store being asked at least once. Those whose stamp is
        not sure come back."""
        sure, closer, wanted = list[IdentifierSet](), set[IdentifierSet](), set[str]()
        for found in combinations:
            known = found.stamp is not None and (found.age == self._age or not found.nodes)
            if known or found.settle(self._kept, self._age):
                sure.append(found)
                wanted.add(found.root)
            else:
                closer.add(found)
                wanted.update(found.nodes)
        wanted.discard("")
        self._read(view, met, wanted)
        self._look_closer(view, met, closer, self._moved(view, sure))
        return {found for found in closer if not found.settle(view.slots, self._age)}

    def _moved(self, view: GraphView, sure: Iterable[IdentifierSet]) -> list[IdentifierSet]:
        """Those whose root has a slot by now."""
        slots = view.slots
        return [found for found in sure if found.root and slots.get(found.root) is not None]

    def _look_closer(self, view: GraphView, met: Met, closer: set[IdentifierSet], more: Sequence[IdentifierSet]) -> None:
        if more:
            closer.update(more)
            self._read(view, met, {node for found in more for node in found.nodes})

    def _read(self, view: GraphView, met: Met, nodes: Iterable[str]) -> None:
        wanted = self._climb(view, nodes)
        while True:
            read = list(wanted)
            found = dict(zip(read, self.store.read(read), strict=True))
            view.slots.update(found)
            met.update(found)
            wanted = self._climb(view, read)
            if not wanted:
                return

    def _climb(self, view: GraphView, nodes: Iterable[str]) -> set[str]:
        """Follow `nodes` up through what is kept; what must be asked for comes back."""
        missing = view.missing(nodes)
        while known := {node: slot for node in missing if (slot := self._kept.get(node)) is not None}:
            view.slots.update(known)
            missing = view.missing(missing)
        return missing

    def settle(
        self, view: GraphView, met: Met, combinations: Mapping[IdentifierSet, int], closer: set[IdentifierSet], day: int
    ) -> dict[str, Write]:
        """Win every link, demotion and label that the combinations (each with its first event) ask for; node -> its last
        write of ours. Those of `closer` ask; those that their writes touch are added to it. `day`, since 1970, counts for
        limits. Retryable."""
        won: dict[str, Write] = {}
        full: dict[str, str] = {}
        admitted: set[tuple[str, str]] = set()
        for _ in range(ROUNDS):
            events: dict[Nodes, int] = {}
            for found, at in combinations.items():
                if found in closer:
                    events.setdefault(found.nodes, at)
            writes, pairs = plan(view, events, full, self._renamed(events))
            sure = [found for found in combinations if found not in closer] if writes else []
            if touched := self._touched(view, writes, sure):
                undo(view, writes)
                self._look_closer(view, met, closer, touched)
            elif refused := self._refused(pairs, admitted, day):
                full |= refused
                undo(view, writes)
            elif self._write(view, met, writes, won) and self._write(view, met, plan_labels(view, events), won):
                return won
            else:
                self._look_closer(view, met, closer, [found for found in combinations if found not in closer])
        raise Retryable("other workers link the same nodes all the time")

    def _refused(self, pairs: Iterable[Pair], admitted: set[tuple[str, str]], day: int) -> dict[str, str]:
        """Holder -> rule, of those without room for what they are to be linked with; nothing of `admitted` is asked again."""
        asked = [pair for pair in dict.fromkeys(pairs) if pair[:2] not in admitted]
        answers = self.store.admit(asked, day) if asked else ()
        admitted.update(pair[:2] for pair in asked)
        return {pair.holder: pair.limit.rule for pair, room in zip(asked, answers, strict=True) if not room}

    def _touched(self, view: GraphView, writes: Sequence[Write], sure: Sequence[IdentifierSet]) -> Sequence[IdentifierSet]:
        """Those that planned writes may change: a link those under its root, a rewrite whoever has the node."""
        return sure if any(write.held is not None for write in writes) else self._moved(view, sure)

    def _write(self, view: GraphView, met: Met, writes: Sequence[Write], won: dict[str, Write]) -> bool:
        """Whether all of these were won. What others have written instead is read, with all that it leads to."""
        if not writes:
            return True
        lost = []
        for write, mine in zip(writes, self.store.write(writes), strict=True):
            if mine:
                won[write.node] = write
                view.slots[write.node] = met[write.node] = write.slot
            else:
                lost.append(write.node)
        for node in lost:
            view.slots.pop(node, None)
            self._kept.pop(node, None)
        if lost:
            self._read(view, met, lost)
        return not lost

    # -- memory

    def keep(self, view: GraphView) -> None:
        """Remember slots that are in the log. One that was forgotten meanwhile is none that was rewritten: broadcasts tell."""
        kept = self._kept
        for node, slot in view.slots.items():
            if slot is not None and slot.logged and (known := kept.get(node)) is not slot:
                self._replace(node, known, slot)

    def keep_slot(self, node: str, slot: Slot) -> None:
        """Take in what any worker has committed."""
        if slot.epoch:
            self._age += 1  # a first slot is no rewrite: who hangs on a node without one reads it each time
        self._replace(node, self._kept.get(node), slot)

    def drop(self, node: str) -> None:
        """It was not seen for long, and what it pointed to is forgotten."""
        known = self._kept.get(node)
        if known is None or not known.epoch:
            self._kept.pop(node, None)
            self._age += 1  # also where it was no longer remembered: a stamp may hang on it still

    def _replace(self, node: str, known: Slot | None, slot: Slot) -> None:
        """Remember a slot, unless a newer one is remembered."""
        if slot.state == ERASED:
            self.erased[node] = slot
        if known is None:
            if len(self._kept) >= KEPT_SLOTS:
                self._kept.popitem(last=False)
        elif known.epoch > slot.epoch:
            return
        elif known != slot:
            self._age += 1
        self._kept[node] = slot
