"""Events to profiles: duplicates dropped, links won, each event stamped, and what was found out on its way to the log."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from infra.errors import Retryable
from infra.metrics import Metrics
from schemas.codec import HeadReader, Record, Undecodable, UnknownContract, encode, encode_columns, prepend
from schemas.registry import Contract, Registry
from streams.identity.evidence import Evidence, conflict, log_key, slot_record
from streams.identity.graph import Graph, Met
from streams.identity.nodes import Alias
from streams.identity.rules import ERASED, Nodes, Slot, View, Write, home, live, unlogged
from streams.identity.store import event_key
from streams.runtime.stage import Batch, Cell, Dead, Outcome, Output

CONSENTED, RESOLVED = "events.consented", "events.resolved"
MERGES, CONFLICTS = "identity.merges", "identity.conflicts"
DUPLICATE, ERASURE = "DUPLICATE", "ERASED"
ANONYMOUS, STAMPED, SHARED_IDS, UNRESOLVED = "anonymous", "resolved", "shared", "unresolved"
"""Values of `identity_state`."""
ANALYTICS = 1
"""Bit of `consent_purposes` without which nothing is linked."""
MINUTE_MS = 60_000

is_node = re.compile(r"[0-3][0-9a-f]{32}").fullmatch


@dataclass(slots=True)
class Event:
    """One record of a batch, as far as identity reads it."""

    at: int
    head: Record
    contract: Contract
    nodes: Nodes
    """Strongest first; empty where nothing may be linked."""
    key: str
    """Name in claims; empty where duplicates cannot be told."""


class Resolver:
    """Works on batches of events with a graph, or without it while it is away."""

    def __init__(self, registry: Registry, graph: Graph, metrics: Metrics, alias: Alias) -> None:
        self._registry = registry
        self._graph = graph
        self._metrics = metrics
        self._alias = alias
        self._evidence = Evidence(registry)
        self._head = HeadReader(registry, "identifiers")
        self._columns: dict[int, Callable[[Record], bytes]] = {}

    def resolve(self, batch: Batch, now: float) -> Outcome:
        """Everything. Away while the graph is; Retryable while a contract is unknown."""
        outcome = Outcome()
        events = self._events(outcome, batch, now)
        view, met = View(), Met()
        keys = [event.key for event in events if event.key]
        held = self._graph.look_up(view, met, (node for event in events for node in event.nodes), keys)
        alive = self._without_erased(outcome, view.slots, self._without_duplicates(outcome, batch, events, held))
        combinations: dict[Nodes, int] = {}
        for event in alive:
            if event.nodes:
                combinations.setdefault(event.nodes, event.at)
        won = self._graph.settle(view, met, combinations)
        self._stamp(outcome, batch, alive, partial(self._profile, view))
        self._log(outcome, view, met, won, {event.at: event for event in events})
        self._evidence.add(outcome, view, [event for event in alive if len(event.nodes) > 1])
        self._graph.keep(view)
        return outcome

    def pass_on(self, batch: Batch, now: float) -> Outcome:
        """Nothing but a stamp: the strongest node that is not known to be shared. What was erased is known here."""
        outcome = Outcome()
        alive = self._without_erased(outcome, self._graph.erased, self._events(outcome, batch, now))
        self._stamp(outcome, batch, alive, self._alone)
        return outcome

    def _alone(self, nodes: Nodes) -> tuple[str, str]:
        if not nodes:
            return "", ANONYMOUS
        view = View(self._graph.known(nodes))
        alive = live(view, nodes)
        return (alive[0] if alive else self._alias(nodes[0], view.epoch(nodes[0]))), UNRESOLVED

    def _events(self, outcome: Outcome, batch: Batch, now: float) -> list[Event]:
        return [event for at in range(len(batch)) if (event := self._read(outcome, batch, at, now)) is not None]

    def _read(self, outcome: Outcome, batch: Batch, at: int, now: float) -> Event | None:
        try:
            contract, head = self._head.read(batch.values[at] or b"")
            if contract.topic != CONSENTED:
                raise Undecodable(f"a record of {contract.topic}")
            nodes = head["identifiers"] if head["consent_purposes"] & ANALYTICS and not head["heartbeat"] else ()
            if not all(map(is_node, nodes)):
                raise Undecodable("an identifier that is no identity node")
        except Undecodable as error:
            outcome.dead.append(Dead(at, "UNDECODABLE", str(error)))
            outcome.counts[Cell(int(now // 60) * MINUTE_MS, "", "", "dead:UNDECODABLE")] += 1
            return None
        except UnknownContract as error:
            raise Retryable(str(error)) from error
        single = head["heartbeat"] or head["consent_outcome"] == "anonymise"  # their ids are new or nobody's
        return Event(at, head, contract, tuple(nodes), "" if single else event_key(head["source"], head["event_id"]))

    def _without_duplicates(
        self, outcome: Outcome, batch: Batch, events: Sequence[Event], held: dict[str, str | None]
    ) -> list[Event]:
        """Events whose id belongs to their own record; the same record read again is no duplicate."""
        places = {event.at: f"{batch.partition}:{batch.offsets[event.at]}" for event in events if event.key}
        free: dict[str, str] = {}
        for event in events:
            if event.key and held[event.key] is None:
                free.setdefault(event.key, places[event.at])
        if free:
            held.update(zip(free, self._graph.store.claim(list(free.items())), strict=True))
        alive = []
        for event in events:
            if not event.key or held[event.key] == places[event.at]:
                alive.append(event)
            else:
                self._drop(outcome, event, DUPLICATE)
        return alive

    def _without_erased(self, outcome: Outcome, slots: Mapping[str, Slot | None], events: Sequence[Event]) -> list[Event]:
        """Events that no erased person can have sent before she was erased: a replay does not bring her back."""
        alive = []
        for event in events:
            marks = [slot for node in event.nodes if (slot := slots.get(node)) is not None and slot.state == ERASED]
            if any(event.head["collector_ts"] <= slot.since for slot in marks):
                self._drop(outcome, event, ERASURE)
            else:
                alive.append(event)
        return alive

    def _drop(self, outcome: Outcome, event: Event, reason: str) -> None:
        outcome.dropped[reason] += 1
        outcome.counts[self._cell(event, f"dropped:{reason}")] += 1

    # -- what leaves

    def _stamp(
        self, outcome: Outcome, batch: Batch, events: Sequence[Event], profile_of: Callable[[Nodes], tuple[str, str]]
    ) -> None:
        written = outcome.out.setdefault(RESOLVED, [])
        profiles: dict[Nodes, tuple[str, str]] = {}
        for event in events:
            value = batch.values[event.at]
            assert value is not None  # noqa: S101 - it was read
            found = profiles.get(event.nodes)
            if found is None:
                found = profiles[event.nodes] = profile_of(event.nodes)
            profile, state = found
            node = event.nodes[0] if event.nodes else ""
            columns = self._encoder(event.contract)({"profile_id": profile, "node": node, "identity_state": state})
            written.append(Output((profile or event.head["event_id"]).encode(), prepend(columns, value)))
            if not event.head["heartbeat"]:
                outcome.counts[self._cell(event, state)] += 1
        outcome.passed = len(written)

    def _profile(self, view: View, nodes: Nodes) -> tuple[str, str]:
        """What an event with these nodes is stamped with, and its state."""
        if not nodes:
            return "", ANONYMOUS
        alive = live(view, nodes)
        if not alive:
            return self._alias(nodes[0], view.epoch(nodes[0])), SHARED_IDS
        root = home(view, alive)
        slot = view.slots.get(root)
        if slot is not None and slot.state == ERASED:
            return self._alias(root, slot.epoch), SHARED_IDS
        return view.label(root) or "", STAMPED

    def _encoder(self, contract: Contract) -> Callable[[Record], bytes]:
        found = self._columns.get(contract.id)
        if found is None:
            try:
                found = encode_columns(self._registry.derived(contract.id, RESOLVED))
            except UnknownContract as error:
                raise Retryable(str(error)) from error
            self._columns[contract.id] = found
        return found

    def _cell(self, event: Event, what: str) -> Cell:
        head = event.head
        return Cell(head["collector_ts"] // MINUTE_MS * MINUTE_MS, head["source"], head["event_name"], what)

    def _log(self, outcome: Outcome, view: View, met: Met, won: dict[str, Write], events: dict[int, Event]) -> None:
        """Put every slot that may not be in the log into it, and mark it once that is committed."""
        nodes = unlogged(view, met)
        if not nodes:
            return
        contract = self._registry.latest(MERGES)
        slots = [(node, slot) for node in nodes if (slot := view.slots[node]) is not None]
        logged = outcome.out.setdefault(MERGES, [])
        met_ts = max(event.head["collector_ts"] for event in events.values())
        for node, slot in slots:
            write = won.get(node)
            if write is None or write.slot != slot:
                # Met and not made here: whoever made it had the evidence, so no event is named.
                head: Record = {"event_id": "", "collector_ts": met_ts}
            else:
                head = events[write.at].head
                if write.rule:
                    self._demoted(outcome, view, write, head)
            record = slot_record(node, slot, head["event_id"], head["collector_ts"])
            logged.append(Output(log_key(node, slot), encode(contract, record)))
        outcome.after_commit.append(partial(self._graph.store.confirm, slots))

    def _demoted(self, outcome: Outcome, view: View, write: Write, head: Record) -> None:
        self._metrics.count("headwater_identity_conflicts_total", rule=write.rule)
        value = encode(self._registry.latest(CONFLICTS), conflict(view, write, head))
        outcome.out.setdefault(CONFLICTS, []).append(Output(write.node.encode(), value))
