"""The identity stage: one stable profile per event, prepended; duplicates die here.

A batch reads level by level: one round trip for all its nodes and event ids, one more for each step up. Then it claims, links
and labels, each in one round trip, and only then stamps. Everything written is written once and is safe to write again.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from infra.errors import Retryable
from infra.logs import get_logger
from infra.metrics import Metrics
from schemas.codec import HeadReader, Record, Undecodable, UnknownContract, decode, encode, encode_columns, prepend
from schemas.registry import Contract, Registry
from streams.identity.revocation import component, request, signals
from streams.identity.rules import Link, Nodes, Slot, View, home, plan_labels, plan_links, unlogged
from streams.identity.store import GraphStore, event_key
from streams.runtime.stage import Batch, Cell, Dead, Outcome, Output

CONSENTED, RESOLVED, MERGES = "events.consented", "events.resolved", "identity.merges"
REVOCATIONS, SIGNALS, REQUESTS = "consent.revocations", "consent.signals", "privacy.requests"
DUPLICATE = "DUPLICATE"
ANALYTICS = 1
"""Bit of `consent_purposes` without which nothing is linked."""
MINUTE_MS = 60_000
KEPT_SLOTS = 200_000
ROUNDS = 50
"""How often a batch starts its links anew because other workers were faster, before it waits a little."""

KeyValues = Iterable[tuple[bytes | None, bytes | None]]
_NODE = re.compile(r"[0-3][0-9a-f]{32}")


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


class IdentityStage:
    """See the module. While the store is away nothing is stamped: the batch comes again."""

    name = "identity"
    inputs: tuple[str, ...] = (CONSENTED, REVOCATIONS)
    broadcast: tuple[str, ...] = (MERGES,)
    restore: tuple[str, ...] = ()

    def __init__(self, registry: Registry, store: GraphStore, metrics: Metrics, sla_ms: int = 86_400_000) -> None:
        self._registry = registry
        self._sla_ms = sla_ms
        self._store = store
        self._metrics = metrics
        self._head = HeadReader(registry, "identifiers")
        self._kept: dict[str, Slot] = {}
        self._columns: dict[int, Callable[[Record], bytes]] = {}

    # -- batches

    def handle(self, batch: Batch, now: float) -> Outcome:
        """Resolve one batch. Retryable while the store is away or a contract unknown."""
        outcome = Outcome()
        if batch.topic == REVOCATIONS:
            self._expand(outcome, batch, now)
            return outcome
        events = [event for at in range(len(batch)) if (event := self._read(outcome, batch, at, now)) is not None]
        view, met = View(), dict[str, Slot | None]()
        held = self._look_up(view, met, events)
        alive = self._without_duplicates(outcome, batch, events, held)
        linked = [(event.at, event.nodes) for event in alive if event.nodes]
        evidence = self._link(view, met, linked)
        self._stamp(outcome, batch, view, alive)
        self._log(outcome, view, met, evidence, {event.at: event for event in events})
        self._keep(view)
        return outcome

    def _read(self, outcome: Outcome, batch: Batch, at: int, now: float) -> Event | None:
        try:
            contract, head = self._head.read(batch.values[at] or b"")
            if contract.topic != CONSENTED:
                raise Undecodable(f"a record of {contract.topic}")
            nodes = head["identifiers"] if head["consent_purposes"] & ANALYTICS and not head["heartbeat"] else ()
            if not all(map(_NODE.fullmatch, nodes)):
                raise Undecodable("an identifier that is no identity node")
        except Undecodable as error:
            outcome.dead.append(Dead(at, "UNDECODABLE", str(error)))
            outcome.counts[Cell(int(now // 60) * MINUTE_MS, "", "", "dead:UNDECODABLE")] += 1
            return None
        except UnknownContract as error:
            raise Retryable(str(error)) from error
        single = head["heartbeat"] or head["consent_outcome"] == "anonymise"  # their ids are new or nobody's
        return Event(at, head, contract, nodes, "" if single else event_key(head["source"], head["event_id"]))

    def _look_up(self, view: View, met: dict[str, Slot | None], events: Sequence[Event]) -> dict[str, str | None]:
        """Everything that this batch's links hang on, level by level; and which places hold its events."""
        wanted: Iterable[str] = {node for event in events for node in event.nodes}
        keys = [event.key for event in events if event.key]
        ahead: Sequence[str] = keys
        held: dict[str, str | None] = {}
        while True:
            wanted = self._climb(view, wanted)
            if not wanted and not ahead:
                return held
            nodes = list(wanted)
            slots, places = self._store.read(nodes, ahead)
            held.update(zip(ahead, places, strict=True))
            ahead = ()
            found = dict(zip(nodes, slots, strict=True))
            view.slots.update(found)
            met.update(found)
            wanted = nodes

    def _climb(self, view: View, nodes: Iterable[str]) -> set[str]:
        """Follow `nodes` up through what is kept; what must be asked for comes back."""
        missing = view.missing(nodes)
        while known := {node: slot for node in missing if (slot := self._kept.get(node)) is not None}:
            view.slots.update(known)
            missing = view.missing(missing)
        return missing

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
            held.update(zip(free, self._store.claim(list(free.items())), strict=True))
        alive = []
        for event in events:
            if not event.key or held[event.key] == places[event.at]:
                alive.append(event)
                continue
            outcome.dropped[DUPLICATE] += 1
            outcome.counts[self._cell(event, f"dropped:{DUPLICATE}")] += 1
        return alive

    def _link(self, view: View, met: dict[str, Slot | None], events: Sequence[tuple[int, Nodes]]) -> dict[str, int]:
        """Win every link and label that the events ask for; node -> the event that gave the evidence."""
        evidence: dict[str, int] = {}
        for _ in range(ROUNDS):
            links, conflicts = plan_links(view, events)
            if not self._write(view, met, links, evidence):
                continue
            if self._write(view, met, plan_labels(view, events), evidence):
                if conflicts:
                    self._metrics.count("headwater_identity_conflicts_total", conflicts)
                return evidence
        raise Retryable("other workers link the same nodes all the time")

    def _write(self, view: View, met: dict[str, Slot | None], links: Sequence[Link], evidence: dict[str, int]) -> bool:
        """Whether all of these were won. What others have written instead is read, with all that it leads to."""
        if not links:
            return True
        won = self._store.link(links)
        lost = []
        for link, mine in zip(links, won, strict=True):
            if mine:
                evidence[link.node] = link.at
                view.slots[link.node] = met[link.node] = Slot(link.parent, logged=False)
            else:
                lost.append(link.node)
                view.slots.pop(link.node)
        wanted: Iterable[str] = lost
        while wanted := self._climb(view, wanted):
            nodes = list(wanted)
            found = dict(zip(nodes, self._store.read(nodes, ())[0], strict=True))
            view.slots.update(found)
            met.update(found)
            wanted = nodes
        return not lost

    # -- withdrawals

    def _expand(self, outcome: Outcome, batch: Batch, now: float) -> None:
        """Say each withdrawal of every linked id to the consent room, and ask the rooms that hold data to do their part."""
        for at, value in enumerate(batch.values):
            try:
                contract, revocation = decode(self._registry, value or b"")
                if contract.topic != REVOCATIONS or not _NODE.fullmatch(revocation["subject"]):
                    raise Undecodable(f"a record of {contract.topic}, or a subject that is no identity node")
            except Undecodable as error:
                outcome.dead.append(Dead(at, "UNDECODABLE", str(error)))
                outcome.counts[Cell(int(now // 60) * MINUTE_MS, "", "", "dead:UNDECODABLE")] += 1
                continue
            except UnknownContract as error:
                raise Retryable(str(error)) from error
            linked = component(self._store, revocation["subject"])
            if not linked.whole:
                get_logger().warning("a withdrawal is linked to too many ids, not all are expanded", nodes=len(linked.nodes))
            for record in signals(revocation, linked):
                self._say(outcome, SIGNALS, record["subject"], record)
            asked = request(revocation, linked, self._sla_ms)
            self._say(outcome, REQUESTS, asked["request_id"], asked)
            self._metrics.count("headwater_revocations_total", whole=str(linked.whole).lower())
            outcome.passed += 1

    def _say(self, outcome: Outcome, topic: str, key: str, record: Record) -> None:
        value = encode(self._registry.latest(topic), record)
        outcome.out.setdefault(topic, []).append(Output(key.encode(), value))

    # -- what leaves

    def _stamp(self, outcome: Outcome, batch: Batch, view: View, events: Sequence[Event]) -> None:
        written = outcome.out.setdefault(RESOLVED, [])
        for event in events:
            value = batch.values[event.at]
            assert value is not None  # noqa: S101 - it was read
            profile, node, state = "", "", "anonymous"
            if event.nodes:
                profile, node, state = view.label(home(view, event.nodes)) or "", event.nodes[0], "resolved"
            columns = self._encoder(event.contract)({"profile_id": profile, "node": node, "identity_state": state})
            written.append(Output((profile or event.head["event_id"]).encode(), prepend(columns, value)))
            if not event.head["heartbeat"]:
                outcome.counts[self._cell(event, state)] += 1
        outcome.passed = len(written)

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

    def _log(
        self, outcome: Outcome, view: View, met: dict[str, Slot | None], evidence: dict[str, int], events: dict[int, Event]
    ) -> None:
        """Put every slot that may not be in the log into it, and mark it once that is committed."""
        nodes = unlogged(view, met)
        if not nodes:
            return
        contract = self._registry.latest(MERGES)
        slots = [(node, slot) for node in nodes if (slot := view.slots[node]) is not None]
        logged = outcome.out.setdefault(MERGES, [])
        met_ts = max(event.head["collector_ts"] for event in events.values())
        for node, slot in slots:
            at = evidence.get(node)
            record = {
                "node": node,
                "parent": slot.parent,
                "epoch": slot.epoch,
                # Met and not made here: whoever made it had the evidence, so no event is named.
                "event_id": "" if at is None else events[at].head["event_id"],
                "evidence_ts": met_ts if at is None else events[at].head["collector_ts"],
            }
            logged.append(Output(node.encode(), encode(contract, record)))
        outcome.after_commit.append(partial(self._store.confirm, slots))

    # -- memory

    def _keep(self, view: View) -> None:
        """Remember slots that are in the log: they are written once, so they stay true."""
        for node, slot in view.slots.items():
            if slot is not None and slot.logged:
                self._keep_slot(node, slot)

    def _keep_slot(self, node: str, slot: Slot) -> None:
        known = self._kept.get(node)
        if known is not None and known.epoch > slot.epoch:
            return
        if known is None and len(self._kept) >= KEPT_SLOTS:
            self._kept.pop(next(iter(self._kept)))
        self._kept[node] = slot

    def on_broadcast(self, topic: str, records: KeyValues) -> None:  # noqa: ARG002 - it follows one topic
        """What any worker has linked, committed: the newest slot of a node replaces the one that is kept."""
        for _, value in records:
            if value is None:
                continue
            record = decode(self._registry, value)[1]
            self._keep_slot(record["node"], Slot(record["parent"], logged=True, epoch=record["epoch"]))

    def on_restore(self, topic: str, partition: int, records: KeyValues) -> None:
        """Nothing: the store outlives the worker."""

    def on_revoke(self, partition: int) -> None:
        """Nothing is kept for a partition."""

    def on_tick(self, now: float) -> dict[str, list[Output]]:  # noqa: ARG002 - no clock is needed
        """Nothing to do between batches."""
        return {}
