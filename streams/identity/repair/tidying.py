"""Takes nodes that were demoted lately, or that link more than one person, out of their components.

A demotion is quick and local: the node stops linking, and what hangs under it stays. This sets free what only such nodes had
linked, for many nodes at once: the evidence is read once.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from infra.errors import ConfigError, Retryable
from infra.settings import Settings
from schemas.codec import decode
from schemas.registry import Registry
from streams.identity.evidence import CONFLICTS, LINKS
from streams.identity.graph.store import StoreUnavailable
from streams.identity.graph.union_find import ERASED, Nodes
from streams.identity.nodes import Alias
from streams.identity.reading import DAY_MS
from streams.identity.repair.hubs import DegreeSketch, Members, collect, find_suspects, joins_strangers
from streams.identity.repair.split import SPLIT, SplitPlan
from streams.identity.repair.splitting import (
    EvidenceReader,
    SlotLogger,
    SplitJournal,
    SplitStore,
    plan_next_split,
    read_evidence,
    read_tree,
    split_node,
)
from streams.runtime.follow import read_topic

MARGIN_MS = 60_000
"""Longer than a record takes to its topic, and than clocks differ."""


class LinkLog(Protocol):
    """Evidence of links."""

    def read(self, nodes: Collection[str]) -> Iterable[Nodes]:
        """Return everything that links two of these nodes. Retryable."""
        ...

    def read_new(self, nodes: Collection[str]) -> Iterable[Nodes]:
        """Return what was added since the last read. Retryable."""
        ...


class TopicEvidence:
    """Evidence on `identity.links`."""

    def __init__(self, settings: Settings, progress: Callable[[int], None]) -> None:
        self._settings = settings
        self._progress = progress
        self._since_ms = 0

    def read(self, nodes: Collection[str]) -> Iterable[Nodes]:
        """See `LinkLog`."""
        return self._from(nodes, 0)

    def read_new(self, nodes: Collection[str]) -> Iterable[Nodes]:
        """See `LinkLog`."""
        return self._from(nodes, self._since_ms)

    def _from(self, nodes: Collection[str], since_ms: int) -> Iterable[Nodes]:
        self._since_ms = int(time.time() * 1000) - MARGIN_MS
        return read_evidence(self._settings, nodes, self._progress, since_ms)


def read_demoted(settings: Settings, since_ms: int) -> list[str]:
    """Return nodes that a conflict or a limit demoted since then (milliseconds UTC). Retryable."""
    registry, nodes = Registry(settings.contracts), dict[str, None]()
    for records in read_topic(settings, CONFLICTS, since_ms):
        conflicts = (decode(registry, value)[1] for _, value in records if value is not None)
        nodes.update((record["node"], None) for record in conflicts if record["rule"] != SPLIT)
    return list(nodes)


def find_over_limits(settings: Settings, store: SplitStore, evidence: LinkLog, progress: Callable[[int], None]) -> list[str]:
    """Return nodes that exceed a limit by all evidence and were not demoted. Retryable.

    Reads `identity.links` twice: counters first, then the members of those nodes that may exceed a limit.
    """
    sketch, members = DegreeSketch(), dict[str, dict[str, int]]()
    for nodes, _ in _links(settings, progress):
        sketch.add(nodes)
    for nodes, day in _links(settings, progress):
        if holders := [node for node in nodes if sketch.may_exceed(node)]:
            collect(members, nodes, day, holders)
    return find_hubs(store, members, evidence)


def _links(settings: Settings, progress: Callable[[int], None]) -> Iterator[tuple[Nodes, int]]:
    """Yield each node tuple on the log, and the day of its evidence."""
    registry = Registry(settings.contracts)
    for records in read_topic(settings, LINKS):
        for record in (decode(registry, value)[1] for _, value in records if value is not None):
            yield tuple(record["nodes"]), record["evidence_ts"] // DAY_MS
        progress(len(records))


def find_hubs(store: SplitStore, members: Mapping[str, Members], evidence: LinkLog) -> list[str]:
    """Return holders that exceed a limit by independent members and still link and attribute. Retryable."""
    over = find_suspects(members)
    slots = zip(over, store.read(over), strict=True)
    alive, evidence_of = _read(store, [node for node, slot in slots if slot is None or not slot.state], evidence)
    result = list[str]()
    for node in alive:
        linked = read_tree(store, node).slots.keys() - {node}
        if joins_strangers(node, members[node], linked, over, list(evidence_of(linked)) if len(linked) > 1 else ()):
            result.append(node)
    return result


def tidy(
    store: SplitStore, nodes: Sequence[str], evidence: LinkLog, alias: Alias, log: Callable[[str], SlotLogger]
) -> Iterator[tuple[str, SplitJournal | None]]:
    """Split nodes; yield each with its journal, or with None where workers keep linking it or it was erased meanwhile.

    Repetition changes nothing. Retryable while a service is unavailable.
    """
    alive, evidence_of = _read(store, nodes, evidence)
    for node in alive:
        try:
            yield node, split_node(store, node, evidence_of, alias, log(node))
        except StoreUnavailable:
            raise
        except (ConfigError, Retryable):  # erased meanwhile, or linked anew in every round
            yield node, None


def plan_tidy(store: SplitStore, nodes: Sequence[str], evidence: LinkLog, alias: Alias) -> Iterator[tuple[str, SplitPlan]]:
    """Yield what `tidy` would write first."""
    alive, evidence_of = _read(store, nodes, evidence)
    for node in alive:
        yield node, plan_next_split(store, node, evidence_of, alias)


def _read(store: SplitStore, nodes: Sequence[str], evidence: LinkLog) -> tuple[list[str], EvidenceReader]:
    """Return the nodes that were not erased, and a reader of the evidence of their components."""
    alive, linked = list[str](), set[str]()
    for node in nodes:
        slots = read_tree(store, node).slots
        slot = slots[node]
        if slot is None or slot.state != ERASED:
            alive.append(node)
            linked.update(slots)
    return alive, _cached_reader(evidence, linked)


def _cached_reader(evidence: LinkLog, covered: set[str]) -> EvidenceReader:
    """Return a reader that reads all evidence once, then before each use only new evidence, and all of new nodes."""
    links_of: defaultdict[str, set[Nodes]] = defaultdict(set)

    def add(links: Iterable[Nodes]) -> None:
        for nodes in links:
            for node in nodes:
                links_of[node].add(nodes)

    if covered:
        add(evidence.read(covered))

    def evidence_of(nodes: Collection[str]) -> Iterable[Nodes]:
        requested = set(nodes)
        add(evidence.read_new(covered) if requested.issubset(covered) else evidence.read(covered | requested))
        covered.update(requested)
        matched = {nodes for node in requested for nodes in links_of[node]}
        return sorted(nodes for nodes in matched if len(requested.intersection(nodes)) > 1)

    return evidence_of
