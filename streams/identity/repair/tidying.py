"""Ids that were demoted lately or join more than one person has, taken out of their components: what was linked by nothing but
them is set free.

A demotion is quick and local: the id links nothing from then on, and what hangs under it stays. This is the thorough half, for
many ids at once: the evidence is read once.
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
from streams.identity.graph.hubs import DegreeSketch, Members, collect, find_suspects, joins_strangers
from streams.identity.graph.store import StoreUnavailable
from streams.identity.graph.union_find import ERASED, Nodes
from streams.identity.nodes import Alias
from streams.identity.reading import DAY_MS
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
"""Longer than a record may take to its topic, and than clocks differ."""


class LinkLog(Protocol):
    """What the log says of links."""

    def read(self, nodes: Collection[str]) -> Iterable[Nodes]:
        """Everything that links two of these. Retryable."""
        ...

    def read_new(self, nodes: Collection[str]) -> Iterable[Nodes]:
        """The same, since it was read last. Retryable."""
        ...


class TopicEvidence:
    """On `identity.links`."""

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
    """Nodes that a conflict or a limit demoted since then (milliseconds UTC). Retryable."""
    registry, nodes = Registry(settings.contracts), dict[str, None]()
    for records in read_topic(settings, CONFLICTS, since_ms):
        conflicts = (decode(registry, value)[1] for _, value in records if value is not None)
        nodes.update((record["node"], None) for record in conflicts if record["rule"] != SPLIT)
    return list(nodes)


def find_over_limits(settings: Settings, store: SplitStore, evidence: LinkLog, progress: Callable[[int], None]) -> list[str]:
    """Nodes that are over a limit by all that the log says, and were not demoted; in two readings of `identity.links`, so that
    only of those that may be over one the members are kept. Retryable."""
    sketch, members = DegreeSketch(), dict[str, dict[str, int]]()
    for nodes, _ in _links(settings, progress):
        sketch.add(nodes)
    for nodes, day in _links(settings, progress):
        if holders := [node for node in nodes if sketch.may_exceed(node)]:
            collect(members, nodes, day, holders)
    return find_hubs(store, members, evidence)


def _links(settings: Settings, progress: Callable[[int], None]) -> Iterator[tuple[Nodes, int]]:
    """Each combination on the log, and the day of its evidence."""
    registry = Registry(settings.contracts)
    for records in read_topic(settings, LINKS):
        for record in (decode(registry, value)[1] for _, value in records if value is not None):
            yield tuple(record["nodes"]), record["evidence_ts"] // DAY_MS
        progress(len(records))


def find_hubs(store: SplitStore, members: Mapping[str, Members], evidence: LinkLog) -> list[str]:
    """Those of the holders that exceed a limit by what is independent, and link and attribute still. Retryable."""
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
    """Each node that was taken out, and what has been done for it; None where workers link it all the time.

    Done already is done again, which changes nothing. Retryable while something is away.
    """
    alive, evidence_of = _read(store, nodes, evidence)
    for node in alive:
        try:
            yield node, split_node(store, node, evidence_of, alias, log(node))
        except StoreUnavailable:
            raise
        except (ConfigError, Retryable):  # she was erased meanwhile, or more is linked each time
            yield node, None


def plan_tidy(store: SplitStore, nodes: Sequence[str], evidence: LinkLog, alias: Alias) -> Iterator[tuple[str, SplitPlan]]:
    """What `tidy` would begin with."""
    alive, evidence_of = _read(store, nodes, evidence)
    for node in alive:
        yield node, plan_next_split(store, node, evidence_of, alias)


def _read(store: SplitStore, nodes: Sequence[str], evidence: LinkLog) -> tuple[list[str], EvidenceReader]:
    """Those that were not erased, and what the evidence says of all that is linked to them."""
    alive, linked = list[str](), set[str]()
    for node in nodes:
        slots = read_tree(store, node).slots
        slot = slots[node]
        if slot is None or slot.state != ERASED:
            alive.append(node)
            linked.update(slots)
    return alive, _cached_reader(evidence, linked)


def _cached_reader(evidence: LinkLog, covered: set[str]) -> EvidenceReader:
    """Read for all at once; before each use, what has come since, and all that there is of nodes that have joined."""
    combinations: defaultdict[str, set[Nodes]] = defaultdict(set)

    def add(some: Iterable[Nodes]) -> None:
        for combination in some:
            for node in combination:
                combinations[node].add(combination)

    if covered:
        add(evidence.read(covered))

    def evidence_of(nodes: Collection[str]) -> Iterable[Nodes]:
        requested = set(nodes)
        add(evidence.read_new(covered) if requested.issubset(covered) else evidence.read(covered | requested))
        covered.update(requested)
        matched = {combination for node in requested for combination in combinations[node]}
        return sorted(combination for combination in matched if len(requested.intersection(combination)) > 1)

    return evidence_of
