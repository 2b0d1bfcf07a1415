"""Events to profiles: duplicates dropped, links won, each event stamped, and what was found out on its way to the log."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from infra.telemetry.metrics import Metrics
from schemas.codec import HEADER_BYTES, encode
from schemas.registry import Registry
from streams.identity.evidence import CONFLICTS, LinkEvidence, conflict_record
from streams.identity.graph.graph import Graph, Met
from streams.identity.graph.identifier_set import SHARED_IDS, STAMPED, UNRESOLVED, IdentifierSet, ResolvedColumns
from streams.identity.graph.recent import RecentEvents
from streams.identity.graph.slots import MERGES, SlotLog
from streams.identity.graph.store import first_places
from streams.identity.graph.union_find import ERASED, GraphView, Slot, Write, home, live, unlogged
from streams.identity.nodes import Alias
from streams.identity.reading import DAY_MS, MINUTE_MS, RESOLVED, BatchReader, EventOrigin, IdentityEvent
from streams.identity.refusals.handover import Handover
from streams.runtime.stage import BY_KEY, Batch, CountCell, Outcome, Output

DUPLICATE, ERASURE = "DUPLICATE", "ERASED"


class Resolver:
    """Works on batches of events with a graph, or without it while it is away."""

    def __init__(self, registry: Registry, graph: Graph, metrics: Metrics, alias: Alias, handover: Handover) -> None:
        self._registry = registry
        self._graph = graph
        self._metrics = metrics
        self._alias = alias
        self._handover = handover
        self.evidence = LinkEvidence(registry)
        self._reader = BatchReader(registry)
        self._slots = SlotLog(registry)
        self._recent = RecentEvents()

    def resolve(self, batch: Batch, now: float) -> Outcome:
        """Everything. Away while the graph is; Retryable while a contract is unknown."""
        outcome = Outcome()
        events = self._reader.read(outcome, batch, now)
        claims, held = _claims(batch, events)
        claimed = self._graph.store.claim(claims, now, batch.topic_id)  # it is answered while the graph is looked up
        view, met = GraphView(), Met()
        firsts = _firsts(events)
        closer = self._graph.look_up(view, met, firsts)
        held |= self._recent.held(claims)
        held |= claimed()
        self._recent.remember(claims, held)
        alive = self._without_erased(outcome, view.slots, closer, _without_duplicates(outcome, batch, events, held))
        firsts = firsts if len(alive) == len(events) else _firsts(alive)
        asking = {found: event.at for found, event in firsts.items() if found.nodes}
        # By the clock of the events that ask: a backlog of days is not one day's.
        day = max((event.collector_ts for found, event in firsts.items() if found in closer), default=0) // DAY_MS
        won = self._graph.settle(view, met, asking, closer, day)
        self._graph.keep(view)
        stamps: dict[IdentifierSet, ResolvedColumns] = {}
        for found in firsts:
            stamps[found] = found.stamp if found.stamp and found not in closer else self._looked_up(view, found)
        self._stamp(outcome, alive, stamps)
        self._log(outcome, view, met, won, events)
        self.evidence.add(outcome, firsts, stamps)
        return outcome

    def pass_on(self, batch: Batch, now: float) -> Outcome:
        """Nothing but a stamp: the strongest node that is not known to be shared. Erased ones are known here, and retries."""
        outcome = Outcome()
        events = self._reader.read(outcome, batch, now)
        claims, held = _claims(batch, events)
        held |= self._recent.held(claims)
        self._recent.remember(claims, held)
        events = _without_duplicates(outcome, batch, events, held)
        alive = self._without_erased(outcome, self._graph.erased, _firsts(events), events)
        self._stamp(outcome, alive, {found: self._alone(found) for found in _firsts(alive)})
        return outcome

    def _without_erased(
        self,
        outcome: Outcome,
        slots: Mapping[str, Slot | None],
        combinations: Iterable[IdentifierSet],
        events: list[IdentityEvent],
    ) -> list[IdentityEvent]:
        """Events that no erased person can have sent before she was erased: a replay does not bring her back."""
        until: dict[IdentifierSet, int] = {}
        for found in combinations:
            for node in found.nodes:
                slot = slots.get(node)
                if slot is not None and slot.state == ERASED:
                    until[found] = max(slot.since, until.get(found, 0))
        if not until:
            return events
        alive = []
        for event in events:
            if event.combination in until and event.collector_ts <= until[event.combination]:
                _drop(outcome, event, ERASURE)
            else:
                alive.append(event)
        return alive

    # -- what leaves

    def _looked_up(self, view: GraphView, found: IdentifierSet) -> ResolvedColumns:
        """What a combination that was looked at closer is stamped with."""
        nodes = found.nodes
        alive = live(view, nodes)
        if not alive:
            return found.stamped(self._alias(nodes[0], view.epoch(nodes[0])), SHARED_IDS, ())
        root = home(view, alive)
        slot = view.slots.get(root)
        if slot is not None and slot.state == ERASED:
            return found.stamped(self._alias(root, slot.epoch), SHARED_IDS, alive)
        return found.stamped(view.label(root) or "", STAMPED, alive)

    def _alone(self, found: IdentifierSet) -> ResolvedColumns:
        """What it is stamped with while the graph is away."""
        nodes = found.nodes
        if not nodes and found.stamp:
            return found.stamp
        view = GraphView(self._graph.known(nodes))
        alive = live(view, nodes)
        return found.stamped(alive[0] if alive else self._alias(nodes[0], view.epoch(nodes[0])), UNRESOLVED, alive)

    def _stamp(
        self, outcome: Outcome, events: Sequence[IdentityEvent], stamps: Mapping[IdentifierSet, ResolvedColumns]
    ) -> None:
        rows: list[Output] = []
        cells: list[tuple[int, EventOrigin, str]] = []
        for _, value, combination, where, _, collector_ts, event_id, _ in events:
            key, columns, state, _ = stamps[combination]
            rows.append((key or event_id, columns + value[HEADER_BYTES:], BY_KEY))
            cells.append((collector_ts // MINUTE_MS, where, state))
        outcome.out.setdefault(RESOLVED, []).extend(rows)
        for (minute, where, state), n in Counter(cells).items():
            if not where.heartbeat:
                outcome.counts[CountCell(minute * MINUTE_MS, where.source, where.event_name, state)] += n
        outcome.passed = len(rows)

    def _log(self, outcome: Outcome, view: GraphView, met: Met, won: dict[str, Write], events: Sequence[IdentityEvent]) -> None:
        """Put every slot that may not be in the log into it, and mark it once that is committed."""
        nodes = unlogged(view, met)
        if not nodes:
            return
        by_place = {event.at: event for event in events}
        slots = [(node, slot) for node in nodes if (slot := view.slots[node]) is not None]
        logged = outcome.out.setdefault(MERGES, [])
        met_ts = max(event.collector_ts for event in events)
        for node, slot in slots:
            write = won.get(node)
            if write is None or write.slot != slot:
                # Met and not made here: whoever made it had the evidence, so no event is named.
                logged.append(self._slots.output(node, slot, "", met_ts))
                continue
            event = by_place[write.at]
            if write.rule:
                self._demoted(outcome, view, write, event)
            logged.append(self._slots.output(node, slot, event.event_id.decode(), event.collector_ts))
        self._handover.add(outcome, slots)
        outcome.after_commit.append(partial(self._graph.store.confirm, slots))

    def _demoted(self, outcome: Outcome, view: GraphView, write: Write, event: IdentityEvent) -> None:
        self._metrics.count("headwater_identity_conflicts_total", rule=write.rule)
        record = conflict_record(write, view.find(write.node), event.event_id.decode(), event.collector_ts)
        value = encode(self._registry.latest(CONFLICTS), record)
        outcome.out.setdefault(CONFLICTS, []).append((write.node.encode(), value, BY_KEY))


def _firsts(events: Iterable[IdentityEvent]) -> dict[IdentifierSet, IdentityEvent]:
    """Each combination, in the order of their first events."""
    firsts: dict[IdentifierSet, IdentityEvent] = {}
    for event in events:
        firsts.setdefault(event[2], event)  # its combination; by name that takes half as long again
    return firsts


def _claims(batch: Batch, events: Iterable[IdentityEvent]) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    """The place of each event whose id can be told apart; and of those that come again in this batch, the first place."""
    offsets, partition = batch.offsets, batch.partition
    return first_places([(claim, b"%d:%d" % (partition, offsets[at])) for at, *_, claim in events if claim])


def _without_duplicates(
    outcome: Outcome, batch: Batch, events: list[IdentityEvent], held: Mapping[bytes, bytes]
) -> list[IdentityEvent]:
    """Events whose id belongs to their own record; the same record read again is no duplicate."""
    if not held:
        return events
    alive = []
    for event in events:
        holder = held.get(event.claim)
        if holder is None or holder == b"%d:%d" % (batch.partition, batch.offsets[event.at]):
            alive.append(event)
        else:
            _drop(outcome, event, DUPLICATE)
    return alive


def _drop(outcome: Outcome, event: IdentityEvent, reason: str) -> None:
    outcome.dropped[reason] += 1
    outcome.counts[event.cell(f"dropped:{reason}")] += 1
