"""Executes a split on the graph and its log; the next run completes one that was interrupted.

The plan is saved in the store before the first write and executed from there: each slot is replaced only if it still is what
was planned for, so repetition changes nothing. Then the component is read again, until workers have linked nothing new.
"""

import json
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from infra.clients.kafka import producer
from infra.errors import ConfigError, Retryable
from infra.settings import Settings
from schemas.codec import Record, decode, encode
from schemas.registry import Registry
from streams.identity.evidence import CONFLICTS, LINKS, conflict_record
from streams.identity.graph.limits import USER
from streams.identity.graph.redis_shards import CHUNK
from streams.identity.graph.slots import MERGES, log_key, slot_record
from streams.identity.graph.store import GraphStore
from streams.identity.graph.union_find import ERASED, Nodes, Slot, Write
from streams.identity.nodes import Alias
from streams.identity.refusals.revocation import find_children, find_root
from streams.identity.repair.split import SPLIT, ComponentTree, ProfileRewrite, SplitPlan, plan_split
from streams.runtime.follow import read_topic

ROUNDS = 20
"""Rounds in which links that workers make meanwhile are taken out too; then the workers must be stopped."""
FLUSH_S = 30.0


class SplitStore(GraphStore, Protocol):
    """A graph store that keeps notes of splits for some time."""

    def save_note(self, node: str, text: str) -> None:
        """Save a text for a node, replacing an earlier one."""
        ...

    def load_note(self, node: str) -> str | None:
        """Return the text saved for a node, or None."""
        ...


class SplitJournal(NamedTuple):
    """Everything that a split has to write, over all its rounds; fields as in `SplitPlan`."""

    former_root: str = ""
    writes: tuple[Write, ...] = ()
    former_profiles: Nodes = ()
    rewrites: tuple[ProfileRewrite, ...] = ()
    at_ms: int = 0
    """Time of the last round, milliseconds UTC; 0 = unknown. Events long after it were resolved with knowledge of the split."""

    def add(self, plan: SplitPlan, at_ms: int = 0) -> "SplitJournal":
        """Return the journal with one more round; later entries of a node replace earlier ones."""
        former_profiles = tuple(sorted({*self.former_profiles, *plan.former_profiles}))
        return SplitJournal(
            self.former_root or plan.former_root,
            (*self.writes, *plan.writes),
            former_profiles,
            (*self.rewrites, *plan.rewrites),
            at_ms,
        )

    def to_text(self) -> str:
        """Serialise for the store."""
        return json.dumps(self)

    @classmethod
    def from_text(cls, text: str | None) -> "SplitJournal":
        """Parse a note; empty where there is none."""
        if text is None:
            return cls()
        former_root, writes, former_profiles, raw_rewrites, *at_ms = json.loads(text)
        parsed_rewrites = (ProfileRewrite(profile, tuple(nodes)) for profile, nodes in raw_rewrites)
        return cls(former_root, tuple(map(_parse_write, writes)), tuple(former_profiles), tuple(parsed_rewrites), *at_ms)


def _parse_write(fields: Sequence[Any]) -> Write:
    node, expected, slot, *others = fields
    return Write(node, None if expected is None else Slot(*expected), Slot(*slot), *others)


EvidenceReader = Callable[[Collection[str]], Iterable[Nodes]]
"""Nodes -> node tuples on `identity.links` that link two of them."""
SlotLogger = Callable[[str, Sequence[tuple[str, Slot]]], None]
"""Logs slots; arguments: former root of the split node, slots. Retryable unless Kafka acknowledges all."""


def read_tree(store: GraphStore, node: str) -> ComponentTree:
    """Return everything under a node's root, demoted nodes included. Retryable while the store is unavailable."""
    top, slot = find_root(store, node, *store.read([node]))
    slots: dict[str, Slot | None] = {top: slot}
    level = [top]
    while level:
        below = find_children(store, level, slots)
        slots.update(below)
        level = sorted(below)
    label = slot.parent if top[0] == USER and slot is not None else top
    return ComponentTree(node, slots, slots[label] if label in slots else store.read([label])[0])


def plan_next_split(store: SplitStore, node: str, evidence: EvidenceReader, alias: Alias) -> SplitPlan:
    """Plan what a split would write now. ConfigError for an erased node."""
    tree = read_tree(store, node)
    slot = tree.slots[node]
    if slot is not None and slot.state == ERASED:
        raise ConfigError("this id was erased: there is nothing to split")
    others = tree.slots.keys() - {node}
    return plan_split(tree, evidence(others) if len(others) > 1 else (), alias)


def split_node(store: SplitStore, node: str, evidence: EvidenceReader, alias: Alias, log: SlotLogger) -> SplitJournal:
    """Take a node out of its component; return everything that this and earlier runs have written. Retryable: run it again."""
    journal = SplitJournal.from_text(store.load_note(node))
    _apply_writes(store, journal.former_root, journal.writes, log)
    for _ in range(ROUNDS):
        plan = plan_next_split(store, node, evidence, alias)
        if not plan.writes:
            return journal
        journal = journal.add(plan, int(time.time() * 1000))
        store.save_note(node, journal.to_text())
        _apply_writes(store, journal.former_root, plan.writes, log)
    raise Retryable("workers link this id all the time: stop the identity workers")


def _apply_writes(store: SplitStore, former_root: str, writes: Sequence[Write], log: SlotLogger) -> None:
    """Write what is not written yet, log what may not be logged."""
    # The node first, so that nothing is linked through it any more; labels before their nodes become free for other users.
    for batch in (
        [write for write in writes if write.rule == SPLIT],
        [write for write in writes if write.node[0] == USER and write.rule != SPLIT],
        [write for write in writes if write.node[0] != USER and write.rule != SPLIT],
    ):
        if batch:
            store.write(batch)
    planned = {write.node: write.slot for write in writes}
    current = zip(planned.items(), store.read(list(planned)), strict=True)
    unlogged = [(node, slot) for (node, slot), now in current if now == slot]
    for start in range(0, len(unlogged), CHUNK):
        log(former_root, unlogged[start : start + CHUNK])
        store.confirm(unlogged[start : start + CHUNK])


def evidence_reader(settings: Settings) -> EvidenceReader:
    """Return a reader of `identity.links`. Retryable while Kafka is unavailable."""
    return lambda nodes: read_evidence(settings, nodes, lambda _n: None)


def read_evidence(
    settings: Settings, nodes: Collection[str], progress: Callable[[int], None], since_ms: int = 0
) -> Iterable[Nodes]:
    """Return node tuples on `identity.links` with two or more of these nodes. Retryable.

    `since_ms`: only records from then on, milliseconds UTC.
    """
    registry, requested = Registry(settings.contracts), set(nodes)
    links: dict[bytes | None, Nodes] = {}
    for records in read_topic(settings, LINKS, since_ms):
        for key, value in records:
            linked = () if value is None else tuple(decode(registry, value)[1]["nodes"])
            if len(requested.intersection(linked)) > 1:
                links[key] = linked
            else:
                links.pop(key, None)  # erased
        progress(len(records))
    return links.values()


def slot_logger(settings: Settings, node: str, at_ms: int) -> SlotLogger:
    """Return a function that writes slots of a split to `identity.merges`, and its node to `identity.conflicts`."""

    def log(former_root: str, slots: Sequence[tuple[str, Slot]]) -> None:
        registry, client, failed = Registry(settings.contracts), producer(settings), list[str]()

        def send(topic: str, key: bytes, record: Record) -> None:
            client.produce(
                topic,
                encode(registry.latest(topic), record),
                key,
                on_delivery=lambda error, _: failed.append(error.name()) if error else None,
            )

        for slot_node, slot in slots:
            send(MERGES, log_key(slot_node, slot), slot_record(slot_node, slot, "", at_ms))
            if slot_node == node:
                send(CONFLICTS, node.encode(), conflict_record(Write(node, None, slot, 0, SPLIT), former_root, "", at_ms))
        if client.flush(FLUSH_S) or failed:
            raise Retryable(f"Kafka did not take the slots of a split: {', '.join(sorted(set(failed))) or 'no answer'}")

    return log
