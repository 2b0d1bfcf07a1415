"""The graph as one worker sees it: read level by level, written until every link that a batch asks for is won.

One round trip for all nodes and event ids of a batch, one more for each step up that is not remembered; then links and
demotions, then labels, each in one round trip. Everything written is safe to write again.
"""

from collections.abc import Iterable, Sequence

from infra.errors import Retryable
from streams.identity.rules import ERASED, Events, Slot, View, Write, plan, plan_labels, undo
from streams.identity.store import GraphStore

KEPT_SLOTS = 200_000
ROUNDS = 50
"""How often a batch starts its links anew because other workers were faster, before it waits a little."""

Met = dict[str, Slot | None]
"""What a batch has read or written of the graph, and not remembered."""


class Graph:
    """A store, and a bounded memory of slots that are in the log: other workers' rewrites reach it by broadcast."""

    def __init__(self, store: GraphStore) -> None:
        self.store = store
        self._kept: dict[str, Slot] = {}
        self.erased: dict[str, Slot] = {}
        """All there are: what was erased must be known even while the store is away. Few are."""

    def known(self, nodes: Iterable[str]) -> dict[str, Slot | None]:
        """What is remembered of nodes."""
        return {node: self._kept.get(node) for node in nodes}

    def look_up(self, view: View, met: Met, nodes: Iterable[str], keys: Sequence[str]) -> dict[str, str | None]:
        """Everything that links of `nodes` hang on, level by level, into `view`; and which places hold the events `keys`."""
        wanted: Iterable[str] = set(nodes)
        ahead = keys
        held: dict[str, str | None] = {}
        while True:
            wanted = self._climb(view, wanted)
            if not wanted and not ahead:
                return held
            read = list(wanted)
            slots, places = self.store.read(read, ahead)
            held.update(zip(ahead, places, strict=True))
            ahead = ()
            found = dict(zip(read, slots, strict=True))
            view.slots.update(found)
            met.update(found)
            wanted = read

    def _climb(self, view: View, nodes: Iterable[str]) -> set[str]:
        """Follow `nodes` up through what is kept; what must be asked for comes back."""
        missing = view.missing(nodes)
        while known := {node: slot for node in missing if (slot := self._kept.get(node)) is not None}:
            view.slots.update(known)
            missing = view.missing(missing)
        return missing

    def settle(self, view: View, met: Met, events: Events) -> dict[str, Write]:
        """Win every link, demotion and label that the events ask for; node -> its last write of ours. Retryable."""
        won: dict[str, Write] = {}
        full: dict[str, str] = {}
        admitted: set[tuple[str, str]] = set()
        for _ in range(ROUNDS):
            writes, pairs = plan(view, events, full)
            asked = [pair for pair in dict.fromkeys(pairs) if pair[:2] not in admitted]
            if asked:
                answers = self.store.admit(asked)
                admitted.update(pair[:2] for pair in asked)
                refused = {pair.holder: pair.limit[0] for pair, room in zip(asked, answers, strict=True) if not room}
                if refused:
                    full |= refused
                    undo(view, writes)
                    continue
            if self._write(view, met, writes, won) and self._write(view, met, plan_labels(view, events), won):
                return won
        raise Retryable("other workers link the same nodes all the time")

    def _write(self, view: View, met: Met, writes: Sequence[Write], won: dict[str, Write]) -> bool:
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
            self.look_up(view, met, lost, ())
        return not lost

    def keep(self, view: View) -> None:
        """Remember slots that are in the log."""
        for node, slot in view.slots.items():
            if slot is not None and slot.logged:
                self.keep_slot(node, slot)

    def keep_slot(self, node: str, slot: Slot) -> None:
        """Remember one, unless a newer one is remembered."""
        if slot.state == ERASED:
            self.erased[node] = slot
        known = self._kept.get(node)
        if known is not None and known.epoch > slot.epoch:
            return
        if known is None and len(self._kept) >= KEPT_SLOTS:
            self._kept.pop(next(iter(self._kept)))
        self._kept[node] = slot
