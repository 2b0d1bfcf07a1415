"""Resolves events to profiles: drops duplicates, links nodes, writes the resolved columns, and emits slots and evidence."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from infra.telemetry.metrics import Metrics
from schemas.codec import HEADER_BYTES, encode
from schemas.registry import Registry
from streams.identity.evidence import CONFLICTS, LinkEvidence, conflict_record
from streams.identity.graph.graph import Graph, SlotReads
from streams.identity.graph.identifier_set import RESOLVED_IDS, SHARED_IDS, UNRESOLVED, IdentifierSet, ResolvedColumns
from streams.identity.graph.slots import MERGES, SlotLog
from streams.identity.graph.store import first_places
from streams.identity.graph.union_find import ERASED, GraphView, Slot, Write, home_root, live_nodes, unlogged_nodes
from streams.identity.nodes import Alias
from streams.identity.reading import DAY_MS, MINUTE_MS, RESOLVED, BatchReader, EventOrigin, IdentityEvent
from streams.identity.recent import RecentEvents
from streams.identity.refusals.handover import Handover
from streams.runtime.stage import BY_KEY, Batch, Outcome, Output

DUPLICATE, ERASURE = "DUPLICATE", "ERASED"


class Resolver:
    """Resolves batches of events with a graph, or without it while it is unavailable."""

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
        """Resolve a batch. Raises StoreUnavailable; Retryable while a contract is unknown."""
        outcome = Outcome()
        events = self._reader.read(outcome, batch, now)
        claims, holders = _claims(batch, events)
        claim_holders = self._graph.store.claim(claims, now, batch.topic_id)  # Redis answers while the graph is read
        view, reads = GraphView(), SlotReads()
        first_events = _first_events(events)
        uncached = self._graph.look_up(view, reads, first_events)
        holders |= self._recent.find_duplicates(claims)
        holders |= claim_holders()
        self._recent.remember(claims, holders)
        remaining = self._without_erased(outcome, view.slots, uncached, _without_duplicates(outcome, batch, events, holders))
        first_events = first_events if len(remaining) == len(events) else _first_events(remaining)
        linking = {identifiers: event.position for identifiers, event in first_events.items() if identifiers.nodes}
        # By the events' clock, so that a backlog of several days does not count as one day.
        latest_ts = max(
            (event.collector_ts for identifiers, event in first_events.items() if identifiers in uncached), default=0
        )
        own_writes = self._graph.apply_links(view, reads, linking, uncached, latest_ts // DAY_MS)
        self._graph.remember(view)
        columns_by_set: dict[IdentifierSet, ResolvedColumns] = {}
        for identifiers in first_events:
            columns_by_set[identifiers] = (
                identifiers.resolved
                if identifiers.resolved and identifiers not in uncached
                else self._resolved_columns(view, identifiers)
            )
        self._emit_resolved(outcome, remaining, columns_by_set)
        self._emit_slots(outcome, view, reads, own_writes, events)
        self.evidence.add(outcome, first_events, columns_by_set)
        return outcome

    def pass_unresolved(self, batch: Batch, now: float) -> Outcome:
        """Pass a batch without the graph: the profile is the strongest node that is not known to be shared.

        Erased nodes and recent duplicates are recognised without the store.
        """
        outcome = Outcome()
        events = self._reader.read(outcome, batch, now)
        claims, holders = _claims(batch, events)
        holders |= self._recent.find_duplicates(claims)
        self._recent.remember(claims, holders)
        events = _without_duplicates(outcome, batch, events, holders)
        alive = self._without_erased(outcome, self._graph.erased, _first_events(events), events)
        self._emit_resolved(
            outcome, alive, {identifiers: self._unresolved_columns(identifiers) for identifiers in _first_events(alive)}
        )
        return outcome

    def _without_erased(
        self,
        outcome: Outcome,
        slots: Mapping[str, Slot | None],
        identifier_sets: Iterable[IdentifierSet],
        events: list[IdentityEvent],
    ) -> list[IdentityEvent]:
        """Drop events of erased persons that were collected before the erasure, so that a replay does not restore them."""
        until: dict[IdentifierSet, int] = {}
        for identifiers in identifier_sets:
            for node in identifiers.nodes:
                slot = slots.get(node)
                if slot is not None and slot.state == ERASED:
                    until[identifiers] = max(slot.since, until.get(identifiers, 0))
        if not until:
            return events
        alive = []
        for event in events:
            if event.identifiers in until and event.collector_ts <= until[event.identifiers]:
                _drop(outcome, event, ERASURE)
            else:
                alive.append(event)
        return alive

    # -- what leaves

    def _resolved_columns(self, view: GraphView, identifiers: IdentifierSet) -> ResolvedColumns:
        """Return the columns of a set that was read from the graph."""
        nodes = identifiers.nodes
        alive = live_nodes(view, nodes)
        if not alive:
            return identifiers.build_columns(self._alias(nodes[0], view.epoch(nodes[0])), SHARED_IDS, ())
        root = home_root(view, alive)
        slot = view.slots.get(root)
        if slot is not None and slot.state == ERASED:
            return identifiers.build_columns(self._alias(root, slot.epoch), SHARED_IDS, alive)
        return identifiers.build_columns(view.label(root) or "", RESOLVED_IDS, alive)

    def _unresolved_columns(self, identifiers: IdentifierSet) -> ResolvedColumns:
        """Return the columns of a set while the graph is unavailable."""
        nodes = identifiers.nodes
        if not nodes and identifiers.resolved:
            return identifiers.resolved
        view = GraphView(self._graph.cached_slots(nodes))
        alive = live_nodes(view, nodes)
        return identifiers.build_columns(alive[0] if alive else self._alias(nodes[0], view.epoch(nodes[0])), UNRESOLVED, alive)

    def _emit_resolved(
        self, outcome: Outcome, events: Sequence[IdentityEvent], columns_by_set: Mapping[IdentifierSet, ResolvedColumns]
    ) -> None:
        rows: list[Output] = []
        cells: list[tuple[int, EventOrigin, str]] = []
        for _, value, identifiers, origin, _, collector_ts, event_id, _ in events:
            key, columns, state, _ = columns_by_set[identifiers]
            rows.append((key or event_id, columns + value[HEADER_BYTES:], BY_KEY))
            cells.append((collector_ts // MINUTE_MS, origin, state))
        outcome.out.setdefault(RESOLVED, []).extend(rows)
        for (minute, origin, state), n in Counter(cells).items():
            if not origin.heartbeat:
                outcome.counts[origin.cell(minute, state)] += n
        outcome.passed = len(rows)

    def _emit_slots(
        self, outcome: Outcome, view: GraphView, reads: SlotReads, own_writes: dict[str, Write], events: Sequence[IdentityEvent]
    ) -> None:
        """Emit every slot that may be missing in the log, and confirm it after the commit."""
        nodes = unlogged_nodes(view, reads)
        if not nodes:
            return
        by_place = {event.position: event for event in events}
        slots = [(node, slot) for node in nodes if (slot := view.slots[node]) is not None]
        logged = outcome.out.setdefault(MERGES, [])
        latest_ts = max(event.collector_ts for event in events)
        for node, slot in slots:
            write = own_writes.get(node)
            if write is None or write.slot != slot:
                # Another worker wrote it and had the evidence, so no event is named.
                logged.append(self._slots.encode_slot(node, slot, "", latest_ts))
                continue
            event = by_place[write.position]
            if write.rule:
                self._emit_conflict(outcome, view, write, event)
            logged.append(self._slots.encode_slot(node, slot, event.event_id.decode(), event.collector_ts))
        self._handover.add_signals(outcome, slots)
        outcome.after_commit.append(partial(self._graph.store.confirm, slots))

    def _emit_conflict(self, outcome: Outcome, view: GraphView, write: Write, event: IdentityEvent) -> None:
        self._metrics.count("headwater_identity_conflicts_total", rule=write.rule)
        record = conflict_record(write, view.find(write.node), event.event_id.decode(), event.collector_ts)
        value = encode(self._registry.latest(CONFLICTS), record)
        outcome.out.setdefault(CONFLICTS, []).append((write.node.encode(), value, BY_KEY))


def _first_events(events: Iterable[IdentityEvent]) -> dict[IdentifierSet, IdentityEvent]:
    """Map each identifier set to its first event, in order."""
    first_events: dict[IdentifierSet, IdentityEvent] = {}
    for event in events:
        first_events.setdefault(event[2], event)  # its identifiers; access by name takes half as long again
    return first_events


def _claims(batch: Batch, events: Iterable[IdentityEvent]) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    """Return the position of each event that can be deduplicated, and the first position of ids that repeat in this batch."""
    offsets, partition = batch.offsets, batch.partition
    return first_places([(claim, b"%d:%d" % (partition, offsets[at])) for at, *_, claim in events if claim])


def _without_duplicates(
    outcome: Outcome, batch: Batch, events: list[IdentityEvent], holders: Mapping[bytes, bytes]
) -> list[IdentityEvent]:
    """Drop events whose id another record has claimed; the same record read again is a replay and passes."""
    if not holders:
        return events
    alive = []
    for event in events:
        holder = holders.get(event.claim)
        if holder is None or holder == b"%d:%d" % (batch.partition, batch.offsets[event.position]):
            alive.append(event)
        else:
            _drop(outcome, event, DUPLICATE)
    return alive


def _drop(outcome: Outcome, event: IdentityEvent, reason: str) -> None:
    outcome.dropped[reason] += 1
    outcome.counts[event.cell(f"dropped:{reason}")] += 1
